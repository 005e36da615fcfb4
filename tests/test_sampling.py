"""Sampling: ranges, penalties, filters, and that a draw depends on seed and position alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal import Sampling
from eftlocal.errors import EngineError, UsageError
from eftlocal.logits.candidates import Candidates, Filters
from eftlocal.logits.distribution import log_sum_exp, nucleus, top_k
from eftlocal.logits.race import draw
from eftlocal.logits.sampling import penalise


def row(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it must be a number from 0 to 100"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"min_p": 1.0}, "min_p is 1.0"),
        ({"repeat_penalty": 0.0}, "repeat_penalty is 0.0"),
        ({"presence_penalty": float("inf")}, "presence_penalty is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"top_k": float("nan")}, "top_k is nan"),
        ({"logit_bias": {"a": 1.0}}, "logit_bias: 'a' is not a token id"),
        ({"logit_bias": {3: float("nan")}}, "logit_bias of token 3"),
    ],
)
def test_out_of_range_is_named(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(**settings)  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_greedy_takes_the_first_of_equals() -> None:
    candidates = Filters(3)(row(1, 5, 5), Sampling(temperature=0.0))
    assert draw(candidates, seed=1, position=0) == 1


def test_a_temperature_that_float32_cannot_tell_from_0_is_greedy() -> None:
    candidates = Filters(3)(row(1, 5, 5), Sampling(temperature=1e-46, top_p=1.0))
    assert draw(candidates, seed=1, position=0) == 1


def test_filters_apply_one_after_the_other() -> None:
    # p = .5 .25 .125 .125: top-k 3 leaves .57 .29 .14, of which top-p .6 needs two.
    values = row(*np.log([0.5, 0.25, 0.125, 0.125]))
    ids, p = Filters(4)(values, Sampling(1.0, top_k=3, top_p=0.6)).probabilities()
    assert ids.tolist() == [0, 1]
    assert p == pytest.approx([2 / 3, 1 / 3])
    ids, _ = Filters(4)(values, Sampling(1.0, top_p=1.0, min_p=0.3)).probabilities()
    assert ids.tolist() == [0, 1]


def test_temperature_near_zero_does_not_overflow() -> None:
    candidates = Filters(3)(row(3e4, 2.9e4, -np.inf), Sampling(1e-6, top_p=1.0))
    _, p = candidates.probabilities()
    assert p.tolist() == [1.0, 0.0, 0.0]


def test_nothing_possible_is_an_error_not_a_token() -> None:
    with pytest.raises(EngineError, match="no token is possible"):
        Filters(2)(row(-np.inf, -np.inf), Sampling())


def test_penalties() -> None:
    values = row(4, 2, 0, -6)
    settings = Sampling(presence_penalty=1.0, frequency_penalty=0.5, logit_bias={3: 2.0})
    penalise(values, settings, {0: 2, 2: 1})
    assert values.tolist() == [2.0, 2.0, -1.5, -4.0]


def test_repeat_penalty_does_not_depend_on_the_constant() -> None:
    settings = Sampling(repeat_penalty=1.3)
    plain, shifted = row(4, 2, 0, -6), row(4, 2, 0, -6) + np.float32(50)
    penalise(plain, settings, {0: 1, 3: 1})
    penalise(shifted, settings, {0: 1, 3: 1})
    assert shifted - 50 == pytest.approx(plain, abs=1e-4)
    assert plain[0] < 4 and plain[3] < -6 and plain[1] == 2


def test_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match="token 9 is outside the vocabulary of 2"):
        penalise(row(0, 0), Sampling(logit_bias={9: 1.0}), {})


def test_draws_depend_on_seed_and_position() -> None:
    candidates = Candidates(None, np.zeros(500, dtype=np.float32))
    drawn = [draw(candidates, seed=7, position=i) for i in range(50)]
    assert drawn == [draw(candidates, seed=7, position=i) for i in range(50)]
    assert drawn != [draw(candidates, seed=8, position=i) for i in range(50)]
    assert len(set(drawn)) > 30


@pytest.mark.parametrize("ids", [None, "some"])
@pytest.mark.parametrize("size", [2, 3, 64, 65, 700])
def test_draws_follow_the_distribution(size: int, ids: str | None) -> None:
    rng = np.random.default_rng(size)
    where = None if ids is None else np.sort(rng.choice(10 * size, size, replace=False))
    candidates = Candidates(where, rng.normal(0, 1.5, size).astype(np.float32))
    tokens, p = candidates.probabilities()
    draws = 8_000
    counts = np.bincount([draw(candidates, 11, i) for i in range(draws)], minlength=10 * size)
    assert counts.sum() == counts[tokens].sum()
    expected = p * draws
    common = expected >= 5
    observed = np.append(counts[tokens][common], counts[tokens][~common].sum())
    expected = np.append(expected[common], max(expected[~common].sum(), 1e-9))
    keep = expected > 1e-6
    statistic = float(((observed - expected) ** 2 / expected)[keep].sum())
    freedom = int(keep.sum()) - 1
    # Wilson-Hilferty: chi-square to a normal deviate. 4 sigma, and the seed is fixed.
    deviate = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (
        (2 / (9 * freedom)) ** 0.5
    )
    assert deviate < 4.0


def test_coupling_of_near_distributions() -> None:
    """The same noise makes near distributions agree as the exponential race promises."""
    rng = np.random.default_rng(5)
    first = rng.normal(0, 2, 300).astype(np.float32)
    second = first + rng.normal(0, 0.3, 300).astype(np.float32)
    one, two = Candidates(None, first), Candidates(None, second)
    distance = float(np.abs(one.probabilities()[1] - two.probabilities()[1]).sum() / 2)
    agreed = np.mean([draw(one, 3, i) == draw(two, 3, i) for i in range(3000)])
    assert agreed > (1 - distance) / (1 + distance) - 0.04


# Top sets ---------------------------------------------------------------------------------------

logits = st.lists(
    st.sampled_from([-np.inf, -3.0, -1.0, 0.0, 0.5, 0.5, 2.0, 7.0]), min_size=1, max_size=60
).map(lambda values: np.array(values, dtype=np.float32))


def by_rank(values: np.ndarray) -> list[int]:
    """Ids from the greatest value to the least, ties to the lower id."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


@given(logits, st.integers(1, 80))
def test_top_k(row: np.ndarray, k: int) -> None:
    expected = sorted(i for i in by_rank(row)[:k] if row[i] > -np.inf)
    assert top_k(row, k).tolist() == expected


@given(logits, st.floats(0.01, 0.99))
def test_nucleus(row: np.ndarray, p: float) -> None:
    if row.max() == -np.inf:
        return
    weights = np.exp(row - row.max())
    total = float(weights.sum())
    expected, reached = [], 0.0
    for i in by_rank(weights):
        expected.append(i)
        reached += float(weights[i])
        if reached >= p * total:
            break
    assert nucleus(weights, total, p).tolist() == sorted(expected)


@pytest.mark.parametrize("k", [1, 40, 600, 5000, 20_000])
def test_top_k_of_a_large_row(k: int) -> None:
    row = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    row[:3000] = -np.inf
    ids = top_k(row, k)
    assert len(ids) == min(k, 17_000)
    assert row[ids].min() >= np.delete(row, ids).max(initial=-np.inf)


def test_log_sum_exp_of_huge_logits() -> None:
    row = np.array([1e4, 1e4, -np.inf], dtype=np.float32)
    assert log_sum_exp(row, np.empty_like(row)) == pytest.approx(1e4 + np.log(2), rel=1e-6)
