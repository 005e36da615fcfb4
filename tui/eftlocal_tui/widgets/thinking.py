"""The thinking of an answer, folded: its last words while it comes, then what it took."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from eftlocal.terminal_text import printable
from eftlocal_tui.history import Thought
from eftlocal_tui.text import thought_line

_TAIL = 240  # characters of what comes that are seen while it is folded


class ThinkingFold(Vertical):
    """Not there until there is any thinking."""

    def __init__(self) -> None:
        super().__init__()
        self._text = ""
        self._going = False
        self._took: Thought | None = None
        self._folded = True

    def compose(self) -> ComposeResult:
        yield Static("", classes="title", markup=False)
        yield Static("", classes="body", markup=False)

    def on_mount(self) -> None:
        self._draw()

    def show(self, text: str, *, going: bool) -> None:
        """The thinking so far.

        Args:
            going: more of it may come.
        """
        self._text, self._going = printable(text).strip("\n"), going
        self._draw()

    def tell(self, took: Thought | None) -> None:
        """What it has taken so far."""
        if took != self._took:
            self._took = took
            self._draw()

    def toggle(self) -> None:
        """Unfolds it, or folds it again."""
        self._folded = not self._folded
        self._draw()

    def unfold(self) -> None:
        if self._folded:
            self.toggle()

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.toggle()

    def _draw(self) -> None:
        there = bool(self._text.strip()) or self._going
        self.set_class(there, "-there")
        if not there or not self.children:
            return
        line = thought_line(self._took, going=self._going)
        self.query_one(".title", Static).update(f"{'▸' if self._folded else '▾'} {line}")
        body = self.query_one(".body", Static)
        body.display = not self._folded or self._going
        if not self._folded:
            body.update(self._text)
        elif self._going:
            tail = " ".join(self._text[-_TAIL:].split())
            body.update(f"… {tail}" if len(self._text) > _TAIL else tail)
