"""The chat's models: loading them, and the dials that the next token follows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eftlocal.disk import readable
from eftlocal.errors import UsageError
from eftlocal.presets.reading import find, load_presets
from eftlocal.terminal_text import one_line
from eftlocal_tui.dials import Dials, restored
from eftlocal_tui.engine import DownloadNeededError, Loaded, Progress, tasks
from eftlocal_tui.engine.tasks import LoadOutcome, StoppedError, Task
from eftlocal_tui.history import Turn
from eftlocal_tui.screens.dialogs import Confirm
from eftlocal_tui.widgets.loading_bars import LoadingBars

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

_LOADING = "the models are not loaded yet"
_NONE = "no models are loaded; /preset NAME loads some"
_INSTEAD = "{chat.models} shows what can be loaded instead."


class ChatModels:
    """What is loaded, and its dials.

    Attributes:
        loaded: None while something is being loaded, and where nothing could be.
        tokens: ids of the answers of these models, by turn; their text may be tokenized otherwise.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self.loaded: Loaded | None = None
        self.tokens: dict[int, tuple[int, ...]] = {}
        self._dials: Dials | None = None
        self._before: tuple[Loaded, Dials | None] | None = None  # what a load is to replace
        self._task: Task[Progress, LoadOutcome] | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        self._came = False  # whether the last load brought what was asked for

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

    async def settled(self) -> bool:
        """Waits until no loading is on its way any more; whether there are models, and where this
        waited, those that it waited for."""
        waited = self.loading
        await self._settled.wait()
        return self.loaded is not None and (self._came or not waited)

    @property
    def loading(self) -> bool:
        return not self._settled.is_set()

    def choose(self, preset: str) -> None:
        """Loads a preset that the person named.

        Raises:
            UsageError: there is none of that name, or an answer is being written.
        """
        self.screen.answers.check_free()
        find(preset)
        self.load(preset)

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
        screen = self.screen
        self.stop()
        if self.loaded is not None:
            self._before = self.loaded, self._dials
        self.loaded = self._dials = None
        screen.transcript.greet("", ())
        screen.show_head()
        outcome = await self._run(preset)
        if isinstance(outcome.error, DownloadNeededError) and await self._agreed(outcome.error):
            outcome = await self._run(preset, download=True)
        if screen.alive:
            self._take(outcome)
            await screen.doing(self._show(outcome, chosen=preset is not None))
            self._settled.set()

    async def _run(self, preset: str | None, *, download: bool = False) -> LoadOutcome:
        screen, services = self.screen, self.screen.services
        self._task = task = tasks.load(services.thread, services.engine, preset, download=download)
        screen.status(
            f"Loading {preset or 'the models'}; you can already type · {{chat.stop}} stops"
        )
        bars = screen.query_one(LoadingBars)
        async for batch in task.batches():
            if screen.alive:
                bars.show(batch)
        self._task = None
        if screen.alive:
            bars.clear()
            screen.status("")
        try:
            return await task.result()
        except StoppedError as error:  # before its turn came
            return LoadOutcome(self._before[0] if self._before else None, error)

    async def _agreed(self, needed: DownloadNeededError) -> bool:
        """Whether the person wants this downloaded."""
        name, free = one_line(needed.name, 60), f"{readable(needed.free)} are free on the disk"
        if needed.size is None:
            question = f"Download {name}? Its size is not known; {free}."
        else:
            of = "more of" if needed.begun else "for"
            question = f"Download {readable(needed.size)} {of} {name}? {free}."
        return await self.screen.app.push_screen_wait(
            Confirm(question, "Download", dangerous=False)
        )

    def _take(self, outcome: LoadOutcome) -> None:
        """What is loaded now is what is used: the new models, the former ones, or none."""
        before, self._before = self._before, None
        self.loaded, self._came = outcome.loaded, outcome.error is None
        if before is not None and outcome.loaded == before[0] and outcome.error is not None:
            self._dials = before[1]
        else:
            self._dials = None
            self.tokens.clear()
        if before is not None and outcome.loaded is before[0]:
            return
        self.screen.side.clear()  # there are no caches any more
        if self.loaded is not None:
            conversation = self.screen.answers.conversation
            self.screen.services.kept.loaded(conversation.id if conversation else None)

    async def _show(self, outcome: LoadOutcome, *, chosen: bool) -> None:
        loaded, error = outcome.loaded, outcome.error
        if loaded is not None:
            self.screen.transcript.greet(loaded.about, loaded.questions)
        if error is None:
            await self.restore(chosen=chosen)
            for note in loaded.notes if loaded is not None else ():
                await self.screen.say(f"Note: {note}")
            return
        await self.show_dials()
        if isinstance(error, StoppedError):
            what = "Loading stopped"
        elif isinstance(error, DownloadNeededError):
            what = f"{one_line(error.name, 60)} was not downloaded"
        else:
            await self.screen.say(str(error), error=True)
            what = ""
        if outcome.lost is not None:
            await self.screen.say(f"{outcome.lost}", error=True)
        if loaded is not None:
            stays = "is loaded again" if outcome.again else "stays loaded"
            stays = f"{one_line(loaded.name, 60)} {stays}"
            await self.screen.say(f"{what}; {stays}." if what else f"{stays}.")
            return
        self.screen.status("No models are loaded")
        await self.screen.say(f"{what}. /preset NAME loads models." if what else _INSTEAD)

    async def show_dials(self) -> None:
        """The dials in the side panel and in the head."""
        if self.loaded is not None:
            await self.screen.side.show_dials(self.dials, self.loaded)
        self.screen.show_head()

    async def restore(self, dials: Dials | None = None, *, chosen: bool = False) -> None:
        """Goes on with these dials, or with those of the conversation's last answer, if it is of
        this preset; if it is another's, says so.

        Args:
            chosen: the person has just loaded these models for it.
        """
        conversation = self.screen.answers.conversation
        if dials is not None:
            self._dials = dials
        elif self.loaded is not None and conversation is not None:
            path = self.screen.services.history.turns.path(conversation.id, last=2)
            answers = [turn for turn in path if turn.settings is not None]
            if answers and answers[-1].settings is not None:
                self._dials = self.dials_of(answers[-1])
                made = answers[-1].settings.preset
                if made is not None and made != self.loaded.name:
                    await self.screen.say(self._of_other(made, chosen=chosen), once=True)
        await self.show_dials()

    def _of_other(self, made: str, *, chosen: bool) -> str:
        """What to say of a conversation that other models have answered so far."""
        now = one_line(self.ready.name, 60)
        made_by = one_line(made, 60)
        if chosen:
            return f"From here {now} answers; so far {made_by} did."
        said = f"{made_by} answered this conversation, and {now} is loaded."
        if made in load_presets():
            return f"{said} /preset {made_by} loads it; without that, {now} answers from here."
        return f"{said} There is no preset {made_by} any more; {now} answers from here."

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
