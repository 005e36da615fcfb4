"""Performance gap recovered (PGR), with a bootstrap interval over the questions. numpy only."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Recovered(NamedTuple):
    """PGR and the ends of its 95% interval; all NaN where there is no gap to recover."""

    value: float
    low: float
    high: float


def recovered(
    small: NDArray[np.float64],
    emulated: NDArray[np.float64],
    large: NDArray[np.float64],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Recovered:
    """How much of the way from the small to the large tuned model the emulation goes:

        PGR = (mean emulated - mean small) / (mean large - mean small)

    0 is no better than the small tuned model, 1 as good as the large one; Burns et al. 2023
    (arXiv 2312.09390) define it so. The interval is the 2.5 and 97.5 percentile over resampled
    questions (Efron's bootstrap). It is paired: the three scores of a question stay together.
    Resamples in which the gap is 0 have no ratio and are left out.

    Args:
        small, emulated, large: (questions,) a score per question, the same questions.

    Returns:
        NaN in all three places where the gap is 0 or there is no question.
    """
    scores = np.stack([small, emulated, large], axis=1).astype(np.float64)
    if not len(scores) or scores[:, 2].mean() == scores[:, 0].mean():
        return Recovered(math.nan, math.nan, math.nan)
    # Questions of equal scores are interchangeable, so a resample is a draw of their counts.
    kinds, counts = np.unique(scores, axis=0, return_counts=True)
    n = len(scores)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    s, e, g = (drawn @ kinds / n).T
    usable = g != s
    low, high = np.percentile((e - s)[usable] / (g - s)[usable], (2.5, 97.5))
    s, e, g = scores.mean(axis=0)
    return Recovered(float((e - s) / (g - s)), float(low), float(high))
