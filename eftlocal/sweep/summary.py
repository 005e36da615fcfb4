"""Per point and metric the mean over the prompts, with a bootstrap interval. numpy only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eftlocal.sweep.grid import Point
from eftlocal.sweep.journal import Record
from eftlocal.sweep.measures import METRICS

_CHUNK = 1 << 22  # counts drawn at once


class Mean(NamedTuple):
    """A mean over n prompts and the ends of its 95% interval; the ends are NaN where a value is
    infinite, and the mean itself where there is none."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PointSummary:
    """What was measured at one point.

    Attributes:
        n: prompts answered.
        finish_reasons: how many answers ended so.
        metrics: name to mean; a metric nobody measured here is absent.
    """

    point: Point
    n: int
    finish_reasons: Mapping[str, int]
    metrics: Mapping[str, Mean]


def mean_interval(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Mean:
    """The mean with the 2.5 and 97.5 percentile over resampled prompts (Efron's bootstrap)."""
    n = len(values)
    if not n:
        return Mean(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if not math.isfinite(mean):
        return Mean(mean, math.nan, math.nan, n)
    # Prompts of equal values are interchangeable, so a resample is a draw of their counts.
    kinds, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    rng = np.random.default_rng(seed)
    size = max(1, _CHUNK // len(kinds))
    means = [
        rng.multinomial(n, counts / n, size=min(size, resamples - start)) @ kinds / n
        for start in range(0, resamples, size)
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return Mean(mean, float(low), float(high), n)


def summarise(
    points: Sequence[Point], prompts: int, records: Mapping[tuple[str, int], Record]
) -> list[PointSummary]:
    """One summary a point, over its prompts that are done."""
    return [_point(point, prompts, records) for point in points]


def _point(point: Point, prompts: int, records: Mapping[tuple[str, int], Record]) -> PointSummary:
    done = [r for i in range(prompts) if (r := records.get((point.key, i))) is not None]
    values = {name: [r.values[name] for r in done if name in r.values] for name in METRICS}
    return PointSummary(
        point=point,
        n=len(done),
        finish_reasons=dict(sorted(Counter(r.finish_reason for r in done).items())),
        metrics={name: mean_interval(of) for name, of in values.items() if of},
    )
