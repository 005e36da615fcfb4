"""The standard streams: what verbs read from stdin, and the lines that they print.

All that is printed passes here or through `screen`, and is safe to show whatever it holds.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import typer

from eftlocal.disk import decoded, utf_8
from eftlocal.errors import PromptError, UsageError
from eftlocal.terminal_text import one_line, printable, shown_json

_LONGEST = 1200  # characters of a line on stderr: those of an error, and what stands before it


class _Closed(io.StringIO):
    """A stdout that is closed: what would be lost there is an error, not a success."""

    name = os.devnull

    def write(self, text: str, /) -> int:
        if text:
            raise OSError(errno.EBADF, "closed; nothing can be printed", "stdout")
        return 0


def prepare_streams() -> None:
    """Makes the standard streams fit for any text, on every system and in every locale.

    A pipe or file is given UTF-8, as JSON needs it. A terminal keeps its own encoding, and what
    that lacks is written as an escape. A closed stdin is empty, a closed stderr leads nowhere, and
    a closed stdout refuses what is written to it, so that no verb has to check for them.
    """
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _Closed() if name == "stdout" else _nowhere(name))
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def _nowhere(name: str) -> IO[Any]:
    mode = "r" if name == "stdin" else "w"
    return Path(os.devnull).open(mode, encoding="utf-8")


def command(words: Sequence[str]) -> str:
    """A command of eftlocal as this system's shell takes it."""
    words = ["eftlocal", *words]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def read_prompt(prompt: str | None) -> str:
    """The prompt given as an argument; without one, or for `-`, what stdin has.

    Raises:
        UsageError: there is no prompt, and stdin is a terminal.
        PromptError: it is not valid UTF-8, or no prompt.
    """
    from eftlocal.prompt.messages import validate_prompt

    if prompt is None and sys.stdin.isatty():
        raise UsageError("no prompt: give one as an argument, or on stdin")
    if prompt is None or prompt == "-":
        return validate_prompt(decoded(sys.stdin.buffer, "stdin", not_text=PromptError))
    try:  # bytes that the locale did not know stand for themselves
        data = prompt.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return validate_prompt(prompt)  # which says what is wrong
    return validate_prompt(utf_8(data, "the prompt", PromptError))


def ask(to: str, *, of: Sequence[str] = ()) -> None:
    """Asks whether to do something, as in "Download 2 GB"; returns where that is agreed to.

    Args:
        of: lines that say what it is about.

    Raises:
        typer.Abort: the answer is no.
        UsageError: there is no terminal, and stdin has no answer either.
    """
    question = printable("".join(f"  {line}\n" for line in of) + f"{to}?")
    if sys.stdin.isatty():
        typer.confirm(question, abort=True, err=True)
        return
    answer = sys.stdin.buffer.readline().decode("utf-8", "replace")
    if not answer:
        what = f"{to} ({', '.join(of)})" if of else to
        raise UsageError(f"{what}? There is no terminal to ask on; --yes agrees")
    typer.echo(f"{question} [y/N]: {printable(answer.strip())}", err=True)
    if answer.strip().lower() not in ("y", "yes"):
        raise typer.Abort


def tell(message: str, *, dim: bool = False) -> None:
    """One line on stderr, of bounded length. If nobody reads stderr any more, the work goes on."""
    line = one_line(message, _LONGEST)
    if dim and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        line = typer.style(line, dim=True)
    try:
        typer.echo(line, err=True)
    except OSError:  # what waits in the old stream would fail once more at the exit
        sys.stderr = _nowhere("stderr")


def say(text: str) -> None:
    """Lines on stdout."""
    typer.echo(printable(text))


def print_json(value: Any, indent: int | None = None) -> None:
    """JSON on stdout."""
    typer.echo(shown_json(value, indent=indent))


def of_answer(text: str) -> str:
    """What stdout is given of an answer: a pipe or file gets it exactly as the model wrote it."""
    return printable(text) if sys.stdout.isatty() else text
