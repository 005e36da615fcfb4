"""The dials: recipe, sampling and speculation together, turned one at a time, kept and restored.

Values are read from and written to the core's own settings, which check them; nothing is
checked twice. A dial out of its range raises UsageError in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from eftlocal.errors import UsageError
from eftlocal.kinds import OFF, Range, RefusedError
from eftlocal.logits.recipe import BASE, NAMED, REFERENCE, TUNED, UNGUIDED, Recipe, parse_recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.settings import LIMITS, RANGES, SAMPLING, nearest
from eftlocal.speculation.settings import Speculation
from eftlocal_tui.history import Settings, values_of

DRAFT = "speculative"  # the length of a draft
PANEL = ("temperature", "top_p")  # of sampling, in the side panel


def _lambda(recipe: Recipe) -> float:
    tuned = next(iter(dict(recipe.anchor))) if recipe.name == "interpolate" else TUNED
    return recipe.weights[tuned]


def _strength(recipe: Recipe) -> float:
    plain = REFERENCE if recipe.name == "contrast" else UNGUIDED
    return 0.0 - recipe.weights.get(plain, 0.0)


_READ: dict[str, Callable[[Recipe], float]] = {  # how a recipe holds each of its dials
    "alpha": lambda recipe: recipe.weights[TUNED],
    "beta": lambda recipe: recipe.weights[BASE],
    "lambda": _lambda,
    "strength": _strength,
}
_START = {"strength": 0.5}  # others begin at 1


@dataclass(frozen=True)
class Dials:
    """What the next token follows."""

    recipe: Recipe
    sampling: Sampling
    speculation: Speculation

    def turned(self, name: str, text: str, roles: Collection[str]) -> Dials:
        """With one dial at the value that a person wrote.

        Raises:
            UsageError: there is no such dial, or the value is out of its range.
        """
        if name == "recipe":
            return replace(self, recipe=_renamed(self.recipe, text, roles))
        of_recipe = recipe_values(self.recipe)
        known = dict.fromkeys(["recipe", *of_recipe, *SAMPLING, DRAFT, *LIMITS])
        if name not in known:
            raise UsageError(f"unknown dial {name!r}; {nearest(name, known)}")
        value = _parsed(name, text, range_of(self.recipe, name))
        if name == DRAFT:
            return replace(self, speculation=replace(self.speculation, length=value))
        if name in of_recipe:
            return replace(self, recipe=_with(self.recipe, name, value))
        if name in LIMITS:
            return replace(self, recipe=self.recipe.stabilise(**{name: value}))
        return replace(self, sampling=replace(self.sampling, **{name: value}))

    def shown(self) -> dict[str, str]:
        """Every dial as text, in the order of the side panel."""
        found = {"recipe": recipe_name(self.recipe)}
        numbers = recipe_values(self.recipe)
        numbers |= {name: getattr(self.sampling, name) for name in PANEL}
        found |= {name: f"{value:g}" for name, value in numbers.items()}
        return found | {DRAFT: _shown(DRAFT, self.speculation.length)}

    def difference(self, other: Dials) -> str:
        """What changed from these dials to the others: `beta 1 → 0.5`."""
        before, after = self.all(), other.all()
        parts = [
            f"{name} {before[name]} → {value}" if name in before else f"{name} {value}"
            for name, value in after.items()
            if before.get(name) != value
        ]
        return ", ".join(parts)

    def all(self) -> dict[str, str]:
        """Every dial as text, also those that only /set turns."""
        found = self.shown()
        found.update({n: _shown(n, getattr(self.sampling, n)) for n in SAMPLING})
        found.update({n: _shown(n, getattr(self.recipe, n)) for n in LIMITS})
        return found


def range_of(recipe: Recipe, dial: str) -> Range:
    """The values of a dial; the lambda of an interpolation is a share."""
    if dial == "lambda" and recipe.name == "interpolate":
        return Range(0.0, 1.0)
    return RANGES[dial]


def recipe_values(recipe: Recipe) -> dict[str, float]:
    """The numbers that a recipe may be turned by."""
    if recipe.name == "interpolate":
        lambdas = dict(recipe.anchor)  # two, which one number divides
        if len(lambdas) != 2 or set(recipe.weights) != {BASE, REFERENCE, *lambdas}:
            return {}
    takes = NAMED[recipe.name][1] if recipe.name in NAMED else ()
    return {dial: _READ[dial](recipe) for dial in takes}


def recipe_name(recipe: Recipe) -> str:
    """A recipe's name, or its weights where it has none."""
    if recipe.name in NAMED:
        return recipe.name
    return ",".join(f"{role}={weight:g}" for role, weight in recipe.weights.items())


