"""The chat's models, and loading others in their place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from eftlocal.disk import readable
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.presets.reading import find
from eftlocal.terminal_text import one_line
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import Again, DownloadNeededError, Larger, Load, Loaded, Progress, Report
from eftlocal_tui.engine.tasks import LoadOutcome
from eftlocal_tui.engine.thread import R, StoppedError, Task
from eftlocal_tui.screens.base import Work
from eftlocal_tui.screens.dialogs import Confirm
from eftlocal_tui.widgets.loading_bars import LoadingBars

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

_NOT_YET = "the models are not loaded yet"
_NONE = "no models are loaded; /preset NAME loads some"
_INSTEAD = "{chat.models} shows what can be loaded instead."
_LOADING = "Loading {}; you can already type"
_PREPARING = "Preparing {}; {} answers meanwhile"
_STOPS = " · {chat.stop} stops"
Exchange = Callable[[Load, str], Awaitable[LoadOutcome]]
_AGAIN = 0.05  # seconds between looks at whether the models are in use


class ChatModels:
    """What is loaded.

    What is to take the place of loaded models is found, downloaded and checked while these go on
    answering. They are given up when nothing uses them.

    Attributes:
        loaded: None while something is being loaded, and where nothing could be.
        doing: what is going on with them, in a line; empty where nothing is.
        tokens: ids of the answers of these models, by turn; their text may be tokenized otherwise.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self.loaded: Loaded | None = None
        self.doing = ""
        self.tokens: dict[int, tuple[int, ...]] = {}
        self._before: tuple[Loaded, Dials | None] | None = None  # what a load is to replace
        self._task: Task[Progress, Any] | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        self._came = False  # whether the last load brought what was asked for

    @property
    def ready(self) -> Loaded:
        """What is loaded. Raises UsageError where nothing is."""
        if self.loaded is None:
            raise UsageError(_NOT_YET if self.loading else _NONE)
        return self.loaded

    async def settled(self) -> bool:
        """Waits while models are on their way that are to answer next; whether there are any, and
        where this waited, those that it waited for."""
        waited = self.loading
        await self._settled.wait()
        return self.loaded is not None and (self._came or not waited)

    @property
    def loading(self) -> bool:
        """Whether what is asked next waits for models. While some are only prepared, those that
        are loaded answer."""
        return not self._settled.is_set()

    def choose(self, preset: str) -> None:
        """Loads a preset that the person named.

        Raises:
            UsageError: there is none of that name, or an answer is being written.
        """
        self.screen.answers.check_free()
        find(preset, "{chat.models} lists them all")
        self.load(preset)

    def load(self, preset: str | None) -> None:
        """Loads models in the place of those that are loaded, or on their way."""
        self._begin(partial(self._load, preset), waits=self.loaded is None)

    async def enlarge(self, larger: Larger) -> bool:
        """Loads the same models with a larger context; whether that came about."""
        again = partial(self._again, larger, "a larger context", self._exchange)
        self._begin(again, waits=True)
        return await self.settled()

    async def load_again(self, again: Again, what: str) -> bool:
        """Loads the same models with something besides, once nothing uses them; whether that came
        about."""
        self._begin(partial(self._again, again, what, self._exchange_unused), waits=True)
        return await self.settled()

    def stop(self) -> bool:
        """Stops a load; whether there was one."""
        if self._task is None:
            return False
        self._task.stop()
        self._do("Stopping …")
        return True

    def _begin(self, work: Work, *, waits: bool) -> None:
        self.stop()
        if waits:
            self._settled.clear()
        else:
            self._settled.set()
        self.screen.start(work, exclusive=True, group="load")

    async def _load(self, preset: str | None) -> None:
        name, loaded = one_line(preset or "the models", 60), self.loaded
        doing = _LOADING.format(name)
        if loaded is not None:
            doing = _PREPARING.format(name, one_line(loaded.name, 40))
        try:
            load = await self._prepared(preset, doing)
        except EftlocalError as error:
            outcome = await self._failed(error)
        else:
            outcome = await self._exchange_unused(load, _LOADING.format(name))
        await self._take(outcome, chosen=preset is not None)

    async def _again(self, again: Again, what: str, exchange: Exchange) -> None:
        await self._take(await exchange(again.load, _LOADING.format(what)), same=True)

    async def _prepared(self, preset: str | None, doing: str) -> Load:
        tasks = self.screen.services.tasks
        try:
            return await self._follow(tasks.prepare(preset), doing)
        except DownloadNeededError as needed:
            if not await self._agreed(needed):
                raise
        return await self._follow(tasks.prepare(preset, download=True), doing)

    async def _exchange_unused(self, load: Load, doing: str) -> LoadOutcome:
        self._settled.clear()
        while self.screen.uses_models:
            await asyncio.sleep(_AGAIN)
        return await self._exchange(load, doing)

    async def _exchange(self, load: Load, doing: str) -> LoadOutcome:
        """Gives up what is loaded for what was prepared."""
        self._remember()
        self.loaded = self.screen.dials.turned = None
        self.screen.transcript.greet("", ())
        self.screen.show_head()
        try:
            return await self._follow(self.screen.services.tasks.load(load), doing)
        except StoppedError as error:  # before its turn came
            return await self._failed(error)

    async def _failed(self, error: EftlocalError) -> LoadOutcome:
        """What is loaded after a failure before anything was given up; or another load, which
        this one stopped, has given it up."""
        if self.loaded is not None:
            self._remember()
            return LoadOutcome(self.loaded, error)

        def fail(report: Report) -> NoReturn:
            raise error

        return await self._follow(self.screen.services.tasks.load(fail), "")

    def _remember(self) -> None:
        if self.loaded is not None:
            self._before = self.loaded, self.screen.dials.turned

    async def _follow(self, task: Task[Progress, R], doing: str) -> R:
        """Shows how far it has come, and gives what came of it."""
        screen, self._task = self.screen, task
        bars = screen.query_one(LoadingBars)
        self._do(doing + _STOPS if doing else "")
        async for batch in task.batches():
            if screen.alive:
                bars.show(batch)
        self._task = None
        if screen.alive:
            bars.clear()
            self._do("")
        return await task.result()

    def _do(self, doing: str) -> None:
        self.doing = doing
        self.screen.show_status()

    async def _agreed(self, needed: DownloadNeededError) -> bool:
        """Whether the person wants this downloaded."""
        name, free = one_line(needed.name, 60), f"{readable(needed.free)} are free on the disk"
        if needed.size is None:
            question = f"Download {name}? Its size is not known; {free}."
        else:
            of = "more of" if needed.begun else "for"
            question = f"Download {readable(needed.size)} {of} {name}? {free}."
        return await self.screen.app.push_screen_wait(
            Confirm(question, "Download", dangerous=False, typed=self.screen.typed)
        )

    async def _take(
        self, outcome: LoadOutcome, *, chosen: bool = False, same: bool = False
    ) -> None:
        """What is loaded now is what is used: the new models, the former ones, or none.

        Args:
            chosen: the person named them.
            same: they are the former ones with another context, or another role.
        """
        screen = self.screen
        if not screen.alive:
            return
        before, self._before = self._before, None
        self.loaded, self._came = outcome.loaded, outcome.error is None
        kept = same or (before is not None and not self._came and outcome.loaded == before[0])
        screen.dials.turned = before[1] if before is not None and kept else None
        if not kept:
            self.tokens.clear()
        if before is None or outcome.loaded is not before[0]:
            screen.side.clear()  # there are no caches any more
            if self.loaded is not None:
                conversation = screen.turns.conversation
                screen.services.kept.loaded(conversation.id if conversation else None)
        await screen.doing(self._show(outcome, chosen=chosen, same=same))
        self._settled.set()

    async def _show(self, outcome: LoadOutcome, *, chosen: bool, same: bool) -> None:
        loaded, error, say = outcome.loaded, outcome.error, self.screen.say
        if loaded is not None:
            self.screen.transcript.greet(loaded.about, loaded.questions)
        if error is None and not same:
            await self.screen.dials.restore(chosen=chosen)
            for note in loaded.notes if loaded is not None else ():
                await say(f"Note: {note}")
            return
        await self.screen.dials.show()
        if error is None:
            return
        if isinstance(error, StoppedError):
            what = "Loading stopped"
        elif isinstance(error, DownloadNeededError):
            what = f"{one_line(error.name, 60)} was not downloaded"
        else:
            await say(str(error), error=True)
            what = ""
        if outcome.lost is not None:
            await say(f"{outcome.lost}", error=True)
        if loaded is not None:
            stays = "is loaded again" if outcome.again else "stays loaded"
            stays = f"{one_line(loaded.name, 60)} {stays}"
            await say(f"{what}; {stays}." if what else f"{stays}.")
        else:
            self._do("No models are loaded")
            await say(f"{what}. /preset NAME loads models." if what else _INSTEAD)
