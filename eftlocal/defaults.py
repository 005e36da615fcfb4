"""What a generation uses where its caller says nothing: the program's, or a preset's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from eftlocal.arguments import checked, refuse
from eftlocal.errors import UsageError
from eftlocal.generation import LOOP_GUARD, loop_guard_tokens
from eftlocal.logits.recipe import REFERENCE, Lambda, Recipe, parse_recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.presets.schema import Preset, RecipeSettings
from eftlocal.settings import LIMITS
from eftlocal.speculation.settings import Speculation, draft_length, read_speculation

Written = Callable[[str], str]
"""How a caller writes an option's name, so that a message names what was really given."""


@dataclass(frozen=True)
class Defaults:
    """Recipe, sampling and limits of a generation."""

    recipe: Recipe = field(default_factory=Recipe.upscale)
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    speculation: Speculation = field(default_factory=Speculation)
    loop_guard: int = LOOP_GUARD

    def __post_init__(self) -> None:
        for part in fields(self):
            value = checked(part.name, getattr(self, part.name))
            if part.name == "speculation":
                value = read_speculation(value, Speculation())
            if value is None and part.name != "max_tokens":
                refuse(part.name, None, "given, or left out")
            object.__setattr__(self, part.name, value)


def preset_defaults(preset: Preset) -> Defaults:
    """What the preset's numbers mean."""
    given = preset.sampling.model_dump(exclude_none=True, exclude={"max_tokens", "loop_guard"})
    guard = preset.sampling.loop_guard
    return Defaults(
        recipe=_recipe(preset.recipe),
        sampling=replace(Sampling(), **given),
        max_tokens=checked("max_tokens", preset.sampling.max_tokens),
        stop=preset.stop,
        loop_guard=LOOP_GUARD if guard is None else loop_guard_tokens("loop_guard", guard),
        speculation=Speculation(
            length=draft_length(preset.speculation.length),
            rule=preset.speculation.rule,
            source=preset.speculation.source,
        ),
    )


def _recipe(settings: RecipeSettings | None) -> Recipe:
    """The recipe that a preset's numbers mean; up-scaling where it has none."""
    if settings is None:
        return Recipe.upscale()
    if settings.weights is not None:
        recipe = Recipe(settings.weights)
    elif isinstance(settings.lambda_, dict) and settings.references:
        recipe = Recipe.interpolate(settings.lambda_, settings.references)
    else:
        recipe = parse_recipe(
            settings.name,
            alpha=settings.alpha,
            beta=settings.beta,
            lambda_=settings.lambda_,
            strength=settings.strength,
        )
    return recipe.stabilise(**{name: getattr(settings, name) for name in LIMITS})


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
