"""Progress bars on stderr: files that arrive, and weights that are loaded."""

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

A_MOMENT = 0.5  # seconds of loading that pass without a bar


@contextmanager
def download_bars() -> Iterator[hub.Progress]:
    """One bar a file, left on the screen when it is done."""
    with _downloads(Console(stderr=True)) as bars:
        yield _on_download(bars)


@dataclass(frozen=True)
class LoadingProgress:
    """What `eftlocal.load` is to call; None where nobody would see it."""

    download: hub.Progress | None = None
    weights: Callable[[str, float], None] | None = None


@contextmanager
def loading_bars(clock: Callable[[], float] = time.monotonic) -> Iterator[LoadingProgress]:
    """Bars for downloads and for weights that take more than a moment; gone when done.

    Only where stderr is a terminal.
    """
    if not sys.stderr.isatty():
        yield LoadingProgress()
        return
    console = Console(stderr=True)
    downloads, weights = _downloads(console), _weights(console)
    # stdout carries the answer, and may go to a file: nothing of it is drawn above the bars.
    live = Live(Group(downloads, weights), console=console, transient=True, redirect_stdout=False)
    with ExitStack() as screen:
        shown = False

        def show() -> None:
            nonlocal shown
            if not shown:
                shown = True
                screen.enter_context(live)

        report_download = _on_download(downloads)
        report_weights = _on_weights(weights)
        began: float | None = None

        def on_download(file: str, done: int, total: int, /) -> None:
            show()
            report_download(file, done, total)

        def on_weights(role: str, share: float) -> None:
            nonlocal began
            now = clock()
            began = now if began is None else began
            if now - began >= A_MOMENT:
                show()
            report_weights(role, share)

        yield LoadingProgress(on_download, on_weights)


def _downloads(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _weights(console: Console) -> Progress:
    return Progress(
        TextColumn("loading {task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        console=console,
    )


def _on_download(bars: Progress) -> hub.Progress:
    tasks: dict[str, TaskID] = {}

    def progress(file: str, done: int, total: int, /) -> None:
        if file not in tasks:  # what is resumed does not count towards the speed
            tasks[file] = bars.add_task(Path(file).name, total=total, completed=done)
        bars.update(tasks[file], total=total, completed=done)

    return progress


def _on_weights(bars: Progress) -> Callable[[str, float], None]:
    tasks: dict[str, TaskID] = {}

    def progress(role: str, share: float) -> None:
        if role not in tasks:
            tasks[role] = bars.add_task(role, total=1.0)
        bars.update(tasks[role], completed=share)

    return progress
