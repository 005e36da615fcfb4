"""What the command line shows. All of it passes here, and is safe whatever it holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from eftlocal.terminal_text import one_line, printable, shown_json

_LONGEST = 1200  # characters of a line on stderr: those of an error, and what stands before it


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
    """One line on stderr, of bounded length. Where nobody reads it any more, the work goes on."""
    line = one_line(message, _LONGEST)
    if dim and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        line = typer.style(line, dim=True)
    try:
        typer.echo(line, err=True)
    except OSError:  # what waits in the old stream would fail once more at the exit
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def say(text: str) -> None:
    """Lines on stdout."""
    typer.echo(printable(text))


def print_json(value: Any, indent: int | None = None) -> None:
    """JSON on stdout."""
    typer.echo(shown_json(value, indent=indent))


def of_answer(text: str) -> str:
    """What stdout is given of an answer: a pipe or file gets it exactly as the model wrote it."""
    return printable(text) if sys.stdout.isatty() else text
