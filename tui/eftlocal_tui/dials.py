"""The dials: recipe, sampling and speculation together, turned one at a time, kept and restored.

Values are read from and written to the core's own settings, which check them; nothing is
checked twice. A dial out of its range raises UsageError in one line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from eftlocal.defaults import Defaults
from eftlocal.errors import UsageError
from eftlocal.kinds import OFF, Range, RefusedError, number
from eftlocal.logits.meaning import RECIPE_DIALS, dial_text, formula, meaning, recipe_values
from eftlocal.logits.recipe import BASE, MADE, PERSONA, Recipe
from eftlocal.logits.recipe_text import MIXTURES, NAMED, parse_recipe, recipes_of
from eftlocal.logits.sampling import Sampling
from eftlocal.settings import LIMITS, MAX_DRAFT, RANGES, SAMPLING, SETTINGS, nearest
from eftlocal.speculation.settings import Speculation
from eftlocal.terminal_text import shown
from eftlocal_tui.history import Settings, values_of

DRAFT = "speculative"  # the length of a draft
PANEL = ("temperature", "top_p")  # of sampling, in the side panel


_QUANTIZED = re.compile(r"[-._](?:i?q\d\w*|bf16|f16|f32|mxfp4)$", re.IGNORECASE)
_START = {"strength": 0.5}  # others begin at 1
_STEPS = {"top_p": 0.05}  # others step by 0.1
_DRAFTS = (OFF, "auto", *map(str, range(1, MAX_DRAFT + 1)))


@dataclass(frozen=True)
class Dials:
    """What the next token follows."""

    recipe: Recipe
    sampling: Sampling
    speculation: Speculation

    @classmethod
    def of(cls, defaults: Defaults) -> Dials:
        return cls(defaults.recipe, defaults.sampling, defaults.speculation)

    def turned(
        self, name: str, text: str, roles: Collection[str], begun: Dials | None = None
    ) -> Dials:
        """With one dial at the value that a person wrote.

        Args:
            roles: that are loaded.
            begun: the dials that the preset began with, whose recipe may be had again by name.

        Raises:
            UsageError: there is no such dial, or the value is out of its range.
        """
        if name == "recipe":
            return replace(self, recipe=_renamed(self.recipe, text, roles, (begun or self).recipe))
        self._check(name)
        value = _parsed(name, text, range_of(self.recipe, name))
        if name == DRAFT:
            return replace(self, speculation=replace(self.speculation, length=value))
        if name in recipe_values(self.recipe):
            return replace(self, recipe=_with(self.recipe, name, value))
        if name in LIMITS:
            return replace(self, recipe=self.recipe.stabilise(**{name: value}))
        return replace(self, sampling=replace(self.sampling, **{name: value}))

    def with_persona(self, text: str, roles: Collection[str], begun: Dials) -> Dials:
        """With this persona, and alpha where it is; without one, with the recipe of these dials,
        or the base alone where that has a persona or a role that is not loaded.

        Raises:
            UsageError: it is not valid text.
        """
        now = self.recipe
        if not text:
            other = begun.recipe
            if PERSONA in other.weights or not set(other.roles) <= set(roles):
                other = Recipe.single(BASE)
            return replace(self, recipe=other.limited_as(now))
        if PERSONA in now.weights:
            return replace(self, recipe=replace(now, persona_prompt=text))
        return replace(self, recipe=Recipe.persona(text).limited_as(now))

    def stepped(self, name: str, by: int) -> Dials:
        """With a dial of the side panel so many steps up; these very dials at its end."""
        now = self.shown()[name]
        if name == DRAFT:
            at = _DRAFTS.index(now) + by
            text = _DRAFTS[min(max(at, 0), len(_DRAFTS) - 1)]
        else:
            ends = range_of(self.recipe, name)
            value = round(float(now) + by * _STEPS.get(name, 0.1), 6)
            text = f"{min(max(value, ends.least), ends.most):g}"
            try:
                ends.parse(text)
            except RefusedError:  # an end that is not in the range itself
                return self
        return self if text == now else self.turned(name, text, ())

    def reset(self, name: str, begun: Dials) -> Dials:
        """With one dial where the preset began; one that its recipe lacks, where it starts.

        Raises:
            UsageError: there is no such dial.
        """
        if name == "recipe":
            return replace(self, recipe=begun.recipe.limited_as(self.recipe))
        self._check(name)
        if name == DRAFT:
            length = begun.speculation.length
            return replace(self, speculation=replace(self.speculation, length=length))
        if name in recipe_values(self.recipe):
            return replace(self, recipe=_with(self.recipe, name, _began(name, self, begun)))
        if name in LIMITS:
            limit = {name: getattr(begun.recipe, name)}
            return replace(self, recipe=replace(self.recipe, **limit))
        sampling = {name: getattr(begun.sampling, name)}
        return replace(self, sampling=replace(self.sampling, **sampling))

    def told(self, name: str) -> str:
        """What a dial does, in a line.

        Raises:
            UsageError: there is no such dial.
        """
        if name == "recipe":
            return meaning(self.recipe).does
        self._check(name)
        if name in recipe_values(self.recipe):
            return dial_text(self.recipe.name, name)
        setting = SETTINGS[name]
        return setting.ends or setting.help.rstrip(".")

    def table(self, begun: Dials, preset: Dials) -> str:
        """Every dial in a line: its value, and where that is from.

        Args:
            begun: what answers began with.
            preset: what the preset says by itself.
        """
        values, first, theirs = self.all(), begun.all(), preset.all()
        plain = Dials.of(Defaults()).all()
        rows = []
        for name, value in values.items():
            if (was := self.reset(name, begun).all()[name]) != value:
                where = f"turned here, was {was}"
            elif name in first and value != theirs.get(name):
                where = "your options or settings"
            else:
                where = "default" if value == plain.get(name) else "preset"
            rows.append((name, value, where))
        name_width, value_width = (max(len(row[at]) for row in rows) for at in (0, 1))
        return "\n".join(f"{n:{name_width}}  {v:{value_width}}  {where}" for n, v, where in rows)

    def began(self, name: str, begun: Dials) -> str:
        """Where a dial began, in a line."""
        value = self.reset(name, begun).all()[name]
        who = "The preset begins with" if begun.all().get(name) == value else "It starts at"
        return f"{who} {value}; {{dial.reset}} goes back."

    def explained(self, name: str, begun: Dials) -> str:
        """All of what a dial does, takes and began with, in lines.

        Raises:
            UsageError: there is no such dial.
        """
        lines = [self.told(name), f"Takes {range_of(self.recipe, name).rule}."]
        if name not in recipe_values(self.recipe) and SETTINGS[name].ends:
            lines.insert(0, SETTINGS[name].help)
        return "\n".join([*lines, self.began(name, begun)])

    def _check(self, name: str) -> None:
        known = dict.fromkeys(["recipe", *recipe_values(self.recipe), *SAMPLING, DRAFT, *LIMITS])
        if name in known:
            return
        if name in RECIPE_DIALS:
            has = " and ".join(recipe_values(self.recipe)) or "none"
            raise UsageError(f"{recipe_name(self.recipe)} has no {name}; its dials: {has}")
        raise UsageError(f"unknown dial {name!r}; {nearest(name, known)}")

    def shown(self) -> dict[str, str]:
        """Every dial as text, in the order of the side panel."""
        found = {"recipe": recipe_name(self.recipe)}
        numbers = recipe_values(self.recipe)
        numbers |= {name: getattr(self.sampling, name) for name in PANEL}
        found |= {name: f"{value:g}" for name, value in numbers.items()}
        return found | {DRAFT: _shown(DRAFT, self.speculation.length)}

    def changes(self, other: Dials) -> dict[str, str]:
        """What changed from these dials to the others, by dial: `beta 1 → 0.5`."""
        before = self.all()
        return {
            name: f"{name} {before[name]} → {value}" if name in before else f"{name} {value}"
            for name, value in other.all().items()
            if before.get(name) != value
        }

    def difference(self, other: Dials) -> str:
        """All of `changes` in one line."""
        return ", ".join(self.changes(other).values())

    def all(self) -> dict[str, str]:
        """Every dial as text, also those that only /set turns."""
        found = self.shown()
        found.update({n: _shown(n, getattr(self.sampling, n)) for n in SAMPLING})
        found.update({n: _shown(n, getattr(self.recipe, n)) for n in LIMITS})
        return found


def formula_of(recipe: Recipe, files: Mapping[str, str]) -> str:
    """The recipe over the models' names: those of their files, without the quantization where that
    still tells them apart. Roles of one file, as with an adapter, are called by their roles."""
    files = {role: file for role, file in files.items() if role not in MADE}
    names = {role: _QUANTIZED.sub("", file) for role, file in files.items()}
    for called in (names, files):
        own = [called[role] for role in recipe.weights if role in called]
        if len({*own}) == len(own):
            return formula(recipe, called)
    return formula(recipe)


def range_of(recipe: Recipe, dial: str) -> Range:
    """The values of a dial; the lambda of a mixture is a share."""
    if dial == "lambda" and recipe.lambdas:
        return Range(0.0, 1.0)
    return RANGES[dial]


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


def recipe_names(now: Recipe, roles: Collection[str], begun: Recipe) -> tuple[str, ...]:
    """The recipes that the loaded roles allow, with the present one and that of the preset."""
    ours = [recipe_name(begun), recipe_name(now)]
    written_out = [name for name in ours if name not in NAMED]
    allowed = recipes_of(roles)
    named = [name for name in NAMED if name in ours or name in allowed]
    return tuple(dict.fromkeys([*written_out, *named]))


def _began(name: str, now: Dials, begun: Dials) -> float:
    """Where a dial of the present recipe began."""
    same = range_of(now.recipe, name) == range_of(begun.recipe, name)
    values = recipe_values(begun.recipe) if same else {}
    return values.get(name, _START.get(name, 1.0))


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, from which `recipe_from` makes it again."""
    values: dict[str, Any] = {"text": recipe_name(recipe)}
    if recipe.lambdas:
        values["lambda"] = dict(recipe.lambdas)
    if recipe.references:
        values["references"] = dict(recipe.references)
    values = recipe_values(recipe) | values
    if "=" in values["text"] and recipe.any_sum:
        values["any_sum"] = True
    if recipe.persona_prompt:
        values[PERSONA] = recipe.persona_prompt
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


