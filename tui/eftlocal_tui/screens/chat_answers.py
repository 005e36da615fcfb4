"""The conversation that the chat is in: its turns asked, answered, made anew, walked.

What is on its way is one object, `ChatAnswers.now`: a message that is being sent, or an answer that
is being written. What is sent meanwhile waits in the box, and goes out when that has ended well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeVar

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.terminal_text import one_line
from eftlocal_tui.dials import Dials
from eftlocal_tui.history import Conversation, Draft, LockedError, Turn
from eftlocal_tui.history.database import BUSY_SECONDS
from eftlocal_tui.screens.chat_box import ChatBox, Outgoing
from eftlocal_tui.screens.chat_context import SUMMARY, Asked, ChatContext
from eftlocal_tui.screens.full_context import Way
from eftlocal_tui.screens.running_answer import RunningAnswer
from eftlocal_tui.widgets.turn_view import AnswerView, TurnView

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

MOST_TURNS = 1_000  # of a conversation, read back when it is opened
_AGAIN = 0.05  # seconds between tries at a history that is locked
NO_CONVERSATION = "there is no conversation yet"
_NO_ANSWER = "there is no answer to continue"
_BUSY = "an answer is being generated; {chat.stop} stops it and keeps the text so far"
_SENDING = "a message is being sent; {chat.stop} takes it back"
_LOADING = "Queued; sent when the models are loaded"
_TAKEN_BACK = "Your message is back in the box; {{prompt.send}} sends it to {}."
_NO_MODELS = "no models are loaded; /preset NAME loads some"
_LOCKED = "The history is locked by another program; waiting · {chat.stop} gives up"

Doing = Callable[..., Coroutine[Any, Any, None]]
T = TypeVar("T")


class Sending:
    """A message on its way to the models, or one that is asked again: it is counted, and put into
    the history, which may take its time."""

    given_up = False  # nobody waits any more


def _in_turn(method: Doing) -> Doing:
    """What changes which turns are shown waits for others that do: keys are obeyed by the program,
    messages by the screen, and either may come while the other still lays out."""

    @wraps(method)
    async def run(self: ChatAnswers, *args: Any, **kwargs: Any) -> None:
        self.check_sent()  # no key waits for what may take its time
        async with self.layout:
            self.check_sent()
            await method(self, *args, **kwargs)

    return run


class ChatAnswers:
    """One conversation at a time; nothing in it is lost: what is made anew stands beside what was.

    What cannot be done raises EftlocalError.

    Attributes:
        conversation: None until the first message of a new one.
        now: what is on its way, if anything; an answer may be another conversation's.
        box: what is typed and not yet sent.
        context: whether what is asked fits the models.
        layout: held by whoever changes what the transcript shows.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self.history = screen.services.history
        self.conversation: Conversation | None = None
        self.now: Sending | RunningAnswer | None = None
        self.box = ChatBox(screen)
        self.context = ChatContext(screen)
        self.layout = asyncio.Lock()
        self._new_system = screen.services.settings.system

    @property
    def system(self) -> str:
        """The system prompt of the next answer."""
        return self.conversation.system if self.conversation else self._new_system

    @property
    def busy(self) -> bool:
        """Whether anything is on its way, or waits for it."""
        return self.now is not None or bool(self.box.waiting)

    @property
    def sending(self) -> bool:
        return isinstance(self.now, Sending)

    @property
    def running(self) -> RunningAnswer | None:
        """The answer that is being written, in whatever conversation."""
        return self.now if isinstance(self.now, RunningAnswer) else None

    def check_sent(self) -> None:
        """Raises UsageError while a message is being sent."""
        if self.sending:
            raise UsageError(_SENDING)

    def check_free(self) -> None:
        """Raises UsageError where something is on its way that must end first."""
        self.check_sent()
        if self.now is not None:
            raise UsageError(_BUSY)

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

    @_in_turn
    async def set_system(self, text: str) -> None:
        """The system prompt from the next answer on."""
        if self.conversation is None:
            self._new_system = text
        else:
            found = self.history.conversations.set_system(self.conversation.id, text)
            self.conversation = found
        await self.screen.transcript.show_system()

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

    @_in_turn
    async def open(self, conversation_id: int) -> None:
        """Shows a conversation and goes on with it. An answer in another one goes on as well."""
        found = self.history.conversations.get(conversation_id)
        self.screen.find.close()
        path = self.history.turns.path(conversation_id, last=MOST_TURNS)
        dials = self._leave(found)
        await self._show(path)
        await self.screen.models.restore(dials)
        self.screen.set_focus(self.screen.prompt)

    @_in_turn
    async def new(self, *, carry: bool = False) -> None:
        """An empty conversation; the one before stays in the history.

        Args:
            carry: take along what is in the box.
        """
        text = self.box.carried() if carry else ""
        self.screen.find.close()
        self._leave(None)
        if text:
            self.box.add(text)
        self._new_system = self.screen.services.settings.system
        await self._show([])
        self.screen.show_head()
        self.screen.set_focus(self.screen.prompt)

    def _leave(self, to: Conversation | None) -> Dials | None:
        """Goes to another conversation; returns the dials of an answer that is written there.
        Such an answer keeps its dials while others are on the screen."""
        running = self.running
        if running is not None and running.is_shown:
            running.dials = self.screen.models.dials
        self.box.enter(to.id if to else None)
        self.screen.side.clear()
        self.conversation = to
        self.screen.services.kept.opened(to.id if to else None)
        if running is None:
            return None
        running.show_status()
        dials = running.dials
        if running.is_shown:
            running.dials = None
        return dials if running.is_shown else None

    async def _show(self, path: list[Turn]) -> None:
        """These turns; that of an answer that is being written goes on there."""
        running = self.running
        if running is not None:
            path = [running.turn if turn.id == running.turn.id else turn for turn in path]
        live = None if running is None else running.turn.id
        await self.screen.transcript.show(path, live=live)
        if running is not None:
            view = self.screen.transcript.view_of(running.turn.id)
            running.view = view if isinstance(view, AnswerView) else None

    # Questions ---------------------------------------------------------------------------------

    async def ask(self, text: str) -> None:
        """Sends a message: keeps it, shows it, and has it answered. It waits for what is on its
        way."""
        self.box.hold(text)
        await self._send_next()

    async def _send_next(self) -> None:
        screen, box = self.screen, self.box
        if screen.models.loading:
            screen.status(_LOADING)
        came = await screen.models.settled()
        if self.now is not None or not box.waiting:
            return
        if not came:
            box.take_back()
            loaded = screen.models.loaded
            if loaded is None:
                await screen.say(_NO_MODELS, error=True)
            else:
                await screen.say(_TAKEN_BACK.format(one_line(loaded.name, 60)))
            return
        sending = self.now = Sending()
        box.show_waiting()
        try:
            outgoing = box.waiting[0]
            if not outgoing.is_summary and not await self._fits(self._asked(outgoing), sending):
                return
            async with self.layout:
                question = await self.when_free(lambda: self._keep(outgoing))
                box.sent(question.conversation)
                await self._show_question(question)
                if not outgoing.is_summary:
                    await self.when_free(lambda: self._reply(question))
        except EftlocalError as error:
            box.take_back()
            await screen.say(str(error), error=True)
        finally:
            if self.now is sending:
                self.now = None

    def _asked(self, outgoing: Outgoing) -> Asked:
        """What is sent for a message."""
        parent = outgoing.edits.parent if outgoing.edits else self.screen.transcript.leaf
        return Asked(self.system, self._down_to(parent), outgoing.text)

    def _down_to(self, leaf: int | None) -> list[Turn]:
        """All turns of the conversation down to one."""
        if self.conversation is None or leaf is None:
            return []
        return self.history.turns.path(self.conversation.id, leaf=leaf)

    async def _fits(self, asked: Asked, sending: Sending) -> bool:
        """Whether there is room for an answer, or the person made some. What waits comes back
        where not."""
        fit = await self.context.fit(asked)
        while not fit.enough and not sending.given_up:
            way = await self.context.way_on(asked, fit)
            if way is None or not await self._go(way, asked):
                break
            asked = replace(asked, path=self._down_to(asked.path[-1].id))
            fit = await self.context.fit(asked)
        if fit.enough and not sending.given_up:
            return True
        self.box.take_back()
        return False

    async def _go(self, way: Way, asked: Asked) -> bool:
        """Goes a way; whether what was asked can be sent then."""
        if way.kind in ("leave", "all"):
            await self.when_free(lambda: self.context.send_from(asked, way.begin))
            async with self.layout:
                await self._show(self.path())
            return True
        self.screen.start(self.summarise() if way.kind == "summary" else self.new(carry=True))
        return False

    async def ways_on(self) -> None:
        """Shows how full the contexts are, and goes the way that is chosen."""
        _ = self.screen.models.ready
        self.check_free()
        leaf, text = self.screen.transcript.leaf, self.screen.prompt.text
        asked = Asked(self.system, self._down_to(leaf), "" if self.box.editing else text.strip())
        way = await self.context.show(asked)
        if way is not None:
            await self._go(way, asked)

    async def when_free(self, work: Callable[[], T]) -> T:
        """Writes to the history; where another program does, again and again until that lets it.
        Keys are answered meanwhile: nothing that holds one up may wait for this.

        Raises:
            LockedError: it did not for long, or the person gave up.
        """
        before, until = self.screen.said, time.monotonic() + BUSY_SECONDS
        try:
            while True:
                try:
                    return work()
                except LockedError:
                    given_up = isinstance(self.now, Sending) and self.now.given_up
                    if given_up or time.monotonic() >= until:
                        raise
                self.screen.status(_LOCKED)
                await asyncio.sleep(_AGAIN)
        finally:
            if self.screen.said == _LOCKED:
                self.screen.status(before)

    def _keep(self, outgoing: Outgoing) -> Turn:
        if outgoing.edits is not None and outgoing.is_summary:
            return self.history.turns.rewrite(outgoing.edits.id, outgoing.text)
        if outgoing.edits is not None:
            return self.history.turns.edit(outgoing.edits.id, outgoing.text)
        question = self.add_question(outgoing.text)
        self.conversation = self.history.conversations.get(question.conversation)
        return question

    def add_question(self, text: str) -> Turn:
        """A question after what is shown, in a conversation that is made where there is none."""
        with self.history.db.transaction():
            conversation = self.conversation
            if conversation is None:
                conversation = self.history.conversations.create(system=self.system)
                self.history.drafts.put(None, Draft())
            leaf = self.screen.transcript.leaf
            return self.history.turns.ask(conversation.id, text, leaf)

    async def show_leaf(self, turn: Turn) -> None:
        """Goes to a turn that has become the leaf of its conversation."""
        self.conversation = self.history.conversations.get(turn.conversation)
        await self._show(self.history.turns.path(turn.conversation, MOST_TURNS))
        self.refresh()

    async def _show_question(self, question: Turn) -> None:
        transcript = self.screen.transcript
        if question.parent == transcript.leaf:
            await transcript.add(question)
        else:
            await self._show(self.history.turns.path(question.conversation, MOST_TURNS))
        self.refresh()
        transcript.follow()

    def edit(self, turn: Turn) -> None:
        """Puts a question, or a summary, into the message box; sending makes a branch."""
        self.check_free()
        of_summary = turn.parent is not None and self.history.turns.get(turn.parent).summary
        if turn.role != "user" and not of_summary:
            raise UsageError("an answer cannot be edited; {chat.regenerate} regenerates it")
        self.box.edit(turn)

    # Answers -----------------------------------------------------------------------------------

    def _reply(self, question: Turn, *, before: Turn | None = None) -> None:
        """Has a question answered; the answer is shown as it comes."""
        running = self.now = RunningAnswer(self.screen, question, before, self.layout)
        self.screen.start(self._follow(running))

    async def _follow(self, running: RunningAnswer) -> None:
        """Shows an answer, and then sends what waits for its end."""
        goes_on = False
        try:
            well = await running.follow()
            goes_on = well or not running.is_shown  # what waits is not about that answer
        finally:
            self.now = None
            if self.screen.alive and not goes_on:
                self.box.take_back()
        if not self.screen.alive:
            return
        if running.is_shown and running.question.summary:
            async with self.layout:
                await self._show(self.path())  # with a line above it
        if running.is_shown and running.turn.finish_reason == "context":
            await self.screen.say("The context is full. /context shows the ways on.")
        await self._send_next()

    def stop(self) -> bool:
        """Ends what is on its way, or an edit; whether there was any. What waits comes back."""
        if isinstance(self.now, Sending):
            self.now.given_up = True
            return True
        back = self.box.take_back()
        if self.now is not None:
            self.now.stop()
            return True
        return back or self.box.end_edit()

    # Branches ----------------------------------------------------------------------------------

    @_in_turn
    async def regenerate(self, turn: Turn) -> None:
        """Another answer, beside the one that is there."""
        self._answer_again(turn.id if turn.role == "user" else turn.parent)

    @_in_turn
    async def go_on(self) -> None:
        """The last answer, continued, beside the one that is there."""
        answer = self.last("assistant", _NO_ANSWER)
        if not answer.text:
            raise UsageError(_NO_ANSWER)
        self._answer_again(answer.parent, before=answer)

    def _answer_again(self, question_id: int | None, *, before: Turn | None = None) -> None:
        """Shows the turns down to a question, and has that answered; no key waits for it."""
        self.check_free()
        _ = self.screen.models.ready  # nothing is taken away where nothing can answer
        shown = self.path()
        upto = next((i for i, turn in enumerate(shown) if turn.id == question_id), None)
        if upto is None:
            raise UsageError("that message is gone; its conversation was deleted")
        self.screen.set_focus(self.screen.prompt)  # what had it may be gone
        self.now = Sending()
        self.screen.start(self._answer(self.now, shown, upto, before))

    async def _answer(
        self, sending: Sending, shown: list[Turn], upto: int, before: Turn | None
    ) -> None:
        question = shown[upto]
        try:
            asked = Asked(
                self.system, self._down_to(question.id), prefix=before.text if before else ""
            )
            if not await self._fits(asked, sending):
                return
            async with self.layout:
                await self._show(shown[: upto + 1])
                try:
                    self._reply(question, before=before)
                except EftlocalError:
                    await self._show(shown)
                    raise
        finally:
            if self.now is sending:
                self.now = None

    async def summarise(self) -> None:
        """Has a summary of the conversation written, from which it goes on."""
        path = self._down_to(self.screen.transcript.leaf)
        begin = await self.context.summary(self.system, path)
        async with self.layout:
            self.check_free()
            ask = partial(
                self.history.turns.ask, path[-1].conversation, SUMMARY, path[-1].id, summary=True
            )
            question = await self.when_free(partial(ask, begins_at=path[begin].id))
            await self._show_question(question)
            await self.when_free(lambda: self._reply(question))

    @_in_turn
    async def go_to(self, turn: int) -> None:
        """Walks to the branch of a turn."""
        self.check_free()
        await self._show(self.history.turns.switch(turn))

    @_in_turn
    async def sibling(self, turn: Turn, by: int) -> None:
        """Walks to a branch beside this one."""
        self.check_free()
        screen = self.screen
        siblings = self.history.turns.siblings(turn.id)
        at = turn.branch - 1 + by
        if 0 <= at < len(siblings):
            focused = isinstance(screen.focused, TurnView)
            await self._show(self.history.turns.switch(siblings[at].id))
            view = screen.transcript.view_of(siblings[at].id)
            if focused and view is not None:
                screen.set_focus(view)
