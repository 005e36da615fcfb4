"""Whether a conversation fits the models' contexts, and the ways on where it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.prompt.messages import Message
from eftlocal_tui.engine import Fit, Larger
from eftlocal_tui.engine.tasks import Counted
from eftlocal_tui.history import Turn
from eftlocal_tui.history.parts import sent_from
from eftlocal_tui.history.turns import followed, sent
from eftlocal_tui.screens.base import Work
from eftlocal_tui.screens.full_context import ContextScreen, Go, Way, role_lines

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

SUMMARY = (
    "Summarise our conversation so far, so that we can go on from the summary alone: what I asked "
    "for, facts and names, what was decided, and what is still open. Give only the summary."
)
SENDING = "Sending · {chat.stop} takes it back"
_FREE = 1 / 4  # of a context, where the oldest messages are left out
_FOR_SUMMARY = 1 / 8


@dataclass(frozen=True)
class Asked:
    """What is to be sent to the models.

    Attributes:
        system: the system prompt.
        path: the turns, all from the first; where one is asked again, it is the last.
        text: of a message after them, if any.
        prefix: of an answer after them that is to go on, if any.
    """

    system: str
    path: Sequence[Turn]
    text: str = ""
    prefix: str = ""

    @property
    def begin(self) -> int:
        """How many turns are not sent."""
        return sent_from(self.path)

    def messages(self, begin: int) -> list[Message]:
        """What is sent from a turn on."""
        found = sent(self.system, self.path[begin:])
        if self.text:
            found = followed(found, self.text)
        if self.prefix:
            found.append(Message(role="assistant", content=self.prefix))
        return found

    def later(self) -> list[int]:
        """From where on it might be sent instead, with less each time."""
        found = [i for i, turn in enumerate(self.path) if turn.role == "user" and i > self.begin]
        if self.text and self.path and self.path[-1].role == "assistant":
            found.append(len(self.path))
        return found


class Sending:
    """A message on its way to the models, or one that is asked again: it is counted, may need a
    larger context, and is put into the history, which may take its time.

    Attributes:
        given_up: nobody waits any more.
        stop: ends what it waits for.
    """

    def __init__(self) -> None:
        self.given_up = False
        self.stop: Callable[[], object] = lambda: None


class ChatContext:
    """The contexts, as the conversation on the screen fills them."""

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self.history = screen.services.history
        self._tasks = screen.services.tasks

    async def has_room(self, asked: Asked, sending: Sending) -> bool:
        """Whether there is room for an answer, or the person made some."""
        while not sending.given_up:
            fit = await self._fit(asked)
            if fit.enough:
                return not sending.given_up
            if sending.given_up:
                break
            way = await self._way_on(asked, fit, sending)
            if way is None or not await way.go():
                break
            self.screen.status(SENDING)
            if asked.path:  # which may say now from where on it is sent
                asked = replace(asked, path=self.screen.turns.down_to(asked.path[-1].id))
        return False

    async def show(self, asked: Asked) -> None:
        """Shows what is taken, offers the same ways, and goes the one that is chosen."""
        fit = await self._fit(asked)
        lines = role_lines(fit)
        if asked.begin:
            lines.append(f"Not sent any more: the oldest {messages_of(asked.begin)}")
        full = asked.path or not fit.enough
        ways = await self._ways(asked, fit, lines, None) if full else []
        if asked.begin and (await self._fit(asked, 0)).enough:
            go = partial(self._send_from, asked, 0)
            ways.insert(0, Way("Send all messages again", "there is room for them", go))
        title = f"Context: {fit.room:,} tokens left"
        way = await self.screen.app.push_screen_wait(ContextScreen(title, lines, ways))
        if way is not None:
            await way.go()

    async def _fit(self, asked: Asked, begin: int | None = None) -> Fit:
        """What is taken in each role, sent from a turn on; None is where it is sent from now."""
        messages = asked.messages(asked.begin if begin is None else begin)
        return await self._tasks.fit(messages, self.screen.dials.now).result()

    async def _way_on(self, asked: Asked, fit: Fit, sending: Sending) -> Way | None:
        """Asks how to go on where there is no room; None is not at all."""
        longest = "system prompt" if len(asked.system) > len(asked.text) else "message"
        title = "The context is full" if asked.path else f"The {longest} is too long"
        lines = [*role_lines(fit), "That leaves no room for an answer."]
        ways = await self._ways(asked, fit, lines, sending)
        if not ways:
            lines.append("Shorten it, or load the models with a larger context (--n-ctx).")
        screen = ContextScreen(title, lines, ways, typed=self.screen.typed)
        return await self.screen.app.push_screen_wait(screen)

    async def _ways(
        self, asked: Asked, fit: Fit, lines: list[str], sending: Sending | None
    ) -> list[Way]:
        """The ways that there are. Lines say more."""
        ways: list[Way] = []
        if found := await self._first(asked, asked.later(), _FREE):
            begin, then = found
            title = f"Leave out the oldest {messages_of(begin)}"
            kept = f"{max(then.tokens.values()):,} tokens are still sent" if then.tokens else ""
            go = partial(self._send_from, asked, begin)
            ways.append(Way(title, f"they stay in the history; {kept}", go))
        answers = self.screen.answers
        if any(turn.role == "assistant" and turn.text for turn in asked.path[asked.begin :]):
            about = "the models sum it up; the summary is sent instead"
            ways.append(Way("Continue from a summary", about, self._instead(answers.summarise)))
        if not self.screen.models.doing:
            try:
                larger = await self._tasks.larger(fit).result()
            except EftlocalError as error:
                lines.append(f"A larger context cannot be had: {error}")
                larger = None
            if larger is not None:
                ways.append(self._larger(larger, fit, sending))
        if asked.path:
            about = "with your message in the box" if asked.text else "this one stays as it is"
            new = partial(self.screen.turns.new, carry=True)
            ways.append(Way("New conversation", about, self._instead(new)))
        return ways

    def _larger(self, larger: Larger, fit: Fit, sending: Sending | None) -> Way:
        async def go() -> bool:
            self.screen.status("")  # the models say what they do
            if sending is not None:
                sending.stop = self.screen.models.stop
            return await self.screen.models.enlarge(larger)

        return Way(f"Larger context: {larger.sizes[fit.fullest]:,} tokens", larger.costs, go)

    def _instead(self, do: Work) -> Go:
        """A way on which what was asked is not sent."""

        async def go() -> bool:
            self.screen.start(do)
            return False

        return go

    async def _send_from(self, asked: Asked, begin: int) -> bool:
        """Notes in the history from where on is sent what follows the path."""
        turns = self.screen.turns
        first = asked.path[min(begin, len(asked.path) - 1)]
        last = asked.path[-1]
        await turns.when_free(lambda: self.history.turns.begin_at(last.id, first.id))
        async with turns.layout:
            await turns.show(turns.path())
        return True

    async def _first(self, asked: Asked, begins: Sequence[int], share: float) -> Counted | None:
        dials = self.screen.dials.now
        return await self._tasks.first_that_fits(begins, asked.messages, share, dials).result()

    async def summary(self, system: str, path: Sequence[Turn]) -> int:
        """From which turn on a summary can cover the conversation.

        Raises:
            UsageError: not even the last messages leave room for one.
        """
        asked = Asked(system, path, SUMMARY)
        questions = [i for i in asked.later() if i < len(path)]
        found = await self._first(asked, [asked.begin, *questions], _FOR_SUMMARY)
        if found is None:
            raise UsageError("the last messages are too long for a summary of them")
        return found[0]


def messages_of(count: int) -> str:
    return f"{count} messages" if count != 1 else "message"