def _renamed(now: Recipe, name: str, roles: Collection[str], begun: Recipe) -> Recipe:
    if name == recipe_name(now):
        recipe = now
    elif name == recipe_name(begun) and (name in MIXTURES or name not in NAMED):
        recipe = begun  # its numbers are nobody else's to know
    elif "=" in name or name not in NAMED:
        recipe = parse_recipe(name)
    else:
        persona = now.persona_prompt or begun.persona_prompt
        recipe = _begin(name, recipe_values(begun) | recipe_values(now), persona)
    missing = [role for role in recipe.roles if role not in roles]
    if missing:
        raise UsageError(f"recipe {name} needs the role {missing[0]}, which is not loaded")
    return recipe.limited_as(now)


def _begin(name: str, kept: Mapping[str, float] | None = None, persona: str = "") -> Recipe:
    """A recipe by name; a dial that the recipe before it had too keeps its place."""
    if name in MIXTURES:
        raise UsageError(f"recipe {name} needs a preset with several tuned models")
    if name == PERSONA and not persona:
        raise UsageError("recipe persona needs one; /persona TEXT gives it")
    values, takes = {**_START, **(kept or {})}, NAMED[name][1]
    return _made(name, {dial: values.get(dial, 1.0) for dial in takes if dial != PERSONA}, persona)


