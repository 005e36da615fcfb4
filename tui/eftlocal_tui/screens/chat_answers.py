"""The conversation that the chat is in: its turns asked, answered, made anew, walked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.generation import Step
from eftlocal.prompt.messages import Message, validate_prompt
from eftlocal_tui import commands
from eftlocal_tui.dials import kept
from eftlocal_tui.engine import Live, Reading, tasks
from eftlocal_tui.engine.tasks import StoppedError, Task
from eftlocal_tui.history import AnswerWriter, Conversation, LockedError, Turn
from eftlocal_tui.history.database import BUSY_SECONDS
from eftlocal_tui.screens.waiting import Waiting
from eftlocal_tui.text import speed_line
from eftlocal_tui.widgets.transcript import AnswerView, TurnView

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

MOST_TURNS = 1_000  # of a conversation, read back when it is opened
_AGAIN = 0.05  # seconds between tries at a history that is locked
NO_CONVERSATION = "there is no conversation yet"
_NO_ANSWER = "there is no answer to continue"
_BUSY = "an answer is being generated; {chat.stop} stops it and keeps the text so far"
_LOADING = "a message waits for the models; {chat.stop} stops loading them"
_SENDING = "a message is being sent; {chat.stop} takes it back"
_LOCKED = "The history is locked by another program; waiting · {chat.stop} gives up"

Doing = Callable[..., Coroutine[Any, Any, None]]
T = TypeVar("T")


def _alone(method: Doing) -> Doing:
    """What changes which turns are shown waits for others that do: keys are obeyed by the program,
    messages by the screen, and either may come while the other still lays out."""

    @wraps(method)
    async def run(self: ChatAnswers, *args: Any, **kwargs: Any) -> None:
        if self.sending:  # no key waits for what may take its time
            raise UsageError(_SENDING)
        async with self._changing:
            self.check_free()
            await method(self, *args, **kwargs)

    return run


class ChatAnswers:
    """One conversation at a time; nothing in it is lost: what is made anew stands beside what was.

    What cannot be done raises EftlocalError.

    Attributes:
        conversation: None until the first message of a new one.
        editing: the question that is in the message box, to be sent as a branch.
        sending: a question is being kept, which may take its time.
    """

    def __init__(self, screen: ChatScreen, conversation: Conversation | None) -> None:
        self.screen = screen
        self.history = screen.services.history
        self.conversation = conversation
        self.editing: Turn | None = None
        self.sending = False
        self._new_system = screen.services.settings.system
        self._task: Task[tasks.AnswerEvent, tasks.Ended] | None = None
        self._reading: Waiting | None = None  # until the first token
        self._waiting = False  # for models, to answer a question that is kept
        self._given_up = False  # nobody waits any more for a locked history
        self._changing = asyncio.Lock()

    @property
    def system(self) -> str:
        """The system prompt of the next answer."""
        return self.conversation.system if self.conversation else self._new_system

    @property
    def busy(self) -> bool:
        return self._task is not None or self._waiting or self.sending

    def check_free(self) -> None:
        """Raises UsageError where something is on its way that must end first."""
        if self.busy:
            raise UsageError(_SENDING if self.sending else _LOADING if self._waiting else _BUSY)

    def path(self) -> list[Turn]:
        """What is shown, as it is kept; another process may have gone on from there."""
        leaf = self.screen.transcript.leaf
        if self.conversation is None or leaf is None:
            return []
        return self.history.turns.path(self.conversation.id, MOST_TURNS, leaf)

    def last(self, role: str, absent: str) -> Turn:
        """The last turn of a role; where there is none, UsageError says what is absent."""
        for turn in reversed(self.path()):
            if turn.role == role:
                return turn
        raise UsageError(absent)

    def to_compare(self, typed: str) -> list[Message]:
        """The messages that the models are compared on: with what is typed, or the last question.

        Raises:
            UsageError: there is neither.
            PromptError: what is typed cannot be a message.
        """
        path = self.path()
        if not typed.strip() or self.editing is not None:
            question = self.last("user", "type a message to compare, or ask something first")
            return self.history.turns.messages(question.id)
        messages = [Message(role="system", content=self.system)] if self.system else []
        if path:
            messages = self.history.turns.messages(path[-1].id)
        text = commands.message(typed)
        if messages and messages[-1]["role"] == "user":  # one that has no answer yet
            text = f"{messages.pop()['content']}\n\n{text}"
        return [*messages, Message(role="user", content=validate_prompt(text))]

    def set_system(self, text: str) -> None:
        """The system prompt from the next answer on."""
        if self.conversation is None:
            self._new_system = text
        else:
            found = self.history.conversations.set_system(self.conversation.id, text)
            self.conversation = found

    def rename(self, title: str) -> None:
        if self.conversation is None:
            raise UsageError(NO_CONVERSATION)
        self.conversation = self.history.conversations.rename(self.conversation.id, title)
        self.screen.show_head()

    def refresh(self) -> None:
        """Reads the conversation again, which may have another name now."""
        if self.conversation is not None:
            self.conversation = self.history.conversations.get(self.conversation.id)
            self.screen.show_head()

    # Conversations -----------------------------------------------------------------------------

    @_alone
    async def open(self, conversation_id: int) -> None:
        """Shows a conversation and goes on with it."""
        self.conversation = self.history.conversations.get(conversation_id)
        self._edit(None)
        path = self.history.turns.path(conversation_id, last=MOST_TURNS)
        await self.screen.transcript.show(path)
        await self.screen.models.restore()
        self.screen.prompt.focus()

    @_alone
    async def new(self) -> None:
        """An empty conversation; the one before stays in the history."""
        self.conversation = None
        self._new_system = self.screen.services.settings.system
        self._edit(None)
        await self.screen.transcript.show([])
        self.screen.show_head()
        self.screen.prompt.focus()

    # Questions ---------------------------------------------------------------------------------

    async def ask(self, text: str) -> None:
        """Keeps a question, shows it, and has it answered. Busy from here on."""
        screen = self.screen
        try:
            self.check_free()
        except UsageError:
            screen.prompt.give_back(text)
            raise
        self.sending = True
        try:
            async with self._changing:
                try:
                    question = await self._when_free(lambda: self._keep(text))
                except EftlocalError as error:
                    screen.prompt.give_back(text)
                    await screen.say(str(error), error=True)
                    return
                await self._show(question)
            self._waiting = True
        finally:
            self.sending = False
        try:
            await self._answer_when_loaded(question)
        finally:
            self._waiting = False

    async def _answer_when_loaded(self, question: Turn) -> None:
        screen = self.screen
        if screen.models.loading:
            screen.status("Saved; answered as soon as the models are loaded")
        elif screen.models.loaded is None:
            said = "no models are loaded; /preset NAME loads some, {chat.regenerate} then answers"
            await screen.say(said, error=True)
        if await screen.models.settled() is not None:
            await self._when_free(lambda: self._reply(question))

    async def _when_free(self, work: Callable[[], T]) -> T:
        """Writes to the history; where another program does, again and again until that lets it.
        Keys are answered meanwhile: nothing that holds one up may wait for this.

        Raises:
            LockedError: it did not for long, or the person gave up.
        """
        before, until = self.screen.said, time.monotonic() + BUSY_SECONDS
        self._given_up = False
        try:
            while True:
                try:
                    return work()
                except LockedError:
                    if self._given_up or time.monotonic() >= until:
                        raise
                self.screen.status(_LOCKED)
                await asyncio.sleep(_AGAIN)
        finally:
            if self.screen.said == _LOCKED:
                self.screen.status(before)

    def _keep(self, text: str) -> Turn:
        if self.editing is not None:
            return self.history.turns.edit(self.editing.id, text)
        if self.conversation is None:
            self.conversation = self.history.conversations.create(system=self.system)
        return self.history.turns.ask(self.conversation.id, text, self.screen.transcript.leaf)

    async def _show(self, question: Turn) -> None:
        transcript = self.screen.transcript
        if self.editing is not None:
            self._edit(None)
            await transcript.show(self.history.turns.path(question.conversation, MOST_TURNS))
        else:
            await transcript.add(question)
        self.refresh()
        transcript.follow()

    def edit(self, turn: Turn) -> None:
        """Puts a question into the message box; sending makes a branch."""
        self.check_free()
        if turn.role != "user":
            raise UsageError("an answer cannot be edited; {chat.regenerate} regenerates it")
        self._edit(turn)
        self.screen.prompt.replace_all(turn.text)
        self.screen.prompt.focus()

    def _edit(self, turn: Turn | None) -> None:
        self.editing = turn
        self.screen.prompt.set_class(turn is not None, "-editing")

    # Answers -----------------------------------------------------------------------------------

    def _reply(self, question: Turn, *, prefix: str = "") -> None:
        """Has a question answered; the answer is shown as it comes. Busy from here on."""
        screen, services, models = self.screen, self.screen.services, self.screen.models
        if self._task is not None:
            return
        messages = self.history.turns.messages(question.id)
        if prefix:
            messages.append(Message(role="assistant", content=prefix))
        writer = self.history.answer(
            question.id, kept(models.ready.name, models.dials), prefix=prefix
        )
        began = self.history.turns.get(writer.id)
        self._task = tasks.answer(
            services.thread,
            services.engine,
            messages,
            lambda: models.dials,
            writer,
            continue_last=bool(prefix),
        )
        screen.status("Generating · {chat.stop} stops")
        screen.side.begin()
        self._reading = Waiting(screen, lambda line: screen.status(f"{line} · {{chat.stop}} stops"))
        screen.start(self._follow(self._task, began, writer))

    async def _follow(
        self, task: Task[tasks.AnswerEvent, tasks.Ended], began: Turn, writer: AnswerWriter
    ) -> None:
        """Shows an answer as it comes."""
        screen = self.screen
        view = await screen.transcript.add(began)
        assert isinstance(view, AnswerView)
        screen.transcript.follow()
        try:
            async for batch in task.batches():
                if screen.alive:
                    await self._show_batch(view, batch)
            ended = await task.result()
            if not began.text:
                screen.models.tokens[began.id] = ended.tokens
            if screen.alive:
                self._show_live(ended.live)
        except EftlocalError as error:
            if screen.alive and not isinstance(error, StoppedError):
                await screen.say(str(error), error=True)
        finally:
            try:
                if screen.alive:
                    await screen.doing(self._settle(view, began, writer, task.ended))
            finally:
                self._task = None

    async def _settle(
        self, view: AnswerView, began: Turn, writer: AnswerWriter, ended: bool
    ) -> None:
        """Shows an answer as it was kept."""
        self._read()
        self.screen.status("")
        try:
            # It was stopped before its turn came, or could not be closed.
            if ended and not writer.closed:
                await self._when_free(writer.stop)
            turn = self.history.turns.get(began.id)
        except EftlocalError:
            lost = {"state": "error", "error": "the end of the answer was not saved"}
            await view.finish(began.model_copy(update=lost))
            raise
        await view.finish(turn)
        self.refresh()

    async def _show_batch(self, view: AnswerView, batch: list[tasks.AnswerEvent]) -> None:
        text = ""
        for event in batch:
            if isinstance(event, Step):
                self._read()
                text += event.text
            elif isinstance(event, Reading):
                if self._reading is not None:
                    self._reading.told(event)
            elif isinstance(event, tasks.Turned):
                await view.append(text)
                text = ""
                await view.mark(event.what)
            elif isinstance(event, tasks.Refused):
                self.screen.trouble(event.why)
            else:
                self._show_live(event)
        await view.append(text)

    def _read(self) -> None:
        """The prompt is read, or nobody waits for it any more."""
        if self._reading is not None:
            self._reading.end()
            self._reading = None

    def _show_live(self, live: Live) -> None:
        self.screen.side.show_live(live)
        if self._task is not None and not self._task.stopping:
            figures = live.figures
            self.screen.status(f"Generating · {speed_line(figures)} · {{chat.stop}} stops")

    def stop(self) -> bool:
        """Ends what is on its way, or an edit; whether there was any."""
        if self._task is not None:
            self._task.stop()
            self._read()
            self.screen.status("Stopping …")
        elif self.sending:
            self._given_up = True
        elif self.editing is not None:
            self._edit(None)
            self.screen.prompt.replace_all("")
        else:
            return False
        return True

    # Branches ----------------------------------------------------------------------------------

    @_alone
    async def regenerate(self, turn: Turn) -> None:
        """Another answer, beside the one that is there."""
        await self._answer_again(turn.id if turn.role == "user" else turn.parent)

    @_alone
    async def go_on(self) -> None:
        """The last answer, continued, beside the one that is there."""
        answer = self.last("assistant", _NO_ANSWER)
        if not answer.text:
            raise UsageError(_NO_ANSWER)
        await self._answer_again(answer.parent, prefix=answer.text)

    async def _answer_again(self, question_id: int | None, *, prefix: str = "") -> None:
        """Shows the turns down to a question, and has that answered."""
        _ = self.screen.models.ready  # nothing is taken away where nothing can answer
        transcript, shown = self.screen.transcript, self.path()
        upto = next((i for i, turn in enumerate(shown) if turn.id == question_id), None)
        if upto is None:
            raise UsageError("that message is gone; its conversation was deleted")
        await transcript.show(shown[: upto + 1])
        try:
            self._reply(shown[upto], prefix=prefix)
        except EftlocalError:
            await transcript.show(shown)
            raise

    @_alone
    async def sibling(self, turn: Turn, by: int) -> None:
        """Walks to a branch beside this one."""
        screen = self.screen
        siblings = self.history.turns.siblings(turn.id)
        at = turn.branch - 1 + by
        if 0 <= at < len(siblings):
            focused = isinstance(screen.focused, TurnView)
            await screen.transcript.show(self.history.turns.switch(siblings[at].id))
            view = screen.transcript.view_of(siblings[at].id)
            if focused and view is not None:
                view.focus()
