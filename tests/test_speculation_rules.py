"""The acceptance rules alone: tokens are distributed as the target, whatever the drafts were.

Seeds are fixed, so the p-values are too. scripts/check_exactness.py draws 200,000 of each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from exactness.chi_square import goodness_of_fit, independent, joint, same_distribution, survival
from exactness.rules import (
    Case,
    RecoversFromTheTarget,
    candidates,
    cases,
    coupled_acceptance,
    outcome,
)

from eftlocal.logits.race import draw, uniform
from eftlocal.speculation.rules import RULES, Coupled, Draft, Rejection

NUMBER = 2_000
LEAST = 1e-4
CASES = {case.name: case for case in cases()}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_rejection(case: Case) -> None:
    found = outcome(case, Rejection(), NUMBER)
    assert found.p_value > LEAST
    assert found.acceptance == pytest.approx(case.overlap, abs=4.5 * found.sigma + 1e-6)


def test_coupled(case: Case) -> None:
    found = outcome(case, Coupled(), NUMBER)
    assert found.p_value > LEAST
    # A draft that was looked up has no noise to share.
    looked_up = case.source is None
    expected = case.overlap if looked_up else coupled_acceptance(case.p, case.q, 64)
    sigma = (expected * (1.0 - expected) / NUMBER) ** 0.5
    assert found.acceptance == pytest.approx(expected, abs=4.5 * sigma + 1e-6)
    if case.size <= 64:  # the bound holds for a race in one block
        assert expected >= case.overlap / (2.0 - case.overlap) - 1e-9  # (1 - TV) / (1 + TV)


def test_likelihood_is_the_acceptance(case: Case) -> None:
    if case.source is None:
        return  # nothing was drawn, so nothing is foretold
    assert Rejection().likelihood(case.target, case.source, 1, 2) == pytest.approx(
        case.overlap, abs=1e-6
    )
    for seed in range(100):
        accepted = Coupled().choose(case.target, case.draft(seed, 3), seed, 3)[1]
        assert Coupled().likelihood(case.target, case.source, seed, 3) == float(accepted)


def test_a_wrong_rule_is_found_out() -> None:
    assert outcome(CASES["17 tokens"], RecoversFromTheTarget(), NUMBER).p_value < 1e-9


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_greedy_rules_compare_the_best_tokens(rule: Coupled | Rejection) -> None:
    best, other = candidates([1], [7]), candidates([1], [3])
    for seed in range(50):
        assert rule.choose(best, Draft(7, best), seed, 0) == (7, True)
        assert rule.choose(best, Draft(3, other), seed, 0) == (7, False)
        assert rule.choose(best, Draft(3, None), seed, 0) == (7, False)


# The noise ----------------------------------------------------------------------------------------

FIVE = candidates([5, 4, 3, 2, 1])
WIDE = candidates(np.ones(300))  # over several blocks of the draw


def _pairs(kind: str) -> Iterator[tuple[int, int]]:
    rule = Rejection()
    for seed in range(8_000):
        draft = Draft(draw(FIVE, seed, 4), FIVE)
        if kind == "the test of a draft":
            yield draft.token, int(8 * uniform(seed, 4, 1))
        elif kind == "the recovered token's noise":
            yield draft.token, draw(FIVE, seed, 4, stream=2)
        elif kind == "test and recovery":
            yield int(8 * uniform(seed, 4, 1)), draw(FIVE, seed, 4, stream=2)
        elif kind == "next position":
            yield draft.token, draw(FIVE, seed, 5)
        elif kind == "next seed":
            yield draft.token, draw(FIVE, seed + 1, 4)
        elif kind == "blocks and tokens":
            token = draw(WIDE, seed, 4)
            yield token // 64, token % 4
        else:
            target = candidates([1, 2, 3, 4, 5])
            after = Draft(draw(FIVE, seed, 5), FIVE)
            yield (rule.choose(target, draft, seed, 4)[0], rule.choose(target, after, seed, 5)[0])


@pytest.mark.parametrize(
    "kind",
    [
        "the test of a draft",
        "the recovered token's noise",
        "test and recovery",
        "next position",
        "next seed",
        "blocks and tokens",
        "chosen tokens one after the other",
    ],
)
def test_noise_is_independent(kind: str) -> None:
    assert independent(joint(_pairs(kind))) > LEAST


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_two_positions_have_the_product_of_their_distributions(rule: Coupled | Rejection) -> None:
    case = CASES["zeros in p"]
    counts = np.zeros((case.size, case.size), dtype=int)
    for seed in range(6_000):
        pair = [rule.choose(case.target, case.draft(seed, at), seed, at)[0] for at in (9, 10)]
        counts[pair[0], pair[1]] += 1
    assert goodness_of_fit(counts.ravel(), np.outer(case.p, case.p).ravel()) > LEAST


# The tests themselves -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statistic", "freedom", "p_value"),
    # From tables: the 5%, 1% and 0.1% points, and a point on the near side of the mean.
    [(3.8415, 1, 0.05), (23.209, 10, 0.01), (149.449, 100, 0.001), (4.8652, 10, 0.9)],
)
def test_chi_square_tail(statistic: float, freedom: int, p_value: float) -> None:
    assert survival(statistic, freedom) == pytest.approx(p_value, rel=1e-3)


def test_chi_square_sees_what_is_different() -> None:
    assert goodness_of_fit([500, 500], [0.5, 0.5]) == 1.0
    assert goodness_of_fit([600, 400], [0.5, 0.5]) < 1e-9
    assert goodness_of_fit([999, 1], [1.0, 0.0]) == 0.0
    assert same_distribution({"a": 500, "b": 490}, {"a": 490, "b": 500})[0] > 0.5
    assert same_distribution({"a": 500, "b": 400}, {"a": 400, "b": 500})[0] < 1e-4
    rare = {f"only here {i}": 1 for i in range(100)}
    assert same_distribution({"a": 900, **rare}, {"a": 1000})[0] < 1e-9
