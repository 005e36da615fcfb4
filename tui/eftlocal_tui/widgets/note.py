"""A line of the program itself in the transcript: information, or an error. Never kept."""

from __future__ import annotations

from textual.widgets import Static

from eftlocal.terminal_text import printable


class Note(Static):
    DEFAULT_CSS = """
    Note {
        height: auto; margin: 0 1 1 1; padding: 0 1; color: $text-muted;
        border-left: wide $primary;
        &.-error { color: $text-error; border-left: wide $error; }
    }
    """

    def __init__(self, text: str, *, error: bool = False) -> None:
        said = printable(text)
        super().__init__(f"Error: {said}" if error else said, markup=False)
        self.set_class(error, "-error")
        self.said = said
