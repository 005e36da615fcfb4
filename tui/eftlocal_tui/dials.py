"""The dials: recipe, sampling and speculation together, turned one at a time, kept and restored.

Values are read from and written to the core's own settings, which check them; nothing is
checked twice. A dial out of its range raises UsageError in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from eftlocal.errors import UsageError
from eftlocal.logits.recipe import BASE, NAMED, REFERENCE, TUNED, Recipe, parse_recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.settings import LIMITS, OFF, RANGES, SAMPLING, number_or_off
from eftlocal.speculation.settings import Speculation, draft_length
from eftlocal_tui.history import Settings, values_of


@dataclass(frozen=True)
class Dial:
    """One number of a recipe: its name in `parse_recipe`, and how a recipe holds it."""

    name: str
    read: Callable[[Recipe], float]
    start: float = 1.0
    step: float = 0.1


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
        if name == "speculation":
            return replace(self, speculation=replace(self.speculation, length=draft_length(text)))
        of_recipe = {dial.name: dial for dial in recipe_dials(self.recipe)}
        if name in of_recipe:
            return replace(self, recipe=_with(self.recipe, name, _value(name, text)))
        if name in LIMITS:
            return replace(self, recipe=self.recipe.stabilise(**{name: _value(name, text)}))
        if name in SAMPLING:
            return replace(self, sampling=replace(self.sampling, **{name: _value(name, text)}))
        known = ", ".join(["recipe", *of_recipe, *SAMPLING, "speculation", *LIMITS])
        raise UsageError(f"there is no dial {name!r} here; there are {known}")

    def shown(self) -> dict[str, str]:
        """Every dial as text, in the order of the side panel."""
        found = {"recipe": recipe_name(self.recipe)}
        found.update({d.name: f"{d.read(self.recipe):g}" for d in recipe_dials(self.recipe)})
        sampling = self.sampling
        found["temperature"] = f"{sampling.temperature:g}"
        found["top_p"] = f"{sampling.top_p:g}"
        found["speculation"] = _length(self.speculation)
        return found

    def difference(self, other: Dials) -> str:
        """What changed from these dials to the others: `beta 1 → 0.5`."""
        before, after = self._all(), other._all()
        parts = [
            f"{name} {before[name]} → {value}" if name in before else f"{name} {value}"
            for name, value in after.items()
            if before.get(name) != value
        ]
        return ", ".join(parts)

    def _all(self) -> dict[str, str]:
        found = self.shown()
        found.update({n: _shown(n, getattr(self.sampling, n)) for n in SAMPLING})
        found.update({n: _shown(n, getattr(self.recipe, n)) for n in LIMITS})
        return found


_ALPHA = Dial("alpha", lambda recipe: recipe.weights[TUNED])
_BETA = Dial("beta", lambda recipe: recipe.weights[BASE])
_DIALS: dict[str, tuple[Dial, ...]] = {
    "upscale": (_BETA,),
    "proxy": (_ALPHA,),
    "steer": (_ALPHA,),
    "dials": (_ALPHA, _BETA),
    "realign": (Dial("lambda", lambda recipe: recipe.weights[TUNED]),),
    "contrast": (Dial("strength", lambda r: max(r.weights.values()) - 1.0, start=0.5),),
    "guidance": (Dial("strength", lambda r: max(r.weights.values()) - 1.0, start=0.5),),
}


def recipe_dials(recipe: Recipe) -> tuple[Dial, ...]:
    """The numbers that a recipe may be turned by."""
    if recipe.name == "interpolate":
        lambdas = dict(recipe.anchor)
        if len(lambdas) == 2 and set(recipe.weights) == {BASE, REFERENCE, *lambdas}:
            first = next(iter(lambdas))
            return (Dial("lambda", lambda r: r.weights[first], start=0.5),)
    return _DIALS.get(recipe.name, ())


def recipe_name(recipe: Recipe) -> str:
    """A recipe's name, or its weights where it has none."""
    if recipe.name in NAMED:
        return recipe.name
    return ",".join(f"{role}={weight:g}" for role, weight in recipe.weights.items())


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


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, from which `recipe_from` makes it again."""
    values: dict[str, Any] = {"text": recipe_name(recipe)}
    if recipe.name == "interpolate":
        values["lambda"] = dict(recipe.anchor)
    for dial in recipe_dials(recipe):
        values.setdefault(dial.name, dial.read(recipe))
    if "=" in values["text"] and recipe.any_sum:
        values["any_sum"] = True
    plain = Recipe({BASE: 1.0})
    for name in LIMITS:
        value = getattr(recipe, name)
        if value != getattr(plain, name):
            values[name] = value
    return values


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """The recipe of `recipe_values`.

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
        raise UsageError(f"the recipe that was kept is not one: {error}") from None


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
    kept = {d.name: d.read(now) for d in recipe_dials(now)} if now is not None else {}
    values = {dial.name: kept.get(dial.name, dial.start) for dial in _DIALS.get(name, ())}
    return _made(name, values)


def _with(recipe: Recipe, name: str, value: float) -> Recipe:
    if recipe.name == "interpolate":
        first, second = dict(recipe.anchor)
        changed = Recipe.interpolate({first: value, second: 1.0 - value})
    else:
        values = {d.name: d.read(recipe) for d in recipe_dials(recipe)} | {name: value}
        changed = _made(recipe.name, values)
    return changed.limited_as(recipe)


def _made(name: str, values: Mapping[str, float]) -> Recipe:
    # Sums of dials are rounded, so that ten steps of 0.1 are 1.
    rounded = {key: round(value, 6) for key, value in values.items()}
    if "lambda" in rounded:
        rounded["lambda_"] = rounded.pop("lambda")
    return parse_recipe(name, **cast(dict[str, Any], rounded))


def _value(name: str, text: str) -> Any:
    """What a person wrote, for the dial to check."""
    if name == "seed" and text in ("", "none", "random"):
        return OFF
    try:
        return number_or_off(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def _shown(name: str, value: float | None) -> str:
    if value == RANGES[name].off:
        return OFF
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _length(speculation: Speculation) -> str:
    if speculation.length is None:
        return "auto"
    return "off" if speculation.off else str(speculation.length)


def kept(preset: str, dials: Dials) -> Settings:
    """What is written beside an answer."""
    return Settings(
        preset=preset,
        recipe=recipe_values(dials.recipe),
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
        raise UsageError(f"the settings of that answer are not understood: {error}") from None
