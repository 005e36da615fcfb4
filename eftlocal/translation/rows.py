"""A row of logits over one vocabulary as a row of log-probabilities over another's tokens.

Write p for the small role's distribution and b for the bytes of a base token. `prefix`:

    M(b) = p(s)                                 where a small token s has exactly b's bytes
         = sum of p(s), s beginning with b,     else: text that b is a part of
           + p(s) / n, s the longest proper prefix of b, and of n base tokens without a twin

The last term knows only the first piece of b. Base tokens that begin alike have equal parts of it,
so M is nearly a distribution over the base's tokens, as filters and a role alone need it. In the
difference between a tuned role and its reference n cancels: they share what is known of the piece.

`text`: equal bytes only (as ThinkLogit maps tokens, Zhang et al. 2025, arXiv 2507.12759); all other
tokens are left to the base. Either way log-probabilities are translated, never raw logits, whose
constant would stay in the tokens that are mapped.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eftlocal.logits.distribution import Row
from eftlocal.translation.lattice import NONE, Ids, Lattice

METHODS = ("candidates", "prefix", "text")
CANDIDATES = 12


class Rows:
    """Translates rows of one small vocabulary.

    Args:
        lattice: where the base's tokens stand in it.
        method: one of METHODS.
        ends: the small tokens that end an answer.
        base_ends: the base's; each takes the probability of all `ends` together.
        unusable: small ids that are padding.

    Attributes:
        twins: how many of the base's tokens are tokens of the small vocabulary, too.
        begun: how many others it has something of: a token that they begin with, or tokens that
            begin with them.
        known: (B,) bool, the base's tokens that are tokens of the small vocabulary, too, or that it
            has no piece of: there is no more to know of them.
        missing: base ids that nothing is known of, ascending: control tokens, tokens without a
            piece in the small vocabulary, and under `text` all without a twin. A translated row is
            -inf there; the combiner leaves them to the base.
    """

    def __init__(
        self,
        lattice: Lattice,
        *,
        method: str = "prefix",
        ends: Collection[int] = (),
        base_ends: Collection[int] = (),
        unusable: Collection[int] = (),
    ) -> None:
        self._lattice = lattice
        self._ends = np.array(sorted(ends), np.intp)
        self._base_ends = np.array(sorted(base_ends if len(self._ends) else ()), np.intp)
        size = len(lattice.begin)
        longer = lattice.end - lattice.begin - lattice.equal
        twin = lattice.equal == 1
        if method == "text":
            known = lattice.equal > 0
            summed = lattice.equal > 1
            self._parent = np.full(size, NONE, np.intp)
            run_end = lattice.begin + lattice.equal
        else:
            self._parent = np.where(lattice.equal > 0, NONE, lattice.parent)
            known = (lattice.equal > 0) | (longer > 0) | (self._parent != NONE)
            summed = (lattice.equal > 1) | ((lattice.equal == 0) & (longer > 0))
            run_end = np.where(lattice.equal > 0, lattice.begin + lattice.equal, lattice.end)
        # One small token says all: its twin, or the piece that it begins with.
        self._single = np.flatnonzero(known & ~summed)
        at = np.where(twin, lattice.begin, self._parent)[self._single]
        self._source = lattice.order[at]
        begun = np.where(known, self._parent, NONE)
        sharing = np.bincount(begun[begun != NONE], minlength=len(lattice.order) + 1)
        parts = np.maximum(sharing[self._parent], 1)  # NONE is the last, which none shares
        self._log_parts = np.log(parts[self._single]).astype(np.float32)
        self._summed = np.flatnonzero(known & summed)
        self._summed = self._summed[np.argsort(lattice.begin[self._summed], kind="stable")]
        begins, ends_ = lattice.begin[self._summed], run_end[self._summed]
        self._edges = np.stack([begins, ends_], axis=1).ravel()
        self._parents = self._parent[self._summed]
        self._parts = parts[self._summed]
        self.twins = int((lattice.equal > 0).sum())
        self.begun = int(known.sum()) - self.twins
        known[self._base_ends] = True
        self.missing: Ids = np.flatnonzero(~known)
        self.known = ~known | (lattice.equal > 0)
        self.known[self._base_ends] = True
        self._ordered = np.empty(len(lattice.order) + 1, np.float64)
        self._ordered[-1] = 0.0  # reduceat takes no index past the end
        self._unusable = np.array(sorted(unusable), np.intp)
        self._text_of = dict(zip(lattice.order.tolist(), lattice.texts, strict=True))
        self._added = lru_cache(maxsize=256)(self._find_added)

    def __call__(
        self, rows: Sequence[Row], out: Row, path: Sequence[int] = (), open_: bytes = b""
    ) -> None:
        """log M of the base's tokens, into `out` (B,) float32.

        Args:
            rows: (S,) float32 each, raw logits. The last one stands after all of the answer; those
                before it stand before and within `path`, the last small tokens, one row for each.
            path: small tokens that spell the open bytes.
            open_: bytes at the end of the answer that a longer small token might have taken
                together with what follows, such as the first bytes of a character.
        """
        out.fill(-np.inf)
        rows = [self._usable(row) for row in rows]
        last = rows[-1]
        best = float(last.max())
        if not math.isfinite(best):
            return
        total = _log_total(last, best)
        out[self._single] = last[self._source]
        out[self._single] -= np.float32(total) + self._log_parts
        share = self._ordered[:-1]
        if len(self._summed):
            np.exp(np.subtract(last[self._lattice.order], total, dtype=np.float64), out=share)
            sums = np.add.reduceat(self._ordered, self._edges)[::2]
            begun = self._parents != NONE
            sums[begun] += share[self._parents[begun]] / self._parts[begun]
            with np.errstate(divide="ignore"):
                out[self._summed] = np.log(sums)
        if len(self._base_ends):
            end = last[self._ends].astype(np.float64) - total
            out[self._base_ends] = _log_sum(end)
        if open_ and len(rows) > 1:
            self._add_longer(rows, out, path, open_)

    def whole(self, rows: NDArray[np.float32], pieces: Sequence[int], replaced: int = -1) -> float:
        """Log-probability of a base token in these pieces, each of which one of the rows (pieces,
        S) stands before.

        Args:
            replaced: the last token of the answer so far, where the first piece takes its place:
                what came before it is given, and the probability is that of the rest.
        """
        found = 0.0
        for at, (row, piece) in enumerate(zip(rows, pieces, strict=True)):
            row = self._usable(row)
            best = float(row.max())
            if not math.isfinite(best):
                return -math.inf
            total = _log_total(row, best)
            found += float(row[piece]) - total
            if replaced >= 0 and not at:
                found -= float(row[replaced]) - total
        return found

    def _usable(self, row: Row) -> Row:
        if len(self._unusable):
            row = row.copy()
            row[self._unusable] = -np.inf
        return row

    def _add_longer(self, rows: Sequence[Row], out: Row, path: Sequence[int], open_: bytes) -> None:
        """What small tokens say that would have taken the open bytes and more at once."""
        spelled = 0.0  # log-probability of the path so far
        masses = np.zeros(len(out), np.float64)
        whole = 0.0  # probability that the answer goes on from the path's start with these bytes
        rest = open_
        for row, token in zip(rows[:-1], path, strict=True):
            best = float(row.max())
            if not math.isfinite(best):
                return
            total = _log_total(row, best)
            tokens, chunks = self._added(rest)
            if len(tokens):
                p = np.exp(row[tokens].astype(np.float64) - total + spelled)
                whole += float(p.sum())
                for (ids, within), mass in zip(chunks, p, strict=True):
                    masses[within] += mass
                    masses[ids] += mass
            spelled += float(row[token]) - total
            rest = rest[len(self._text_of[token]) :]
        whole += math.exp(spelled) if spelled > -math.inf else 0.0
        if whole <= 0.0:
            return
        with np.errstate(divide="ignore"):
            np.add(np.exp(out.astype(np.float64) + spelled), masses, out=masses)
            out[:] = np.log(masses) - math.log(whole)

    def _find_added(self, open_: bytes) -> tuple[Ids, list[tuple[list[int], list[int]]]]:
        """The small tokens that begin with the open bytes and are longer, by ascending length;
        and for each the base tokens that are a part of what it says beyond them, and those that
        it is the longest beginning of."""
        lattice = self._lattice
        run = [at for at in lattice.run(open_) if len(lattice.texts[at]) > len(open_)]
        begun: dict[int, int] = {}  # base token -> the small one that begins it, the longest
        within: dict[int, list[int]] = {at: [] for at in run}
        for at in sorted(run, key=lambda at: len(lattice.texts[at])):
            beyond = lattice.texts[at][len(open_) :]
            for base in lattice.base_run(beyond):
                if lattice.base_texts[base] != beyond:
                    begun[base] = at
            for length in range(1, len(beyond) + 1):
                for base in lattice.base_run(beyond[:length]):
                    if len(lattice.base_texts[base]) != length:
                        break
                    within[at].append(base)
        begins: dict[int, list[int]] = {at: [] for at in run}
        for base, at in begun.items():
            begins[at].append(base)
        ids = lattice.sorted_base
        chunks = [
            ([int(ids[b]) for b in begins[at]], [int(ids[b]) for b in within[at]]) for at in run
        ]
        return lattice.order[run] if run else np.empty(0, np.intp), chunks


def _log_total(row: Row, best: float) -> float:
    return best + math.log(float(np.exp(row - np.float32(best)).sum(dtype=np.float64)))


def _log_sum(values: NDArray[np.float64]) -> float:
    best = float(values.max())
    if not math.isfinite(best):
        return -math.inf
    return best + math.log(float(np.exp(values - best).sum()))
