"""Logits as a distribution: log-sum-exp, and top sets found without sorting the vocabulary."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
Ids = NDArray[np.intp]


def exp_shifted(logits: Row, out: Row, best: np.float32 | None = None) -> tuple[float, float]:
    """exp(logits - max) into `out` (vocab,); returns the maximum and the sum, so that
    log-sum-exp = maximum + log(sum). The maximum must be finite; `best` is it, where known."""
    maximum = float(logits.max() if best is None else best)
    np.subtract(logits, np.float32(maximum), out=out)
    np.exp(out, out=out)
    return maximum, float(out.sum())


def log_sum_exp(logits: Row, scratch: Row, best: np.float32 | None = None) -> float:
    """log(sum(exp(logits))) in nats; `scratch` (vocab,) is overwritten. `best`: see above."""
    maximum, total = exp_shifted(logits, scratch, best)
    return maximum + math.log(total)


def repair(row: Row) -> np.float32:
    """Makes NaN impossible and +inf certain, in place; returns the largest logit then."""
    best: np.float32 = row.max()
    if math.isnan(best):
        row[np.isnan(row)] = -np.inf
        best = row.max()
    if best == np.inf:
        certain = np.isposinf(row)
        row.fill(-np.inf)
        row[certain] = best = np.float32(0.0)
    return best


def token_logprob(logits: Row, token: int, scratch: Row) -> float:
    """Log-probability in nats of one token; `scratch` (vocab,) is overwritten."""
    return float(logits[token]) - log_sum_exp(logits, scratch)


def mean_of_possible(logits: Row) -> float:
    """The mean of the finite logits; 0 where there are none."""
    mean = float(logits.mean(dtype=np.float64))
    if math.isfinite(mean):
        return mean
    possible = logits[np.isfinite(logits)]
    return float(possible.mean(dtype=np.float64)) if possible.size else 0.0


def top_logprobs(logits: Row, k: int, scratch: Row) -> list[tuple[int, float]]:
    """The k most probable tokens with their log-probabilities in nats, the first first; ties go to
    the lower id. `scratch` (vocab,) is overwritten. Each is the very float of `token_logprob`."""
    total = log_sum_exp(logits, scratch)
    ids = top_k(logits, k)
    order = np.lexsort((ids, -logits[ids]))
    return [(int(token), float(logits[token]) - total) for token in ids[order]]


class Fold:
    """A row folded to an eighth, so that its highest tokens are found without looking at all.

    Column j holds the tokens j, j + width, ..., j + 7 width; the few that are left over are columns
    of their own.
    """

    DEPTH = 8  # of a column: bounds get looser with it, and folding saves more

    def __init__(self, size: int) -> None:
        self._width = size // self.DEPTH
        self._whole = self._width * self.DEPTH
        self._steps = np.arange(self.DEPTH)[:, None] * self._width
        self._tops = np.empty(self._width + size - self._whole, dtype=np.float32)

    def __call__(self, row: Row) -> Row:
        """The highest logit of each column, (columns,) float32, valid until the next call."""
        folded = row[: self._whole].reshape(self.DEPTH, self._width)
        np.maximum.reduce(folded, axis=0, out=self._tops[: self._width])
        self._tops[self._width :] = row[self._whole :]
        return self._tops

    def tokens(self, columns: Ids) -> Ids:
        """The ids, ascending, of all tokens of these ascending columns."""
        if len(self._tops) == self._width:
            return (self._steps + columns).ravel()
        grid, left = np.split(columns, [columns.searchsorted(self._width)])
        return np.concatenate(((self._steps + grid).ravel(), left + self._whole - self._width))


def nucleus(weights: Row, total: float, p: float) -> Ids:
    """The smallest set of heaviest tokens whose share of `total` reaches p, by ascending id.

    Ties go to the lower id. The set always holds a heaviest token.

    Args:
        weights: (vocab,) float32, 0 or more: probabilities up to a common factor.
        total: their sum.
        p: in (0, 1); 1 or more is every token of positive weight.
    """
    if p >= 1.0:
        return np.flatnonzero(weights > 0.0)
    # Tokens lighter than the floor weigh less than (1 - p) * total all together, so none of
    # them is needed to reach p, and the sort sees few tokens. Most rows do with fewer still.
    floor = (1.0 - p) * total / len(weights)
    for lift in (8.0, 1.0):
        ids = np.flatnonzero(weights >= np.float32(floor * lift))
        heavy = weights[ids]
        if heavy.sum(dtype=np.float64) >= p * total:
            break
    descending = np.sort(heavy)[::-1]
    reached = descending.cumsum(dtype=np.float64)
    count = min(int(reached.searchsorted(p * total)) + 1, len(ids))
    return ids[heaviest(heavy, descending[count - 1], count)]


def top_k(logits: Row, k: int) -> Ids:
    """The k tokens of highest logit, by ascending id; ties go to the lower id. Impossible
    tokens (-inf) are never among them, so there may be fewer than k."""
    if k >= len(logits):
        return np.flatnonzero(logits > -np.inf)
    # The k-th of a thinned copy bounds the k-th of the row from below: few tokens pass.
    sample = logits[:: max(1, len(logits) // 4096)]
    if k > min(len(sample), 512):
        sample = logits
    bound = np.partition(sample, len(sample) - k)[len(sample) - k]
    ids = np.flatnonzero(logits >= bound if bound > -np.inf else logits > -np.inf)
    if len(ids) <= k:
        return ids
    high = logits[ids]
    return ids[heaviest(high, np.partition(high, len(high) - k)[len(high) - k], k)]


def keep_only(row: Row, kept: NDArray[np.bool_]) -> None:
    """Makes every other token of the row impossible, in place; both are (vocab,)."""
    if len(row) < 16_384 or np.count_nonzero(kept) * 16 > len(row):
        row[~kept] = -np.inf
    else:  # a store that is rarely skipped is slow
        ids = np.flatnonzero(kept)
        values = row[ids]
        row.fill(-np.inf)
        row[ids] = values


def heaviest(values: Row, threshold: np.float32, count: int) -> Ids:
    """Where the `count` values are that reach the threshold, without the last equal to it."""
    at = np.flatnonzero(values >= threshold)
    if len(at) > count:
        equal = np.flatnonzero(values[at] == threshold)
        at = np.delete(at, equal[count - len(at) :])
    return at
