"""What `eftlocal sweep` shows: the grid, a bar while it runs, the figures at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from eftlocal.cli.screen import Screen, say
from eftlocal.errors import InterruptedRunError
from eftlocal.evaluate.report import as_json
from eftlocal.sweep.grid import Point
from eftlocal.sweep.journal import Journal
from eftlocal.sweep.manifest import Manifest
from eftlocal.sweep.page import write_page
from eftlocal.sweep.plot import plot
from eftlocal.sweep.prompts import Item
from eftlocal.sweep.report import as_data, as_tables, constants
from eftlocal.sweep.summary import summarise


@contextmanager
def progress(left: int, journal: Journal) -> Iterator[Callable[[], object]]:
    """A bar on stderr; an interrupt says what is kept and how to go on."""
    errors = Screen(stderr=True)
    bars = Progress(
        TextColumn("answering"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    before = journal.rows
    try:
        with bars:
            bar = bars.add_task("answering", total=left)
            yield lambda: bars.advance(bar)
    except KeyboardInterrupt:
        done = journal.rows - before
        journal.close()  # which says if they are there no more
        raise InterruptedRunError(
            f"stopped after {done} of {left} answers; they are in {journal.path}: run the same "
            "command again to go on"
        ) from None


def print_grid(points: tuple[Point, ...], prompts: int) -> None:
    lines = [f"{point.label()}  ({point.recipe})" for point in points]
    say("\n".join(lines))
    answers = len({point.key for point in points}) * prompts
    say(f"{len(points)} points x {prompts} prompts: {answers} answers")


def write(
    points: tuple[Point, ...],
    items: tuple[Item, ...],
    journal: Journal,
    identity: Manifest,
    metrics: tuple[str, ...],
    *,
    json_: bool,
    picture: Path | None,
    page: Path | None,
) -> None:
    summaries = summarise(points, len(items), journal.records)
    if picture:
        plot(summaries, metrics, picture)
    if page:
        write_page(page, summaries, items, journal.records, metrics)
    if json_:
        typer.echo(as_json(as_data(summaries, identity, metrics)))
        return
    console = Screen()
    console.print(constants(summaries), style="bold", markup=False, highlight=False)
    for table in as_tables(summaries, metrics, width=console.width):
        console.print(table)
        console.print()
