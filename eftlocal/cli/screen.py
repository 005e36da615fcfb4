"""What the command line draws with rich: tables, and bars for what takes long.

Importing rich takes a good part of a short run, so verbs import this where they draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
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
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from eftlocal.terminal_text import one_line, printable

if TYPE_CHECKING:
    from eftlocal import hub


_UNBOUNDED = 10_000  # cells, for which every table has room


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

    def show(self, table: Table, *, by: int = 0) -> None:
        """A table of `new_table`. Where it would break a word, such as a file's name, the cell of
        the column `by` stands on a line by itself, and the rest of its row below that."""
        unbounded = self.options.update(max_width=_UNBOUNDED)
        if self.measure(table, options=unbounded).minimum <= self.width:
            self.print(table)
            return
        heads = [str(column.header) for column in table.columns]
        for row in zip(*(map(str, column.cells) for column in table.columns), strict=True):
            rest = [f"{head} {cell}" for head, cell in zip(heads, row, strict=True) if cell]
            if row[by]:
                rest.remove(f"{heads[by]} {row[by]}")
            below = Text(" · ".join(rest).replace("\n", " "), overflow="fold")
            self.print(Text(row[by], overflow="fold"), Padding(below, (0, 0, 0, 2)))


def new_table(*columns: str) -> Table:
    """A table whose cells fold where a word is too long, so that nothing is cut off.

    Without columns it has two and no head: what it is about, and what there is to say.
    """
    if not columns:
        sheet = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        sheet.add_column(no_wrap=True)
        sheet.add_column(overflow="fold")
        return sheet
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def add_row(table: Table, *cells: str | Sequence[str]) -> None:
    """A row; a cell is one line, or a line for each text of a list, never markup."""
    lines = ([cell] if isinstance(cell, str) else cell for cell in cells)
    table.add_row(
        *(Text("\n".join(" ".join(line.splitlines()) for line in cell)) for cell in lines)
    )


@contextmanager
def download_bars() -> Iterator[hub.Progress]:
    """One bar a file, left on the screen when it is done; nothing where no byte comes."""
    bars = _downloads(Screen(stderr=True))
    update = _updater(bars)
    with ExitStack() as screen:

        def progress(file: str, done: int, total: int, /) -> None:
            if not bars.tasks:
                screen.enter_context(bars)
            update(Path(file).name, done, total)

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


class LoadingBars(Live):
    """Bars on stderr for files that arrive, and below them for roles; wiped off at the end."""

    def __init__(self) -> None:
        console = Screen(stderr=True)
        downloads = _downloads(console)
        roles = Progress(_NAME, BarColumn(), TaskProgressColumn(), console=console)
        self.download, self.role = _updater(downloads), _updater(roles)
        # stdout carries the answer, and may go to a file: nothing of it is drawn above the bars.
        bars = Group(downloads, roles)
        super().__init__(bars, console=console, transient=True, redirect_stdout=False)


_NAME = TextColumn("{task.description}", markup=False)


def _downloads(console: Console) -> Progress:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(_NAME, *columns, console=console)


def _updater(bars: Progress) -> Callable[[str, float, float], None]:
    """What moves the bar of a name, and makes it the first time."""
    tasks: dict[str, TaskID] = {}

    def update(name: str, done: float, total: float) -> None:
        if name not in tasks:  # what is resumed does not count towards the speed
            tasks[name] = bars.add_task(one_line(name), total=total, completed=done)  # type: ignore[arg-type]
        bars.update(tasks[name], total=total, completed=done)

    return update
