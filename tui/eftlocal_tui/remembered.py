"""How the program was left: its theme and side panel, in a small file of its own.

The settings file is the person's and is never written; what it sets comes before this.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from eftlocal.disk import replace_text
from eftlocal.errors import UsageError

NAME = "chat-left.json"  # beside the history


class Remembered(BaseModel):
    """None is what was never chosen. What a newer version adds is left out."""

    theme: str | None = None
    panel: bool | None = None


def read_remembered(path: Path) -> Remembered:
    """What is remembered; nothing, where the file is missing or cannot be understood."""
    try:
        return Remembered.model_validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError):
        return Remembered()


def remember(path: Path, **changes: str | bool | None) -> None:
    """Remembers some of it anew; the rest stays, also what another process chose meanwhile.

    Raises:
        UsageError: the file cannot be written.
    """
    left = read_remembered(path).model_copy(update=changes)
    try:
        replace_text(path, f"{left.model_dump_json(exclude_none=True)}\n")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written, so this is not remembered: {error.strerror or error}"
        ) from error
