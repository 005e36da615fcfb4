"""The chat screen's models: loading them, and turning their dials."""

from __future__ import annotations

from textual.message import Message

from eftlocal.errors import EftlocalError, UsageError
from eftlocal_tui.engine import tasks
from eftlocal_tui.engine.protocol import Loaded
from eftlocal_tui.engine.worker import StoppedError
from eftlocal_tui.kept_dials import restored
from eftlocal_tui.leaving import until_left
from eftlocal_tui.screens.chat_state import ChatState
from eftlocal_tui.told import told
from eftlocal_tui.widgets.loading_bars import LoadingBars
from eftlocal_tui.widgets.side_panel import SidePanel


class ChatModels(ChatState):
    """Loads models, and turns the dials that the next token follows."""

    class Ready(Message):
        """The models are there: a question that was kept can be answered."""

    def load_models(self, preset: str | None) -> None:
        """Loads models in the place of those that are loaded, or on their way."""
        work = until_left(self, self._load(preset))
        self.run_worker(work, exclusive=True, group="load")

    async def _load(self, preset: str | None) -> None:
        services = self.services
        if self._load_task is not None:
            self._load_task.stop()
        self.loaded = None
        self._load_task = task = tasks.load(services.thread, services.engine, preset)
        self.status("Loading the models; you can write already")
        bars = self.query_one(LoadingBars)
        async for batch in task.batches():
            if not self.alive:
                return
            latest = {(progress.stage, progress.name): progress for progress in batch}
            for progress in latest.values():
                await bars.show(progress)
        if not self.alive:
            return
        await bars.clear()
        try:
            loaded = await task.result()
        except EftlocalError as error:
            self._load_task, self._kept_question = None, False
            self.status("No models are loaded")
            if isinstance(error, StoppedError):
                await self.transcript.say("Loading was stopped. /preset NAME loads models.")
            else:
                await self.transcript.say(str(error), error=True)
                await self.transcript.say("/preset shows what can be loaded in its place.")
        else:
            self._load_task, self.loaded, self.dials = None, loaded, loaded.dials
            self._tokens.clear()  # their ids mean nothing to other models
            await self._show_models(loaded)
            self.post_message(self.Ready())

    @told
    async def _show_models(self, loaded: Loaded) -> None:
        if self.conversation is not None:
            self._restore_dials()
        await self.query_one(SidePanel).show_dials(self.dials or loaded.dials, loaded.roles)
        self.show_head()
        self.status("")
        for note in loaded.notes:
            await self.transcript.say(f"Note: {note}")

    def _restore_dials(self) -> None:
        """Go on with the dials of the last answer, where it is of the same preset."""
        if self.loaded is None or self.conversation is None:
            return
        path = self.services.history.turns.path(self.conversation.id, last=2)
        of_answers = [turn.settings for turn in path if turn.settings is not None]
        if of_answers and of_answers[-1].preset == self.loaded.name:
            try:
                self.dials = restored(of_answers[-1], self.loaded.dials)
            except UsageError as error:
                self.trouble(error)

    async def turn_dial(self, name: str, text: str) -> bool:
        """Turns a dial; an answer that is being written follows from its next token."""
        if self.loaded is None or self.dials is None:
            self.trouble("the models are not loaded yet, so there is nothing to turn")
            return False
        try:
            dials = self.dials.turned(name, text, self.loaded.roles)
        except UsageError as error:
            self.trouble(error)
            dials = None
        if dials is not None:
            self.dials = dials
            if self._answering is not None:
                self._answering.holder.dials = dials
        await self.query_one(SidePanel).show_dials(self.dials, self.loaded.roles)
        self.show_head()
        return dials is not None

    async def on_side_panel_turned(self, event: SidePanel.Turned) -> None:
        await self.turn_dial(event.dial, event.text)
