"""What a slash command that is being typed may become: its name, then what it takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from eftlocal.errors import UsageError
from eftlocal.terminal_text import UNSAFE
from eftlocal_tui import commands
from eftlocal_tui.commands import Command

MOST = 200  # choices in a list
_MOST_FILES = 5_000  # of a folder, that are looked at


class Choice(NamedTuple):
    """One of a list.

    Attributes:
        text: what the message box has when it is chosen.
        name: what the list shows of it.
        about: a line of help beside it.
        more: whether something has to follow; then it cannot be sent yet.
    """

    text: str
    name: str
    about: str
    more: bool = False


def names(text: str) -> list[Choice]:
    """The commands that a text may become, the one that it is already first."""
    found = sorted(commands.matching(text), key=lambda command: command.name != text[1:].lower())
    return [
        Choice(
            f"/{command.name}",
            f"/{command.name} {command.takes}".rstrip(),
            command.about,
            more=bool(command.takes) and not command.takes.startswith("["),
        )
        for command in found
    ]


def begun(text: str) -> tuple[Command, str] | None:
    """A command whose name is typed and a space after it, and what follows."""
    if not text.startswith("/") or "\n" in text:
        return None
    name, space, rest = text[1:].partition(" ")
    command = commands.BY_NAME.get(name.lower())
    return (command, rest.lstrip(" ")) if command is not None and space else None


def words(command: Command, rest: str, known: Iterable[tuple[str, str]]) -> list[Choice]:
    """The words that begin with what is typed, and then those that hold it."""
    typed = rest.lower()
    found = [(word, about) for word, about in known if typed in word.lower()]
    found.sort(key=lambda one: not one[0].lower().startswith(typed))
    return [Choice(f"/{command.name} {word}", word, about) for word, about in found[:MOST]]


def files(command: Command, rest: str, suffixes: Sequence[str]) -> list[Choice]:
    """The folders and files of these kinds that go on as what is typed does. ~ is the home;
    hidden ones only where a dot is typed."""
    head, slash, begin = rest.rpartition("/")
    if not slash and rest == "~":
        return [Choice(f"/{command.name} ~/", "~/", "your home", more=True)]
    try:
        found = list(_entries(commands.file_of(head + slash or "."), begin, suffixes))
    except (OSError, UsageError):  # there is no such folder, and no list of it
        return []
    return [
        Choice(
            f"/{command.name} {head}{slash}{name}{'/' * folder}",
            f"{name}{'/' * folder}",
            "folder" if folder else "",
            more=folder,
        )
        for folder, name in sorted(found, key=lambda one: (not one[0], one[1].lower()))[:MOST]
    ]


def _entries(folder: Path, begin: str, suffixes: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Whether it is a folder, and its name."""
    with os.scandir(folder) as entries:
        for _, entry in zip(range(_MOST_FILES), entries, strict=False):
            name = entry.name
            hidden = name.startswith(".") and not begin.startswith(".")
            typed = name.lower().startswith(begin.lower())
            if hidden or not typed or UNSAFE.search(name) or name != name.strip():
                continue  # the box could not hold its name as it is
            if entry.is_dir():
                yield True, name
            elif name.lower().endswith(tuple(suffixes)):
                yield False, name
