"""Points of a grid from its dials as they are written, for tests."""

from __future__ import annotations

from typing import Any

from eftlocal.evaluation.grid import Point, cross, parse_dials
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.recipe_text import parse_recipe
from eftlocal.logits.sampling import Sampling


def build(dials: Any) -> tuple[Recipe, Sampling]:
    recipe = parse_recipe(dials.get("recipe"), alpha=dials.get("alpha"), beta=dials.get("beta"))
    known = vars(Sampling())
    return recipe, Sampling(**{name: value for name, value in dials.items() if name in known})


def points(**written: str) -> tuple[Point, ...]:
    return cross(parse_dials(written), build)
