"""Recipes as text: their names with the dials that each takes, and weights written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.logits.recipe import BASE, PERSONA, REFERENCE, TUNED, Recipe

Lambda = float | Mapping[str, float]


def parse_recipe(
    text: str | None = None,
    *,
    alpha: float | None = None,
    beta: float | None = None,
    lambda_: Lambda | str | None = None,
    strength: float | None = None,
    persona: str | None = None,
    any_sum: bool = False,
    references: Mapping[str, str] | None = None,
) -> Recipe:
    """A recipe from its name, or from weights written `base=1,tuned=1,reference=-1`.

    Without a name, the dials say which is meant: beta alone is up-scaling, alpha alone
    proxy-tuning, both are the two dials, a lambda per role interpolation, with alpha a mix, a
    persona is one. A dial that the recipe does not have is refused by name.

    Args:
        lambda_: a number, or one per tuned role: a mapping, or written `warm=0.3,plain=0.7`.
        references: of the tuned roles of a mixture, where they are not "reference".

    Raises:
        UsageError: one line that says what was wrong.
    """
    if isinstance(lambda_, str):
        lambda_ = parse_lambda(lambda_)
    given: dict[str, Any] = {"alpha": alpha, "beta": beta, "lambda": lambda_, "strength": strength}
    given[PERSONA] = persona
    dials = {dial: value for dial, value in given.items() if value is not None}
    if text is None:
        if len(dials) > 1 and tuple(dials) not in _IMPLIED:
            raise UsageError(f"no recipe takes {_join(dials)} together; leave one out")
        text = _IMPLIED.get(tuple(dials), "upscale")
        if text == "realign" and isinstance(lambda_, Mapping):
            text = "interpolate"
    if "=" in text:
        read = dials.pop(PERSONA, "")
        if dials:
            raise UsageError(f"recipe {text!r} gives all weights: leave out {_join(dials)}")
        return Recipe(parse_weights(text), any_sum=any_sum, persona_prompt=read)
    if any_sum:
        raise UsageError("any_sum is for weights, such as base=1,tuned=1")
    if text not in NAMED:
        near = get_close_matches(text, NAMED, 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UsageError(
            f"unknown recipe {text!r}{hint} Known: {', '.join(NAMED)}, "
            "or weights such as base=1,tuned=1,reference=-1"
        )
    constructor, takes, required = NAMED[text]
    for dial in dials:
        if dial not in takes:
            has = f"it takes {_join(takes)}" if takes else "it takes none"
            raise UsageError(f"recipe {text} has no {dial}; {has}")
    for dial in required:
        if dial not in dials:
            raise UsageError(f"recipe {text} needs {dial}")
    if "lambda" in dials and isinstance(lambda_, Mapping) != (text in MIXTURES):
        wanted = "one per tuned role, as in warm=0.3,plain=0.7"
        if text not in MIXTURES:
            wanted = "one number"
        raise UsageError(f"recipe {text}: lambda is {wanted}")
    arguments: dict[str, Any] = {takes[dial]: value for dial, value in dials.items()}
    if text in MIXTURES:
        arguments["references"] = references
    return constructor(**arguments)


MIXTURES = ("interpolate", "mix")  # of several tuned roles

_IMPLIED = {
    ("alpha",): "proxy",
    ("alpha", "beta"): "dials",
    ("alpha", "lambda"): "mix",
    ("lambda",): "realign",
    ("strength",): "contrast",
    (PERSONA,): PERSONA,
    ("alpha", PERSONA): PERSONA,
}

# name -> constructor, {dial: its argument}, dials that must be given
NAMED: dict[str, tuple[Callable[..., Recipe], dict[str, str], tuple[str, ...]]] = {
    "upscale": (Recipe.upscale, {"beta": "beta"}, ()),
    "proxy": (Recipe.proxy, {"alpha": "alpha"}, ()),
    "dials": (Recipe.dials, {"alpha": "alpha", "beta": "beta"}, ()),
    "downscale": (Recipe.downscale, {}, ()),
    "steer": (Recipe.steer, {"alpha": "alpha"}, ("alpha",)),
    "interpolate": (Recipe.interpolate, {"lambda": "lambdas"}, ("lambda",)),
    "mix": (Recipe.mix, {"alpha": "alpha", "lambda": "lambdas"}, ("lambda",)),
    "realign": (Recipe.realign, {"lambda": "lambda_"}, ("lambda",)),
    "contrast": (Recipe.contrast, {"strength": "strength"}, ("strength",)),
    "guidance": (Recipe.guidance, {"strength": "strength"}, ("strength",)),
    PERSONA: (Recipe.persona, {"alpha": "alpha", PERSONA: "prompt"}, (PERSONA,)),
    BASE: (lambda: Recipe.single(BASE), {}, ()),
    TUNED: (lambda: Recipe.single(TUNED), {}, ()),
    REFERENCE: (lambda: Recipe.single(REFERENCE), {}, ()),
}


def recipes_of(roles: Collection[str]) -> tuple[str, ...]:
    """The recipes that these roles allow. Which tuned models are mixed is a preset's to say, and a
    persona a person's: recipes that need that are not among them."""
    found = []
    for name, (constructor, takes, _) in NAMED.items():
        if name not in (*MIXTURES, PERSONA):
            between = dict.fromkeys(takes.values(), 0.75)  # no role has weight 0 there
            if set(constructor(**between).roles) <= set(roles):
                found.append(name)
    return tuple(found)


def parse_lambda(text: str) -> Lambda:
    """`0.5`, or `warm=0.3,plain=0.7` as a mapping."""
    if "=" in text:
        return parse_weights(text)
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"lambda {text!r} is neither a number nor one per role, as in warm=0.3,plain=0.7"
        ) from None


def parse_weights(text: str) -> dict[str, float]:
    """`base=1,tuned=0.5` as a mapping; each role once."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        role, sign, number = (piece.strip() for piece in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not role or not sign or math.isnan(value):
            raise UsageError(f"weights {text!r}: {part.strip()!r} is not role=number")
        if role in weights:
            raise UsageError(f"weights {text!r}: {role} is given twice")
        weights[role] = value
    return weights


def _join(names: Mapping[str, object]) -> str:
    return " and ".join(names)
