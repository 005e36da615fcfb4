"""The chat's models: loading them, and the dials that the next token follows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.widgets import Static

from eftlocal.disk import readable
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.terminal_text import one_line
from eftlocal_tui.dials import Dials, restored
from eftlocal_tui.engine import Loaded, Progress, tasks
from eftlocal_tui.engine.tasks import StoppedError, Task
from eftlocal_tui.history import Turn
from eftlocal_tui.text import bar

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

_LOADING = "the models are not loaded yet"
_NONE = "no models are loaded; /preset NAME loads some"
_VERBS = {
    "download": "Downloading",
    "checking": "Checking for the first time:",
    "weights": "Loading",
    "measuring": "Measuring",
}


class LoadingBars(Static):
    """A line for each file and stage of a load; nothing where none is on its way."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self._bars: dict[tuple[str, str], str] = {}

    def show(self, batch: Sequence[Progress]) -> None:
        for progress in batch:
            share = progress.done / max(progress.total, 1e-9)
            what = f"{_VERBS[progress.stage]} {one_line(progress.name, 40)}"
            line = f"{bar(share)} {share:4.0%}  {what}"
            if progress.stage == "download":
                line += f"  {readable(progress.done)} of {readable(progress.total)}"
            self._bars[progress.stage, progress.name] = line
        self.display = True
        self.update("\n".join(self._bars.values()))

    def clear(self) -> None:
        self._bars.clear()
        self.display = False


class ChatModels:
    """What is loaded, and its dials.

    Attributes:
        loaded: None before the first load and after a failed one.
        tokens: ids of the answers of these models, by turn; their text may be tokenized otherwise.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self.loaded: Loaded | None = None
        self.tokens: dict[int, tuple[int, ...]] = {}
        self._dials: Dials | None = None
        self._task: Task[Progress, Loaded] | None = None
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def ready(self) -> Loaded:
        """What is loaded. Raises UsageError where nothing is."""
        if self.loaded is None:
            raise UsageError(_LOADING if self.loading else _NONE)
        return self.loaded

    @property
    def dials(self) -> Dials:
        """What the next token follows. Raises UsageError where nothing is loaded."""
        return self._dials or self.ready.dials

    async def settled(self) -> Loaded | None:
        """What is loaded when no loading is on its way any more."""
        await self._settled.wait()
        return self.loaded

    @property
    def loading(self) -> bool:
        return self._task is not None

    def load(self, preset: str | None) -> None:
        """Loads models in the place of those that are loaded, or on their way."""
        self._settled.clear()
        self.screen.start(self._load(preset), exclusive=True, group="load")

    def stop(self) -> bool:
        """Stops a load; whether there was one."""
        if self._task is not None:
            self._task.stop()
        return self._task is not None

    async def _load(self, preset: str | None) -> None:
        screen, services = self.screen, self.screen.services
        self.stop()
        self.loaded = self._dials = None
        self.tokens.clear()
        screen.side.clear()
        screen.transcript.greet("", ())
        self._task = task = tasks.load(services.thread, services.engine, preset)
        screen.status("Loading the models; you can already type")
        bars = screen.query_one(LoadingBars)
        async for batch in task.batches():
            if not screen.alive:
                return
            bars.show(batch)
        if not screen.alive:
            return
        bars.clear()
        try:
            loaded = await task.result()
        except EftlocalError as error:
            self._task = None
            screen.status("No models are loaded")
            if isinstance(error, StoppedError):
                await screen.say("Loading stopped. /preset NAME loads models.")
            else:
                await screen.say(str(error), error=True)
                await screen.say("/preset lists what can be loaded instead.")
        else:
            self._task, self.loaded, self._dials = None, loaded, loaded.dials
            conversation = screen.answers.conversation
            services.kept.loaded(conversation.id if conversation else None)
            await screen.doing(self._show(loaded))
        self._settled.set()

    async def _show(self, loaded: Loaded) -> None:
        await self.restore()
        self.screen.status("")
        self.screen.transcript.greet(loaded.about, loaded.questions)
        for note in loaded.notes:
            await self.screen.say(f"Note: {note}")

    async def show_dials(self) -> None:
        """The dials in the side panel and in the head."""
        if self.loaded is not None:
            await self.screen.side.show_dials(self.dials, self.loaded)
        self.screen.show_head()

    async def restore(self, dials: Dials | None = None) -> None:
        """Goes on with these dials, or with those of the conversation's last answer, if it is of
        this preset."""
        conversation = self.screen.answers.conversation
        if dials is not None:
            self._dials = dials
        elif self.loaded is not None and conversation is not None:
            path = self.screen.services.history.turns.path(conversation.id, last=2)
            answers = [turn for turn in path if turn.settings is not None]
            if answers:
                self._dials = self.dials_of(answers[-1])
        await self.show_dials()

    def dials_of(self, turn: Turn) -> Dials:
        """The dials that an answer was given with, if it is of this preset; else the present ones.

        Raises:
            UsageError: nothing is loaded.
        """
        dials = self.dials
        if self.loaded and turn.settings and turn.settings.preset == self.loaded.name:
            try:
                return restored(turn.settings, self.loaded.dials)
            except UsageError as error:
                self.screen.trouble(error)
        return dials

    async def turn(self, name: str, to: str | int | None) -> None:
        """Turns a dial; an answer that is being written follows from its next token.

        Args:
            to: a value as text, so many steps, or (None) where the preset began.

        Raises:
            UsageError: nothing is loaded, there is no such dial, or it does not go there.
        """
        loaded, dials = self.ready, self.dials
        try:
            if to is None:
                self._dials = dials.reset(name, loaded.dials)
            elif isinstance(to, int):
                self._dials = dials.stepped(name, to)
            else:
                self._dials = dials.turned(name, to, loaded.roles, loaded.dials)
        finally:
            await self.show_dials()

    async def reset(self) -> None:
        """Every dial where the preset began.

        Raises:
            UsageError: nothing is loaded.
        """
        self._dials = self.ready.dials
        await self.show_dials()
