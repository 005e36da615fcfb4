"""One question, answered by the emulation, the small tuned model and the base, side by side."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.terminal_text import one_line
from eftlocal_tui.comparison import Comparison
from eftlocal_tui.dials import PANEL
from eftlocal_tui.differences import common_beginning, foreign_words
from eftlocal_tui.engine import Reading
from eftlocal_tui.engine.tasks import Column, Compared
from eftlocal_tui.engine.thread import StoppedError, Task
from eftlocal_tui.keys import bindings, spelled
from eftlocal_tui.screens.base import BaseScreen, Services
from eftlocal_tui.screens.waiting import Waiting
from eftlocal_tui.widgets.compare_column import CompareColumn
from eftlocal_tui.widgets.key_bar import KeyBar

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat_compare import ChatCompare

_RUNNING = "the columns are still being written; {compare.back} stops them"


class CompareScreen(BaseScreen[None]):
    """A comparison, which begins here unless it has been answered before.

    Args:
        chat: what keeps a column as an answer and opens its influence.
    """

    BINDINGS = bindings("compare")
    PLACE = "compare"
    USES_MODELS = True
    AUTO_FOCUS = "CompareColumn"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (80, "-wide")]  # noqa: RUF012 - declared so in Screen

    def __init__(self, services: Services, comparison: Comparison, chat: ChatCompare) -> None:
        super().__init__()
        self._services, self._comparison, self._chat = services, comparison, chat
        self._job: Task[Column, Compared] | None = None
        self._together = False

    def compose(self) -> ComposeResult:
        question = self._comparison.asked.messages[-1]["content"]
        yield Static(one_line(question, 400), id="head", markup=False)
        yield Static("", id="about", markup=False)
        with Horizontal():
            for column in self._comparison.columns:
                yield CompareColumn(column.name, column.about)
        yield KeyBar()

    def on_mount(self) -> None:
        if self._comparison.seed is None:
            self.answer(self._comparison.dials.sampling.seed)
        else:
            self.show()
            self.notify("Answered before; {compare.again} answers again")

    def on_unmount(self) -> None:
        self._comparison.end()  # nobody takes any more of it

    @property
    def columns(self) -> list[CompareColumn]:
        return list(self.query(CompareColumn))

    @property
    def _focused(self) -> int:
        columns = self.columns
        return columns.index(self.focused) if self.focused in columns else 0

    def answer(self, seed: int | None) -> None:
        """All columns side by side, from one seed."""
        drawn = secrets.randbits(32) if seed is None else seed
        self._comparison.begin(drawn)
        self.show()
        self.start(self._answer, exclusive=True)

    async def _answer(self) -> None:
        comparison, services = self._comparison, self._services
        dials = [column.dials for column in comparison.columns]
        self._job = task = services.tasks.compare(comparison.asked.messages, dials)
        with Waiting(self, self._about) as waiting:
            async for batch in task.batches():
                for event in batch:
                    if isinstance(event, Reading):
                        waiting.told(event)
                    else:
                        comparison.take(event)
                        waiting.close()
                self.show()
        try:
            comparison.end(await task.result())
        except StoppedError:  # before its turn came
            comparison.end()
        except EftlocalError as error:
            comparison.fail(str(error))
        self.show()

    def show(self) -> None:
        """What came so far; once it is all there, with the differences."""
        comparison = self._comparison
        said = [column.answer for column in comparison.columns if column.answer]
        same = common_beginning(said)
        first = comparison.columns[0].answer
        for at, (column, view) in enumerate(zip(comparison.columns, self.columns, strict=False)):
            foreign = []
            if at and first and not comparison.running:
                foreign = foreign_words(column.answer, first, same.end)
            view.show(column, same.end if column.answer else 0, foreign)
        if not comparison.running:
            self._about(" · ".join([self._dials(), *_alike(said, same.words)]))
        elif said:
            self._about("Answering side by side · {compare.back} stops")

    def _dials(self) -> str:
        shown = self._comparison.dials.shown()
        parts = [f"{name} {shown[name]}" for name in PANEL]
        return ", ".join([f"seed {self._comparison.seed}", *parts])

    def _about(self, line: str) -> None:
        said = spelled(line, self._services.settings.keys)
        self.query_one("#about", Static).update(said)

    # Keys --------------------------------------------------------------------------------------

    def _ended(self) -> None:
        if self._comparison.running:
            raise UsageError(_RUNNING)

    def action_again(self) -> None:
        self._ended()
        self.answer(None)

    def action_copy(self) -> None:
        self.copy(self._comparison.columns[self._focused].answer, "answer")

    def action_unfold(self) -> None:
        self.columns[self._focused].action_unfold()

    def action_column(self, by: int) -> None:
        columns = self.columns
        columns[(self._focused + by) % len(columns)].focus()

    def action_together(self) -> None:
        self._together = not self._together
        self.notify(f"Columns scroll {'together' if self._together else 'one by one'}")

    def on_compare_column_scrolled(self, event: CompareColumn.Scrolled) -> None:
        if self._together and event.column is self.focused:
            for column in self.columns:
                if column is not event.column:
                    column.scroll_to(y=event.column.scroll_y, animate=False)

    async def action_keep(self) -> None:
        self._ended()
        column = self._comparison.columns[self._focused]
        await self._chat.keep(self._comparison, column)
        self.show()

    def action_influence(self) -> None:
        self._ended()
        self._chat.influence(self._comparison, self._comparison.columns[self._focused])

    def action_back(self) -> None:
        if self._job is None or self._job.ended or self._job.stopping:
            self.leave(None)
        else:  # what came stays to be read
            self._job.stop()


def _alike(said: list[str], words: int) -> list[str]:
    """How the texts begin, in words; nothing where there are no two."""
    if len(said) < 2:
        return []
    if len(set(said)) == 1:
        return ["all say the same"]
    if not words:
        return ["they differ from the first word on"]
    return [f"the first {words} words are the same" if words > 1 else "the first word is the same"]
