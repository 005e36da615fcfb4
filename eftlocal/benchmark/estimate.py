"""A median and its 95% bootstrap interval (Efron 1979): what is said of every figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_RESAMPLES = 4000


class Estimate(NamedTuple):
    """A median and the ends of its 95% interval; all NaN where nothing was measured."""

    value: float
    low: float
    high: float


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The median of (n,) values; the interval is over values drawn anew with replacement."""
    if not len(values):
        return Estimate(math.nan, math.nan, math.nan)
    found = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).choice(found, (_RESAMPLES, len(found)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return Estimate(float(np.median(found)), float(low), float(high))