def _with(recipe: Recipe, name: str, value: float) -> Recipe:
    if recipe.lambdas:
        values: dict[str, Any] = {**recipe_values(recipe), name: value}
        values = {dial: round(number_, 6) for dial, number_ in values.items()}
        share = values.pop("lambda", None)
        shares = recipe.lambdas
        if share is not None:
            shares = dict(zip(shares, (share, round(1.0 - share, 6)), strict=True))
        changed = parse_recipe(recipe.name, lambda_=shares, references=recipe.references, **values)
    else:
        turned = recipe_values(recipe) | {name: value}
        changed = _made(recipe.name, turned, recipe.persona_prompt)
    return changed.limited_as(recipe)


def _made(name: str, values: Mapping[str, float], persona: str) -> Recipe:
    # Sums of dials are rounded, so that ten steps of 0.1 are 1.
    rounded: dict[str, Any] = {key: round(value, 6) for key, value in values.items()}
    if name == PERSONA:
        rounded[PERSONA] = persona
    if "lambda" in rounded:
        rounded["lambda_"] = rounded.pop("lambda")
    return parse_recipe(name, **rounded)


def _parsed(name: str, text: str, range_: Range) -> Any:
    """What a person wrote, as the table of settings reads it; off may stay a word."""
    if name == "seed" and text in ("", "none", "random"):
        return OFF
    value = number(text)
    if isinstance(value, str) and value not in range_.words:
        raise UsageError(f"{name} needs {range_.rule}, not {shown(text)}")
    try:
        return range_.given(value)
    except RefusedError as error:
        raise UsageError(error.told(name)) from None


def _shown(name: str, value: float | None) -> str:
    for word, means in RANGES[name].words.items():
        if value == means:
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
