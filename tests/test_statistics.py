"""The bootstrap: values by hand, intervals against plain resampling and against the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from eftlocal.study.statistics import gap_recovered, mean, median, ratios_of_sums


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("interval", "plain"), [(mean, np.mean), (median, np.median)], ids=["mean", "median"]
)
@pytest.mark.parametrize("n", [200, 201])
def test_intervals_are_those_of_resampling_one_by_one(
    interval: Callable[..., tuple[float, ...]], plain: Callable[..., float], n: int
) -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=n).round(2)  # some are equal
    picked = values[np.random.default_rng(2).integers(0, n, (4000, n))]
    low, high = np.percentile(plain(picked, axis=1), (2.5, 97.5))
    found = interval(values)
    assert found[0] == pytest.approx(plain(values))
    assert found[1:] == pytest.approx((low, high), abs=0.15 * (high - low))


@pytest.mark.parametrize("interval", [mean, median])
def test_intervals_cover_the_truth_about_as_often_as_they_say(
    interval: Callable[..., tuple[float, ...]],
) -> None:
    drawn = np.random.default_rng(1).normal(10.0, 1.0, (200, 25))
    covered = [low <= 10.0 <= high for _, low, high in map(interval, drawn)]
    assert 0.9 <= np.mean(covered) <= 0.99


def test_samples_at_the_edge() -> None:
    assert mean([1.0] * 7) == median([1.0] * 7) == (1.0, 1.0, 1.0)
    assert median([3.0, 1.0, 2.0]).value == 2.0 and median([4.0, 1.0]).value == 2.5
    for nothing in (mean([]), median([])):
        assert all(math.isnan(part) for part in nothing)
    infinite = mean([1.0, math.inf])
    assert infinite.value == math.inf and math.isnan(infinite.low) and math.isnan(infinite.high)


def test_means_over_tokens_are_of_answers() -> None:
    counts, sums = [2, 0, 4], [[1.0, 2.0], [0.0, 0.0], [2.0, 1.0]]
    first, second = ratios_of_sums(counts, sums)
    assert first == (0.5, 0.5, 0.5)  # the same in both answers that have some
    assert second.value == 0.5 and (second.low, second.high) == (0.25, 1.0)
    alone = ratios_of_sums([3, 0], [[1.0], [0.0]])[0]
    assert alone.value == pytest.approx(1 / 3) and math.isnan(alone.low)


# Performance gap recovered -----------------------------------------------------------------------


def test_pgr_by_hand() -> None:
    small, large = scores(0, 0, 1, 0), scores(1, 1, 1, 1)
    # means 0.25 and 1; the emulation's 0.5 is a third of the way
    assert gap_recovered(small, scores(1, 0, 1, 0), large).value == pytest.approx(1 / 3)
    assert gap_recovered(small, small, large) == (0.0, 0.0, 0.0)
    assert gap_recovered(small, large, large) == (1.0, 1.0, 1.0)
    worse = gap_recovered(small, scores(0, 0, 0, 0), large)
    assert worse.value == pytest.approx(-1 / 3) and worse.low < worse.value


def test_pgr_without_a_gap_is_not_a_number() -> None:
    same = scores(0, 1, 1)
    assert all(math.isnan(x) for x in gap_recovered(same, scores(1, 1, 1), same[::-1]))
    assert all(math.isnan(x) for x in gap_recovered(scores(), scores(), scores()))


def test_resampling_keeps_the_scores_of_a_question_together() -> None:
    # The emulation is exactly half way on every question, so every resample is half way.
    rng = np.random.default_rng(1)
    small, large = rng.random(50), 1.0 + rng.random(50)
    assert gap_recovered(small, (small + large) / 2, large) == pytest.approx((0.5, 0.5, 0.5))


def test_interval_agrees_with_resampling_one_by_one() -> None:
    rng = np.random.default_rng(2)
    small, emulated, large = (rng.random(200) < p for p in (0.2, 0.6, 0.8))
    pick = rng.integers(0, 200, (4000, 200))
    s, e, g = (x[pick].mean(1) for x in (small, emulated, large))
    expected = np.percentile((e - s) / (g - s), (2.5, 97.5))
    found = gap_recovered(small, emulated, large)
    assert found[1:] == pytest.approx(expected, abs=0.02)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    truth, hits, trials = (0.5 - 0.1) / (0.9 - 0.1), 0, 300
    for _ in range(trials):
        draws = rng.random((3, 150)) < np.array([[0.1], [0.5], [0.9]])
        found = gap_recovered(*draws.astype(np.float64), resamples=1000)
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / trials <= 0.985
