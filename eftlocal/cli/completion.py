"""What the shell completes beyond options and files: presets, roles, recipes, draft rules.

Each verb imports this, and imports nothing more before somebody presses Tab. A faulty presets file
completes nothing; the verb itself says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable

import typer

from eftlocal.errors import EftlocalError
from eftlocal.logits.recipe import TRIO
from eftlocal.logits.recipe_text import NAMED

_FORMATS = ("plain", "chat", "same")

Found = list[str | tuple[str, str]]
"""Words, some with what they are; typer leaves those that go on from what is typed."""


def presets(ctx: typer.Context, incomplete: str) -> Found:
    from eftlocal.presets.reading import load_presets

    try:
        return [(preset.name, preset.title) for preset in load_presets().values()]
    except EftlocalError:
        return []


def roles(ctx: typer.Context, incomplete: str) -> Found:
    """The last of a list of roles: base,tu."""
    before, comma, _ = incomplete.rpartition(",")
    given = before.split(",")
    return [f"{before}{comma}{role}" for role in _roles(ctx) if role not in given]


def chat_templates(ctx: typer.Context, incomplete: str) -> Found:
    """ROLE=FORM; of other forms and files the shell completes the files."""
    role, sign, _ = incomplete.partition("=")
    return [f"{role}={form}" for form in _FORMATS] if sign else [f"{r}=" for r in _roles(ctx)]


def recipes(ctx: typer.Context, incomplete: str) -> Found:
    return [*NAMED]


def _roles(ctx: typer.Context) -> Iterable[str]:
    """Of the preset or the files that are given so far."""
    from eftlocal.presets.reading import find

    given = ctx.params
    files = [role for role in TRIO if given.get(role)]
    files += [str(text).partition("=")[0] for text in given.get("role") or ()]
    try:
        return files or tuple(find(given.get("preset") or "demo").roles)
    except EftlocalError:
        return TRIO
