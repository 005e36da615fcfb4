"""Slash commands: what is typed in the message box and meant for the program."""

from __future__ import annotations

from difflib import get_close_matches
from typing import NamedTuple

from eftlocal.errors import UsageError


class Command(NamedTuple):
    """A command: what may stand after its name, and one line of help."""

    name: str
    takes: str
    about: str


COMMANDS = (
    Command("help", "", "Help for this screen"),
    Command("preset", "[NAME]", "Load other models; without a name, list them"),
    Command("system", "[TEXT|-]", "The system prompt of this conversation; - removes it"),
    Command("set", "[DIAL VALUE]", "Turn a dial, as in /set beta 0.5; without, show them"),
    Command("stats", "", "Figures of the last answer and of the program"),
    Command("save", "NAME", "Name the conversation (it is saved by itself)"),
    Command("load", "[ID|FILE.json]", "Resume a conversation, or import one"),
    Command("export", "[FILE.md|FILE.json]", "Write the conversation to a file"),
    Command("clear", "", "Begin a new conversation; this one stays in the history"),
    Command("regen", "", "Another answer to your last message, as a branch"),
    Command("continue", "", "Go on with an answer that was stopped"),
    Command("edit", "", "Edit your last message, as a branch"),
    Command("copy", "[code]", "Copy the last answer, or its last code block"),
    Command("compare", "", "Emulation, tuned and base alone, side by side"),
    Command("influence", "", "What moved each token of the last answer"),
    Command("history", "[WORDS]", "All conversations, or those with these words"),
    Command("theme", "[NAME]", "Change the colours; without a name, light or dark"),
    Command("settings", "", "Open the settings file in your editor"),
    Command("exit", "", "Leave; everything is saved"),
)

_BY_NAME = {command.name: command for command in COMMANDS}


def parse(text: str) -> tuple[Command, str] | None:
    """The command and what stands after it; None where the text is a message.

    A message that has to begin with a slash begins with two.

    Raises:
        UsageError: there is no such command, or it takes nothing.
    """
    if not text.startswith("/") or text.startswith("//"):
        return None
    name, *after = text[1:].split(maxsplit=1) or [""]
    rest = after[0].rstrip() if after else ""
    if name and not name.isalpha():
        return None  # a path, or anything else that only begins like a command
    command = _BY_NAME.get(name.lower())
    if command is None:
        near = get_close_matches(name.lower(), _BY_NAME, 1, 0.5)
        hint = f"did you mean /{near[0]}?" if near else "/help shows them all"
        raise UsageError(f"there is no command /{name[:40]}; {hint} (// sends a slash)")
    if rest and not command.takes:
        raise UsageError(f"/{command.name} takes nothing after it")
    if not rest and command.takes and not command.takes.startswith("["):
        raise UsageError(f"/{command.name} needs {command.takes}")
    return command, rest


def message(text: str) -> str:
    """What is sent of a text that is no command."""
    return text[1:] if text.startswith("//") else text


def matching(text: str) -> list[Command]:
    """The commands that a text on its way to being one may become."""
    if not text.startswith("/") or text.startswith("//") or "\n" in text or " " in text:
        return []
    return [command for command in COMMANDS if command.name.startswith(text[1:].lower())]
