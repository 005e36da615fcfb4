"""What the shell completes beyond options and files: presets, roles, recipes, draft rules.

Each verb imports this, and imports nothing more before somebody presses Tab. A faulty presets file
completes nothing; the verb itself says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable

import typer

from eftlocal.errors import EftlocalError
from eftlocal.logits.recipe import NAMED, TRIO

_FORMATS = ("plain", "chat", "same")

Found = list[str | tuple[str, str]]
"""Words, some with what they are."""


def presets(ctx: typer.Context, incomplete: str) -> Found:
    from eftlocal.presets.reading import load_presets

    try:
        return [(p.name, p.title) for p in load_presets().values() if _fits(p.name, incomplete)]
    except EftlocalError:
        return []


def roles(ctx: typer.Context, incomplete: str) -> Found:
    """The last of a list of roles: base,tu."""
    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    return [
        f"{before}{comma}{role}" for role in _roles(ctx) if _fits(role, last) and role not in given
    ]


def chat_templates(ctx: typer.Context, incomplete: str) -> Found:
    """ROLE=FORM; of other forms and files the shell completes the files."""
    role, sign, _ = incomplete.partition("=")
    words = [f"{role}={form}" for form in _FORMATS] if sign else [f"{r}=" for r in _roles(ctx)]
    return _of(words, incomplete)


def recipes(ctx: typer.Context, incomplete: str) -> Found:
    return _of(NAMED, incomplete)


def _roles(ctx: typer.Context) -> Iterable[str]:
    """Of the preset or the files that are given so far."""
    from eftlocal.presets.reading import find

    given = ctx.params
    files = [role for role in TRIO if given.get(role)]
    more = [str(text).partition("=")[0] for text in given.get("role") or ()]
    if files or more:
        return (*files, *more)
    try:
        return tuple(find(given.get("preset") or "demo").roles)
    except EftlocalError:
        return TRIO


def _of(words: Iterable[str], incomplete: str) -> Found:
    return [word for word in words if _fits(word, incomplete)]


def _fits(word: str, incomplete: str) -> bool:
    return word.startswith(incomplete)
