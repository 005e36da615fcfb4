"""The conversation on the screen: opened and left, its turns shown and walked, and written to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from eftlocal.errors import UsageError
from eftlocal_tui.dials import Dials
from eftlocal_tui.history import Conversation, Draft, LockedError, Turn
from eftlocal_tui.history.database import BUSY_SECONDS
from eftlocal_tui.widgets.turn_view import AnswerView, TurnView

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

MOST_TURNS = 1_000  # of a conversation, read back when it is opened
NO_CONVERSATION = "there is no conversation yet"
_AGAIN = 0.05  # seconds between tries at a history that is locked
_LOCKED = "The history is locked by another program; waiting · {chat.stop} gives up"

Doing = Callable[..., Coroutine[Any, Any, None]]
T = TypeVar("T")


def in_turn(method: Doing) -> Doing:
    """What changes which turns are shown waits for others that do: keys are obeyed by the program,
    messages by the screen, and either may come while the other still lays out."""

    @wraps(method)
    async def run(self: Any, *args: Any, **kwargs: Any) -> None:
        screen: ChatScreen = self.screen
        screen.answers.check_sent()  # no key waits for what may take its time
        async with screen.turns.layout:
            screen.answers.check_sent()
            await method(self, *args, **kwargs)

    return run


class ChatTurns:
    """One conversation at a time; nothing in it is lost: what is made anew stands beside what was.

    Attributes:
        conversation: None until the first message of a new one.
        layout: held by whoever changes what the transcript shows.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self.history = screen.services.history
        self.conversation: Conversation | None = None
        self.layout = asyncio.Lock()
        self._new_system = screen.services.settings.system

    @property
    def system(self) -> str:
        """The system prompt of the next answer."""
        return self.conversation.system if self.conversation else self._new_system

    @property
    def leaf(self) -> int | None:
        """The last turn that is shown."""
        return self.screen.transcript.leaf

    def path(self) -> list[Turn]:
        """What is shown, as it is kept; another process may have gone on from there."""
        return self.down_to(self.leaf, MOST_TURNS)

    def down_to(self, leaf: int | None, last: int | None = None) -> list[Turn]:
        """The turns of the conversation down to one: all of them, or so many of the last."""
        if self.conversation is None or leaf is None:
            return []
        return self.history.turns.path(self.conversation.id, last, leaf)

    def last(self, role: str, absent: str) -> Turn:
        """The last turn of a role; where there is none, UsageError says what is absent."""
        for turn in reversed(self.path()):
            if turn.role == role:
                return turn
        raise UsageError(absent)

    # The conversation --------------------------------------------------------------------------

    @in_turn
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

    @in_turn
    async def open(self, conversation_id: int) -> None:
        """Shows a conversation and goes on with it. An answer in another one goes on as well."""
        found = self.history.conversations.get(conversation_id)
        path = self.history.turns.path(conversation_id, last=MOST_TURNS)
        self.screen.find.close()
        dials = self._leave(found)
        await self.show(path)
        await self.screen.dials.restore(dials)
        self.screen.set_focus(self.screen.prompt)

    @in_turn
    async def new(self, *, carry: bool = False) -> None:
        """An empty conversation; the one before stays in the history.

        Args:
            carry: take along what is in the box.
        """
        box = self.screen.answers.box
        text = box.carried() if carry else ""
        self.screen.find.close()
        self._leave(None)
        if text:
            box.add(text)
        self._new_system = self.screen.services.settings.system
        await self.show([])
        self.screen.show_head()
        self.screen.set_focus(self.screen.prompt)

    def _leave(self, to: Conversation | None) -> Dials | None:
        """Goes to another conversation; returns the dials of an answer that is written there.
        Such an answer keeps its dials while others are on the screen."""
        running, id = self.screen.answers.running, to.id if to else None
        if running is not None and running.is_shown:
            running.dials = self.screen.dials.now
        self.screen.answers.box.enter(id)
        self.screen.side.clear()
        self.conversation = to
        self.screen.services.kept.opened(id)
        if running is None:
            return None
        running.show_status()
        if not running.is_shown:
            return None
        dials, running.dials = running.dials, None
        return dials

    # What is shown -----------------------------------------------------------------------------

    async def show(self, path: list[Turn]) -> None:
        """These turns; that of an answer that is being written goes on there."""
        running, transcript = self.screen.answers.running, self.screen.transcript
        if running is None:
            await transcript.show(path)
            return
        now = running.turn
        await transcript.show([now if turn.id == now.id else turn for turn in path], live=now.id)
        view = transcript.view_of(now.id)
        running.view = view if isinstance(view, AnswerView) else None

    async def show_leaf(self, turn: Turn) -> None:
        """Goes to a turn that has become the leaf of its conversation."""
        self.conversation = self.history.conversations.get(turn.conversation)
        await self.show(self.history.turns.path(turn.conversation, MOST_TURNS))
        self.refresh()

    async def show_question(self, question: Turn) -> None:
        """A question that was just written, or the branch that it begins."""
        if question.parent == self.leaf:
            await self.screen.transcript.add(question)
        else:
            await self.show(self.history.turns.path(question.conversation, MOST_TURNS))
        self.refresh()
        self.screen.transcript.follow()

    @in_turn
    async def go_to(self, turn: int) -> None:
        """Walks to the branch of a turn."""
        self.screen.answers.check_free()
        await self.show(self.history.turns.switch(turn))

    @in_turn
    async def sibling(self, turn: Turn, by: int) -> None:
        """Walks to a branch beside this one."""
        screen = self.screen
        screen.answers.check_free()
        siblings = self.history.turns.siblings(turn.id)
        at = turn.branch - 1 + by
        if 0 <= at < len(siblings):
            focused = isinstance(screen.focused, TurnView)
            await self.show(self.history.turns.switch(siblings[at].id))
            view = screen.transcript.view_of(siblings[at].id)
            if focused and view is not None:
                screen.set_focus(view)

    # What is written ---------------------------------------------------------------------------

    def ask(self, text: str) -> Turn:
        """A question after what is shown, in a conversation that is made where there is none."""
        with self.history.db.transaction():
            conversation = self.conversation
            if conversation is None:
                conversation = self.history.conversations.create(system=self.system)
                self.history.drafts.put(None, Draft())
            return self.history.turns.ask(conversation.id, text, self.leaf)

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
                    if self.screen.answers.given_up or time.monotonic() >= until:
                        raise
                self.screen.status(_LOCKED)
                await asyncio.sleep(_AGAIN)
        finally:
            if self.screen.said == _LOCKED:
                self.screen.status(before)
