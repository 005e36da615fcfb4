"""Slash commands: typed in the message box, and meant for the program."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from eftlocal.errors import UsageError


class Command(NamedTuple):
    """A command.

    Attributes:
        takes: what may stand after its name, in brackets where it need not.
        about: one line of help.
        action: of a key, which does what the command does alone.
        asks: the question by which the palette asks for what it takes.
        completes: what the menu offers after it: presets, dials, themes, conversations, files.
    """

    name: str
    takes: str
    about: str
    action: str = ""
    asks: str = ""
    completes: tuple[str, ...] = ()


HISTORY = "screen.history"
_NAME, _IMPORT = "Rename the conversation", "Import conversations (.json)"
_EXPORT = "Export to a file (.md or .json)"
_SET = "/set beta 0.5 turns a dial; /set beta explains it"
_PERSONA = "A prompt for the tuned model alone; - removes it"
_RESET = "Turn a dial back; alone, all of them"
_LOAD = "Open a conversation, or import one"
_THEME = "Set the theme; alone, switch light and dark"
_FILES = ("files",)
COMMANDS = (
    Command("help", "", "Help for this screen", "app.help"),
    Command(
        "preset",
        "[NAME]",
        "Load a preset; alone, choose one",
        "screen.models",
        completes=("presets",),
    ),
    Command("models", "", "The presets: what is here, how large, what fits", "screen.models"),
    Command("system", "[TEXT|-]", "Set the system prompt; - removes it"),
    Command("persona", "[TEXT|-]", _PERSONA),
    Command("set", "[DIAL [VALUE]]", _SET, completes=("dials",)),
    Command("reset", "[DIAL]", _RESET, completes=("dials",)),
    Command("stats", "", "Figures of the last answer, models, memory"),
    Command("context", "", "How full the context is, and what to do about it"),
    Command("save", "NAME", "Rename the conversation (it is saved as you go)", "", _NAME),
    Command("load", "[ID|FILE.json]", _LOAD, HISTORY, _IMPORT, ("conversations", "files")),
    Command("export", "[FILE.md|.json]", "Export this branch (.md), or all", "", _EXPORT, _FILES),
    Command("clear", "", "New conversation; this one stays in the history", "screen.new"),
    Command("regen", "", "Regenerate the last answer, as a branch", "screen.regenerate"),
    Command("continue", "", "Continue a stopped answer", "screen.continue"),
    Command("edit", "", "Edit your last message, as a branch", "screen.edit"),
    Command("copy", "[code|all]", "Copy the last answer, its last code, or all", "screen.copy"),
    Command("compare", "", "Emulation, tuned and base, side by side", "screen.compare"),
    Command("influence", "", "Which model moved each token of the answer", "screen.influence"),
    Command("history", "[WORDS]", "List all conversations, or search them", HISTORY),
    Command("find", "[WORDS]", "Find words in this conversation", "screen.find"),
    Command("branches", "", "A map of the branches, to go to any message", "screen.branches"),
    Command("theme", "[NAME]", _THEME, "app.light_or_dark", completes=("themes",)),
    Command("settings", "[dials]", "Edit the chat's settings, or the dials' defaults"),
    Command("exit", "", "Quit; everything is saved", "app.quit"),
)
BY_NAME = {command.name: command for command in COMMANDS}
BY_NAME["quit"] = BY_NAME["exit"]  # as other chats have it


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
    command = BY_NAME.get(name.lower())
    if command is None:
        near = get_close_matches(name.lower(), BY_NAME, 1, 0.5)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        raise UsageError(f"unknown command /{name[:40]}; {hint} (// sends a slash)")
    if rest and not command.takes:
        raise UsageError(f"/{command.name} takes no argument")
    if not rest and command.takes and not command.takes.startswith("["):
        raise UsageError(f"/{command.name} needs {command.takes}")
    return command, rest


def file_of(text: str) -> Path:
    """The file that a person named; ~ is their home.

    Raises:
        UsageError: ~name is nobody's home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{text}: {error}") from None


def message(text: str) -> str:
    """What is sent of a text that is no command."""
    return text[1:] if text.startswith("//") else text


def matching(text: str) -> list[Command]:
    """The commands that a text on its way to being one may become."""
    if not text.startswith("/") or text.startswith("//") or "\n" in text or " " in text:
        return []
    return [command for command in COMMANDS if command.name.startswith(text[1:].lower())]
