"""Recipes for people: what each does, what its dials mean, and its formula over model names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from eftlocal.logits.recipe import BASE, PERSONA, REFERENCE, TUNED, UNGUIDED, Recipe
from eftlocal.logits.recipe_text import NAMED

_PLACE = re.compile(r"([+−] )?\{(\w+)\}")


class Meaning(NamedTuple):
    """What a recipe does.

    Attributes:
        does: one sentence.
        formula: over roles and dials, in braces; empty where the recipe's own weights say it.
        dials: what each makes of it, by the value of the dial.
    """

    does: str
    formula: str
    dials: Mapping[str, Mapping[str, str]]


def _at(zero: str, one: str, beyond: str) -> dict[str, str]:
    return {"0": zero, "1": one, "beyond 1": beyond}


_PROXY = "{base} + {alpha} × ({tuned} − {reference})"
_WHOLE, _MORE = "the whole fine-tuning", "more than was tuned, soon repeats itself"
_MIXED = {"0": "only the second", "between": "both, mixed", "1": "only the first"}
_SIZE, _TOO_MUCH = "all that size adds", "exaggerates, soon loses its form"

MEANINGS: Mapping[str, Meaning] = {
    "upscale": Meaning(
        "The small tuned model, with what a larger base knows.",
        "{tuned} + {beta} × ({base} − {reference})",
        {"beta": _at("the small tuned model alone", _SIZE, _TOO_MUCH)},
    ),
    "proxy": Meaning(
        "The base, with the fine-tuning of a smaller model.",
        _PROXY,
        {"alpha": _at("the base alone", _WHOLE, _MORE)},
    ),
    "dials": Meaning(
        "The small model before fine-tuning; alpha adds the fine-tuning, beta what size adds.",
        "{reference} + {alpha} × ({tuned} − {reference}) + {beta} × ({base} − {reference})",
        {
            "alpha": _at("no fine-tuning", _WHOLE, _MORE),
            "beta": _at("nothing of the base", _SIZE, _TOO_MUCH),
        },
    ),
    "downscale": Meaning(
        "A small base, with the fine-tuning of a larger model.",
        "{base} + ({tuned} − {reference})",
        {},
    ),
    "steer": Meaning(
        "The base, pushed toward what was tuned, or (below 0) away from it.",
        _PROXY,
        {"alpha": {"below 0": "away from it", **_at("the base alone", _WHOLE, _MORE)}},
    ),
    "interpolate": Meaning(
        "The base, with a mixture of several fine-tunings.",
        "",
        {"lambda": _MIXED},
    ),
    "mix": Meaning(
        "The base, with more or less of a mixture of fine-tunings, or (below 0) away from it.",
        "",
        {
            "alpha": {"below 0": "away from it", **_at("the base alone", _WHOLE, _MORE)},
            "lambda": _MIXED,
        },
    ),
    "realign": Meaning(
        "The small model, with more or less of its fine-tuning.",
        "{reference} + {lambda} × ({tuned} − {reference})",
        {"lambda": _at("the model before fine-tuning", "the tuned model alone", _MORE)},
    ),
    "contrast": Meaning(
        "The base, with what it knows better than a smaller model made stronger.",
        "{base} + {strength} × ({base} − {reference})",
        {
            "strength": _at(
                "the base alone", "the difference counts twice", "odd words instead of plain ones"
            )
        },
    ),
    "guidance": Meaning(
        "The tuned model, with its system prompt made stronger.",
        "{tuned} + {strength} × ({tuned} − {unguided})",
        {
            "strength": _at(
                "the tuned model alone", "the system prompt counts twice", "soon repeats itself"
            )
        },
    ),
    PERSONA: Meaning(
        "The base, with what a system prompt does to a small tuned model.",
        "{base} + {alpha} × ({persona} − {tuned})",
        {
            "alpha": _at(
                "the base alone", "as much as in the small model", "more, soon repeats itself"
            )
        },
    ),
    BASE: Meaning("The base alone.", "{base}", {}),
    TUNED: Meaning("The tuned model alone.", "{tuned}", {}),
    REFERENCE: Meaning("The small model before fine-tuning, alone.", "{reference}", {}),
}
_WRITTEN_OUT = Meaning("Every model with a weight of its own.", "", {})


def _alpha(recipe: Recipe) -> float:
    if recipe.lambdas:
        return round(math.fsum(recipe.weights[role] for role in recipe.lambdas), 9)
    return recipe.weights[PERSONA if recipe.name == PERSONA else TUNED]


def _lambda(recipe: Recipe) -> float:
    return next(iter(recipe.lambdas.values()), recipe.weights.get(TUNED, 0.0))


def _strength(recipe: Recipe) -> float:
    plain = REFERENCE if recipe.name == "contrast" else UNGUIDED
    return 0.0 - recipe.weights.get(plain, 0.0)


_READ: dict[str, Callable[[Recipe], float]] = {  # how a recipe holds each of its dials
    "alpha": _alpha,
    "beta": lambda recipe: recipe.weights[BASE],
    "lambda": _lambda,
    "strength": _strength,
}
RECIPE_DIALS = tuple(_READ)


def meaning(recipe: Recipe) -> Meaning:
    """What this recipe does."""
    return MEANINGS.get(recipe.name, _WRITTEN_OUT)


def recipe_values(recipe: Recipe) -> dict[str, float]:
    """The numbers that a recipe may be turned by."""
    takes = NAMED[recipe.name][1] if recipe.name in NAMED else {}
    many = len(recipe.lambdas) not in (0, 2)  # one number divides two
    dials = (dial for dial in takes if dial in _READ)
    return {dial: _READ[dial](recipe) for dial in dials if not (many and dial == "lambda")}


def formula(recipe: Recipe, names: Mapping[str, str] | None = None) -> str:
    """The recipe as a formula: `OLMo-2-7B + 1.0 × (OLMo-2-1B-Instruct − OLMo-2-1B)`.

    Args:
        names: of the models, by role; a role that is not there stands for itself.
    """
    called = {role: role for role in recipe.weights} | dict(names or {})
    values = recipe_values(recipe)
    template = meaning(recipe).formula or _from_weights(recipe)

    def filled(found: re.Match[str]) -> str:
        sign, name = found[1] or "", found[2]
        if name not in values:
            return sign + called.get(name, name)
        value = values[name]
        return f"{'−' if value < 0 else '+'} {_number(abs(value))}"

    return _PLACE.sub(filled, template)


def _from_weights(recipe: Recipe) -> str:
    """The terms of a recipe whose name has no formula of its own."""
    if recipe.lambdas:
        differences = " + ".join(
            f"{_number(share)} × ({{{role}}} − {{{recipe.references.get(role, REFERENCE)}}})"
            for role, share in recipe.lambdas.items()
        )
        return f"{{{BASE}}} + " + (
            differences if recipe.name == "interpolate" else f"{{alpha}} × ({differences})"
        )
    terms = [(role, weight) for role, weight in recipe.weights.items() if weight]
    first, *others = [
        f"{'−' if weight < 0 else '+'} {_number(abs(weight))} × {{{role}}}"
        for role, weight in terms
    ]
    return " ".join([first.removeprefix("+ "), *others])


def _number(value: float) -> str:
    text = f"{value:g}"
    return f"{text}.0" if text.isdigit() else text


def dial_text(recipe: str, dial: str) -> str:
    """`0: the base alone; 1: the whole fine-tuning; beyond 1: more than was tuned, ...`"""
    return "; ".join(f"{at}: {what}" for at, what in MEANINGS[recipe].dials[dial].items())
