"""Presets: which model files play which role. Reads models.toml, the built-in one and the user's.

A presets file is TOML: one `[[preset]]` table per preset with a `[preset.roles.<role>]` table per
role. An unknown key, a role that is missing and a value out of range are refused in one line that
names the file, the table and the key. Nothing is downloaded or opened here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eftlocal.disk import read_text
from eftlocal.errors import UsageError
from eftlocal.json_text import TextError, parse_toml
from eftlocal.presets.schema import Preset
from eftlocal.user_settings import config_folder


def builtin_path() -> Path:
    """The presets that come with the program: beside this file when installed, else above it."""
    here = Path(__file__).parents[1]
    installed = here / "models.toml"
    return installed if installed.is_file() else here.parent / "models.toml"


def user_path() -> Path:
    """The user's own presets, which may not exist."""
    return config_folder() / "models.toml"


def load_presets(*files: str | Path) -> dict[str, Preset]:
    """Presets by name, in order; a later file's preset replaces an earlier one of that name.

    Without arguments: the built-in file and then the user's, if there is one.

    Raises:
        UsageError: a file is missing, not TOML, or holds something that is refused.
    """
    if not files:
        files = tuple(path for path in (builtin_path(), user_path()) if path.is_file())
    presets: dict[str, Preset] = {}
    for file in files:
        presets.update(_load(Path(file)))
    return presets


def find(name: str, listing: str = "`eftlocal models list` shows them all") -> Preset:
    """The preset of that name, the user's before the built-in one.

    Args:
        listing: how to list them, for the message.

    Raises:
        UsageError: there is none; the line names the nearest and how to list them.
    """
    presets = load_presets()
    if name not in presets:
        if name.lower().endswith(".gguf"):
            raise UsageError(
                f'no preset "{name}"; files are given by role, as in --base FILE --tuned FILE '
                "--reference FILE (in Python Emulator.from_files)"
            )
        near = get_close_matches(name, presets, 1, 0.5)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise UsageError(f'no preset "{name}"; {hint}{listing}')
    return presets[name]


def _load(path: Path) -> dict[str, Preset]:
    try:
        document = parse_toml(read_text(path))
    except TextError as error:
        raise UsageError(f"{path}: {error}") from error
    tables = document.pop("preset", [])
    if document:
        key = next(iter(document))
        raise UsageError(f'{path}: unknown key "{key}"; every preset is a [[preset]] table')
    if not isinstance(tables, list):
        raise UsageError(f"{path}: [preset] must be [[preset]], one such table per preset")
    # Paths of the built-in file are relative to the package, wherever the file itself lies.
    root = Path(__file__).parents[1] if path == builtin_path() else path.absolute().parent
    presets: dict[str, Preset] = {}
    for number, table in enumerate(tables, 1):
        preset = _validate(path, number, table, root)
        if preset.name in presets:
            raise UsageError(f'{path}: two presets are named "{preset.name}"')
        presets[preset.name] = preset
    return presets


def _validate(path: Path, number: int, table: Any, root: Path) -> Preset:
    try:
        return Preset.model_validate(table, context={"root": root})
    except ValidationError as refused:
        error = refused.errors()[0]
        name = table.get("name") if isinstance(table, dict) else None
        label = f'preset "{name}"' if isinstance(name, str) else f"preset number {number}"
        where = ".".join(str(part) for part in _toml_path(error["loc"]))
        what = error["msg"].removeprefix("Value error, ")
        what = what.removeprefix(f"{where.rpartition('.')[2]}: ")
        what = f"{what[:1].lower()}{what[1:]}"
        if error["type"] == "missing":
            what = "is missing"
        elif error["type"] != "value_error" and not isinstance(error["input"], dict):
            what = f"{what}, not {json.dumps(error['input'], default=str)}"
        raise UsageError(f"{path}: {label}: {where + ': ' if where else ''}{what}") from refused


def _toml_path(loc: tuple[int | str, ...]) -> Iterator[int | str]:
    """An error's place as it is written in the file: without the names of union branches."""
    for i, part in enumerate(loc):
        if i > 0 and loc[i - 1] == "prompt" and part in ("name", "table"):
            continue
        if i > 0 and loc[i - 1] == "gpu_layers":
            continue
        yield part
