"""The bootstrap (Efron 1979): 95% intervals of means, medians and ratios. numpy only.

The items that are drawn anew are independent ones: prompts, questions or answers, never the tokens
of one answer. What belongs to one item is one row and stays together, so comparisons are paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Statistic = Callable[[Counts, Array], Array]

_RESAMPLES = 2000
_CHUNK = 1 << 22  # counts drawn at once


class Interval(NamedTuple):
    """A figure and the ends of its 95% interval; NaN where there is none."""

    value: float
    low: float
    high: float


def bootstrap(
    sample: ArrayLike, statistic: Statistic, *, resamples: int = _RESAMPLES, seed: int = 0
) -> list[Interval]:
    """Figures of a sample, each with the 2.5 and 97.5 percentile over resamples.

    Resamples in which a figure is not finite (a ratio with nothing below the line) are left out.

    Args:
        sample: (n,) or (n, k), one row an item.
        statistic: from how often each distinct row was drawn, (m, rows), and these rows, (rows, k),
            in ascending order, to (m, figures).

    Returns:
        One interval for each figure; its ends are NaN where the figure itself is not finite, and
        where there is only one item.
    """
    items = np.asarray(sample, dtype=np.float64)
    n = len(items)
    if not n:
        return [Interval(math.nan, math.nan, math.nan)]
    # Equal rows are interchangeable, so a resample is a draw of their counts.
    rows, counts = np.unique(items.reshape(n, -1), axis=0, return_counts=True)
    rng, size = np.random.default_rng(seed), max(1, _CHUNK // len(rows))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(counts[None], rows)[0]
        drawn = np.concatenate(
            [
                statistic(rng.multinomial(n, counts / n, size=min(size, resamples - start)), rows)
                for start in range(0, resamples, size)
            ]
        )
    drawn = drawn if n > 1 else drawn[:0]
    return [_interval(float(value), drawn[:, i]) for i, value in enumerate(values)]


def mean(values: Sequence[float] | Array) -> Interval:
    """The mean of (n,) values."""
    return bootstrap(values, _means)[0]


def median(values: Sequence[float] | Array) -> Interval:
    """The median of (n,) values."""
    return bootstrap(values, _medians)[0]


def ratios_of_sums(below: ArrayLike, above: ArrayLike) -> list[Interval]:
    """Sums over items, divided: a mean over tokens that come in answers is one, because answers are
    drawn, not tokens.

    Args:
        below: (n,) what is divided by, such as the tokens of each answer.
        above: (n, k) what is divided, such as sums over the tokens of each.

    Returns:
        k intervals; without ends where one item has all that is below.
    """
    found = bootstrap(np.column_stack([below, above]), _ratios)
    if np.count_nonzero(below) > 1:
        return found
    return [Interval(of.value, math.nan, math.nan) for of in found]


def of_ratios(
    below: ArrayLike,
    above: ArrayLike,
    figure: Callable[[Array], Array],
    *,
    resamples: int = _RESAMPLES,
) -> Interval:
    """One figure of several ratios of sums over the same items, such as their difference.

    Args:
        below, above: (n, k) what is divided by, and what is divided.
        figure: from the ratios, (m, k), to the figure, (m,).
    """
    k = np.shape(below)[1]

    def statistic(counts: Counts, rows: Array) -> Array:
        sums = counts @ rows
        return figure(sums[:, k:] / sums[:, :k])[:, None]

    return bootstrap(np.column_stack([below, above]), statistic, resamples=resamples)[0]


def gap_recovered(
    small: ArrayLike,
    emulated: ArrayLike,
    large: ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Performance gap recovered: how much of the way from the small to the large tuned model the
    emulation goes (Burns et al. 2023, arXiv 2312.09390):

        PGR = (mean emulated - mean small) / (mean large - mean small)

    0 is no better than the small tuned model, 1 as good as the large one.

    Args:
        small, emulated, large: (questions,) a score per question, the same questions.

    Returns:
        NaN in all three places where there is no gap or no question.
    """
    scores = np.stack([np.asarray(of, dtype=np.float64) for of in (small, emulated, large)], axis=1)
    (found,) = bootstrap(scores, _gap, resamples=resamples, seed=seed)
    return found if math.isfinite(found.value) else Interval(math.nan, math.nan, math.nan)


def _interval(value: float, drawn: Array) -> Interval:
    usable = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or not len(usable):
        return Interval(value, math.nan, math.nan)
    low, high = np.percentile(usable, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def _means(counts: Counts, rows: Array) -> Array:
    means: Array = counts @ rows / counts.sum(axis=1, keepdims=True)
    return means


def _medians(counts: Counts, rows: Array) -> Array:
    upto = counts.cumsum(axis=1)
    n = upto[:, -1:]
    lower, upper = ((upto > half).argmax(axis=1) for half in ((n - 1) // 2, n // 2))
    medians: Array = (rows[lower] + rows[upper]) / 2
    return medians


def _ratios(counts: Counts, rows: Array) -> Array:
    sums = counts @ rows
    ratios: Array = sums[:, 1:] / sums[:, :1]
    return ratios


def _gap(counts: Counts, rows: Array) -> Array:
    small, emulated, large = _means(counts, rows).T
    gap: Array = (emulated - small) / (large - small)
    return gap[:, None]
