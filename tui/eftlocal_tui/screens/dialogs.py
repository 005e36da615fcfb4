"""Small questions over a screen: a line, a longer text, yes or no."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Footer, Input, Label, TextArea

from eftlocal.terminal_text import one_line
from eftlocal_tui.keys import bindings
from eftlocal_tui.leaving import leave
from eftlocal_tui.text_safety import pasted

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
