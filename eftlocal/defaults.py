"""What a generation uses where its caller says nothing: the program's, or a preset's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from eftlocal.arguments import checked, refuse
from eftlocal.errors import UsageError
from eftlocal.generation import LOOP_GUARD
from eftlocal.logits.meaning import recipe_values
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.recipe_text import parse_recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.presets.schema import Preset, RecipeSettings
from eftlocal.settings import LIMITS, SAMPLING, SETTINGS, named
from eftlocal.speculation.settings import Speculation, read_speculation

Written = Callable[[str], str]
"""How a caller writes an option's name, so that a message names what was really given."""


_DIALS = tuple(setting.parameter for setting in named("recipe").values())


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
    sampling = preset.sampling.given
    return Defaults(
        recipe=_recipe(preset.recipe),
        sampling=Sampling(**{name: sampling[name] for name in SAMPLING if name in sampling}),
        stop=preset.stop,
        speculation=Speculation(**preset.speculation.given),
        **{name: sampling[name] for name in ("max_tokens", "loop_guard") if name in sampling},
    )


def _recipe(settings: RecipeSettings | None) -> Recipe:
    """The recipe that a preset's numbers mean; up-scaling where it has none."""
    if settings is None:
        return Recipe.upscale()
    given: dict[str, Any] = settings.given
    if settings.weights is not None:
        recipe = Recipe(settings.weights)
        return recipe.stabilise(**{name: given.get(name) for name in LIMITS})
    given = {SETTINGS[name].parameter: value for name, value in given.items()}
    return chosen_recipe(
        Recipe.upscale(), {**given, "recipe": settings.name}, references=settings.references
    )


def chosen_recipe(
    default: Recipe,
    given: Mapping[str, Any],
    *,
    references: Mapping[str, str] | None = None,
) -> Recipe:
    """The default recipe, or the one that options name, with the limits given.

    A recipe that options name keeps the default's limits. Where the default is a mix, alpha or
    lambda alone leave the other as it is.

    Args:
        references: of the tuned roles of a mixture; None is the default's own.
        given: settings by their parameters; None, or none at all, leaves one as it is.

    Raises:
        UsageError: an option is unknown, out of its range, or not for this recipe.
    """
    recipe = default
    values = ((name, given.get(name)) for name in _DIALS)
    dials: dict[str, Any] = {n: v for n, v in values if v is not None and v is not False}
    if dials:
        if default.name == "mix" and dials.keys() <= {"alpha", "lambda_"}:
            now = {"alpha": recipe_values(default)["alpha"], "lambda_": default.lambdas}
            dials = {"recipe": "mix", **now, **dials}
        named_ = dials.pop("recipe", None)
        own = default.references if references is None else references
        recipe = parse_recipe(named_, **dials, references=own).limited_as(default)
    return recipe.stabilise(**{name: given.get(name) for name in LIMITS})


def chosen_sampling(default: Sampling, given: Mapping[str, Any]) -> Sampling:
    """The default sampling with the settings that are given; the word off is a value, too.

    Raises:
        UsageError: a value is out of its range.
    """
    names = (*SAMPLING, "logit_bias")
    changes = {name: given[name] for name in names if given.get(name) is not None}
    return replace(default, **changes) if changes else default


def chosen_speculation(
    default: Speculation, given: Mapping[str, Any], written: Written = str
) -> Speculation:
    """The default speculation with the settings that are given.

    Raises:
        UsageError: a value is not known, or drafts are described that are never made.
    """
    names = {"length": "speculative", "rule": "draft_rule", "source": "draft_source"}
    changes = {part: given[n] for part, n in names.items() if given.get(n) is not None}
    changed = replace(default, **changes) if changes else default
    described = [names[part] for part in changes if part != "length"]
    if changed.off and described:
        needed = written("speculative")
        raise UsageError(f"{written(described[0])} needs drafts; add {needed} auto")
    return changed
