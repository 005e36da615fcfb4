"""What a caller chose instead of the defaults: options of a command, fields of a request.

What was not chosen is None and leaves the default as it is. `written` says how the caller writes
an option's name, so that a message names what was really given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.logits.recipe import REFERENCE, Lambda, Recipe, parse_recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.settings import Speculation, draft_length

Written = Callable[[str], str]


def chosen_recipe(
    default: Recipe,
    *,
    name: str | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    lambda_: Lambda | str | None = None,
    strength: float | None = None,
    any_sum: bool = False,
    written: Written = str,
    **limits: Any,
) -> Recipe:
    """The default recipe, or the one that the options name, with the limits given.

    Limits are those of `Recipe.stabilise`, the word off included; a recipe chosen by options
    keeps the default's.

    Raises:
        UsageError: an option is unknown, out of its range, or not for this recipe.
    """
    recipe = default
    others = {r for r, w in default.weights.items() if w < 0.0} - {REFERENCE}
    if lambda_ is not None and default.name == "interpolate" and others:
        raise UsageError(
            f"{written('lambda')}: this preset's tuned roles have a reference of their own "
            f"({', '.join(sorted(others))}); write the weights out, as in "
            f"{written('recipe')} base=1,..."
        )
    if any_sum or any(value is not None for value in (name, alpha, beta, lambda_, strength)):
        recipe = parse_recipe(
            name, alpha=alpha, beta=beta, lambda_=lambda_, strength=strength, any_sum=any_sum
        ).limited_as(default)
    return recipe.stabilise(**limits)


def chosen_sampling(default: Sampling, **options: Any) -> Sampling:
    """The default sampling with the options that were given; the word off is a value, too.

    Raises:
        UsageError: a value is out of its range.
    """
    return replace(default, **{key: value for key, value in options.items() if value is not None})


def chosen_speculation(
    default: Speculation,
    *,
    length: object = None,
    rule: str | None = None,
    source: str | None = None,
    written: Written = str,
) -> Speculation:
    """The default speculation with the options that were given.

    Args:
        length: see `Speculation.length`; None leaves it as it is.

    Raises:
        UsageError: a value is not known, or drafts are described that are never made.
    """
    given: dict[str, Any] = {"rule": rule, "source": source}
    given = {key: value for key, value in given.items() if value is not None}
    changed = replace(default, **given)
    if length is not None:
        changed = replace(changed, length=draft_length(length, written("speculative")))
    if changed.off and given:
        first = written(f"draft_{next(iter(given))}")
        raise UsageError(f"{first} needs drafts; add {written('speculative')} auto")
    return changed
