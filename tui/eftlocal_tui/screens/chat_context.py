"""Whether a conversation fits the models' contexts, and the ways on where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eftlocal.errors import UsageError
from eftlocal.prompt.messages import Message
from eftlocal_tui.engine import Fit, counting
from eftlocal_tui.engine.counting import Counted
from eftlocal_tui.history import Turn
from eftlocal_tui.history.parts import sent_from
from eftlocal_tui.history.turns import followed, sent
from eftlocal_tui.screens.full_context import ContextScreen, Way, role_lines

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

SUMMARY = (
    "Summarise our conversation so far, so that we can go on from the summary alone: what I asked "
    "for, facts and names, what was decided, and what is still open. Give only the summary."
)
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


class ChatContext:
    """The contexts, as the conversation on the screen fills them."""

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self.history = screen.services.history

    async def fit(self, asked: Asked, begin: int | None = None) -> Fit:
        """What is taken in each role, sent from a turn on; None is where it is sent from now."""
        services = self.screen.services
        messages = asked.messages(asked.begin if begin is None else begin)
        return await counting.fit(services.thread, services.engine, messages).result()

    async def way_on(self, asked: Asked, fit: Fit) -> Way | None:
        """Asks how to go on where there is no room; None is not at all."""
        title = "The context is full" if asked.path else "The message is too long"
        lines = [*role_lines(fit), "That leaves no room for an answer."]
        ways = await self._ways(asked)
        if not asked.path:
            lines.append("Shorten it, or load the models with a larger context (--n-ctx).")
        return await self._choose(title, lines, ways)

    async def show(self, asked: Asked) -> Way | None:
        """Shows what is taken, and offers the same ways."""
        fit = await self.fit(asked)
        lines = role_lines(fit)
        if asked.begin:
            lines.append(f"Not sent any more: the oldest {messages_of(asked.begin)}")
        ways = await self._ways(asked) if asked.path else []
        if asked.begin and (await self.fit(asked, 0)).enough:
            ways.insert(0, Way("all", "Send all messages again", "there is room for them"))
        return await self._choose(f"Context: {fit.room:,} tokens left", lines, ways)

    async def _choose(self, title: str, lines: Sequence[str], ways: Sequence[Way]) -> Way | None:
        return await self.screen.app.push_screen_wait(ContextScreen(title, lines, ways))

    async def _ways(self, asked: Asked) -> list[Way]:
        ways: list[Way] = []
        if found := await self._first(asked, asked.later(), _FREE):
            begin, fit = found
            title = f"Leave out the oldest {messages_of(begin)}"
            kept = f"{max(fit.tokens.values()):,} tokens are still sent" if fit.tokens else ""
            ways.append(Way("leave", title, f"they stay in the history; {kept}", begin))
        if any(turn.role == "assistant" and turn.text for turn in asked.path[asked.begin :]):
            about = "the models sum it up; the summary is sent instead"
            ways.append(Way("summary", "Continue from a summary", about))
        if asked.path:
            about = "with your message in the box" if asked.text else "this one stays as it is"
            ways.append(Way("new", "New conversation", about))
        return ways

    async def _first(self, asked: Asked, begins: Sequence[int], share: float) -> Counted | None:
        services = self.screen.services
        return await counting.first_that_fits(
            services.thread, services.engine, begins, asked.messages, share
        ).result()

    def send_from(self, asked: Asked, begin: int) -> None:
        """Notes in the history from where on is sent what follows the path."""
        first = asked.path[min(begin, len(asked.path) - 1)]
        self.history.turns.begin_at(asked.path[-1].id, first.id)

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
