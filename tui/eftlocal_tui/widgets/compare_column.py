"""A column of a comparison: plain text, in which the differences can be seen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.markup import escape
from textual.message import Message
from textual.widgets import Static

from eftlocal.terminal_text import one_line, printable
from eftlocal_tui.comparison import Column
from eftlocal_tui.text import reason_text
from eftlocal_tui.widgets.thinking import ThinkingFold

_FRAME = 6  # cells of the border around its title


class CompareColumn(VerticalScroll, can_focus=True):
    class Scrolled(Message):
        """It shows another part of its text."""

        def __init__(self, column: CompareColumn) -> None:
            super().__init__()
            self.column = column

    def __init__(self, name: str, about: str) -> None:
        super().__init__()
        self._who, self._about = name, one_line(about)
        self.text = ""  # without its thinking
        self._fold = ThinkingFold()

    def compose(self) -> ComposeResult:
        yield Static(self._about, classes="about", markup=False)
        yield self._fold
        yield Static("", classes="body", markup=False)
        yield Static("", classes="foot", markup=False)

    def show(self, column: Column, same: int, foreign: Sequence[tuple[int, int]]) -> None:
        """What came so far.

        Args:
            same: characters at the answer's beginning that all columns have.
            foreign: stretches that the first column has not.
        """
        found, answer = column.parts, column.answer
        self.text = answer
        if found.thinking is not None:
            self._fold.show(column.text[found.thinking], going=found.open and column.running)
        text = Text()
        text.append(printable(answer[:same]), "dim")
        at = same
        for start, end in foreign:
            text.append(printable(answer[at:start]))
            text.append(printable(answer[start:end]), "underline")
            at = end
        text.append(printable(answer[at:]))
        self.query_one(".body", Static).update(text)
        foot = self.query_one(".foot", Static)
        foot.update(_foot(column))
        foot.set_class(bool(column.error), "-error")

    def action_unfold(self) -> None:
        self._fold.toggle()

    def on_resize(self) -> None:
        """What it is about stands in the title where there is room, and below where not."""
        whole = f"{self._who} · {self._about}" if self._about else self._who
        fits = cell_len(whole) <= self.outer_size.width - _FRAME
        # A title of the border is markup.
        self.border_title = escape(whole if fits else self._who)
        self.query_one(".about").display = bool(self._about) and not fits

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self.post_message(self.Scrolled(self))


def _foot(column: Column) -> str:
    """No speed: the columns take turns, and only one of them is drafted for."""
    if column.error:
        return f"✗ {one_line(column.error)}"
    tokens = len(column.tokens)
    parts = [f"{tokens} token{'s' * (tokens != 1)}"]
    if column.running:
        return parts[0] if tokens else "waiting …"
    parts.insert(0, reason_text("done" if column.reason else "stopped", column.reason, None))
    if column.kept is not None:
        parts.append(f"kept as branch {column.kept.branch}")
    return " · ".join(part for part in parts if part)
