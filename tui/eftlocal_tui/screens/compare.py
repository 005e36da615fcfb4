"""One prompt, answered by the emulation, the small tuned model and the base, side by side."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

from eftlocal.generation import FinishReason
from eftlocal.logits.recipe import Recipe
from eftlocal.prompt.messages import Message
from eftlocal.terminal_text import one_line
from eftlocal_tui.dials import Dials, recipe_name
from eftlocal_tui.engine import Came, Live, Loaded, Reading
from eftlocal_tui.engine.tasks import Column, Compared, Figured, StoppedError, Task, compare
from eftlocal_tui.keys import bindings
from eftlocal_tui.screens.base import BaseScreen, Services
from eftlocal_tui.screens.waiting import Waiting
from eftlocal_tui.text import reason_text, speed_line, totals_line
from eftlocal_tui.widgets.key_bar import KeyBar
from eftlocal_tui.widgets.markdown import Streamed

_ALONE = ("tuned", "base")
_WAITING = "waiting …"


class CompareColumn(VerticalScroll, can_focus=True):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.border_title = name
        self._reason: FinishReason | None = None
        self._error = ""
        self.body = Streamed()
        self._figures = Static(_WAITING, classes="foot", markup=False)

    def compose(self) -> ComposeResult:
        yield self.body
        yield self._figures

    async def restart(self) -> None:
        self._reason, self._error = None, ""
        old, self.body = self.body, Streamed()
        await old.remove()
        await self.mount(self.body, before=0)
        self._foot(_WAITING)

    def reading(self, line: str) -> None:
        """How far the prompt is read, before the first token."""
        if not (self.body.raw or self._error):
            self._foot(line)

    async def show(self, events: Sequence[Came | Figured]) -> None:
        """What came for this column."""
        steps = [event.step for event in events if isinstance(event, Came) and event.step]
        await self.body.append("".join(step.text for step in steps))
        for event in events:
            if isinstance(event, Figured):
                self._foot(speed_line(event.live.figures))
            elif event.step is None:
                self._error = event.error
                self._foot(f"✗ {one_line(event.error)}")
            else:
                self._reason = event.step.finish_reason

    async def end(self, live: Live | None, seed: int) -> None:
        """All columns have ended; this one so far as it came, or with an error."""
        await self.body.finish()
        how = reason_text("done" if self._reason else "stopped", self._reason, None)
        parts = [f"✗ {one_line(self._error)}" if self._error else how]
        if live is not None:
            parts.append(totals_line(live.figures, seed))
        self._foot(" · ".join(part for part in parts if part))

    def _foot(self, text: str) -> None:
        self._figures.update(text)


class CompareScreen(BaseScreen[None]):
    BINDINGS = bindings("compare")
    PLACE = "compare"
    AUTO_FOCUS = "CompareColumn"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (80, "-wide")]  # noqa: RUF012 - declared so in Screen

    def __init__(
        self, services: Services, loaded: Loaded, dials: Dials, messages: Sequence[Message]
    ) -> None:
        super().__init__()
        self._services = services
        self._messages = list(messages)
        alone = [role for role in _ALONE if role in loaded.roles]
        self._names = [
            f"emulation ({recipe_name(dials.recipe)})",
            *(f"{role} alone" for role in alone),
        ]
        self._recipes = [dials.recipe, *(Recipe.single(role) for role in alone)]
        self._dials = dials
        self._job: Task[Column, Compared] | None = None

    def compose(self) -> ComposeResult:
        yield Static(one_line(self._messages[-1]["content"], 400), id="head", markup=False)
        with Horizontal():
            for name in self._names:
                yield CompareColumn(name)
        yield KeyBar()

    def on_mount(self) -> None:
        self.answer(self._dials.sampling.seed)

    @property
    def columns(self) -> list[CompareColumn]:
        return list(self.query(CompareColumn))

    def answer(self, seed: int | None) -> None:
        """All columns side by side, from one seed."""
        self.start(self._answer(seed), exclusive=True)

    async def _answer(self, seed: int | None) -> None:
        drawn = secrets.randbits(32) if seed is None else seed
        sampling = replace(self._dials.sampling, seed=drawn)
        dials = [replace(self._dials, recipe=r, sampling=sampling) for r in self._recipes]
        columns = self.columns
        for column in columns:
            await column.restart()
        services = self._services
        self._job = task = compare(services.thread, services.engine, self._messages, dials)
        waiting = Waiting(self, self._say_reading)
        try:
            async for batch in task.batches():
                for event in batch:
                    if isinstance(event, Reading):
                        waiting.told(event)
                came = [event for event in batch if not isinstance(event, Reading)]
                for index, column in enumerate(columns):
                    if of_column := [event for event in came if event.index == index]:
                        await column.show(of_column)
        finally:
            waiting.end()
        try:
            lives = await task.result()
        except StoppedError:  # before its turn came
            lives = (None,) * len(columns)
        for column, live in zip(columns, lives, strict=True):
            await column.end(live, drawn)

    def _say_reading(self, line: str) -> None:
        for column in self.columns:
            column.reading(line)

    def action_again(self) -> None:
        if self._job is not None and self._job.ended:
            self.answer(None)

    def action_copy(self) -> None:
        column = self.focused if isinstance(self.focused, CompareColumn) else self.columns[0]
        self.copy(column.body.raw, "answer")

    def action_back(self) -> None:
        if self._job is None or self._job.ended or self._job.stopping:
            self.leave(None)
        else:  # what came stays to be read
            self._job.stop()
