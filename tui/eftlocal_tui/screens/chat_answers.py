"""The conversation that the chat is in: its turns asked, answered, made anew, walked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from eftlocal.errors import EftlocalError
from eftlocal.prompt.messages import Message, validate_prompt
from eftlocal_tui import commands
from eftlocal_tui.dials import Dials, kept
from eftlocal_tui.engine import Live, Piece, tasks
from eftlocal_tui.engine.tasks import StoppedError, Task
from eftlocal_tui.history import AnswerWriter, Conversation, Turn
from eftlocal_tui.widgets.transcript import AnswerView, TurnView

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

MOST_TURNS = 1_000  # of a conversation, read back when it is opened
_NOT_LOADED = "the models are not loaded, so nothing can be answered"


@dataclass
class Running:
    """The answer that is being written."""

    task: Task[tasks.AnswerEvent, tasks.Ended]
    holder: tasks.DialHolder


Doing = Callable[..., Coroutine[Any, Any, None]]


def _alone(method: Doing) -> Doing:
    """What changes which turns are shown waits for others that do: keys are obeyed by the program,
    messages by the screen, and either may come while the other still lays out."""

    @wraps(method)
    async def run(self: ChatAnswers, *args: Any, **kwargs: Any) -> None:
        if self.sending and self.screen.refused():  # no key waits for what may take its time
            return
        async with self._changing:
            await method(self, *args, **kwargs)

    return run


class ChatAnswers:
    """One conversation at a time; nothing in it is lost: what is made anew stands beside what was.

    Attributes:
        conversation: None until the first message of a new one.
        system: the system prompt of the next answer.
        editing: the question that is in the message box, to be sent as a branch.
        sending: a question is being kept, which may take its time.
        tokens: ids of the answers of this session, by turn; text alone may be read otherwise.
        last_live: figures of the last answer.
    """

    def __init__(self, screen: ChatScreen, conversation: Conversation | None) -> None:
        self.screen = screen
        self.conversation = conversation
        self.system = screen.services.settings.system
        self.editing: Turn | None = None
        self.sending = False
        self.tokens: dict[int, tuple[int, ...]] = {}
        self.last_live: Live | None = None
        self._running: Running | None = None
        self._waits_for_models = False  # a question is kept, and there is nobody to answer it
        self._changing = asyncio.Lock()

    @property
    def busy(self) -> bool:
        return self._running is not None or self._waits_for_models or self.sending

    def path(self) -> list[Turn]:
        """What is shown, as it is kept; another process may have gone on from there."""
        leaf = self.screen.transcript.leaf
        if self.conversation is None or leaf is None:
            return []
        return self.screen.services.history.turns.path(self.conversation.id, MOST_TURNS, leaf)

    def last(self, role: str) -> Turn | None:
        return next((turn for turn in reversed(self.path()) if turn.role == role), None)

    def to_compare(self, typed: str) -> list[Message] | None:
        """The messages that the models are compared on: with what is typed, or the last question.

        Raises:
            PromptError: what is typed cannot be a message.
        """
        turns = self.screen.services.history.turns
        question = self.last("user")
        if not typed.strip() or self.editing is not None:
            return turns.messages(question.id) if question is not None else None
        before = self.last("assistant") or question
        messages = [Message(role="system", content=self.system)] if self.system else []
        if before is not None:
            messages = turns.messages(before.id)
        text = commands.message(typed)
        if messages and messages[-1]["role"] == "user":  # one that has no answer yet
            text = f"{messages.pop()['content']}\n\n{text}"
        return [*messages, Message(role="user", content=validate_prompt(text))]

    def set_system(self, text: str) -> None:
        """The system prompt from the next answer on.

        Raises:
            HistoryError: it could not be kept.
        """
        if self.conversation is not None:
            conversations = self.screen.services.history.conversations
            self.conversation = conversations.set_system(self.conversation.id, text)
        self.system = text

    def rename(self, title: str) -> None:
        """Another title. Raises HistoryError when it could not be kept."""
        assert self.conversation is not None
        conversations = self.screen.services.history.conversations
        self.conversation = conversations.rename(self.conversation.id, title)
        self.screen.show_head()

    def refresh(self) -> None:
        """Reads the conversation again. Raises HistoryError when it is gone."""
        if self.conversation is not None:
            conversations = self.screen.services.history.conversations
            self.conversation = conversations.get(self.conversation.id)

    # Conversations -----------------------------------------------------------------------------

    @_alone
    async def open(self, conversation_id: int) -> None:
        """Shows a conversation and goes on with it."""
        screen, history = self.screen, self.screen.services.history
        self.conversation = history.conversations.get(conversation_id)
        self.system = self.conversation.system
        self._stop_editing()
        await screen.transcript.show(history.turns.path(conversation_id, last=MOST_TURNS))
        screen.models.restore()
        await screen.models.show_dials()
        screen.prompt.focus()

    @_alone
    async def new(self) -> None:
        """An empty conversation; the one before stays in the history."""
        screen = self.screen
        if screen.refused():
            return
        self.conversation = None
        self.system = screen.services.settings.system
        self._stop_editing()
        await screen.transcript.show([])
        screen.show_head()
        screen.prompt.focus()

    # Questions ---------------------------------------------------------------------------------

    async def ask(self, text: str) -> None:
        """Keeps a question, shows it, and has it answered. Busy from here on."""
        if self.screen.refused():
            self.screen.prompt.give_back(text)
            return
        self.sending = True
        try:
            async with self._changing:
                await self._ask(text)
        finally:
            self.sending = False

    async def _ask(self, text: str) -> None:
        screen = self.screen
        try:
            question = await screen.when_free(lambda: self._kept(text))
        except EftlocalError as error:
            screen.prompt.give_back(text)
            await screen.transcript.say(str(error), error=True)
            return
        await self._show(question)
        screen.transcript.follow()
        if screen.models.loaded is not None:
            await self._answer_last()
        elif screen.models.loading:
            self._waits_for_models = True
            screen.status("Kept; it is answered when the models are loaded")
        else:
            said = "No models are loaded: /preset NAME loads some."
            await screen.transcript.say(said, error=True)

    def _kept(self, text: str) -> Turn:
        history = self.screen.services.history
        if self.editing is not None:
            return history.turns.edit(self.editing.id, text)
        if self.conversation is None:
            self.conversation = history.conversations.create(system=self.system)
        return history.turns.ask(self.conversation.id, text, self.screen.transcript.leaf)

    async def _show(self, question: Turn) -> None:
        history, transcript = self.screen.services.history, self.screen.transcript
        if self.editing is not None:
            self._stop_editing()
            await transcript.show(history.turns.path(question.conversation, MOST_TURNS))
        else:
            await transcript.add(question)
        self.conversation = history.conversations.get(question.conversation)
        self.screen.show_head()

    def edit(self, turn: Turn) -> None:
        """Puts a question into the message box; sending makes a branch."""
        screen = self.screen
        if screen.refused():
            return
        if turn.role != "user":
            screen.trouble("answers are not edited; r (or Ctrl+R) asks for another one")
            return
        self.editing = turn
        screen.prompt.add_class("-editing")
        screen.prompt.replace_all(turn.text)
        screen.prompt.focus()

    def _stop_editing(self) -> None:
        self.editing = None
        self.screen.prompt.remove_class("-editing")

    # Answers -----------------------------------------------------------------------------------

    def models_loaded(self) -> None:
        """The models are there: a question that was kept is answered."""
        self.tokens.clear()  # their ids mean nothing to other models
        if self._waits_for_models:
            self.screen.start(self._answer_kept())

    def nothing_loaded(self) -> None:
        """No models come: a question that was kept stays without an answer."""
        self._waits_for_models = False

    def dials_turned(self, dials: Dials) -> None:
        if self._running is not None:
            self._running.holder.dials = dials

    async def _answer_kept(self) -> None:
        try:
            await self._answer_last()
        finally:
            self._waits_for_models = False

    async def _answer_last(self) -> None:
        question = self.last("user")
        if question is not None:
            await self.screen.when_free(lambda: self._reply(question))

    def _reply(self, question: Turn, *, prefix: str = "") -> None:
        """Has a question answered; the answer is shown as it comes. Busy from here on.

        Raises:
            HistoryError: the answer could not be begun.
        """
        screen, services, models = self.screen, self.screen.services, self.screen.models
        if models.dials is None or models.loaded is None or self._running is not None:
            return
        holder = tasks.DialHolder(models.dials)
        messages = services.history.turns.messages(question.id)
        if prefix:
            messages.append(Message(role="assistant", content=prefix))
        settings = kept(models.loaded.name, models.dials)
        writer = services.history.answer(question.id, settings, prefix=prefix)
        began = services.history.turns.get(writer.id)
        task = tasks.answer(
            services.thread, services.engine, messages, holder, writer, continue_last=bool(prefix)
        )
        self._running = Running(task, holder)
        screen.status("Answering · Esc stops")
        screen.side.begin()
        screen.start(self._follow(self._running, began, writer))

    async def _follow(self, running: Running, began: Turn, writer: AnswerWriter) -> None:
        """Shows an answer as it comes."""
        screen = self.screen
        view = await screen.transcript.add(began)
        assert isinstance(view, AnswerView)
        screen.transcript.follow()
        try:
            async for batch in running.task.batches():
                if screen.alive:
                    await self._show_batch(view, batch)
            ended = await running.task.result()
            if not began.text:
                self.tokens[began.id] = ended.tokens
            if screen.alive:
                self._show_live(ended.live)
        except EftlocalError as error:
            if screen.alive and not isinstance(error, StoppedError):
                await screen.transcript.say(str(error), error=True)
        finally:
            try:
                if screen.alive:
                    await screen.doing(self._settle(view, began, writer, running.task.ended))
            finally:
                self._running = None

    async def _settle(
        self, view: AnswerView, began: Turn, writer: AnswerWriter, ended: bool
    ) -> None:
        """Shows an answer as it was kept."""
        screen, history = self.screen, self.screen.services.history
        screen.status("")
        try:
            # It was stopped before its turn came, or could not be closed.
            if ended and not writer.closed:
                await screen.when_free(writer.stop)
            turn = history.turns.get(began.id)
        except EftlocalError:
            await view.finish(
                began.model_copy(update={"state": "error", "error": "the end was not saved"})
            )
            raise
        await view.finish(turn)
        self.conversation = history.conversations.get(turn.conversation)
        screen.show_head()

    async def _show_batch(self, view: AnswerView, batch: list[tasks.AnswerEvent]) -> None:
        text = ""
        for event in batch:
            if isinstance(event, Piece):
                text += event.text
            elif isinstance(event, tasks.Turned):
                await view.append(text)
                text = ""
                await view.mark(event.what)
            elif isinstance(event, tasks.Refused):
                self.screen.trouble(event.why)
            else:
                self._show_live(event)
        await view.append(text)

    def _show_live(self, live: Live) -> None:
        self.last_live = live
        self.screen.side.show_live(live)
        if self._running is not None and not self._running.task.stopping:
            figures = live.figures
            self.screen.status(
                f"Answering · {figures.tokens} tokens · "
                f"{figures.tokens_per_second:.1f} tok/s · Esc stops"
            )

    def stop(self) -> bool:
        """Ends what is on its way, or an edit; whether there was any."""
        if self._running is not None:
            self._running.task.stop()
            self.screen.status("Stopping …")
        elif self.sending:
            self.screen.give_up()
        elif self.editing is not None:
            self._stop_editing()
            self.screen.prompt.replace_all("")
        else:
            return False
        return True

    # Branches ----------------------------------------------------------------------------------

    @_alone
    async def regenerate(self, turn: Turn) -> None:
        """Another answer, beside the one that is there."""
        if self.screen.refused():
            return
        if self.screen.models.loaded is None:
            self.screen.trouble(_NOT_LOADED)
            return
        await self._answer_again(turn.id if turn.role == "user" else turn.parent)

    @_alone
    async def go_on(self) -> None:
        """The last answer, continued, beside the one that is there."""
        answer = self.last("assistant")
        if self.screen.refused():
            return
        if answer is None or not answer.text or answer.parent is None:
            self.screen.trouble("there is no answer to go on with")
            return
        if self.screen.models.loaded is None:
            self.screen.trouble(_NOT_LOADED)
            return
        await self._answer_again(answer.parent, prefix=answer.text)

    async def _answer_again(self, question_id: int | None, *, prefix: str = "") -> None:
        """Shows the turns down to a question, and has that answered."""
        transcript, shown = self.screen.transcript, self.path()
        upto = next((i for i, turn in enumerate(shown) if turn.id == question_id), None)
        if upto is None:
            self.screen.trouble("that message is no longer there: its conversation was deleted")
            return
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
        if screen.refused():
            return
        turns = screen.services.history.turns
        siblings = turns.siblings(turn.id)
        at = turn.branch - 1 + by
        if 0 <= at < len(siblings):
            focused = isinstance(screen.focused, TurnView)
            await screen.transcript.show(turns.switch(siblings[at].id))
            view = screen.transcript.view_of(siblings[at].id)
            if focused and view is not None:
                view.focus()
