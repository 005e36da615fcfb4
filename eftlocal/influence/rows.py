"""Rows of several distributions compared at given tokens. numpy only; no text, no model.

A *distribution* is a role or the combination. Every row is exponentiated once and everything else
is taken from that, several rows at a time where the vocabulary is small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ELEMENTS = 1 << 16  # of a block: its exponentials stay in the processor's cache
_COLUMNS = 256  # at least as many as candidates can be asked for
_FLOAT_MAX = float(np.finfo(np.float32).max)

Rows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Columns:
    """What was found at n tokens.

    Attributes:
        logprobs: (distributions, n) float64, nats: of the token.
        ranks: (distributions, n) int64: 1 + the number of tokens that are more probable.
        distances: (pairs, n) float64: total variation, in [0, 1].
        ids: (distributions, n, k) int32: the most probable tokens, best first, ties by id;
            -1 where fewer are possible.
        id_logprobs: (distributions, n, k) float64, nats: of these; nan where there is none.
    """

    logprobs: NDArray[np.float64]
    ranks: NDArray[np.int64]
    distances: NDArray[np.float64]
    ids: NDArray[np.int32]
    id_logprobs: NDArray[np.float64]

    @classmethod
    def join(cls, parts: Sequence[Columns]) -> Columns:
        """The columns of one part after the other; there is at least one part."""
        names = ("logprobs", "ranks", "distances", "ids", "id_logprobs")
        return cls(*(np.concatenate([getattr(p, name) for p in parts], axis=1) for name in names))


class RowComparison:
    """Compares rows in preallocated memory.

    Args:
        size: tokens in the common vocabulary.
        distributions: their names, which the columns keep the order of.
        pairs: of distributions whose total variation is wanted.
        candidates: how many of the most probable tokens are wanted of each.
        unusable: ids that are never chosen, impossible in every distribution.
    """

    def __init__(
        self,
        size: int,
        distributions: Sequence[str],
        pairs: Sequence[tuple[str, str]],
        candidates: int,
        unusable: NDArray[np.intp],
    ) -> None:
        self._at = {name: i for i, name in enumerate(distributions)}
        self._pairs = [(self._at[one], self._at[other]) for one, other in pairs]
        self._k = min(candidates, size)
        self._unusable = unusable
        self.block = max(1, _ELEMENTS // size)
        self._weights = np.empty((len(distributions), self.block, size), dtype=np.float32)
        self._scratch = np.empty((self.block, size), dtype=np.float32)

    def __call__(self, rows: Mapping[str, Rows], tokens: Sequence[int]) -> Columns:
        """The columns of n tokens, n at most `block`.

        Args:
            rows: (n, size) float32 logits per distribution; not modified. NaN counts as -inf.
            tokens: (n,) ids, each the one that its row is compared at.
        """
        n, d = len(tokens), len(self._at)
        found = Columns(
            np.empty((d, n)),
            np.empty((d, n), dtype=np.int64),
            np.empty((len(self._pairs), n)),
            np.empty((d, n, self._k), dtype=np.int32),
            np.empty((d, n, self._k)),
        )
        totals = np.empty((d, n), dtype=np.float32)
        weights, scratch = self._weights[:, :n], self._scratch[:n]
        each = np.arange(n)
        with np.errstate(divide="ignore", invalid="ignore"):  # rows in which nothing is possible
            for name, i in self._at.items():
                logits, best = self._usable(rows[name])
                np.subtract(logits, best[:, None], out=weights[i])
                np.exp(weights[i], out=weights[i])
                weights[i].sum(axis=1, out=totals[i])
                normaliser = best + np.log(totals[i], dtype=np.float64)
                chosen = logits[each, tokens]
                found.logprobs[i] = chosen - normaliser
                for j, row in enumerate(logits):
                    found.ranks[i, j] = 1 + np.count_nonzero(row > chosen[j])
                found.ids[i] = ids = top_of_rows(logits, self._k)
                values = logits[each[:, None], ids] - normaliser[:, None]
                found.id_logprobs[i] = np.where(ids >= 0, values, np.nan)
            for p, (one, other) in enumerate(self._pairs):
                # 1 - sum(min(p, q)); scaling one side only keeps equal rows exactly 0 apart.
                scale = totals[other] / totals[one]
                np.multiply(weights[one], scale[:, None], out=scratch)
                np.minimum(scratch, weights[other], out=scratch)
                overlap = scratch.sum(axis=1) / totals[other]
                found.distances[p] = np.maximum(1.0 - overlap, 0.0)
        return found

    def _usable(self, rows: Rows) -> tuple[Rows, Rows]:
        """The rows without NaN, +inf and unusable tokens, and (n,) the best of each."""
        if self._unusable.size:
            rows = rows.copy()
            rows[:, self._unusable] = -np.inf
        best = rows.max(axis=1)
        if not np.isfinite(best).all():
            rows = np.nan_to_num(rows, nan=-np.inf, posinf=_FLOAT_MAX, neginf=-np.inf)
            best = rows.max(axis=1)
            best[best == -np.inf] = 0.0
        return rows, best


def top_of_rows(rows: Rows, k: int) -> NDArray[np.int32]:
    """(n, k) ids of the highest values of (n, size) rows, best first, ties by id; -1 where fewer
    than k are possible. For a few hundred at most; `distribution.top_k` is for one long row.
    """
    n, size = rows.shape
    whole = size - size % _COLUMNS
    # Every maximum stands for another token, so the k-th of them bounds the k-th of the row.
    maxima = rows[:, :whole].reshape(n, -1, _COLUMNS).max(axis=1) if whole else rows
    at = maxima.shape[1] - k
    bound = np.maximum(np.partition(maxima, at, axis=1)[:, at], np.finfo(np.float32).min)
    which, ids = np.divmod(np.flatnonzero(rows >= bound[:, None]), size)
    order = np.lexsort((ids, -rows[which, ids], which))
    which, ids = which[order], ids[order]
    place = np.arange(len(ids)) - np.searchsorted(which, which)
    first = place < k
    found = np.full((n, k), -1, dtype=np.int32)
    found[which[first], place[first]] = ids[first]
    return found
