"""What is said of recipes: every one and every dial has its words, and its formula its weights."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal import Recipe
from eftlocal.logits.meaning import MEANINGS, dial_text, formula, recipe_values
from eftlocal.logits.recipe_text import NAMED

NAMES = {"base": "OLMo-7B", "tuned": "OLMo-1B-Instruct", "reference": "OLMo-1B"}
VALUES = st.floats(-9, 9).map(lambda value: round(value, 2))


def test_every_recipe_and_dial_is_explained() -> None:
    assert list(MEANINGS) == list(NAMED)
    for name, (does, _, dials) in MEANINGS.items():
        assert does.endswith(".") and "\n" not in does
        assert set(dials) == NAMED[name][1].keys() - {"persona"}
        assert all(dial_text(name, dial).startswith(("0: ", "below 0: ")) for dial in dials)


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        (Recipe.proxy(1.0), "OLMo-7B + 1.0 × (OLMo-1B-Instruct − OLMo-1B)"),
        (Recipe.upscale(1.5), "OLMo-1B-Instruct + 1.5 × (OLMo-7B − OLMo-1B)"),
        (Recipe.steer(-0.5), "OLMo-7B − 0.5 × (OLMo-1B-Instruct − OLMo-1B)"),
        (Recipe.single("base"), "OLMo-7B"),
        (
            Recipe.interpolate({"tuned": 0.3, "plain": 0.7}),
            "OLMo-7B + 0.3 × (OLMo-1B-Instruct − OLMo-1B) + 0.7 × (plain − OLMo-1B)",
        ),
        (
            Recipe.mix({"tuned": 0.3, "plain": 0.7}, -2.0, {"plain": "base"}),
            "OLMo-7B − 2.0 × (0.3 × (OLMo-1B-Instruct − OLMo-1B) + 0.7 × (plain − OLMo-7B))",
        ),
        (
            Recipe({"base": -1.0, "tuned": 2.25}, any_sum=True),
            "− 1.0 × OLMo-7B + 2.25 × OLMo-1B-Instruct",
        ),
    ],
)
def test_a_formula_has_the_names_of_the_models(recipe: Recipe, text: str) -> None:
    assert formula(recipe, NAMES) == text


RECIPES = (
    lambda a, b: Recipe.dials(a, b),
    lambda a, _: Recipe.upscale(a),
    lambda a, _: Recipe.proxy(a),
    lambda a, _: Recipe.steer(a),
    lambda a, _: Recipe.realign(a),
    lambda a, _: Recipe.contrast(a),
    lambda a, _: Recipe.guidance(a),
    lambda a, _: Recipe.persona("You are a pirate.", a),
    lambda a, _: Recipe.downscale(),
    lambda a, _: Recipe.interpolate({"tuned": abs(a) / 9, "plain": 1 - abs(a) / 9}),
    lambda a, _: Recipe.interpolate(
        {"tuned": abs(a) / 9, "plain": 1 - abs(a) / 9}, {"plain": "before"}
    ),
    lambda a, b: Recipe.mix({"tuned": abs(a) / 9, "plain": 1 - abs(a) / 9}, b),
    lambda a, b: Recipe.mix({"tuned": abs(a) / 9, "plain": 1 - abs(a) / 9}, b, {"plain": "base"}),
    lambda a, b: Recipe({"base": a, "tuned": b, "other": 1.0}, any_sum=True),
)


@given(st.sampled_from(RECIPES), VALUES, VALUES)
def test_a_formula_is_its_weights(make, a: float, b: float) -> None:
    """Computed with a prime for each model, it gives the weighted sum."""
    recipe = make(a, b)
    primes = dict(zip(recipe.weights, (2, 3, 5, 7, 11), strict=False))
    text = formula(recipe, {role: str(prime) for role, prime in primes.items()})
    assert re.fullmatch(r"[\d.+−×() e-]+", text)
    value = eval(text.replace("−", "-").replace("×", "*"))
    wanted = sum(recipe.weights[role] * prime for role, prime in primes.items())
    assert value == pytest.approx(wanted, abs=1e-3, rel=1e-4)


def test_only_a_mixture_of_two_is_one_dial() -> None:
    assert recipe_values(Recipe.interpolate({"a": 0.25, "b": 0.75})) == {"lambda": 0.25}
    assert recipe_values(Recipe.interpolate({"a": 0.2, "b": 0.2, "c": 0.6})) == {}
    assert recipe_values(Recipe.mix({"a": 0.25, "b": 0.75}, 2.0)) == {"alpha": 2.0, "lambda": 0.25}
    assert recipe_values(Recipe.mix({"a": 0.25, "b": 0.75}, 0.0)) == {"alpha": 0.0, "lambda": 0.25}
    assert recipe_values(Recipe.mix({"a": 0.2, "b": 0.2, "c": 0.6}, 2.0)) == {"alpha": 2.0}
