"""What the command line shows. All of it passes here, and is safe whatever it holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from eftlocal.terminal_text import one_line, printable, shown_json

_LONGEST = 1000  # characters of a message
_END = 300  # of them from its end, where a path or the cause often is


class Screen(Console):
    """rich's console, in which no text can drive the terminal: tables, titles, bars."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def tell(message: str, *, dim: bool = False) -> None:
    """One line on stderr, of bounded length."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    typer.secho(one_line(message, _LONGEST, _END), err=True, dim=(dim and not plain) or None)


def say(text: str) -> None:
    """Lines on stdout."""
    typer.echo(printable(text))


def print_json(value: Any, indent: int | None = None) -> None:
    """JSON on stdout."""
    typer.echo(shown_json(value, indent=indent))


def of_answer(text: str) -> str:
    """What stdout is given of an answer: a pipe or file gets it exactly as the model wrote it."""
    return printable(text) if sys.stdout.isatty() else text
