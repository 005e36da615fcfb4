"""The bar with the words that are looked for in the conversation: one row."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Label, Static

from eftlocal_tui.keys import bindings


class FindBar(Horizontal):
    """Says what is typed into it, and which way to go on."""

    class Changed(Message):
        """Other words are looked for."""

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, FindBar.Changed)

    class Step(Message):
        """On to the next (1), or back to the last (-1)."""

        def __init__(self, by: int) -> None:
            super().__init__()
            self.by = by

    class Closed(Message):
        """Nothing is looked for any more."""

    def compose(self) -> ComposeResult:
        yield Label("Find ", markup=False)
        yield FindInput(placeholder="Words in this conversation", compact=True)
        yield Static("", id="count", markup=False)

    @property
    def box(self) -> FindInput:
        return self.query_one(FindInput)

    def say(self, text: str) -> None:
        self.query_one("#count", Static).update(text)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Changed())

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()


class FindInput(Input):
    BINDINGS = bindings("find")

    def action_step(self, by: int) -> None:
        self.post_message(FindBar.Step(by))

    def action_close(self) -> None:
        self.post_message(FindBar.Closed())
