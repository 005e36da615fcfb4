"""An answer while it is written. It goes on whether its conversation is shown or another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eftlocal.errors import EftlocalError
from eftlocal.generation import Step
from eftlocal.prompt.messages import Message
from eftlocal.terminal_text import one_line
from eftlocal.thinking import Marks
from eftlocal_tui.dials import Dials, kept
from eftlocal_tui.engine import Live, Reading, tasks
from eftlocal_tui.engine.thread import StoppedError
from eftlocal_tui.engine.turning import Refused, Turned
from eftlocal_tui.history import Mark, Settings, Thinks, Turn
from eftlocal_tui.screens.waiting import Waiting
from eftlocal_tui.text import speed_line
from eftlocal_tui.widgets.turn_view import AnswerView

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

_NOTHING = "the answer had ended; the model added nothing"
_TITLE = 30  # cells of a conversation's title in the line of status


class RunningAnswer:
    """An answer of the engine into the history, and onto the screen where that shows it.

    Args:
        before: the answer that it goes on from.

    Attributes:
        question: that is answered.
        view: where it is shown; None while another conversation, or branch, is.
        dials: that it follows; None follows those on the screen.

    Raises:
        EftlocalError: it cannot begin.
    """

    def __init__(self, screen: ChatScreen, question: Turn, before: Turn | None) -> None:
        services, models = screen.services, screen.models
        self.screen = screen
        self.question = question
        self.history = services.history
        self.view: AnswerView | None = None
        self.dials: Dials | None = None
        messages = self.history.turns.messages(question.id)
        told = messages[0]["content"] if messages[0]["role"] == "system" else ""
        settings = kept(models.ready.name, screen.dials.now).model_copy(update={"system": told})
        prefix, thought = "", None
        if before is not None:
            prefix = before.text
            messages.append(Message(role="assistant", content=prefix))
            thinks = before.settings and before.settings.thinking
            settings = settings.model_copy(update={"thinking": thinks})
            thought = before.figures.thinking if before.figures else None
        self._writer = self.history.answer(question.id, settings, prefix=prefix)
        self._turn = self.history.turns.get(self._writer.id)
        self._title = self.history.conversations.get(question.conversation).title
        self._prefix = prefix
        self._came = 0  # tokens
        self._reading: Waiting | None = Waiting(screen, self._show_reading)  # until the first
        services.kept.answering(question.conversation)
        self._task = services.tasks.answer(
            messages,
            lambda: self.dials or screen.dials.now,
            self._writer,
            continue_last=bool(prefix),
            thought=thought,
        )

    @property
    def turn(self) -> Turn:
        """The answer so far, as far as it was shown or would have been."""
        return self._turn

    @property
    def is_shown(self) -> bool:
        """Whether its conversation is the one on the screen."""
        shown = self.screen.turns.conversation
        return shown is not None and shown.id == self._turn.conversation

    @property
    def _where(self) -> str:
        return "" if self.is_shown else f" in “{one_line(self._title, _TITLE)}”"

    def stop(self) -> None:
        self._task.stop()
        self._read()
        self.screen.status("Stopping …")

    async def follow(self) -> bool:
        """Shows it as it comes, to its end; whether that was a good one."""
        screen, task = self.screen, self._task
        async with self.screen.turns.layout:
            if self.view is None and self.is_shown:
                view = await screen.transcript.add(self._turn)
                assert isinstance(view, AnswerView)
                self.view = view
                screen.transcript.follow()
                screen.side.begin()
        self.show_status()
        failed = ""
        try:
            async for batch in task.batches():
                if screen.alive:
                    async with self.screen.turns.layout:
                        await self._show(batch)
            ended = await task.result()
            if not self._prefix:
                screen.models.tokens[self._turn.id] = ended.tokens
            if screen.alive:
                self._show_live(ended.live)
        except EftlocalError as error:
            failed = "" if isinstance(error, StoppedError) else str(error)
        if not screen.alive:
            return False
        screen.services.kept.answered()
        try:
            return await self._settle()
        finally:
            if failed and (self.view is None or self._turn.state != "error"):
                await screen.say(failed, error=True)  # else it stands below the answer

    async def _settle(self) -> bool:
        """Shows it as it was kept."""
        screen = self.screen
        self._read()
        screen.status("")
        try:
            # It was stopped before its turn came, or could not be closed.
            if self._task.ended and not self._writer.closed:
                await screen.turns.when_free(self._writer.stop)
            self._turn = self.history.turns.get(self._turn.id)
        except EftlocalError:
            lost = {"state": "error", "error": "the end of the answer was not saved"}
            self._turn = self._turn.model_copy(update=lost)
            raise
        finally:
            async with self.screen.turns.layout:
                if self.view is not None:
                    done = self._turn.state == "done"
                    nothing = done and self._prefix and self._prefix == self._turn.text
                    await self.view.finish(self._turn, _NOTHING if nothing else "")
        screen.turns.refresh()
        return self._turn.state == "done" and self._turn.finish_reason != "context"

    async def _show(self, batch: list[tasks.AnswerEvent]) -> None:
        text = ""
        for event in batch:
            if isinstance(event, Step):
                self._read()
                self._came += 1
                text += event.text
            elif isinstance(event, Reading):
                if self._reading is not None:
                    self._reading.told(event)
            elif isinstance(event, Turned):
                await self._append(text)
                text = ""
                await self._mark(event)
            elif isinstance(event, tasks.Thinking):
                self._thinks(event.marks)
            elif isinstance(event, Refused):
                self.screen.trouble(event.why)
            else:
                self._show_live(event)
        await self._append(text)

    def _read(self) -> None:
        """The prompt is read, or nobody waits for it any more."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _show_reading(self, line: str) -> None:
        self.screen.status(f"{line}{self._where} · {{chat.stop}} stops")

    async def _append(self, text: str) -> None:
        self._turn = self._turn.model_copy(update={"text": self._turn.text + text})
        if self.view is not None:
            await self.view.append(text)

    def _thinks(self, marks: Marks) -> None:
        settings = (self._turn.settings or Settings()).model_copy(
            update={"thinking": Thinks(**vars(marks))}
        )
        self._turn = self._turn.model_copy(update={"settings": settings})
        if self.view is not None:
            self.view.turn = self._turn

    async def _mark(self, turned: Turned) -> None:
        mark = Mark(token=self._came, char=len(self._turn.text), what=turned.what)
        *before, last = (*self._turn.marks, mark)
        if turned.again:
            last = before.pop().model_copy(update={"what": turned.what})
        self._turn = self._turn.model_copy(update={"marks": (*before, last)})
        if self.view is not None:
            await self.view.mark(turned.what, again=turned.again)

    def _show_live(self, live: Live) -> None:
        if self.view is not None:
            self.view.tell(live.figures)
        if self.is_shown:
            self.screen.side.show_live(live)
        self.show_status(live)

    def show_status(self, live: Live | None = None) -> None:
        """That it is written, and how fast, in the line above the message box."""
        if self._task.stopping or self._task.ended:
            return
        what = [f"Generating{self._where}"]
        if live is not None:
            what.append(speed_line(live.figures))
        self.screen.status(" · ".join([*what, "{chat.stop} stops"]))
