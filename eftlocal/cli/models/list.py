"""`eftlocal models list`: every preset on a line or two, made for a terminal of 80 columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eftlocal.cli.models.files import here, states_of, total_size
from eftlocal.cli.models.options import AsJson
from eftlocal.cli.models.output import (
    add_row,
    new_table,
    print_table,
    screen_width,
    size_text,
)
from eftlocal.cli.screen import print_json, say
from eftlocal.presets.reading import load_presets, user_path
from eftlocal.presets.schema import Preset


def list_presets(json_: AsJson = False) -> None:
    """List the presets: what they are, their size, and which are on this machine."""
    presets = load_presets().values()
    if json_:
        print_json([_as_json(preset) for preset in presets], indent=2)
        return
    table = new_table("name", "what it is", "size", "here", "licence")
    name, _, size, here_, licence = table.columns
    for column in (name, size, here_):
        column.no_wrap = True
    size.justify = "right"
    licence.max_width = screen_width() // 4  # a long one must not take the titles' room
    unchecked = False
    for preset in presets:
        states = states_of(preset)
        doubtful = any(state.checked is False for state in states)
        unchecked = unchecked or doubtful
        add_row(
            table,
            preset.name,
            _summary(preset),
            size_text(total_size(states)),
            here(states) + ("*" if doubtful else ""),
            preset.license + (" (gated)" if preset.gated else ""),
        )
    print_table(table)
    if unchecked:
        say("\n* not checked against a checksum; `eftlocal models show NAME` tells which file")
    say(f"\nYour own presets go into {user_path()}")


def _summary(preset: Preset) -> str:
    files = (preset.weights(role).file for role in ("base", "tuned") if role in preset.roles)
    return preset.title or " + ".join(Path(file).name.removesuffix(".gguf") for file in files)


def _as_json(preset: Preset) -> dict[str, Any]:
    states = states_of(preset)
    return {
        "name": preset.name,
        "title": preset.title,
        "license": preset.license,
        "gated": preset.gated,
        "roles": {role: str(preset.weights(role)) for role in preset.roles},
        "size": total_size(states),
        "downloaded": here(states) == "yes",
        "checked": not any(state.checked is False for state in states),
        "here": f"{sum(state.path is not None for state in states)} of {len(states)}",
    }
