"""Every key of the program, in one table: its name for the settings file, and what it does."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

from textual.binding import Binding, BindingType
from textual.keys import KEY_NAME_REPLACEMENTS, KEY_TO_UNICODE_NAME, REPLACED_KEYS, Keys


class Key(NamedTuple):
    """A binding. Its name is also where it works: "chat.send" on the chat screen.

    Attributes:
        name: for the settings file.
        keys: by default, apart by commas.
        action: of the widget, screen or program that it belongs to.
        what: one or two words for the footer.
        about: one line for the help.
        shown: whether the footer shows it.
        first: whether it comes before the keys of the widget that has the focus.
    """

    name: str
    keys: str
    action: str
    what: str
    about: str
    shown: bool = False
    first: bool = True

    @property
    def binding(self) -> Binding:
        return Binding(
            self.keys, self.action, self.what, id=self.name, show=self.shown, priority=self.first
        )


KEYS = (
    Key("app.help", "f1", "help", "Help", "Help for the screen you are on", True),
    Key("app.palette", "ctrl+p", "command_palette", "All", "Every command, by name"),
    Key("app.quit", "ctrl+q", "quit", "Quit", "Leave; everything is saved", True),
    Key("app.theme", "f10", "light_or_dark", "Light/dark", "Change between light and dark"),
    Key("prompt.send", "enter", "send", "Send", "Send the message", first=False),
    Key(
        "prompt.newline",
        "ctrl+j,shift+enter,alt+enter",
        "newline",
        "New line",
        "A new line",
        first=False,
    ),
    Key("prompt.complete", "tab", "complete", "Complete", "Complete a /command", first=False),
    Key(
        "chat.stop",
        "escape",
        "stop",
        "Stop",
        "Stop, keeping what came; cancel an edit",
        False,
        False,
    ),
    Key("chat.new", "ctrl+n", "new", "New", "A new conversation", True),
    Key("chat.history", "ctrl+o", "history", "History", "All conversations", True),
    Key("chat.panel", "ctrl+b", "panel", "Panel", "Fold or unfold the side panel", True),
    Key("chat.dials", "ctrl+t", "dials", "Dials", "Go to the dials, or back"),
    Key("chat.regenerate", "ctrl+r", "regenerate", "Again", "Another answer, as a branch"),
    Key("chat.edit", "f4", "edit", "Edit", "Edit your last message, as a branch"),
    Key("chat.compare", "f5", "compare", "Compare", "Emulation, tuned and base side by side", True),
    Key("chat.influence", "f6", "influence", "Influence", "What moved each token", True),
    Key("chat.previous", "f7", "sibling(-1)", "Branch ◂", "The branch before"),
    Key("chat.next", "f8", "sibling(1)", "Branch ▸", "The branch after"),
    Key("chat.copy", "f9", "copy", "Copy", "Copy the last answer"),
    Key("chat.code", "shift+f9,f12", "copy_code", "Copy code", "Copy the last code block"),
    Key("chat.editor", "ctrl+g", "editor", "Editor", "Write the message in your editor"),
    Key("chat.continue", "f3", "continue", "Continue", "Go on with a stopped answer"),
    Key("chat.turns", "ctrl+up", "turns", "Turns", "Walk the turns (then ↑ ↓)"),
    Key("chat.page_up", "pageup", "page(-1)", "Up", "Scroll up"),
    Key("chat.page_down", "pagedown", "page(1)", "Down", "Scroll down"),
    Key("chat.end", "ctrl+end", "end", "End", "Follow the end again"),
    Key("turn.up", "up,k", "walk(-1)", "Turn above", "The turn above", first=False),
    Key("turn.down", "down,j", "walk(1)", "Turn below", "The turn below", first=False),
    Key("turn.copy", "c,y", "copy", "Copy", "Copy this message", True, False),
    Key("turn.code", "b", "copy_code", "Code", "Copy its next code block", True, False),
    Key("turn.edit", "e", "edit", "Edit", "Edit this message, as a branch", True, False),
    Key("turn.regenerate", "r", "regenerate", "Again", "Another answer to this", True, False),
    Key("turn.previous", "left", "sibling(-1)", "◂", "Its branch before", first=False),
    Key("turn.next", "right", "sibling(1)", "▸", "Its branch after", first=False),
    Key("turn.influence", "i", "influence", "Influence", "What moved its tokens", True, False),
    Key(
        "turn.unfold", "enter,space", "unfold", "Unfold", "Show all of a long message", first=False
    ),
    Key("turn.back", "escape", "back", "Back", "Back to the message box", True, False),
    Key("dial.more", "up", "step(1)", "More", "A step up", first=False),
    Key("dial.less", "down", "step(-1)", "Less", "A step down", first=False),
    Key("dial.back", "escape", "back", "Back", "Back to the message box", first=False),
    Key("history.resume", "enter", "resume", "Resume", "Go on with the conversation", True, False),
    Key(
        "history.search",
        "slash,ctrl+f",
        "search",
        "Search",
        "Search titles and messages",
        True,
        False,
    ),
    Key("history.rename", "r", "rename", "Rename", "Give it another name", True, False),
    Key("history.archive", "a", "archive", "Archive", "Put it away, or back", True, False),
    Key(
        "history.archived",
        "v",
        "archived",
        "Archived",
        "Show what was put away, or the rest",
        False,
        False,
    ),
    Key(
        "history.duplicate", "d", "duplicate", "Duplicate", "A copy, branches and all", False, False
    ),
    Key(
        "history.delete", "delete", "delete", "Delete", "Delete it, after a question", False, False
    ),
    Key("history.export", "x", "export", "Export", "Export as Markdown and JSON", True, False),
    Key("history.back", "escape", "back", "Back", "Back to the chat", True, False),
    Key("compare.again", "r", "again", "Again", "Answer once more, from another seed", True),
    Key("compare.copy", "c", "copy", "Copy", "Copy the column with the focus", True),
    Key(
        "compare.back", "escape", "back", "Back", "Stop, keeping what came; back to the chat", True
    ),
    Key("influence.left", "left,h", "move(-1)", "◂", "The token before"),
    Key("influence.right", "right,l", "move(1)", "▸", "The token after"),
    Key("influence.up", "up,k", "line(-1)", "▴", "A line up"),
    Key("influence.down", "down,j", "line(1)", "▾", "A line down"),
    Key(
        "influence.next",
        "n,tab",
        "most(1)",
        "Next moved",
        "The next token that was moved far",
        True,
    ),
    Key("influence.last", "p,shift+tab", "most(-1)", "Last moved", "The one before", True),
    Key("influence.back", "escape", "back", "Back", "Back to the chat", True),
    Key("dialog.cancel", "escape", "cancel", "Cancel", "Leave things as they were", True),
    Key("dialog.accept", "ctrl+s", "accept", "Accept", "Take what was written", True),
    Key("help.back", "escape,q", "back", "Back", "Back", True),
)

_NAMES = {key.name: key for key in KEYS}
_OUTER = {"app": 0, "chat": 1}
_IN_CHAT = ("prompt", "turn", "dial")
_MODIFIERS = {"ctrl", "shift", "alt", "super", "hyper", "meta"}
_CONTROLS = {key.value for key in Keys if key.value.isalnum()} - {"space"}  # enter, f1, pageup, ...


def bindings(place: str) -> list[BindingType]:
    """The bindings of a place ("app", "chat", "turn", ...), or the one of that name."""
    return [key.binding for key in of_place(place)]


def of_place(place: str) -> list[Key]:
    return [key for key in KEYS if key.name == place or key.name.startswith(f"{place}.")]


def check_keys(keys: dict[str, str]) -> dict[str, str]:
    """A person's keys by name, written as Textual writes them.

    Raises:
        ValueError: a name or a key is unknown, two bindings that work at the same time want one
            key, or a key would be taken from the message box.
    """
    for name in keys:
        if name not in _NAMES:
            near = get_close_matches(name, _NAMES, 1, 0.5)
            hint = f'did you mean "{near[0]}"?' if near else "F1 in the chat shows the names"
            raise ValueError(f'unknown binding "{name}"; {hint}')
    keys = {name: ",".join(_key(name, key) for key in keys[name].split(",")) for name in keys}
    for name in keys:
        for other in KEYS:
            both = split(keys[name]) & split(keys.get(other.name, other.keys))
            if both and other.name != name and _meet(_NAMES[name], other):
                raise ValueError(f'"{name}" and "{other.name}" both want {min(both)}')
    return keys


def _key(name: str, text: str) -> str:
    """One key: `Ctrl+R` becomes `ctrl+r`, `/` becomes `slash`."""
    *modifiers, last = text.strip().lower().split("+") if len(text.strip()) > 1 else [text.strip()]
    if not last:
        raise ValueError(f'"{name}" has no key; write one, as in "{_NAMES[name].keys}"')
    if len(last) == 1 and not last.isalnum():
        last = unicodedata.name(last, last).lower().replace(" ", "_").replace("-", "_")
        last = KEY_NAME_REPLACEMENTS.get(last, last)
    written = last not in _CONTROLS and _is_character(last)
    if set(modifiers) - _MODIFIERS or not (written or last in _CONTROLS):
        near = get_close_matches(last, _CONTROLS, 1, 0.5)
        hint = f'did you mean "{near[0]}"?' if near else 'keys are written as in "ctrl+r,f3"'
        raise ValueError(f'"{name}": there is no key "{text.strip()}"; {hint}')
    if written and not modifiers and place(name) in _OUTER:
        raise ValueError(f'"{name}": "{last}" is needed to write; add ctrl+ or take an F key')
    return "+".join([*modifiers, last])


def _is_character(key: str) -> bool:
    name = REPLACED_KEYS.get(key, key)
    try:
        return len(key) == 1 or bool(
            unicodedata.lookup(KEY_TO_UNICODE_NAME.get(name, name.replace("_", " ")))
        )
    except KeyError:
        return False


def _meet(one: Key, other: Key) -> bool:
    """Whether a key would have to mean both: of one place, or one of them comes first there."""
    if place(one.name) == place(other.name):
        return True
    first, inner = sorted((one, other), key=lambda key: _OUTER.get(place(key.name), 2))
    outer = place(first.name)
    return outer == "app" or (outer == "chat" and first.first and place(inner.name) in _IN_CHAT)


def place(name: str) -> str:
    return name.partition(".")[0]


def split(keys: str) -> set[str]:
    return {key.strip() for key in keys.split(",")}


def display(keys: Iterable[str]) -> str:
    """Keys as people read them: `Ctrl+J or Shift+Enter`."""
    return " or ".join("+".join(part.capitalize() for part in key.split("+")) for key in keys)
