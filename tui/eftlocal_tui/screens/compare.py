"""One prompt, answered by the emulation, the small tuned model and the base, side by side."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from textual import work
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from eftlocal.errors import EftlocalError
from eftlocal.prompt.messages import Message
from eftlocal.recipe import Recipe
from eftlocal_tui.dials import Dials, recipe_name
from eftlocal_tui.engine import tasks
from eftlocal_tui.engine.protocol import Live, Loaded
from eftlocal_tui.engine.worker import StoppedError, Task
from eftlocal_tui.figures_text import totals_line
from eftlocal_tui.keys import bindings
from eftlocal_tui.services import Services
from eftlocal_tui.text_safety import one_line
from eftlocal_tui.widgets.streamed import Streamed

_ALONE = ("tuned", "base")


class CompareColumn(VerticalScroll, can_focus=True):
    DEFAULT_CSS = """
    CompareColumn { border: round $primary; padding: 0 1; width: 1fr; scrollbar-size-vertical: 1; }
    CompareColumn:focus { border: heavy $accent; }
    CompareColumn .foot { height: auto; color: $text-muted; dock: bottom; }
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.border_title = name

    def compose(self) -> ComposeResult:
        yield Streamed()
        yield Static("waiting", classes="foot", markup=False)

    async def restart(self) -> None:
        await self.query(Streamed).remove()
        await self.mount(Streamed(), before=0)
        self.foot("waiting")

    def foot(self, text: str) -> None:
        self.query_one(".foot", Static).update(text)

    @property
    def body(self) -> Streamed:
        return self.query_one(Streamed)


class CompareScreen(Screen[None]):
    BINDINGS = bindings("compare")
    PLACE = "compare"
    AUTO_FOCUS = "CompareColumn"
    DEFAULT_CSS = """
    CompareScreen #head { height: auto; max-height: 3; padding: 0 1; background: $panel; }
    CompareScreen.-narrow Horizontal { layout: vertical; }
    CompareScreen.-narrow CompareColumn { height: 1fr; width: 1fr; }
    """
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
        self._job: Task[tasks.Column, tuple[Live | None, ...]] | None = None

    def compose(self) -> ComposeResult:
        yield Static(one_line(self._messages[-1]["content"], 400), id="head", markup=False)
        with Horizontal():
            for name in self._names:
                yield CompareColumn(name)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.answer(self._dials.sampling.seed)

    @property
    def columns(self) -> list[CompareColumn]:
        return list(self.query(CompareColumn))

    @work(exclusive=True)
    async def answer(self, seed: int | None) -> None:
        """All columns from one seed, one after the other."""
        drawn = secrets.randbits(32) if seed is None else seed
        sampling = replace(self._dials.sampling, seed=drawn)
        dials = [replace(self._dials, recipe=r, sampling=sampling) for r in self._recipes]
        columns = self.columns
        for column in columns:
            await column.restart()
        services = self._services
        self._job = task = tasks.compare(services.thread, services.engine, self._messages, dials)
        async for batch in task.batches():
            for index, column in enumerate(columns):
                of_column = [event for event in batch if event.index == index]
                if of_column:
                    text = "".join(event.piece.text for event in of_column if event.piece)
                    await column.body.append(text)
                    error = next((event.error for event in of_column if event.error), "")
                    column.foot(f"✗ {one_line(error)}" if error else "…")
        try:
            lives = await task.result()
        except StoppedError:
            return
        except EftlocalError as error:
            self.notify(one_line(str(error), 300), severity="error", markup=False)
            return
        for column, live in zip(columns, lives, strict=True):
            await column.body.finish()
            if live is not None:
                column.foot(totals_line(live.figures, drawn))

    def action_again(self) -> None:
        if self._job is not None and self._job.ended:
            self.answer(None)

    def action_copy(self) -> None:
        column = self.focused if isinstance(self.focused, CompareColumn) else self.columns[0]
        self.app.copy_to_clipboard(column.body.raw)
        self.notify(f"Copied: {column.border_title}", markup=False)

    def action_back(self) -> None:
        if self._job is not None:
            self._job.stop()
        self.dismiss(None)
