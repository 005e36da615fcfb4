"""What the chat screen knows, and small things that all of its parts do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from textual.screen import Screen
from textual.widgets import Static

from eftlocal.errors import EftlocalError
from eftlocal.terminal_text import one_line
from eftlocal_tui import commands
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import tasks
from eftlocal_tui.engine.protocol import Live, Loaded, Progress
from eftlocal_tui.engine.worker import Task
from eftlocal_tui.history import Conversation, LockedError, Turn
from eftlocal_tui.history.database import BUSY_SECONDS
from eftlocal_tui.leaving import until_left
from eftlocal_tui.services import Services
from eftlocal_tui.text_safety import fitted
from eftlocal_tui.told import tell
from eftlocal_tui.widgets.prompt import PromptArea
from eftlocal_tui.widgets.transcript import Transcript

MOST_TURNS = 1_000  # of a conversation, read back when it is opened
_SHORTEST_TITLE = 16  # cells
_BUSY = "an answer is being written; Esc stops it and keeps what came"
_SENDING = "a message is on its way; Esc takes it back"
_WAITING = "Another program keeps the history locked; waiting · Esc gives up"
_AGAIN = 0.05  # seconds between tries at a history that is locked


@dataclass
class Running:
    """The answer that is being written."""

    task: Task[tasks.AnswerEvent, tasks.Ended]
    holder: tasks.DialHolder


T = TypeVar("T")
Doing = Callable[..., Coroutine[Any, Any, None]]


def alone(method: Doing) -> Doing:
    """What changes which turns are shown waits for others that do: keys are obeyed by the program,
    messages by the screen, and either may come while the other still lays out."""

    @wraps(method)
    async def run(self: ChatState, *args: Any, **kwargs: Any) -> None:
        if self._sending and self.refused():  # no key waits for what may take its time
            return
        async with self._changing:
            await method(self, *args, **kwargs)

    return run


class ChatState(Screen[None]):
    """The first layer of the chat screen; the others stand on it, one idea each."""

    def __init__(
        self, services: Services, *, resume: Conversation | None = None, load: bool = True
    ) -> None:
        super().__init__()
        self.services = services
        self.conversation: Conversation | None = resume
        self.system = services.settings.system
        self.loaded: Loaded | None = None
        self.dials: Dials | None = None
        self.last_live: Live | None = None
        self._loads_first = load
        self._load_task: Task[Progress, Loaded] | None = None
        self._answering: Running | None = None
        self._sending = False  # a question is being kept, which may take its time
        self._given_up = False  # nobody waits for that any more
        # A question is kept, and the models for its answer are not there.
        self._kept_question = False
        self._editing: Turn | None = None
        self._changing = asyncio.Lock()
        self._status = ""
        self._tokens: dict[int, tuple[int, ...]] = {}

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)

    @property
    def prompt(self) -> PromptArea:
        return self.query_one(PromptArea)

    @property
    def alive(self) -> bool:
        """Whether there is a screen to show things on; the engine's thread outlives it."""
        return self.app.is_running and self.is_attached

    @property
    def busy(self) -> bool:
        return self._answering is not None or self._kept_question or self._sending

    def show_head(self) -> None:
        parts: list[str] = []
        if self.loaded is not None and self.dials is not None:
            shown = self.dials.shown()
            parts += [one_line(self.loaded.name, 40), f"{shown.pop('recipe')}"]
            first = next(iter(shown))
            if first != "temperature":
                parts[-1] += f" {first} {shown[first]}"
        title = self.conversation.title if self.conversation else "New conversation"
        room = self.app.size.width - 2 - sum(len(part) + 3 for part in parts)
        head = " · ".join([fitted(title, max(room, _SHORTEST_TITLE)), *parts])
        self.query_one("#head", Static).update(head)

    def status(self, text: str = "") -> None:
        """What is going on, in the line above the message box."""
        self._status = text
        self._show_status()

    def _show_status(self) -> None:
        text = self._status
        if found := commands.matching(self.prompt.text):  # while a command is typed
            text = "  ".join(f"/{command.name}" for command in found)
            if len(found) == 1:
                text = f"/{found[0].name} {found[0].takes}  {found[0].about}"
        elif not text and self._editing is not None:
            text = "Editing: Enter sends it as a branch, Esc cancels"
        self.query_one("#status", Static).update(text)

    def trouble(self, error: EftlocalError | str) -> None:
        """One clear line where it is seen."""
        tell(self, error)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self.run_worker(until_left(self, work))

    def refused(self) -> bool:
        """Whether something is on its way that must end first; then it says so."""
        if self.busy:
            self.trouble(_SENDING if self._sending else _BUSY)
        return self.busy

    async def when_free(self, work: Callable[[], T]) -> T:
        """Writes to the history; where another program does, again and again until that lets it.
        Keys are answered meanwhile: nothing that holds one up may wait for this.

        Raises:
            LockedError: it did not for long, or the person gave up.
        """
        before, until = self._status, time.monotonic() + BUSY_SECONDS
        self._given_up = False
        try:
            while True:
                try:
                    return work()
                except LockedError:
                    if self._given_up or time.monotonic() >= until:
                        raise
                self.status(_WAITING)
                await asyncio.sleep(_AGAIN)
        finally:
            if self._status == _WAITING:
                self.status(before)

    def path(self) -> list[Turn]:
        """What is shown, as it is kept; another process may have gone on from there."""
        leaf = self.transcript.leaf
        if self.conversation is None or leaf is None:
            return []
        return self.services.history.turns.path(self.conversation.id, MOST_TURNS, leaf)

    def last(self, role: str) -> Turn | None:
        return next((turn for turn in reversed(self.path()) if turn.role == role), None)
