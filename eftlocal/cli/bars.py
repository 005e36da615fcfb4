"""Progress bars on stderr: files that arrive and are tried, weights loaded, costs measured."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from eftlocal import hub
from eftlocal.cli.screen import Screen
from eftlocal.terminal_text import one_line

A_MOMENT = 0.5  # seconds of loading that pass without a bar


@contextmanager
def download_bars() -> Iterator[hub.Progress]:
    """One bar a file, left on the screen when it is done; nothing where no byte comes."""
    bars = _downloads(Screen(stderr=True))
    report = _on_download(bars)
    with ExitStack() as screen:

        def progress(file: str, done: int, total: int, /) -> None:
            if not bars.tasks:
                screen.enter_context(bars)
            report(file, done, total)

        yield progress


@contextmanager
def counting_bars() -> Iterator[Callable[[str, int], Callable[[], object]]]:
    """Bars for what is counted. It gives what begins one, by a word and a number of steps, and
    that gives what to call after each step."""
    console = Screen(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:

        def begin(what: str, total: int) -> Callable[[], object]:
            bar = bars.add_task(what, total=total)
            return lambda: bars.advance(bar)

        yield begin


@dataclass(frozen=True)
class LoadingProgress:
    """What `eftlocal.load` is to call; None where nobody would see it."""

    download: hub.Progress | None = None
    checking: Callable[[str, float], None] | None = None
    weights: Callable[[str, float], None] | None = None
    measuring: Callable[[str, float], None] | None = None


@contextmanager
def loading_bars(clock: Callable[[], float] = time.monotonic) -> Iterator[LoadingProgress]:
    """Bars for downloads, and for loading and measuring that take more than a moment; gone when
    done.

    Only where stderr is a terminal.
    """
    if not sys.stderr.isatty():
        yield LoadingProgress()
        return
    console = Screen(stderr=True)
    downloads = _downloads(console)
    checking = _shares("checking {task.description} for the first time", console)
    weights = _shares("loading {task.description}", console)
    measuring = _shares("measuring {task.description}", console)
    # stdout carries the answer, and may go to a file: nothing of it is drawn above the bars.
    live = Live(
        Group(downloads, checking, weights, measuring),
        console=console,
        transient=True,
        redirect_stdout=False,
    )
    with ExitStack() as screen:
        shown = False

        def show() -> None:
            nonlocal shown
            if not shown:
                shown = True
                screen.enter_context(live)

        report_download = _on_download(downloads)

        def on_download(file: str, done: int, total: int, /) -> None:
            show()
            report_download(file, done, total)

        def after_a_moment(bars: Progress) -> Callable[[str, float], None]:
            report, began = _on_share(bars), None

            def progress(role: str, share: float) -> None:
                nonlocal began
                now = clock()
                began = now if began is None else began
                if now - began >= A_MOMENT:
                    show()
                report(role, share)

            return progress

        yield LoadingProgress(on_download, *map(after_a_moment, (checking, weights, measuring)))


def _downloads(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _shares(what: str, console: Console) -> Progress:
    return Progress(
        TextColumn(what, markup=False),
        BarColumn(),
        TaskProgressColumn(),
        console=console,
    )


def _on_download(bars: Progress) -> hub.Progress:
    tasks: dict[str, TaskID] = {}

    def progress(file: str, done: int, total: int, /) -> None:
        if file not in tasks:  # what is resumed does not count towards the speed
            tasks[file] = bars.add_task(one_line(Path(file).name), total=total, completed=done)
        bars.update(tasks[file], total=total, completed=done)

    return progress


def _on_share(bars: Progress) -> Callable[[str, float], None]:
    tasks: dict[str, TaskID] = {}

    def progress(role: str, share: float) -> None:
        if role not in tasks:
            tasks[role] = bars.add_task(one_line(role), total=1.0)
        bars.update(tasks[role], completed=share)

    return progress
