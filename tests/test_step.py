"""A step's order: what a cut, a mask and a schedule change, and what they leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eftlocal import Recipe, Sampling
from eftlocal.errors import EngineError
from eftlocal.logits.combine import Combiner
from eftlocal.logits.step import Step

pytestmark = pytest.mark.filterwarnings("error")

SIZE = 200
PENALTY = Sampling(temperature=1.0, top_p=1.0, repeat_penalty=1.3)
ROLES = ("base", "tuned", "reference")


def some_rows() -> dict[str, np.ndarray]:
    """Alike in every role: two good tokens a nat apart, and a long tail."""
    row = np.linspace(-8, -2, SIZE, dtype=np.float32)
    row[:2] = 10, 9
    return {role: row.copy() for role in ROLES}


def candidates(rows: dict[str, np.ndarray], recipe: Recipe, **more: Any) -> dict[int, float]:
    """Log-probabilities of what may be drawn."""
    combiner = more.pop("combiner", None) or Combiner(SIZE)
    sampling, counts = more.pop("sampling", PENALTY), more.pop("counts", {0: 1})
    _, found = Step(combiner)(rows, recipe, sampling, counts, more.pop("mask", None))
    ids, probabilities = found.probabilities()
    with np.errstate(divide="ignore"):
        return dict(zip(ids.tolist(), np.log(probabilities).tolist(), strict=True))


@pytest.mark.parametrize("plausibility", [0.0, 0.01, 0.1, 0.3])
def test_a_cut_does_not_change_how_strongly_a_token_is_penalised(plausibility: float) -> None:
    recipe = Recipe.upscale().stabilise(plausibility=plausibility)
    found = candidates(some_rows(), recipe)
    mean = float(some_rows()["base"].mean(dtype=np.float64))
    penalised = mean + (10 - mean) / 1.3  # by hand: the score is what stands above the mean
    assert found[0] - found[1] == pytest.approx(penalised - 9, abs=1e-4)
    if plausibility:
        assert [token for token, logprob in found.items() if logprob > -np.inf] == [0, 1]


def test_a_mask_does_not_change_how_strongly_a_token_is_penalised() -> None:
    mask = np.zeros(SIZE + 3, bool)
    mask[:2] = True
    free, masked = (candidates(some_rows(), Recipe.upscale(), mask=m) for m in (None, mask))
    assert masked[0] - masked[1] == pytest.approx(free[0] - free[1], abs=1e-5)


@pytest.mark.parametrize("ban", [False, True])
def test_a_cut_that_leaves_nothing_of_what_may_follow_gives_way(ban: bool) -> None:
    recipe = Recipe.upscale().stabilise(plausibility=0.1)
    rest = np.ones(SIZE, bool)
    rest[:2] = False
    if ban:
        sampling = Sampling(temperature=1.0, logit_bias={0: -np.inf, 1: -np.inf})
        found = candidates(some_rows(), recipe, sampling=sampling)
    else:
        found = candidates(some_rows(), recipe, mask=rest)
    possible = {token for token, logprob in found.items() if logprob > -np.inf}
    assert possible and not possible & {0, 1}
    with pytest.raises(EngineError, match="no token is possible"):
        candidates(some_rows(), recipe, mask=np.zeros(SIZE, bool))


@pytest.mark.parametrize("plausibility", [0.0, 0.1])
@pytest.mark.parametrize("broken", [("base",), ("tuned",), ("base", "reference")])
def test_a_model_whose_logits_are_no_numbers_is_named(
    broken: tuple[str, ...], plausibility: float
) -> None:
    rows = some_rows()
    for role in broken:
        rows[role][:] = np.nan
    recipe = Recipe.upscale().stabilise(plausibility=plausibility)
    with pytest.raises(EngineError, match=f"^the logits of {' and '.join(broken)} are not numbers"):
        candidates(rows, recipe)


SURE = {  # the base is sure of 0, and the tuned model, which judges, holds only 1 plausible
    "base": np.array([5.0, -1.0, -2.0], np.float32),
    "tuned": np.array([-5.0, 5.0, -6.0], np.float32),
    "reference": np.array([0.0, 0.0, 0.0], np.float32),
}


@pytest.mark.parametrize("schedule", [{"unsure_below": 0.5}, {"first_tokens": 0}])
def test_where_the_delta_does_not_apply_the_anchor_stands_alone_and_uncut(
    schedule: dict[str, Any],
) -> None:
    limits = {"plausibility": 0.5, "delta_top_p": 0.5, "delta_clip": 1.0}
    recipe = Recipe.proxy(1.0).stabilise(**limits)
    combine = Combiner(3)
    assert np.isneginf(combine(SURE, recipe)[2])  # where it applies, the cut does
    alone = combine(SURE, recipe.stabilise(**schedule).at(0))
    np.testing.assert_array_equal(alone, SURE["base"])
    below = recipe.stabilise(unsure_below=1.0, first_tokens=1).at(0)
    np.testing.assert_array_equal(combine(SURE, below), combine(SURE, recipe).copy())


def test_foreign_ids_have_the_judges_odds_whatever_is_padding() -> None:
    rng = np.random.default_rng(1)
    rows = {role: rng.normal(0, 2, 12).astype(np.float32) for role in ROLES}
    rows["tuned"][7] = 9.0  # padding that would weigh much
    combine = Combiner(12, foreign=[3], unusable=[7])
    row = combine(rows, Recipe.proxy(1.5)).astype(np.float64)
    usable = [i for i in range(12) if i != 7]
    tuned = np.exp(rows["tuned"][usable].astype(np.float64))
    got = np.exp(row[usable])
    assert got[3] / got.sum() == pytest.approx(tuned[3] / tuned.sum(), rel=1e-4)


def test_a_foreign_id_that_is_implausible_is_cut_too() -> None:
    rows = some_rows()
    combine = Combiner(SIZE, foreign=[1, 50])
    row = combine(rows, Recipe.proxy().stabilise(plausibility=0.1))
    assert np.flatnonzero(row > -np.inf).tolist() == [0, 1]


def test_a_judge_that_holds_no_token_possible_leaves_the_anchor_alone() -> None:
    """Two tuned models that agree on no token: no nucleus, so no delta anywhere."""
    rows = some_rows()
    rows["other"] = rows["tuned"].copy()
    rows["tuned"][::2], rows["other"][1::2] = -np.inf, -np.inf
    weights = {"base": 1.0, "tuned": 0.5, "other": 0.5, "reference": -1.0}
    judge = {"tuned": 0.5, "other": 0.5}
    recipe = Recipe(weights, anchor={"base": 1.0}, judge=judge, delta_top_p=0.9)
    np.testing.assert_array_equal(Combiner(SIZE)(rows, recipe), rows["base"])


def test_of_what_top_p_left_min_p_keeps_at_least_one() -> None:
    """Equal but for rounding: top-p takes the lower id, and min-p must not ask for the other."""
    row = np.array([0.0, 1e-6], np.float32)
    sampling = Sampling(temperature=100.0, top_p=1e-300, min_p=float(np.nextafter(1.0, 0.0)))
    _, found = Step(Combiner(2))({"base": row}, Recipe.single("base"), sampling, {})
    assert found.probabilities()[1].sum() == 1.0
