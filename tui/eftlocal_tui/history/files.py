"""Conversations to files and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from eftlocal.disk import read_text
from eftlocal.errors import UsageError
from eftlocal_tui.history.errors import HistoryError, sqlite_errors
from eftlocal_tui.history.json_file import from_json, to_json
from eftlocal_tui.history.markdown import to_markdown
from eftlocal_tui.history.records import Conversation
from eftlocal_tui.history.store import History

_LARGEST = 1 << 30  # bytes of an export that is read again


def export_file(
    history: History, conversations: Sequence[int], path: Path, *, overwrite: bool = False
) -> Path:
    """Writes `.md`, the current path of one conversation, or `.json`, whole trees of any number.

    The file appears whole or not at all.

    Raises:
        HistoryError: another suffix, the file is there already, or the disk refuses.
    """
    if path.suffix == ".json":
        text = to_json(history, conversations)
    elif path.suffix == ".md" and len(conversations) == 1:
        text = to_markdown(history, conversations[0])
    elif path.suffix == ".md":
        raise HistoryError(f"{path}: a .md file takes one conversation; use .json for several")
    else:
        raise HistoryError(f"{path}: end its name in .md or .json, to say which is meant")
    with sqlite_errors(path):
        there = path.exists()
    if there and not overwrite:
        raise HistoryError(f"{path}: is there already; choose another name")
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    with sqlite_errors(path):
        try:
            with unfinished.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def import_file(history: History, path: Path) -> list[Conversation]:
    """Adds the conversations of a `.json` export; all get fresh ids.

    Raises:
        HistoryError: it cannot be read, or holds something that is refused; nothing was added.
    """
    try:
        text = read_text(path, largest=_LARGEST)
    except UsageError as error:
        raise HistoryError(str(error)) from error
    return from_json(history, text, str(path))


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """A file that is not there yet: `chat-3.md`, then `chat-3-2.md`."""
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{suffix}"
    return path
