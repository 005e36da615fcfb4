"""Files that a verb is asked to write: refused before the work, written after it."""

from __future__ import annotations

from pathlib import Path

from eftlocal.errors import UsageError


def check_writable(path: Path) -> None:
    """Refuses, before anything is measured, a file that could not be written."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 with the line ends as they are; UsageError where that fails."""
    try:
        path.write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
