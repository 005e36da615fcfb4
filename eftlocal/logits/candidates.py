"""What a token is drawn from: temperature, then top-k, top-p and min-p, over a combined row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import NoTokenError
from eftlocal.logits.distribution import Fold, Ids, Row, heaviest, nucleus, top_k
from eftlocal.logits.sampling import Sampling

_LARGE = 16_384  # tokens of a row from which on folding it saves more than it takes
_LIFT = 8.0  # what is in the top-p set weighs this many times the floor of `nucleus`, as a rule
_SLACK = 1e-5  # what rounding may change in the sum of a row's weights, and more


@dataclass(frozen=True)
class Candidates:
    """The distribution that a token is drawn from.

    Attributes:
        ids: (m,) ascending token ids; None means every id.
        logits: (m,) float32, log-probabilities up to a constant, temperature applied.
        sure: (m,) bool, those that are in; of the others some may be. None: all are.
        settle: finds which are in, where `sure` leaves it open.
    """

    ids: Ids | None
    logits: Row
    sure: NDArray[np.bool_] | None = None
    settle: Callable[[], Candidates] | None = None

    @cached_property
    def settled(self) -> Candidates:
        """The very candidates. Found once, while the row is there; then they stay."""
        return self if self.settle is None else self.settle()

    def kept(self) -> Candidates:
        """The very candidates, in memory of their own."""
        found = self.settled
        return Candidates(found.ids, found.logits.copy())

    def at_least(self, fraction: float) -> Candidates:
        """Those of at least this fraction of the best one's probability; 0 is all."""
        if fraction == 0.0:
            return self
        least = self.logits.max() + np.float32(math.log(fraction))
        at = np.flatnonzero(self.logits >= least)
        ids = at if self.ids is None else self.ids[at]
        sure = None if self.sure is None else self.sure[at]
        if sure is None or sure.all():
            return Candidates(ids, self.logits[at])
        return Candidates(ids, self.logits[at], sure, lambda: self.settled.at_least(fraction))

    @property
    def confidence(self) -> float:
        """The largest probability; of loose candidates, as if all were in."""
        weights = np.exp(self.logits - self.logits.max())
        return 1.0 / float(weights.sum(dtype=np.float64))

    def probabilities(self) -> tuple[Ids, NDArray[np.float64]]:
        """Token ids (m,) and their probabilities (m,) float64, summing to 1."""
        found = self.settled
        ids = np.arange(len(found.logits)) if found.ids is None else found.ids
        weights = np.exp(found.logits.astype(np.float64) - float(found.logits.max()))
        return ids, weights / weights.sum()


class Filters:
    """Temperature and top-k, top-p, min-p over rows of one size, with its own scratch memory."""

    def __init__(self, size: int) -> None:
        self._fold = Fold(size)
        self._scaled = np.empty(size, dtype=np.float32)
        self._scratch = np.empty(size, dtype=np.float32)
        self._flat = self._skipped = 0  # how flat rows were; rows not folded since one was

    def __call__(self, row: Row, sampling: Sampling, *, to_draw: bool = False) -> Candidates:
        """The candidates of a combined and penalised row.

        Args:
            row: (size,) float32; not modified.
            to_draw: they may be loose: `draw` knows what to do, and rarely has to settle them.

        Returns:
            Candidates, valid until the next call, or until the row is changed.

        Raises:
            NoTokenError: no token of the row is possible.
        """
        k = sampling.top_k if sampling.top_k < len(row) else 0
        fold = len(row) >= _LARGE and not (k or sampling.greedy)
        fold = fold and self._folding(sampling, to_draw)
        tops = self._fold(row) if fold else row
        at = int(tops.argmax())
        best = tops[at]
        if not math.isfinite(best):
            raise NoTokenError("no token is possible here: every candidate was masked out")
        if sampling.greedy:
            return Candidates(np.array([at], dtype=np.intp), row[at : at + 1].copy())
        ids: Ids | None = None
        if k:
            ids = top_k(row, k)
        elif fold and sampling.top_p < 1.0:
            return self._nucleus(row, tops, best, sampling).at_least(sampling.min_p)
        elif fold:
            reach = 1.001 * math.log(sampling.min_p)  # and rounding
            high = _scaled(tops, best, sampling, tops) >= reach
            ids = self._fold.tokens(np.flatnonzero(high))
        return self._exactly(row, ids, best, sampling).at_least(sampling.min_p)

    def _folding(self, sampling: Sampling, to_draw: bool) -> bool:
        """Whether folding is likely to pay. After flat rows it is tried again now and then."""
        if sampling.top_p == 1.0:
            return sampling.min_p > 0.0
        self._skipped += 1
        return to_draw and self._skipped >= 1 << self._flat

    def _nucleus(self, row: Row, tops: Row, best: np.float32, sampling: Sampling) -> Candidates:
        """The top-p set of a large row, mostly without the weights of tokens that are not in it.

        The total is bounded: a column weighs at least what its top weighs, and at most as much
        for each of its tokens. The columns that matter are looked at token by token.
        """
        p = sampling.top_p
        weights = np.exp(_scaled(tops, best, sampling, tops), out=tops)
        of_tops = float(weights.sum())
        cut = min(1.0, _LIFT * (1.0 - p) * of_tops / len(row))  # the best one weighs 1
        columns = (weights >= cut).nonzero()[0]
        outside = max(0.0, of_tops - float(weights[columns].sum()))
        doubt = (Fold.DEPTH - 1) * outside
        self._flat, self._skipped = min(self._flat + 1, 6), 0
        if 2.0 * doubt > (1.0 - p) * of_tops:  # a flat row: too much is open
            return self._exactly(row, None, best, sampling)
        ids = self._fold.tokens(columns)
        scaled = _scaled(row[ids], best, sampling)
        heavy = np.exp(scaled)
        descending = np.sort(heavy[heavy > cut * (1.0 + _SLACK)])[::-1]  # and not one is missing
        reached = descending.cumsum(dtype=np.float64)
        least = float(heavy.sum(dtype=np.float64)) + outside
        first = int(reached.searchsorted(p * least * (1.0 - _SLACK)))
        last = int(reached.searchsorted(p * (least + doubt) * (1.0 + _SLACK)))
        if last == len(reached):
            return self._exactly(row, None, best, sampling)
        self._flat = max(self._flat - 2, 0)
        if first == last:
            at = heaviest(heavy, descending[last], last + 1)
            return Candidates(ids[at], scaled[at])
        at = (heavy >= descending[last]).nonzero()[0]
        sure = heavy[at] > descending[first + 1]
        return Candidates(
            ids[at], scaled[at], sure, partial(self._exactly, row, None, best, sampling)
        )

    def _exactly(
        self, row: Row, ids: Ids | None, best: np.float32, sampling: Sampling
    ) -> Candidates:
        """Temperature and top-p over these ids, or all, by the weight of each."""
        values = row if ids is None else row[ids]
        scaled = _scaled(values, best, sampling, self._scaled[: len(values)])
        if sampling.top_p < 1.0:
            weights = np.exp(scaled, out=self._scratch[: len(scaled)])
            inner = nucleus(weights, float(weights.sum()), sampling.top_p)
            ids, scaled = inner if ids is None else ids[inner], scaled[inner]
        return Candidates(ids, scaled)


def _scaled(values: Row, best: np.float32, sampling: Sampling, out: Row | None = None) -> Row:
    """The logits about the best one's, temperature applied."""
    with np.errstate(over="ignore"):  # of tokens without a chance
        scaled = np.subtract(values, best, out=out)
        if sampling.temperature != 1.0:
            scaled /= np.float32(sampling.temperature)
    return scaled