def recipe_line(recipe: Recipe) -> str:
    """A recipe with its dials and limits: `upscale beta 1`."""
    parts = [f"{dial} {value:g}" for dial, value in recipe_values(recipe).items()]
    parts += [f"{name} {_shown(name, value)}" for name, value in recipe.limits.items()]
    return " ".join([recipe_name(recipe), *parts])


def recipe_names(now: Recipe, roles: Collection[str]) -> tuple[str, ...]:
    """The recipes that the loaded roles allow, the present one among them."""
    written_out = [recipe_name(now)] if recipe_name(now) not in NAMED else []
    return (
        *written_out,
        *(name for name in NAMED if name == recipe_name(now) or _allowed(name, roles)),
    )


def _allowed(name: str, roles: Collection[str]) -> bool:
    # Which tuned models interpolation mixes is the preset's to say.
    return name != "interpolate" and set(_begin(name).roles) <= set(roles)


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, from which `recipe_from` makes it again."""
    values: dict[str, Any] = {"text": recipe_name(recipe)}
    if recipe.name == "interpolate":
        values["lambda"] = dict(recipe.anchor)
    values = recipe_values(recipe) | values
    if "=" in values["text"] and recipe.any_sum:
        values["any_sum"] = True
    plain = Recipe({BASE: 1.0})
    for name in LIMITS:
        value = getattr(recipe, name)
        if value != getattr(plain, name):
            values[name] = value
    return values


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """The recipe of `recipe_record`.

    Raises:
        UsageError: the values mean none.
    """
    given = dict(values)
    limits = {name: given.pop(name) for name in LIMITS if name in given}
    if "lambda" in given:
        given["lambda_"] = given.pop("lambda")
    try:
        return parse_recipe(given.pop("text", None), **given).stabilise(**limits)
    except TypeError as error:
        raise UsageError(f"the saved recipe is not valid: {error}") from None


def _renamed(now: Recipe, name: str, roles: Collection[str]) -> Recipe:
    recipe = parse_recipe(name) if "=" in name or name not in NAMED else _begin(name, now)
    missing = [role for role in recipe.roles if role not in roles]
    if missing:
        raise UsageError(f"recipe {name} needs the role {missing[0]}, which is not loaded")
    return recipe.limited_as(now)


def _begin(name: str, now: Recipe | None = None) -> Recipe:
    """A recipe by name; a dial that the present recipe has too keeps its place."""
    if name == "interpolate":
        if now is not None and now.name == name:
            return now
        raise UsageError("recipe interpolate needs a preset with several tuned models")
    kept = recipe_values(now) if now is not None else {}
    return _made(name, {dial: kept.get(dial, _START.get(dial, 1.0)) for dial in NAMED[name][1]})


def _with(recipe: Recipe, name: str, value: float) -> Recipe:
    if recipe.name == "interpolate":
        first, second = dict(recipe.anchor)
        changed = Recipe.interpolate({first: value, second: 1.0 - value})
    else:
        changed = _made(recipe.name, recipe_values(recipe) | {name: value})
    return changed.limited_as(recipe)


def _made(name: str, values: Mapping[str, float]) -> Recipe:
    # Sums of dials are rounded, so that ten steps of 0.1 are 1.
    rounded = {key: round(value, 6) for key, value in values.items()}
    if "lambda" in rounded:
        rounded["lambda_"] = rounded.pop("lambda")
    return parse_recipe(name, **cast(dict[str, Any], rounded))


def _parsed(name: str, text: str, range_: Range) -> Any:
    """What a person wrote, as the table of settings reads it; off may stay a word."""
    if name == "seed" and text in ("", "none", "random"):
        return OFF
    try:
        return range_.parse(text)
    except RefusedError as error:
        raise UsageError(error.told(name)) from None


def _shown(name: str, value: float | None) -> str:
    for word, meaning in RANGES[name].words.items():
        if value == meaning:
            return word
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def kept(preset: str, dials: Dials) -> Settings:
    """What is written beside an answer."""
    return Settings(
        preset=preset,
        recipe=recipe_record(dials.recipe),
        sampling=values_of(dials.sampling),
        speculation=values_of(dials.speculation),
    )


def restored(settings: Settings, default: Dials) -> Dials:
    """The dials that an answer had; the seed is each answer's own.

    Raises:
        UsageError: what was kept is not understood by this version.
    """
    try:
        recipe = recipe_from(settings.recipe) if settings.recipe else default.recipe
        sampling: dict[str, Any] = dict(settings.sampling)
        sampling.pop("logit_bias", None)
        sampling["seed"] = default.sampling.seed
        speculation: dict[str, Any] = dict(settings.speculation)
        return Dials(
            recipe,
            replace(default.sampling, **sampling),
            Speculation(**speculation) if speculation else default.speculation,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"the settings of that answer are not valid: {error}") from None
