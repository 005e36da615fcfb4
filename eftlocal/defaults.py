"""What a generation uses where its caller says nothing: the program's, or a preset's."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from eftlocal.arguments import checked, refuse
from eftlocal.generation import LOOP_GUARD, loop_guard_tokens
from eftlocal.logits.ranges import LIMITS
from eftlocal.logits.recipe import Recipe, parse_recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.presets.schema import Preset, RecipeSettings
from eftlocal.speculation.settings import Speculation, draft_length, read_speculation


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
