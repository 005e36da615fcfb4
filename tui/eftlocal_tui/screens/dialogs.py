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
from eftlocal_tui.screens.base import leave
from eftlocal_tui.settings import settings_path
from eftlocal_tui.text import pasted

_CSS = """
{0} {{ align: center middle; }}
{0} > Vertical {{
    width: 70; max-width: 90%; height: auto; max-height: 90%;
    padding: 1 2; background: $panel; border: round $primary;
}}
{0} Input {{ margin: 1 0 0 0; }}
{0} TextArea {{ height: 10; margin: 1 0 0 0; }}
{0} Horizontal {{ height: auto; margin: 1 0 0 0; }}
{0} Button {{ margin: 0 2 0 0; }}
"""


class AskText(ModalScreen[str | None]):
    """Asks for a text; None when it was cancelled. Ctrl+S (or Enter, of one line) accepts."""

    BINDINGS = bindings("dialog")
    DEFAULT_CSS = _CSS.format("AskText")

    def __init__(self, question: str, text: str = "", *, long: bool = False) -> None:
        super().__init__()
        self._question, self._text, self._long = question, text, long

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label(self._question, markup=False)
            if self._long:
                yield TextArea(pasted(self._text), tab_behavior="focus")
            else:
                yield Input(one_line(self._text))
        yield Footer(compact=True)

    def on_input_submitted(self) -> None:
        self.action_accept()

    def action_accept(self) -> None:
        if self._long:
            leave(self, self.query_one(TextArea).text)
        else:
            leave(self, self.query_one(Input).value)

    def action_cancel(self) -> None:
        leave(self, None)


class Confirm(ModalScreen[bool]):
    """Yes or no; no is where the focus is."""

    BINDINGS = bindings("dialog.cancel")
    DEFAULT_CSS = _CSS.format("Confirm")

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
        leave(self, event.button.id == "yes")

    def action_cancel(self) -> None:
        leave(self, False)


_NAMES_FIT = 90  # columns

_ABOUT = {
    "chat": (
        "The chat",
        "Three models answer together. Ctrl+B unfolds the side panel, Ctrl+T goes to its dials: "
        "↑ and ↓ step a dial, and the next token follows it, also in the middle of an answer; "
        "the transcript marks where. Everything is saved as it comes. The theme and the side panel "
        "come back as you left them, unless the settings file sets them.",
        ("chat", "prompt", "turn", "dial", "app"),
    ),
    "history": (
        "Conversations",
        "Newest first. / searches titles and messages; Enter goes on with one.",
        ("history", "app"),
    ),
    "compare": (
        "Compare",
        "The same message, answered by the emulation, by the small tuned model alone and by the "
        "base alone, from one seed. If the tuned model alone is as good, you do not need the "
        "others for this.",
        ("compare", "app"),
    ),
    "influence": (
        "Influence",
        "How far the combination moved each token away from what one model says alone (total "
        "variation, 0 to 1). Shade, underline and ‹marks› say the same. Below: the probability "
        "of the token under the cursor, and the first choices, under each model.",
        ("influence", "app"),
    ),
    "": ("Here", "A question: Esc leaves things as they were.", ("dialog", "app")),
}


class HelpScreen(ModalScreen[None]):
    BINDINGS = bindings("help")
    PLACE = "help"
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen VerticalScroll {
        width: 96%; max-width: 100; height: 90%; padding: 1 2;
        background: $panel; border: round $primary;
    }
    HelpScreen Static { height: auto; }
    """

    def __init__(self, place: str, keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._place = place if place in _ABOUT else ""
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(self._text())
        yield Footer(compact=True)

    def _text(self) -> Text:
        title, about, places = _ABOUT[self._place]
        text = Text.assemble((title, "bold"), "\n\n", about, "\n")
        names = {
            "prompt": "In the message box",
            "turn": "On a turn (Ctrl+Up goes there)",
            "dial": "On a dial (Ctrl+T goes there)",
            "app": "Everywhere",
        }
        wide = self.app.size.width >= _NAMES_FIT
        for place in places:
            text.append(f"\n{names.get(place, 'Keys')}\n", "bold")
            for key in of_place(place):
                keys = self._keymap.get(key.name, key.keys)
                shown = display(part.strip() for part in keys.split(","))
                text.append(f"  {shown:<20} {key.about}")
                text.append(f"  {key.name}\n" if wide else "\n", "dim")
        if self._place == "chat":
            text.append("\nCommands\n", "bold")
            for command in COMMANDS:
                text.append(f"  /{command.name + ' ' + command.takes:<31} {command.about}\n")
            text.append("  A message that has to begin with a slash begins with two.\n")
        if not wide:
            text.append("\nA wider terminal shows the names of the keys too.")
        text.append("\nThe names are for [keys] in the settings file: ")
        text.append(f"{one_line(str(settings_path()))}\n")
        return text

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_back(self) -> None:
        leave(self, None)
