"""The chat screen's conversation: a question is kept, answered, and shown as it comes."""

from __future__ import annotations

from dataclasses import replace

from eftlocal.errors import EftlocalError
from eftlocal.prompt.messages import Message, validate_prompt
from eftlocal_tui import commands
from eftlocal_tui.engine import tasks
from eftlocal_tui.engine.protocol import Live, Piece
from eftlocal_tui.engine.worker import StoppedError
from eftlocal_tui.history import AnswerWriter, Turn
from eftlocal_tui.kept_dials import kept
from eftlocal_tui.screens.chat_models import ChatModels
from eftlocal_tui.screens.chat_state import MOST_TURNS, Running, alone
from eftlocal_tui.told import told
from eftlocal_tui.widgets.prompt import PromptArea
from eftlocal_tui.widgets.side_panel import SidePanel
from eftlocal_tui.widgets.turns import AnswerView


class ChatAnswers(ChatModels):
    """Asks and answers."""

    async def obey(self, command: commands.Command, rest: str) -> None:
        """Does what a slash command says."""
        raise NotImplementedError

    @alone
    async def open_conversation(self, conversation_id: int) -> None:
        """Shows a conversation and goes on with it."""
        history = self.services.history
        self.conversation = history.conversations.get(conversation_id)
        self.system = self.conversation.system
        self._stop_editing()
        await self.transcript.show(history.turns.path(conversation_id, last=MOST_TURNS))
        if self.loaded is not None:
            self._restore_dials()
            if self.dials is not None:
                await self.query_one(SidePanel).show_dials(self.dials, self.loaded.roles)
        self.show_head()
        self.prompt.focus()

    @alone
    async def action_new(self) -> None:
        if self.refused():
            return
        self.conversation = None
        self.system = self.services.settings.system
        self._stop_editing()
        await self.transcript.show([])
        self.show_head()
        self.prompt.focus()

    async def on_prompt_area_sent(self, event: PromptArea.Sent) -> None:
        try:
            command = commands.parse(event.text)
            if command is not None:
                await self.obey(*command)
                return
            if not event.text.strip():
                return
            text = validate_prompt(commands.message(event.text))
        except EftlocalError as error:
            self.prompt.give_back(event.text)
            self.trouble(error)
            return
        await self.ask(text)

    @alone
    async def ask(self, text: str) -> None:
        """Keeps a question, shows it, and has it answered."""
        if self.refused():
            self.prompt.give_back(text)
            return
        try:
            await self._keep(text)
        except EftlocalError as error:
            self.prompt.give_back(text)
            await self.transcript.say(str(error), error=True)
            return
        self.show_head()
        self.transcript.follow()
        if self.loaded is None and self._load_task is None:
            await self.transcript.say("No models are loaded: /preset NAME loads some.", error=True)
        elif self.loaded is None:
            self._kept_question = True
            self.status("Kept; it is answered when the models are loaded")
        else:
            await self._answer_last()

    async def _keep(self, text: str) -> None:
        history = self.services.history
        if self._editing is not None:
            question = history.turns.edit(self._editing.id, text)
            self._stop_editing()
            await self.transcript.show(history.turns.path(question.conversation, MOST_TURNS))
        else:
            if self.conversation is None:
                self.conversation = history.conversations.create(system=self.system)
            question = history.turns.ask(self.conversation.id, text, self.transcript.leaf)
            await self.transcript.add(question)
        self.conversation = history.conversations.get(question.conversation)

    async def on_chat_models_ready(self) -> None:
        if self._kept_question:
            self._kept_question = False
            await self._answer_last()

    @told
    async def _answer_last(self) -> None:
        question = self.last("user")
        if question is not None:
            self.reply(question)

    def reply(self, question: Turn, *, prefix: str = "") -> None:
        """Has a question answered; the answer is shown as it comes. Busy from here on.

        Raises:
            HistoryError: the answer could not be begun.
        """
        if self.dials is None or self.loaded is None or self._answering is not None:
            return
        services = self.services
        holder = tasks.DialHolder(self.dials)
        messages = services.history.turns.messages(question.id)
        if prefix:
            messages.append(Message(role="assistant", content=prefix))
        writer = services.history.answer(
            question.id, kept(self.loaded.name, self.dials), prefix=prefix
        )
        began = services.history.turns.get(writer.id)
        task = tasks.answer(
            services.thread, services.engine, messages, holder, writer, continue_last=bool(prefix)
        )
        self._answering = Running(task, holder)
        self.status("Answering · Esc stops")
        self.query_one(SidePanel).begin()
        self.start(self._follow(self._answering, began, writer))

    async def _follow(self, running: Running, began: Turn, writer: AnswerWriter) -> None:
        """Shows an answer as it comes."""
        view = await self.transcript.add(began)
        assert isinstance(view, AnswerView)
        self.transcript.follow()
        try:
            async for batch in running.task.batches():
                if self.alive:
                    await self._show_batch(view, batch)
            ended = await running.task.result()
            if not began.text:
                self._tokens[began.id] = ended.tokens
            if self.alive:
                self._show_live(ended.live)
        except EftlocalError as error:
            if self.alive and not isinstance(error, StoppedError):
                await self.transcript.say(str(error), error=True)
        finally:
            try:
                if self.alive:
                    await self._settle(view, began, writer, running.task.ended)
            finally:
                self._answering = None

    @told
    async def _settle(
        self, view: AnswerView, began: Turn, writer: AnswerWriter, ended: bool
    ) -> None:
        """Shows an answer as it was kept."""
        history = self.services.history
        self.status("")
        try:
            if (
                ended and not writer.closed
            ):  # it was stopped before its turn came, or could not be closed
                writer.stop()
            kept = history.turns.get(began.id)
        except EftlocalError:
            await view.finish(replace(began, state="error", error="the end was not saved"))
            raise
        await view.finish(kept)
        self.conversation = history.conversations.get(kept.conversation)
        self.show_head()

    async def _show_batch(self, view: AnswerView, batch: list[tasks.AnswerEvent]) -> None:
        text = ""
        for event in batch:
            if isinstance(event, Piece):
                text += event.text
                continue
            if isinstance(event, tasks.Turned):
                await view.append(text)
                text = ""
                await view.mark(event.what)
            elif isinstance(event, tasks.Refused):
                self.trouble(event.why)
            else:
                self._show_live(event)
        await view.append(text)

    def _show_live(self, live: Live) -> None:
        self.last_live = live
        self.query_one(SidePanel).show_live(live)
        if self._answering is not None and not self._answering.task.stopping:
            figures = live.figures
            self.status(
                f"Answering · {figures.tokens} tokens · "
                f"{figures.tokens_per_second:.1f} tok/s · Esc stops"
            )

    def action_stop(self) -> None:
        if self._answering is not None:
            self._answering.task.stop()
            self.status("Stopping …")
        elif self._editing is not None:
            self._stop_editing()
            self.prompt.replace_all("")
        elif self._load_task is not None:
            self._load_task.stop()
            self.status("Stopping …")
        self.prompt.focus()

    def on_prompt_area_interrupted(self) -> None:
        if self.busy:
            self.action_stop()
        else:
            self.notify("Ctrl+Q leaves; Ctrl+C copies what is selected", markup=False)

    def on_text_area_changed(self) -> None:
        self._show_status()

    def _stop_editing(self) -> None:
        self._editing = None
        self.prompt.remove_class("-editing")
