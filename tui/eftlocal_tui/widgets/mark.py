"""A line in an answer: from here on it followed other dials."""

from __future__ import annotations

from textual.widgets import Static

from eftlocal.terminal_text import one_line


class MarkLine(Static):
    DEFAULT_CSS = "MarkLine { height: 1; color: $text-accent; margin: 0 0 1 0; }"

    def __init__(self, what: str) -> None:
        super().__init__(f"╌╌ from here: {one_line(what)} ╌╌", markup=False)
