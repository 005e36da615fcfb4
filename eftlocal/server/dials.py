"""The dials of models, where they stand, and what they mean: for a page that turns them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from eftlocal.logits.meaning import MEANINGS, dial_text, meaning, recipe_values
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.recipe_text import NAMED, recipes_of
from eftlocal.logits.sampling import Sampling
from eftlocal.settings import RANGES, SETTINGS

_USUAL = {"temperature": (0.0, 2.0), "top_p": (0.05, 1.0)}  # the ends of a slider
_BEGIN = {"strength": 0.5}  # where a dial stands that nobody has turned; others at 1


def dials_of(recipe: Recipe, sampling: Sampling, roles: Collection[str]) -> dict[str, Any]:
    """The recipes that loaded roles allow with their dials, and the dials of sampling.

    Args:
        recipe, sampling: the defaults. A recipe that only its preset can write has no dials here.
    """
    known = {name: _recipe(name, recipe) for name in recipes_of(roles)}
    if recipe.name not in known:
        own = {"name": recipe.name, "does": meaning(recipe).does, "dials": []}
        known = {recipe.name: own, **known}
    return {
        "recipe": recipe.name,
        "recipes": list(known.values()),
        "sampling": [
            _dial(name, getattr(sampling, name), SETTINGS[name].ends, ends)
            for name, ends in _USUAL.items()
        ],
    }


def _recipe(name: str, default: Recipe) -> dict[str, Any]:
    values = recipe_values(default) if name == default.name else {}
    dials = []
    for dial in NAMED[name][1]:
        least = -2.0 if "below 0" in MEANINGS[name].dials[dial] else 0.0
        value = values.get(dial, _BEGIN.get(dial, 1.0))
        dials.append(_dial(dial, value, dial_text(name, dial), (least, 2.0)))
    return {"name": name, "does": MEANINGS[name].does, "dials": dials}


def _dial(name: str, value: float, means: str, usual: tuple[float, float]) -> dict[str, Any]:
    ends = RANGES[name]
    return {
        "name": name,
        "value": value,
        "least": ends.least,
        "most": ends.most,
        "usual": list(usual),
        "meaning": means,
    }
