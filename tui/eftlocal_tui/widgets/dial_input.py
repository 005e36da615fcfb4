"""One dial: a number to type, or to step with the arrow keys."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Label

from eftlocal_tui.keys import bindings

_SYMBOLS = {"alpha": "α alpha", "beta": "β beta", "lambda": "λ lambda", "top_p": "top-p"}


class DialInput(Input):
    """Up and down step and apply at once; Enter, or leaving the field, applies what was typed."""

    BINDINGS = bindings("dial")

    class Turned(Message):
        def __init__(self, name: str, text: str) -> None:
            super().__init__()
            self.dial = name
            self.text = text

    def __init__(self, dial: str, text: str, step: float) -> None:
        super().__init__(text, compact=True, select_on_focus=True)
        self.dial = dial
        self._step = step
        self._applied = text

    def action_step(self, by: int) -> None:
        self.value = self._stepped(by)
        self._apply()

    def action_back(self) -> None:
        self.value = self._applied
        self.screen.query_one("#prompt").focus()

    def _stepped(self, by: int) -> str:
        if self.dial == "speculation":
            places = ["off", "auto", *(str(length) for length in range(1, 17))]
            at = places.index(self.value) if self.value in places else 1
            return places[min(max(at + by, 0), len(places) - 1)]
        try:
            value = float(self.value)
        except ValueError:
            return self._applied
        return f"{round(value + by * self._step, 6):g}"

    def show(self, text: str) -> None:
        """The value that holds, whoever set it."""
        self._applied = text
        if self.value != text:
            self.value = text

    def _apply(self) -> None:
        if self.value != self._applied:
            self.post_message(self.Turned(self.dial, self.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._apply()

    def on_blur(self, event: events.Blur) -> None:
        self._apply()


class DialRow(Horizontal):
    """A dial with its name."""

    DEFAULT_CSS = """
    DialRow { height: 1; }
    DialRow Label { width: 13; }
    DialRow DialInput { width: 1fr; background: $surface; }
    DialRow DialInput:focus { background: $boost; text-style: bold; }
    """

    def __init__(self, dial: str, text: str, step: float) -> None:
        super().__init__()
        self._dial, self._text, self._step = dial, text, step

    def compose(self) -> ComposeResult:
        yield Label(_SYMBOLS.get(self._dial, self._dial), markup=False)
        yield DialInput(self._dial, self._text, self._step)
