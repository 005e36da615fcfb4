"""A row of logits over one vocabulary as a row of log-probabilities over another's tokens.

Write p for the small role's distribution and b for the bytes of a base token. `prefix`:

    M(b) = sum of p(s), b the longest base token that s begins with
           + p(s) / n, s the longest proper prefix of b, and of n base tokens; not where b is a
             small token, too

So each small token counts for the base token that a base would say first of its text. The second
term knows only the first piece of b: base tokens that begin alike have equal parts of it. M is
nearly a distribution over the base's tokens, as filters and a role alone need it; in the difference
between a tuned role and its reference n cancels, and they share what is known of the piece.

`text`: equal bytes only (as ThinkLogit maps tokens, Zhang et al. 2025, arXiv 2507.12759); all other
tokens are left to the base. Either way log-probabilities are translated, never raw logits, whose
constant would stay in the tokens that are mapped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.logits.distribution import Row, repair
from eftlocal.translation.lattice import NONE, Ids, Lattice


class Rows:
    """Translates rows of one small vocabulary.

    Args:
        lattice: where the base's tokens stand in it.
        method: one of settings.TRANSLATIONS; candidates begin as prefix.
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
        twin = lattice.equal > 0
        owner, parent = lattice.owner, np.where(twin, NONE, lattice.parent)
        if method == "text":
            owner, parent = np.where(lattice.twin, owner, NONE), np.full(size, NONE, np.intp)
        owned_by = np.bincount(owner[owner != NONE], minlength=len(lattice.base_texts) + 1)
        owned = owned_by[lattice.first]  # NONE is the last, which owns none
        sharing = np.bincount(parent[parent != NONE], minlength=len(lattice.order) + 1)
        parts = np.maximum(sharing[parent], 1)
        known = (owned > 0) | (parent != NONE)
        # One small token says all: its twin, or the piece that it begins with.
        alone = np.where(twin, (owned == 1) & (lattice.equal == 1), owned == 0)
        self._single = np.flatnonzero(known & alone)
        at = np.where(twin, lattice.begin, parent)[self._single]
        self._source = lattice.order[at]
        self._log_parts = np.log(np.where(twin, 1, parts)[self._single]).astype(np.float32)
        # Else the sum of what it owns, which stands side by side in this order.
        self._summed = np.flatnonzero(known & ~alone)
        self._by_owner = np.argsort(owner, kind="stable")[np.count_nonzero(owner == NONE) :]
        owners = owner[self._by_owner]
        firsts = lattice.first[self._summed]
        begins, ends_ = np.searchsorted(owners, firsts), np.searchsorted(owners, firsts, "right")
        self._edges = np.stack([begins, ends_], axis=1).ravel()
        self._parents = parent[self._summed]
        self._parts = parts[self._summed]
        self.twins = int(twin.sum())
        self.begun = int((known & ~twin).sum())
        known[self._base_ends] = True
        self.missing: Ids = np.flatnonzero(~known)
        self.known = ~known | twin
        self.known[self._base_ends] = True
        self._owned = np.zeros(len(self._by_owner) + 1)  # reduceat takes no index past the end
        self._unusable = np.array(sorted(unusable), np.intp)
        self._text_of = dict(zip(lattice.order.tolist(), lattice.texts, strict=True))
        self._added = lru_cache(maxsize=256)(self._find_added)
        self._beyond = lru_cache(maxsize=4096)(self._find_beyond)

    def __call__(
        self, rows: Sequence[Row], out: Row, path: Sequence[int] = (), open_: bytes = b""
    ) -> None:
        """log M of the base's tokens, into `out` (B,) float32.

        Args:
            rows: (S,) float32 each, raw logits. The last one stands after all of the answer; those
                before it stand before and within `path`, the last small tokens, one row for each.
            path: small tokens that spell the open bytes.
            open_: bytes at the end of the answer that a longer small token, which is none of the
                base's, might have taken together with what follows.
        """
        out.fill(-np.inf)
        last, total = self._read(rows[-1])
        if not math.isfinite(total):
            return
        out[self._single] = last[self._source]
        out[self._single] -= np.float32(total) + self._log_parts
        if len(self._summed):
            share = np.exp(np.subtract(last[self._lattice.order], total, dtype=np.float64))
            self._owned[:-1] = share[self._by_owner]
            sums = np.add.reduceat(self._owned, self._edges)[::2]
            sums[self._edges[::2] == self._edges[1::2]] = 0.0  # it owns none
            begun = self._parents != NONE
            sums[begun] += share[self._parents[begun]] / self._parts[begun]
            with np.errstate(divide="ignore"):
                out[self._summed] = np.log(sums)
        if len(self._base_ends):
            end = last[self._ends].astype(np.float64) - total
            out[self._base_ends] = _log_sum(end, float(end.max()))
        if open_ and len(rows) > 1:
            self._add_longer(rows, out, path, open_)

    def whole(
        self,
        token: int,
        rows: NDArray[np.float32],
        pieces: Sequence[int],
        path: Sequence[int],
        open_: bytes,
    ) -> float:
        """Log-probability of a base token, all of it: of these pieces, or of longer ones that go
        beyond it to what is no token of the base's.

        Args:
            token: of the base.
            rows: (pieces, S) float32, raw logits; each stands before one of the pieces.
            pieces: small tokens that spell the open bytes and the base token.
            path: those that spell the open bytes without it. Each has a row, too: they are the
                first pieces, but for the last one, whose place another piece may take.
            open_: see `__call__`; empty where no longer token is to be reckoned with.
        """
        spelled, found = 0.0, 0.0
        rest = b"".join(self._text_of[piece] for piece in pieces)
        for row, piece in zip(rows, pieces, strict=True):
            row, total = self._read(row)
            if not math.isfinite(total):
                return -math.inf
            longer = self._beyond(rest, token)
            if len(longer):
                found += float(np.exp(row[longer].astype(np.float64) - total + spelled).sum())
            spelled += float(row[piece]) - total
            rest = rest[len(self._text_of[piece]) :]
        _, given = self._go_on(rows, path, open_)
        found += math.exp(spelled)
        if found <= 0.0 or given <= 0.0:
            return -math.inf
        # Other pieces than the tokenizer's may have spelled what is given; they are not summed.
        return min(0.0, math.log(found) - math.log(given))

    def likeliest(self, row: Row) -> tuple[int, float]:
        """The small token that a raw row (S,) float32 finds most probable, and its probability."""
        row, total = self._read(row)
        token = int(row.argmax())
        return token, math.exp(float(row[token]) - total) if math.isfinite(total) else 0.0

    def _find_beyond(self, rest: bytes, token: int) -> Ids:
        """The small tokens that begin with the rest of a base token, and go beyond it to what is
        no token of the base's."""
        lattice = self._lattice
        text = lattice.base_texts[int(lattice.first[token])]
        run = lattice.run(rest)
        return lattice.order[
            [
                at
                for at in run
                if (beyond := lattice.texts[at][len(rest) :])
                and lattice.longest(text + beyond) == lattice.first[token]
            ]
        ]

    def _read(self, row: Row) -> tuple[Row, float]:
        """A row without what cannot be, and its log-sum-exp; -inf where nothing is possible."""
        best = float(row.max())
        if len(self._unusable) or not best < np.inf:
            row = row.copy()
            row[self._unusable] = -np.inf
            repair(row)
            best = float(row.max())
        return row, _log_sum(row, best)

    def _add_longer(self, rows: Sequence[Row], out: Row, path: Sequence[int], open_: bytes) -> None:
        """What small tokens say that would have taken the open bytes and more at once."""
        masses = np.zeros(len(out), np.float64)
        spelled, whole = self._go_on(rows, path, open_, masses)
        if whole <= 0.0:
            return
        with np.errstate(divide="ignore"):
            masses += np.exp(out.astype(np.float64) + spelled)
            out[:] = np.log(masses) - math.log(whole)

    def _go_on(
        self,
        rows: Sequence[Row] | NDArray[np.float32],
        path: Sequence[int],
        open_: bytes,
        masses: NDArray[np.float64] | None = None,
    ) -> tuple[float, float]:
        """The log-probability of the path, and the probability that an answer goes on from where
        it begins with the open bytes, by the path or by a longer token; of what these tokens say
        beyond the open bytes, the probability is added to `masses` (B,)."""
        spelled, whole, rest = 0.0, 0.0, open_
        for row, token in zip(rows, path, strict=False):
            row, total = self._read(row)
            if not math.isfinite(total):
                return -math.inf, 0.0
            if rest:
                tokens, which, ids, parts = self._added(rest)
                p = np.exp(row[tokens].astype(np.float64) - total + spelled)
                whole += float(p.sum())
                if masses is not None:
                    np.add.at(masses, ids, p[which] / parts)
                rest = rest[len(self._text_of[token]) :]
            spelled += float(row[token]) - total
        return spelled, whole + math.exp(spelled)

    def _find_added(self, open_: bytes) -> tuple[Ids, Ids, Ids, Ids]:
        """The small tokens that begin with the open bytes, are longer, and are none of the base's,
        which would have taken them; and pairs of one of them (where it stands among these) and a
        base token: a part of what it says beyond the open bytes, or what that is the longest
        beginning of, with the number of base tokens that share it."""
        lattice = self._lattice
        run = [at for at in lattice.run(open_) if len(lattice.texts[at]) > len(open_)]
        run = [at for at in run if not lattice.twin[at]]
        begun: dict[int, int] = {}  # base token -> the small one that begins it, the longest
        pairs: list[tuple[int, int, int]] = []
        for which in sorted(range(len(run)), key=lambda i: len(lattice.texts[run[i]])):
            beyond = lattice.texts[run[which]][len(open_) :]
            for base in lattice.base_run(beyond):
                if lattice.base_texts[base] != beyond:
                    begun[base] = which
            owner = lattice.longest(beyond)
            while 0 <= owner < len(lattice.base_texts) and beyond.startswith(
                lattice.base_texts[owner]
            ):  # and those with the same bytes
                pairs.append((which, owner, 1))
                owner += 1
        sharing = Counter(begun.values())
        pairs += [(which, base, sharing[which]) for base, which in begun.items()]
        which, base, parts = np.array(pairs, np.intp).reshape(-1, 3).T
        return lattice.order[run], which, lattice.sorted_base[base], parts


def _log_sum(values: NDArray[np.floating[Any]], best: float) -> float:
    """log(sum(exp(values))), summed in float64; `best` is the largest of them."""
    if not math.isfinite(best):
        return -math.inf
    return best + math.log(float(np.exp(values - values.dtype.type(best)).sum(dtype=np.float64)))
