"""The chat screen's answers: one is begun, shown as it comes, stopped, and shown as kept."""

from __future__ import annotations

from dataclasses import replace

from eftlocal.errors import EftlocalError
from eftlocal.prompt.messages import Message
from eftlocal_tui.engine import tasks
from eftlocal_tui.engine.protocol import Live, Piece
from eftlocal_tui.engine.worker import StoppedError
from eftlocal_tui.history import AnswerWriter, Turn
from eftlocal_tui.kept_dials import kept
from eftlocal_tui.screens.chat_models import ChatModels
from eftlocal_tui.screens.chat_state import Running
from eftlocal_tui.told import told
from eftlocal_tui.widgets.side_panel import SidePanel
from eftlocal_tui.widgets.turns import AnswerView


class ChatAnswers(ChatModels):
    """Answers, into the history and onto the screen."""

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
            # It was stopped before its turn came, or could not be closed.
            if ended and not writer.closed:
                await self.when_free(writer.stop)
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
        elif self._sending:
            self._given_up = True
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
