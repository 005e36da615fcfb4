"""What opens over a screen and gives an answer: a line, a longer text, yes or no; and the help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static, TextArea
from textual.widgets.button import ButtonVariant

from eftlocal.terminal_text import one_line
from eftlocal.user_settings import settings_path as defaults_path
from eftlocal_tui.commands import COMMANDS
from eftlocal_tui.keys import bindings, display, of_place, spelled
from eftlocal_tui.screens.base import BaseScreen, Typed, Unasked
from eftlocal_tui.settings import settings_path
from eftlocal_tui.text import pasted
from eftlocal_tui.widgets.key_bar import KeyBar


class AskText(ModalScreen[str | None], BaseScreen[str | None]):
    """Asks for a text; None when it was cancelled. Ctrl+S (or Enter, of one line) accepts."""

    BINDINGS = bindings("dialog")
    PLACE = "dialog"

    def __init__(self, question: str, text: str = "", *, long: bool = False) -> None:
        super().__init__()
        self._question = question
        self._box: Input | TextArea = (
            TextArea(pasted(text), tab_behavior="focus") if long else Input(one_line(text))
        )
        self._began = self.text

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label(self._question, markup=False)
            yield self._box
        yield KeyBar()

    @property
    def text(self) -> str:
        """What is typed."""
        return self._box.value if isinstance(self._box, Input) else self._box.text

    @property
    def unaccepted(self) -> bool:
        """Whether something was typed that leaving would lose."""
        return self.text != self._began

    def on_input_submitted(self) -> None:
        self.action_accept()

    def action_accept(self) -> None:
        self.leave(self.text)

    def action_cancel(self) -> None:
        self.leave(None)


class Confirm(ModalScreen[bool], Unasked[bool]):
    """Yes or no; no is where the focus is. `dangerous` is what cannot be undone; for `typed` see
    `Unasked`."""

    BINDINGS = bindings("dialog.cancel")
    PLACE = "dialog"

    def __init__(
        self, question: str, yes: str, *, dangerous: bool = True, typed: Typed | None = None
    ) -> None:
        super().__init__()
        self.typed = typed
        self._question, self._yes = question, yes
        self._variant: ButtonVariant = "error" if dangerous else "primary"

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label(self._question, markup=False)
            with Horizontal():
                yield Button("Cancel", id="no")
                yield Button(self._yes, id="yes", variant=self._variant)
        yield KeyBar()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.leave(event.button.id == "yes")

    def action_cancel(self) -> None:
        self.leave(False)


_NAMES_FIT = 90  # columns

_ABOUT = {  # by place: a title, what the screen is, and the places whose keys work there
    "chat": (
        "Chat",
        "Three models answer together. {chat.panel} opens the side panel. {chat.dials} goes to its "
        "dials; {dial.more} and {dial.less} turn one. That holds from the next token on, also in "
        "the middle of an answer, and the transcript shows where.\n\n"
        "A message sent while an answer runs is queued. {prompt.earlier} takes it back into the "
        "box; {chat.stop} stops the answer too. An answer goes on while you read another "
        "conversation.\n\n"
        "Everything is saved as it comes, unsent text too. Theme and panel stay as you "
        "left them, unless the settings file sets them.",
        ("chat", "prompt", "menu", "turn", "find", "dial", "app"),
    ),
    "history": (
        "Conversations",
        "Newest first. {history.search} searches titles and messages; {history.resume} opens one, "
        "at the newest message that was found. The number after # is for /load and --resume.",
        ("history", "search", "app"),
    ),
    "branches": (
        "Branches",
        "All branches of the conversation. What the chat shows is bold; other branches are set in "
        "under the message that stands in their place. Space folds and unfolds one.",
        ("branches", "app"),
    ),
    "models": (
        "Presets",
        "What can be loaded, what of it is on this machine, and whether it fits the memory. "
        "{models.load} loads one; what is to be downloaded is asked for first. What is loaded "
        "stays until the new files were checked.",
        ("models", "app"),
    ),
    "compare": (
        "Compare",
        "The same question, answered by the emulation, by the small tuned model alone and by the "
        "base alone, all from one seed and with the same sampling. If the tuned model alone is as "
        "good, you do not need the others for this. The beginning that all have in common is "
        "dim; underlined is what the emulation did not say. {compare.keep} makes the focused "
        "column an answer of the conversation, as a branch beside the others, with its own recipe "
        "and seed; {compare.influence} shows how far the emulation would have moved each of its "
        "tokens. The comparison is held after you leave: {chat.compare} on the same question "
        "shows it again. No speed is shown: the columns take turns, and only one of them has "
        "drafts; {chat.regenerate} in the chat measures one by itself.",
        ("compare", "app"),
    ),
    "influence": (
        "Influence",
        "Every model has read the answer again. The line below it says what decided the token "
        "under the cursor: how probable the token was for each model alone and for all together, "
        "and whose first choice it was. Colors, underlines and ‹marks› show how far the "
        "combination moved a token from what one model alone would say: 0 is not at all, 1 is "
        "entirely. {influence.color} switches the model: from the tuned model you see what the "
        "base added, from the base what the tuning did. The table has what each model would have "
        "said instead. All of this is before temperature and the other sampling dials.",
        ("influence", "app"),
    ),
    "context": (
        "Context",
        "What each model's context holds of the conversation, and the ways on where it is full. "
        "{context.choose} goes the one that is highlighted.",
        ("context", "app"),
    ),
    "dialog": ("Dialog", "{dialog.cancel} cancels.", ("dialog", "app")),
}
_PLACES = {
    "prompt": "In the message box",
    "menu": "In the list of commands ({prompt.complete} and {prompt.send} choose)",
    "turn": "On a message ({chat.turns} goes there)",
    "find": "While words are found ({chat.find} begins)",
    "dial": "On a dial ({chat.dials} goes there)",
    "search": "In the search box",
    "app": "Everywhere",
}


class HelpScreen(ModalScreen[None], BaseScreen[None]):
    BINDINGS = bindings("help")
    PLACE = "help"
    AUTO_FOCUS = "VerticalScroll"

    def __init__(self, place: str, keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._place = place if place in _ABOUT else "dialog"
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(self._page())
        yield KeyBar()

    def _page(self) -> Group:
        title, about, places = _ABOUT[self._place]
        wide = self.app.size.width >= _NAMES_FIT
        parts: list[RenderableType] = [Text(title, "bold"), "", Text(self._spelled(about))]
        for place in places:
            rows = [
                (
                    " or ".join(display(key.name, self._keymap)) or "no key",
                    self._spelled(key.about),
                    key.name * wide,
                )
                for key in of_place(place)
            ]
            parts += self._section(_PLACES.get(place, "Keys"), rows)
        if self._place == "chat":
            parts += self._section(
                "Commands", [(f"/{c.name} {c.takes}", self._spelled(c.about)) for c in COMMANDS]
            )
            parts.append("  To send a message that begins with a slash, type two.")
        if not wide:
            parts += ["", "A wider terminal also shows the names of the keys."]
        file, defaults = one_line(str(settings_path())), one_line(str(defaults_path()))
        parts += ["", Text(f"To change keys, set their names under [keys] in {file}")]
        return Group(*parts, Text(f"Defaults of the dials and limits are in {defaults}"))

    def _section(self, title: str, rows: Sequence[tuple[str, ...]]) -> list[RenderableType]:
        table = Table.grid(padding=(0, 0, 0, 2))
        for row in rows:
            table.add_row(*map(Text, row[:2]), *(Text(name, "dim") for name in row[2:]))
        return ["", Text(self._spelled(title), "bold"), table]

    def _spelled(self, text: str) -> str:
        return spelled(text, self._keymap)

    def action_back(self) -> None:
        self.leave(None)
