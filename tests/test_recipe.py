"""Recipes: the rows of the papers as weights, and what is refused."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest

from eftlocal import Recipe
from eftlocal.errors import UsageError
from eftlocal.logits.recipe_text import parse_recipe


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [
        (Recipe.upscale(), {"base": 1, "tuned": 1, "reference": -1}),
        (Recipe.upscale(1.5), {"base": 1.5, "tuned": 1, "reference": -1.5}),
        (Recipe.proxy(0.5), {"base": 1, "tuned": 0.5, "reference": -0.5}),
        (Recipe.dials(2, 3), {"base": 3, "tuned": 2, "reference": -4}),
        (Recipe.downscale(), {"base": 1, "tuned": 1, "reference": -1}),
        (Recipe.steer(-1), {"base": 1, "tuned": -1, "reference": 1}),
        (Recipe.realign(1.25), {"tuned": 1.25, "reference": -0.25}),
        (Recipe.contrast(0.5), {"base": 1.5, "reference": -0.5}),
        (Recipe.single("base"), {"base": 1}),
        (
            Recipe.interpolate({"tuned": 0.25, "warm": 0.75}),
            {"base": 1, "tuned": 0.25, "warm": 0.75, "reference": -1},
        ),
        (
            Recipe.interpolate({"tuned": 0.25, "warm": 0.75}, {"warm": "cold"}),
            {"base": 1, "tuned": 0.25, "warm": 0.75, "reference": -0.25, "cold": -0.75},
        ),
        (
            Recipe.mix({"tuned": 0.25, "warm": 0.75}, 2.0),
            {"base": 1, "tuned": 0.5, "warm": 1.5, "reference": -2},
        ),
        (
            Recipe.mix({"tuned": 0.25, "warm": 0.75}, 2.0, {"tuned": "base", "warm": "base"}),
            {"base": -1, "tuned": 0.5, "warm": 1.5},
        ),
    ],
)
def test_rows_of_the_papers(recipe: Recipe, weights: dict[str, float]) -> None:
    assert dict(recipe.weights) == weights
    assert math.fsum(recipe.weights.values()) == pytest.approx(1.0)


def test_beta_one_is_alpha_one() -> None:
    assert Recipe.upscale(1.0).weights == Recipe.proxy(1.0).weights == Recipe.dials().weights


def test_roles_of_weight_zero_are_not_decoded() -> None:
    assert Recipe.upscale(0.0).roles == ("tuned",)
    assert Recipe.proxy(0.0).roles == ("base",)
    assert Recipe.interpolate({"tuned": 1.0, "warm": 0.0}).roles == ("base", "tuned", "reference")
    assert Recipe.mix({"tuned": 1.0, "warm": 0.0}, 0.0).roles == ("base",)
    own = {"tuned": "base", "warm": "base"}
    assert Recipe.mix({"tuned": 1.0, "warm": 0.0}, 1.0, own).roles == ("tuned",)


def test_a_stabiliser_needs_its_anchor_decoded() -> None:
    recipe = Recipe.contrast(1.0).stabilise(plausibility=0.1)
    assert set(recipe.roles) == {"base", "reference"}
    assert dict(recipe.anchor) == {"base": 1.0}
    assert dict(Recipe.interpolate({"tuned": 0.5, "warm": 0.5}).anchor) == {
        "tuned": 0.5,
        "warm": 0.5,
    }


def test_recipes_are_values() -> None:
    recipe = Recipe.upscale(1.5).stabilise(delta_top_p=0.9)
    assert recipe == pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe)
    assert hash(recipe) == hash(Recipe.upscale(1.5).stabilise(delta_top_p=0.9))
    assert recipe != Recipe.upscale(1.5)


def test_recipes_are_immutable() -> None:
    with pytest.raises(TypeError):
        Recipe.upscale().weights["base"] = 2.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "dials", "same"),
    [
        (None, {}, Recipe.upscale()),
        (None, {"beta": 1.5}, Recipe.upscale(1.5)),
        (None, {"alpha": 0.5}, Recipe.proxy(0.5)),
        (None, {"alpha": 0.5, "beta": 2}, Recipe.dials(0.5, 2)),
        ("realign", {"lambda_": 0.5}, Recipe.realign(0.5)),
        (None, {"lambda_": 0.5}, Recipe.realign(0.5)),
        (None, {"strength": 0.5}, Recipe.contrast(0.5)),
        (None, {"lambda_": {"tuned": 0.2, "b": 0.8}}, Recipe.interpolate({"tuned": 0.2, "b": 0.8})),
        ("interpolate", {"lambda_": "a=1,b=0"}, Recipe.interpolate({"a": 1.0, "b": 0.0})),
        (None, {"lambda_": "a=1,b=0", "alpha": -1.0}, Recipe.mix({"a": 1.0, "b": 0.0}, -1.0)),
        ("mix", {"lambda_": "a=1,b=0"}, Recipe.mix({"a": 1.0, "b": 0.0})),
        ("realign", {"lambda_": "0.5"}, Recipe.realign(0.5)),
        ("guidance", {"strength": 0.5}, Recipe({"tuned": 1.5, "unguided": -0.5})),
        ("base", {}, Recipe.single("base")),
        (" base = 2 , reference=-1", {}, Recipe({"base": 2, "reference": -1})),
    ],
)
def test_parse(text: str | None, dials: dict[str, Any], same: Recipe) -> None:
    assert parse_recipe(text, **dials).weights == same.weights


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Recipe({"base": 1, "tuned": 1}), "base=1, tuned=1 sum to 2, not 1"),
        (lambda: Recipe({"base": 0.0}), "every weight is 0"),
        (lambda: Recipe({"base": 1.0}, anchor={"base": math.nan}), "anchor weight of base is nan"),
        (lambda: Recipe.upscale(math.nan), "beta is nan"),
        (lambda: parse_recipe("upscal"), "did you mean upscale?"),
        (lambda: parse_recipe(None, alpha=2, strength=1), "no recipe takes alpha and strength"),
        (lambda: parse_recipe("upscale", alpha=1), "recipe upscale has no alpha; it takes beta"),
        (lambda: parse_recipe("base", beta=1), "recipe base has no beta; it takes none"),
        (lambda: parse_recipe("realign"), "recipe realign needs lambda"),
        (lambda: parse_recipe("realign", lambda_="a=1"), "realign: lambda is one number"),
        (lambda: parse_recipe("interpolate", lambda_=0.5), "interpolate: lambda is one per tuned"),
        (lambda: parse_recipe("realign", lambda_="much"), "lambda 'much' is neither a number"),
        (lambda: Recipe.proxy().stabilise(first_tokens=-1), "first_tokens is -1"),
        (lambda: Recipe.proxy().stabilise(unsure_below=0.0), "unsure_below is 0"),
        (lambda: parse_recipe("base=1,base=2"), "base is given twice"),
        (lambda: parse_recipe("base=one"), "'base=one' is not role=number"),
        (lambda: parse_recipe("base=1", beta=2), "leave out beta"),
        (lambda: Recipe.interpolate({"tuned": 0.5, "warm": 0.6}), "sum to 1, not 1.1"),
        (lambda: Recipe.interpolate({"tuned": 1.5, "warm": -0.5}), "0 or more each"),
        (lambda: Recipe.interpolate({}), "none given"),
        (lambda: Recipe.contrast(1, conditioned="base", plain="base"), "two roles"),
        (lambda: Recipe.upscale().stabilise(delta_top_p=0.0), "delta_top_p is 0"),
        (lambda: Recipe.upscale().stabilise(plausibility=1.0), "plausibility is 1"),
        (lambda: Recipe.upscale().stabilise(delta_clip=-1.0), "delta_clip is -1"),
    ],
)
def test_refused_by_name(make: object, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()  # type: ignore[operator]
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_any_sum_when_meant() -> None:
    assert Recipe({"base": 1, "tuned": 1}, any_sum=True).weights["tuned"] == 1


def test_the_delta_of_the_first_tokens_only() -> None:
    recipe = Recipe.proxy(1.5).stabilise(first_tokens=3)
    assert recipe.at(0) == recipe.at(2) == recipe
    assert recipe.at(3).weights == {"base": 1.0} and recipe.at(3).roles == ("base",)
    blend = Recipe.interpolate({"tuned": 0.25, "b": 0.75}).stabilise(first_tokens=0)
    assert blend.at(0).weights == {"tuned": 0.25, "b": 0.75}


def test_what_drafts() -> None:
    assert Recipe.upscale().drafter == Recipe({"tuned": 1.0}, name="drafter", any_sum=True)
    assert Recipe.proxy(-0.5).drafter == Recipe.upscale().drafter
    blend = Recipe.interpolate({"tuned": 0.25, "b": 0.75}).drafter
    assert blend is not None and blend.weights == {"tuned": 0.25, "b": 0.75}
    assert Recipe.single("base").drafter is None
    assert Recipe.proxy(0.0).drafter is None  # the tuned model takes no part
    foreign = Recipe({"base": 2.0, "reference": -1.0}, judge={"tuned": 1.0})
    assert foreign.drafter is None
