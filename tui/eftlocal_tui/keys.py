"""Every key of the program, in one table: its name for the settings file, and what it does."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from textual.binding import Binding, BindingType
from textual.keys import (
    KEY_NAME_REPLACEMENTS,
    KEY_TO_UNICODE_NAME,
    REPLACED_KEYS,
    Keys,
    format_key,
)

from eftlocal_tui.commands import COMMANDS


class Key(NamedTuple):
    """A binding. Its name is also where it works: "chat.send" on the chat screen.

    Attributes:
        name: for the settings file.
        keys: by default, apart by commas.
        action: of the widget, screen or program that it belongs to.
        what: one or two words for the footer.
        about: one line for the help.
        shown: whether the footer shows it.
    """

    name: str
    keys: str
    action: str
    what: str
    about: str
    shown: bool = False

    @property
    def place(self) -> str:
        return self.name.partition(".")[0]

    @property
    def listed(self) -> bool:
        """Whether the palette lists it, on its screen or everywhere."""
        inner = self.place in _INSIDE or self.place == "search"
        return not inner and not self.action.startswith(_UNLISTED)

    @property
    def first(self) -> bool:
        """Whether it comes before the keys of the widget that has the focus."""
        return self.place not in _LAST and self.name != "chat.stop"

    @property
    def binding(self) -> Binding:
        return Binding(
            self.keys, self.action, self.what, id=self.name, show=self.shown, priority=self.first
        )


NO_KEY = "no_key"  # which nobody can press: Textual (8.2) keeps the default of one without keys
_LAST = ("prompt", "find", "dial", "search")  # places whose keys leave the others theirs
_INSIDE = ("prompt", "menu", "turn", "find", "dial")  # places of the chat screen
_UNLISTED = ("command_palette", "page(", "walk(", "back")
_NEEDED = ("send", "back", "screen.turn('back')", "cancel", "close")  # nothing else does these
FOOTER = True
KEYS = (
    Key("app.help", "f1", "help", "Help", "Help for the screen you are on", FOOTER),
    Key("app.palette", "ctrl+p", "command_palette", "Commands", "Every command, by name", FOOTER),
    Key("app.quit", "ctrl+q", "quit", "Quit", "Quit; everything is saved", FOOTER),
    Key("app.theme", "f10", "light_or_dark", "Light/dark", "Switch between light and dark"),
    Key("prompt.send", "enter", "send", "Send", "Send the message"),
    Key("prompt.newline", "ctrl+j,shift+enter,alt+enter", "newline", "New line", "New line"),
    Key("prompt.earlier", "up", "earlier", "Earlier", "In an empty box: your earlier messages"),
    Key("prompt.later", "down", "later", "Later", "Back to the later ones, and the empty box"),
    Key("prompt.complete", "tab", "complete", "Complete", "Complete a /command"),
    Key("menu.up", "up", "move(-1)", "Up", "The command above"),
    Key("menu.down", "down", "move(1)", "Down", "The command below"),
    Key("menu.close", "escape", "close", "Close", "Close the list"),
    Key("chat.stop", "escape", "stop", "Stop", "Stop; what came is kept, what waits comes back"),
    Key("chat.compare", "f5", "compare", "Compare", "Emulation, tuned, base side by side", FOOTER),
    Key("chat.influence", "f6", "influence", "Influence", "Which model moved each token", FOOTER),
    Key("chat.dials", "ctrl+t", "dials", "Dials", "Go to the dials, or back", FOOTER),
    Key("chat.history", "ctrl+o", "history", "History", "All conversations", FOOTER),
    Key("chat.new", "ctrl+n", "new", "New", "New conversation", FOOTER),
    Key("chat.models", "ctrl+l", "models", "Models", "The presets: load another one", FOOTER),
    Key("chat.panel", "ctrl+b", "panel", "Panel", "Show or hide the side panel"),
    Key("chat.regenerate", "ctrl+r", "regenerate", "Again", "Regenerate the answer, as a branch"),
    Key("chat.edit", "f4", "edit", "Edit", "Edit your last message, as a branch"),
    Key("chat.previous", "f7", "sibling(-1)", "Branch ◂", "Previous branch"),
    Key("chat.next", "f8", "sibling(1)", "Branch ▸", "Next branch"),
    Key("chat.copy", "f9", "copy", "Copy", "Copy the last answer"),
    Key("chat.code", "shift+f9,f12", "copy_code", "Copy code", "Copy the last code block"),
    Key("chat.find", "ctrl+f", "find", "Find", "Find words in this conversation"),
    Key("chat.editor", "ctrl+g", "editor", "Editor", "Write the message in your editor"),
    Key("chat.continue", "f3", "continue", "Continue", "Continue a stopped answer"),
    Key("chat.turns", "ctrl+up", "turns", "Messages", "Walk the messages: {turn.up} {turn.down}"),
    Key("chat.page_up", "pageup", "page(-1)", "Up", "Scroll up"),
    Key("chat.page_down", "pagedown", "page(1)", "Down", "Scroll down"),
    Key("chat.end", "ctrl+end", "end", "End", "Scroll to the end and follow it"),
    Key("turn.up", "up,k", "screen.turn('walk', -1)", "Message above", "The message above"),
    Key("turn.down", "down,j", "screen.turn('walk', 1)", "Message below", "The message below"),
    Key("turn.copy", "c,y", "screen.turn('copy')", "Copy", "Copy this message", FOOTER),
    Key("turn.copy_all", "a", "screen.turn('copy_all')", "Copy all", "Copy it with its thinking"),
    Key("turn.code", "b", "screen.turn('copy_code')", "Code", "Copy its next code block", FOOTER),
    Key("turn.edit", "e", "screen.turn('edit')", "Edit", "Edit this message, as a branch", FOOTER),
    Key("turn.regenerate", "r", "screen.turn('regenerate')", "Again", "Answer it again", FOOTER),
    Key("turn.previous", "left", "screen.turn('sibling', -1)", "◂", "Its previous branch"),
    Key("turn.next", "right", "screen.turn('sibling', 1)", "▸", "Its next branch"),
    Key("turn.influence", "i", "screen.turn('influence')", "Influence", "What moved it", FOOTER),
    Key("turn.map", "m", "screen.turn('map')", "Map", "A map of the branches", FOOTER),
    Key("turn.unfold", "enter,space", "unfold", "Unfold", "Show all of it, or its thinking"),
    Key("turn.back", "escape", "screen.turn('back')", "Back", "Back to the message box", FOOTER),
    Key("find.next", "down,enter", "step(1)", "Next", "Next place", FOOTER),
    Key("find.previous", "up,shift+enter", "step(-1)", "Previous", "Previous place", FOOTER),
    Key("find.close", "escape", "close", "Close", "Close the bar; the view stays", FOOTER),
    Key("dial.more", "up", "step(1)", "More", "A step up", FOOTER),
    Key("dial.less", "down", "step(-1)", "Less", "A step down", FOOTER),
    Key("dial.reset", "ctrl+z", "reset", "Reset", "Back to where the preset began", FOOTER),
    Key("dial.back", "escape", "back", "Back", "Back to the message box", FOOTER),
    Key("history.resume", "enter", "resume", "Open", "Open the conversation", FOOTER),
    Key("history.search", "slash,ctrl+f", "search", "Search", "Search titles, messages", FOOTER),
    Key("history.rename", "r", "rename", "Rename", "Rename it", FOOTER),
    Key("history.archive", "a", "archive", "Archive", "Archive it, or take it back", FOOTER),
    Key("history.archived", "v", "archived", "Archived", "Show the archived ones, or the rest"),
    Key("history.duplicate", "d", "duplicate", "Duplicate", "Copy it with all its branches"),
    Key("history.delete", "delete", "delete", "Delete", "Delete it; asks first"),
    Key("history.export", "x", "export", "Export", "Export as Markdown and JSON", FOOTER),
    Key("history.back", "escape", "back", "Back", "Back to the chat", FOOTER),
    Key("search.list", "enter,down,tab", "list", "To the list", "From the box to the list", FOOTER),
    Key("branches.open", "enter", "open", "Go there", "Go to the message", FOOTER),
    Key("branches.back", "escape,m", "back", "Back", "Back to the chat", FOOTER),
    Key("models.load", "enter", "load", "Load", "Load the preset; asks before a download", FOOTER),
    Key("models.back", "escape,ctrl+l", "back", "Back", "Back to the chat", FOOTER),
    Key("compare.left", "left,h", "column(-1)", "◂", "The column before"),
    Key("compare.right", "right,l", "column(1)", "▸", "The next column"),
    Key("compare.keep", "k", "keep", "Keep", "Make the column an answer of the chat", FOOTER),
    Key("compare.influence", "i", "influence", "Influence", "What moved its tokens", FOOTER),
    Key("compare.again", "r", "again", "Again", "Answer again, from another seed", FOOTER),
    Key("compare.copy", "c", "copy", "Copy", "Copy the focused column", FOOTER),
    Key("compare.unfold", "enter,space", "unfold", "Unfold", "Show its thinking"),
    Key("compare.together", "t", "together", "Together", "Scroll all columns at once, or each"),
    Key("compare.back", "escape", "back", "Back", "Stop; again, back to the chat", FOOTER),
    Key("influence.left", "left,h", "move(-1)", "◂", "Previous token"),
    Key("influence.right", "right,l", "move(1)", "▸", "Next token"),
    Key("influence.up", "up,k", "line(-1)", "▴", "A line up"),
    Key("influence.down", "down,j", "line(1)", "▾", "A line down"),
    Key("influence.page_up", "pageup", "page(-1)", "Up", "A screen up"),
    Key("influence.page_down", "pagedown", "page(1)", "Down", "A screen down"),
    Key("influence.first", "home", "end(-1)", "First", "The first token"),
    Key("influence.end", "end", "end(1)", "End", "The last token"),
    Key("influence.next", "n,tab", "far(1)", "Next moved", "Next token that moved far", FOOTER),
    Key("influence.last", "p,shift+tab", "far(-1)", "Previous moved", "The one before it", FOOTER),
    Key("influence.color", "s", "color", "Color", "Color by the other model's distance", FOOTER),
    Key("influence.back", "escape", "back", "Back", "Stop reading; back", FOOTER),
    Key("context.choose", "enter", "choose", "Choose", "Go on in the highlighted way", FOOTER),
    Key("context.cancel", "escape", "cancel", "Cancel", "Back; nothing changes", FOOTER),
    Key("dialog.cancel", "escape", "cancel", "Cancel", "Cancel", FOOTER),
    Key("dialog.accept", "ctrl+s", "accept", "Accept", "Accept", FOOTER),
    Key("help.back", "escape,q", "back", "Back", "Back", FOOTER),
)

_NAMES = {key.name: key for key in KEYS}
_OUTER = {"app": 0, "chat": 1}
_MODIFIERS = {"ctrl", "shift", "alt", "super", "hyper", "meta"}
_CONTROLS = {key.value for key in Keys if key.value.isalnum()} - {"space"}  # enter, f1, pageup, ...
_TWINS = {"i": "tab", "m": "enter", "h": "backspace", "left_square_bracket": "escape"}  # with ctrl
_BRACED = re.compile(r"\{(\w+\.\w+)\}")
_SHOWN = {
    "escape": "Esc",
    "enter": "Enter",
    "delete": "Delete",
    "pageup": "PgUp",
    "pagedown": "PgDn",
}


def bindings(place: str) -> list[BindingType]:
    """The bindings of a place ("app", "chat", "turn", ...), or the one of that name."""
    return [key.binding for key in of_place(place)]


def of_place(place: str) -> list[Key]:
    return [key for key in KEYS if key.name == place or key.name.startswith(f"{place}.")]


def pressed(place: str, key: str, keymap: Mapping[str, str]) -> Key | None:
    """What a key means in a place."""
    found = (each for each in of_place(place) if key in split(keymap.get(each.name, each.keys)))
    return next(found, None)


def check_keys(keys: dict[str, str]) -> dict[str, str]:
    """A person's keys by name, written as Textual writes them, and the defaults that give way:
    of two bindings that work at the same time, the person's has the key.

    Raises:
        ValueError: a name or a key is unknown, the person gave one key to two such bindings, a
            key would be taken from the message box, or nothing would send or lead back any more.
    """
    for name in keys:
        if name not in _NAMES:
            hint = _hint(name, _NAMES, "/help in the chat shows the names")
            raise ValueError(f'unknown binding "{name}"; {hint}')
    found = {name: ",".join(_key(name, key) for key in keys[name].split(",")) for name in keys}
    for name in keys:
        for other in KEYS:
            theirs = split(found.get(other.name, other.keys))
            both = [key for key in theirs if key in split(found[name])]
            if not both or other.name == name or not _meet(_NAMES[name], other):
                continue
            if other.name in keys:
                raise ValueError(f'"{name}" and "{other.name}" both want {both[0]}')
            left = ",".join(key for key in theirs if key not in both)
            if not left and other.action in _NEEDED:
                raise ValueError(f'"{name}" takes the last key of "{other.name}": {both[0]}')
            found[other.name] = left or NO_KEY
    return found


def _hint(word: str, known: Iterable[str], otherwise: str) -> str:
    near = get_close_matches(word, known, 1, 0.5)
    return f'did you mean "{near[0]}"?' if near else otherwise


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
        hint = _hint(last, _CONTROLS, 'keys are written as in "ctrl+r,f3"')
        raise ValueError(f'"{name}": there is no key "{text.strip()}"; {hint}')
    if "ctrl" in modifiers and not set(modifiers) - {"ctrl", "shift"} and last in _TWINS:
        key = "+".join([*modifiers, last])
        raise ValueError(f'"{name}": to most terminals {key} is {_TWINS[last]}; take another key')
    if written and not modifiers and _NAMES[name].place in _OUTER:
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
    if one.place == other.place:
        return True
    first, inner = sorted((one, other), key=lambda key: _OUTER.get(key.place, 2))
    if first.place == "chat":
        return first.first and inner.place in _INSIDE
    return first.place == "app"


def split(keys: str) -> list[str]:
    """The keys of a binding, in order."""
    return [key for key in keys.split(",") if key != NO_KEY]


def display(name: str, keymap: Mapping[str, str]) -> list[str]:
    """The keys of a binding as people read them, in order: `Ctrl+J`, `Shift+Enter`."""
    return [_spelled(key) for key in split(keymap.get(name, _NAMES[name].keys))]


def short(key: str) -> str:
    """A key in little room: `^N`, `F5`."""
    return _spelled(key).replace("Ctrl+", "^")


def _spelled(key: str) -> str:
    return key if len(key) == 1 else "+".join(map(_shown, key.split("+")))


def _shown(part: str) -> str:
    return _SHOWN.get(part) or format_key(part).capitalize()


def spelled(text: str, keymap: Mapping[str, str]) -> str:
    """A text of the program, in which `{chat.stop}` becomes the key that does this: `Esc`."""

    def way(found: re.Match[str]) -> str:
        return _way(_NAMES[found[1]], keymap) if found[1] in _NAMES else found[0]

    return _BRACED.sub(way, text)


def _way(key: Key, keymap: Mapping[str, str]) -> str:
    """A binding's first key; where it has none, its slash command, or its line in the palette."""
    if keys := display(key.name, keymap):
        return keys[0]
    action = {"app": "app", "chat": "screen"}.get(key.place, "") + f".{key.action}"
    for command in COMMANDS:
        if command.action == action:
            return f"/{command.name}"
    palette = display("app.palette", keymap)
    return f"{palette[0]} “{key.what}”" if palette and key.listed else f"“{key.what}” (no key)"
