"""The system prompt, where it begins to hold: a line or two of it."""

from __future__ import annotations

from textual.widgets import Static

from eftlocal.terminal_text import one_line

_SHOWN = 120  # characters


class SystemView(Static):
    """What the models are told before the messages below.

    Args:
        text: empty where nothing is told any more.
        more: what is said of how to change it.
    """

    def __init__(self, text: str, more: str) -> None:
        said = f"System prompt: {one_line(text, _SHOWN)}" if text else "No system prompt from here"
        super().__init__(f"{said} · {more}" if more else said, markup=False)
