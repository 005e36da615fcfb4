"""What opens over a screen and gives an answer: a line, a longer text, yes or no; and the help."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Footer, Input, Label, Static, TextArea

from eftlocal.terminal_text import one_line
from eftlocal_tui.commands import COMMANDS
from eftlocal_tui.keys import bindings, display, of_place
from eftlocal_tui.screens.base import BaseScreen
from eftlocal_tui.settings import settings_path
from eftlocal_tui.text import pasted


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

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label(self._question, markup=False)
            yield self._box
        yield Footer(compact=True)

    def on_input_submitted(self) -> None:
        self.action_accept()

    def action_accept(self) -> None:
        self.leave(self._box.value if isinstance(self._box, Input) else self._box.text)

    def action_cancel(self) -> None:
        self.leave(None)


class Confirm(ModalScreen[bool], BaseScreen[bool]):
    """Yes or no; no is where the focus is."""

    BINDINGS = bindings("dialog.cancel")
    PLACE = "dialog"

    def __init__(self, question: str, yes: str) -> None:
        super().__init__()
        self._question, self._yes = question, yes

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label(self._question, markup=False)
            with Horizontal():
                yield Button("Cancel", id="no")
                yield Button(self._yes, id="yes", variant="error")
        yield Footer(compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.leave(event.button.id == "yes")

    def action_cancel(self) -> None:
        self.leave(False)


_NAMES_FIT = 90  # columns

_ABOUT = {  # by place: a title, what the screen is, and the places whose keys work there
    "chat": (
        "Chat",
        "Three models answer together. Ctrl+B opens the side panel, Ctrl+T goes to its dials: ↑ "
        "and ↓ step a dial. A change applies from the next token, in an answer too, and "
        "the transcript marks where. Everything is saved as it comes. The theme and the panel "
        "return as you left them, unless the settings file sets them.",
        ("chat", "prompt", "turn", "dial", "app"),
    ),
    "history": (
        "Conversations",
        "Newest first. / searches titles and messages; Enter opens a conversation.",
        ("history", "app"),
    ),
    "compare": (
        "Compare",
        "The same message answered by the emulation, by the small tuned model alone and by the "
        "base alone, all from one seed. If the tuned model alone is as good, you do not need the "
        "others for this.",
        ("compare", "app"),
    ),
    "influence": (
        "Influence",
        "How far the combination moved each token from what one model alone would say (total "
        "variation, 0 to 1), as shade, underline and ‹marks›. Below: the probability of the "
        "token under the cursor, and the most probable tokens, under each model.",
        ("influence", "app"),
    ),
    "dialog": ("Dialog", "Esc cancels.", ("dialog", "app")),
}
_PLACES = {
    "prompt": "In the message box",
    "turn": "On a turn (Ctrl+Up goes there)",
    "dial": "On a dial (Ctrl+T goes there)",
    "app": "Everywhere",
}


class HelpScreen(ModalScreen[None], BaseScreen[None]):
    BINDINGS = bindings("help")
    PLACE = "help"

    def __init__(self, place: str, keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._place = place if place in _ABOUT else "dialog"
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(self._text())
        yield Footer(compact=True)

    def _text(self) -> Text:
        title, about, places = _ABOUT[self._place]
        text = Text.assemble((title, "bold"), "\n\n", about, "\n")
        wide = self.app.size.width >= _NAMES_FIT
        for place in places:
            text.append(f"\n{_PLACES.get(place, 'Keys')}\n", "bold")
            for key in of_place(place):
                keys = self._keymap.get(key.name, key.keys)
                shown = display(part.strip() for part in keys.split(","))
                text.append(f"  {shown:<20} {key.about}")
                text.append(f"  {key.name}\n" if wide else "\n", "dim")
        if self._place == "chat":
            text.append("\nCommands\n", "bold")
            for command in COMMANDS:
                text.append(f"  /{command.name + ' ' + command.takes:<31} {command.about}\n")
            text.append("  To send a message that begins with a slash, type two.\n")
        if not wide:
            text.append("\nA wider terminal also shows the names of the keys.")
        text.append("\nTo change keys, set their names under [keys] in ")
        text.append(f"{one_line(str(settings_path()))}\n")
        return text

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_back(self) -> None:
        self.leave(None)
