"""What a person sets (`chat.toml`), and how the program was left (`chat-left.json`).

The settings file is one TOML table with known keys only, and the program never writes it; what it
sets comes before what the other file remembers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from eftlocal.disk import read_text, replace_text
from eftlocal.errors import UsageError
from eftlocal.json_text import TextError, parse_toml
from eftlocal.presets.reading import user_path
from eftlocal.presets.schema import StrictTable
from eftlocal.settings import nearest
from eftlocal_tui.keys import check_keys

FIRST_DEFAULTS = """\
# Defaults of dials and limits, for the chat and every other verb. Remove the # of a line to set it.
# They come before what a preset says; /reset goes back to them.
# temperature = 0.7
# max_tokens = 1024
# loop_guard = "off"
# beta = 0.5
"""
FIRST = """\
# Settings of `eftlocal chat`. Remove the # of a line to set it. `/settings dials`: the dials' own.
# preset = "demo"           # loaded unless the command line names models
# theme = "textual-dark"    # at every start; unset: the last one. /theme NAME
# panel = true              # open the side panel at every start; unset: as it was, or if it fits
# system = ""               # system prompt of new conversations
# kept = "2 GB"             # of disk, so that conversations go on at once; it holds them. 0: none
# editor = "nano"           # for long messages; unset: $VISUAL, then $EDITOR
#
# [keys]                    # /help shows the names
# "chat.regenerate" = "ctrl+r"
"""


_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?(|[kmgt]b)", re.IGNORECASE)


class Settings(StrictTable):
    """What a person may set.

    Attributes:
        preset: loaded where the command line names nothing.
        theme: a theme of Textual's; None is the one that was chosen last.
        panel: whether the side panel is open at the start; None is as it was left, and where it
            was never touched, open if it fits.
        system: the system prompt of new conversations.
        kept: bytes of disk for the caches of conversations; 0 keeps none.
        editor: a command for long prompts; empty takes $VISUAL, then $EDITOR.
        keys: a binding's name to its keys, as in {"chat.regenerate": "ctrl+r,f3"}.
    """

    preset: str | None = Field(default=None, min_length=1)
    theme: str | None = None
    panel: bool | None = None
    system: str = ""
    kept: int = 2 * 10**9
    editor: str = ""
    keys: dict[str, str] = Field(default_factory=dict)

    @field_validator("kept", mode="before")
    @classmethod
    def _size(cls, kept: object) -> int:
        found = _SIZE.fullmatch(str(kept).strip()) if isinstance(kept, (int, str)) else None
        if found is None or isinstance(kept, bool):
            raise ValueError(
                f'must be a size, as in "2 GB" or 0, not {json.dumps(kept, default=str)}'
            )
        return int(float(found[1]) * _UNITS[found[2].upper()])

    @field_validator("keys")
    @classmethod
    def _known_bindings(cls, keys: dict[str, str]) -> dict[str, str]:
        return check_keys(keys)

    @field_validator("theme")
    @classmethod
    def _known_theme(cls, theme: str | None) -> str | None:
        from textual.theme import BUILTIN_THEMES

        if theme is not None and theme not in BUILTIN_THEMES:
            raise ValueError(f'unknown theme "{theme}"; {nearest(theme, BUILTIN_THEMES)}')
        return theme


def settings_path() -> Path:
    """Where the settings are, beside the user's presets; the file may not exist."""
    return user_path().with_name("chat.toml")


def read_settings(path: Path | None = None) -> Settings:
    """The settings of a file; of the user's where None, the defaults where that is missing.

    Raises:
        UsageError: one line with the file, the key and what is wrong.
    """
    file = path or settings_path()
    if path is None and not file.is_file():
        return Settings()
    try:
        table = parse_toml(read_text(file))
    except TextError as error:
        raise UsageError(f"{file}: {error}") from error
    try:
        return Settings.model_validate(table)
    except ValidationError as refused:
        raise UsageError(f"{file}: {_first(refused)}") from refused


def _first(refused: ValidationError) -> str:
    error: Any = refused.errors()[0]
    where = ".".join(str(part) for part in error["loc"])
    what = error["msg"].removeprefix("Value error, ")
    what = f"{what[:1].lower()}{what[1:]}"
    if error["type"] not in ("value_error", "missing"):
        what = f"{what}, not {json.dumps(error['input'], default=str)}"
    return f"{where + ': ' if where else ''}{what}"


VIEW_NAME = "chat-left.json"  # beside the history


class View(BaseModel):
    """How the chat was left. None was never chosen. What a newer version adds is left out."""

    theme: str | None = None
    panel: bool | None = None


def read_view(path: Path) -> View:
    """The view of a file; an empty one where it is missing or cannot be understood."""
    try:
        return View.model_validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError):
        return View()


def save_view(path: Path, **changes: str | bool | None) -> None:
    """Saves some of it anew; the rest stays, also what another process chose meanwhile.

    Raises:
        UsageError: the file cannot be written.
    """
    view = read_view(path).model_copy(update=changes)
    try:
        replace_text(path, f"{view.model_dump_json(exclude_none=True)}\n")
    except OSError as error:
        why = error.strerror or error
        raise UsageError(
            f"{path}: cannot be written: {why}; the choice lasts until you quit"
        ) from error
