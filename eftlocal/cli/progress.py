"""What long runs show on stderr, and how they are stopped: Ctrl-C, SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from eftlocal.cli.interrupts import raising
from eftlocal.cli.screen import Screen
from eftlocal.cli.streams import tell
from eftlocal.errors import EftlocalError, InterruptedRunError, WorkerError
from eftlocal.output_file import STDOUT

_TOLD = 20  # faults that are written out
_EVERY = 30.0  # seconds between lines of progress where there is no terminal


class Rows(Protocol):
    """A file of rows that a run adds to."""

    @property
    def path(self) -> Path | str: ...

    @property
    def rows(self) -> int: ...

    def close(self) -> None: ...


@contextmanager
def keeping(rows: Rows, left: int) -> Iterator[None]:
    """An interrupt in this block, or a lost worker, is an error that says what the file keeps.

    Args:
        left: rows to come.
    """
    before = rows.rows
    try:
        yield
    except WorkerError as error:
        raise WorkerError(f"{error}; what is done is kept") from None
    except KeyboardInterrupt:
        rows.close()  # which says if they are there no more
        done = rows.rows - before
        where = f", which are in {rows.path}" if done else ""
        again = "; run the same command again to resume"
        kept = "" if str(rows.path) == STDOUT else where + again
        said = f"stopped after {done} of {counted(left, 'row')}{kept}"
        raise InterruptedRunError(said) from None


@contextmanager
def working(what: str, *, quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """Says on a terminal what takes long, as long as it does.

    It gives what to call with a file's name and the share of it that is done, while a new model
    file is tried.
    """
    console = Screen(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _name, _share: None
        return
    with console.status(what) as status:
        yield lambda name, share: status.update(
            what if share == 1.0 else f"checking {escape(name)} for the first time: {share:.0%}"
        )


def tell_faults(faults: Sequence[EftlocalError], *, all: bool) -> None:
    """Each fault on its line, up to 20 of them if not all."""
    told = faults if all else faults[:_TOLD]
    for fault in told:
        tell(f"eftlocal: {fault}")
    if len(faults) > len(told):
        more = len(faults) - len(told)
        tell(f"eftlocal: and {more} more; --dry-run lists them all")


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


class Bar:
    """How far a long run is: a bar on a terminal, elsewhere a line now and then.

    Args:
        what: is done, as in "answering".
        unit: what is counted, as in "rows".
        total: of them.
        drawn: False where the terminal is needed for something else.
    """

    def __init__(
        self, what: str, unit: str, total: int, *, quiet: bool, drawn: bool = True
    ) -> None:
        self._unit, self._total, self._quiet = unit, total, quiet
        self._done = self._at_first = 0
        self._began = self._told = time.monotonic()
        console = Screen(stderr=True)
        self._draws = drawn and console.is_terminal and not quiet
        self._bars = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            speed_estimate_period=300.0,
            disable=not self._draws,
        )
        self._bar = self._bars.add_task(what, total=total, figures="")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draws the bar meanwhile."""
        self._began = self._told = time.monotonic()
        with self._bars:
            yield

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def begin_at(self, done: int) -> None:
        """So many were done in an earlier run."""
        self._done = self._at_first = done
        self._began = self._told = time.monotonic()
        self._bars.reset(self._bar, completed=done)

    def show(self, done: int, figures: str) -> None:
        """Shows that so many are done, and a few words beside it."""
        self._done = done
        now = time.monotonic()
        if self._draws:
            self._bars.update(self._bar, completed=done, figures=figures)
        elif not self._quiet and now - self._told >= _EVERY:
            self._told = now
            new = done - self._at_first
            left = (self._total - done) * self.seconds / max(1, new)
            eta = f", about {_duration(left)} left" if new else ""
            tell(f"{done} of {self._total} {self._unit}, {figures}{eta}")


class Tally:
    """Counts rows and tokens, and shows them as they come.

    Args:
        total: rows to come.
        bar: False where the terminal is needed for the rows themselves.
    """

    def __init__(self, total: int, *, quiet: bool, bar: bool = True) -> None:
        self.rows = self.failed = self.tokens = 0
        self._bar = Bar("answering", "rows", total, quiet=quiet, drawn=bar)
        self.shown = self._bar.shown

    def on_tokens(self, count: int) -> None:
        self.tokens += count
        self._bar.show(self.rows, self._rate())

    def on_row(self, answered: bool) -> None:
        self.rows += 1
        self.failed += not answered
        self._bar.show(self.rows, self._rate())

    def _rate(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.tokens / max(1e-9, self._bar.seconds):.1f} tok/s{failed}"

    def figures(self) -> str:
        """A line of what was done."""
        done = f"{counted(self.rows, 'row')}, {counted(self.tokens, 'token')}"
        return f"{done} in {self._bar.seconds:.1f} s: {self._rate()}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@contextmanager
def terminable() -> Iterator[None]:
    """In this block both are a KeyboardInterrupt, unless a caller ignores or handles them."""
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with raising():
            yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
