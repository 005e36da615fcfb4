"""What every screen has: the services behind it, one line for a failure, and one way to leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from textual import events
from textual._time import get_time
from textual.app import App
from textual.css.query import NoMatches
from textual.geometry import Offset
from textual.screen import Screen
from textual.widget import MountError, Widget
from textual.worker import Worker

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.terminal_text import one_line
from eftlocal_tui.engine.kept import KeptCaches
from eftlocal_tui.engine.local import LocalEngine
from eftlocal_tui.engine.tasks import Tasks
from eftlocal_tui.history import History
from eftlocal_tui.settings import VIEW_NAME, Settings
from eftlocal_tui.text import encodable

A = TypeVar("A")
R = TypeVar("R")
Work = Callable[[], Coroutine[Any, Any, None]]

ERROR_SECONDS = 8.0  # that a failure stays to be read


@dataclass
class Services:
    """What the screens share: the conversations, the engine with its tasks, the settings.

    Attributes:
        unsaved: why conversations are not kept; empty where they are.
    """

    history: History
    engine: LocalEngine
    settings: Settings = field(default_factory=Settings)
    unsaved: str = ""
    tasks: Tasks = field(init=False)
    kept: KeptCaches = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = Tasks(self.engine)
        thread = self.tasks.thread
        self.kept = KeptCaches(self.history, self.engine, thread, self.settings.kept)

    @property
    def view_file(self) -> Path:
        """Where the theme and the panel are kept as they were left."""
        return self.history.path.with_name(VIEW_NAME)

    def close(self) -> None:
        """Ends what runs; what came of an answer is kept as stopped."""
        self.tasks.close(self._leave)
        self.history.close()

    def _leave(self) -> None:
        self.kept.leaving()
        self.engine.close()


def tell(where: Screen[Any] | App[Any], error: EftlocalError | str) -> None:
    """One clear line where it is seen."""
    where.notify(one_line(str(error), 400), severity="error", timeout=ERROR_SECONDS)


@runtime_checkable
class Copies(Protocol):
    """The program, which has the clipboard."""

    def copy(self, text: str, what: str) -> None: ...


Place = tuple[Widget | None, Offset | None]


def attached(screen: Screen[Any], found: Place) -> Place:
    """Where the mouse is, unless that widget was taken away since the screen was drawn: Textual
    (8.2) fails when text is selected there."""
    widget = found[0]
    return found if widget is screen or (widget and widget.parent) else (None, None)


class BaseScreen(Screen[R]):
    """A screen on which a failure with a line of its own is told; only a bug ends the program.

    Attributes:
        PLACE: what the names of its keys begin with, and its help.
        USES_MODELS: whether those that are loaded must stay while it is open.
    """

    PLACE: ClassVar[str]
    USES_MODELS: ClassVar[bool] = False
    _left = False

    def trouble(self, error: EftlocalError | str) -> None:
        tell(self, error)

    def start(self, work: Work, **options: Any) -> None:
        """Work that no key waits for; options of `run_worker`. Where the screen is left, or other
        work takes its place, before its turn comes, none of it is done."""

        async def begun() -> None:
            await self.doing(work())

        _: Worker[None] = self.run_worker(begun, **options)

    async def doing(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that shows something here. A failure is told. Its widgets go before the work does
        when the screen, or the program, is left: that is its end, and no bug."""
        try:
            await work
        except EftlocalError as error:
            self.trouble(error)
        except (NoMatches, MountError):
            if self.is_attached and self.app.is_running and self in self.app.screen_stack:
                raise

    def ask(
        self, question: Screen[A], then: Callable[[A | None], Coroutine[Any, Any, None]]
    ) -> None:
        """Opens a screen, to which the next key goes already, and goes on with what it gives."""

        async def answered(answer: A | None) -> None:
            await self.doing(then(answer))

        self.app.push_screen(question, answered)

    def copy(self, text: str | None, what: str) -> None:
        """Puts a text on the clipboard. Raises UsageError where there is none."""
        if not text:
            raise UsageError(f"there is no {what} to copy")
        assert isinstance(self.app, Copies)
        self.app.copy(encodable(text), f"the {what} ({len(text):,} characters)")

    def get_widget_and_offset_at(self, x: int, y: int) -> Place:
        return attached(self, super().get_widget_and_offset_at(x, y))

    def leave(self, result: R) -> None:
        """Dismisses the screen, however fast the keys come. Textual (8.2) takes away what is in
        front, and only a little later: a second key would take the screen behind as well."""
        if self.is_active and not self._left:
            self._left = True
            self.dismiss(result)


Typed = Callable[[events.Key | events.Paste], None]


class Unasked(BaseScreen[R]):
    """A screen that may open by itself, while somebody types: what was typed before it could be
    seen, and letters at any time, go where they were meant to go. The key that cancels works.

    Attributes:
        typed: takes them; None where a key of the person's opened it.
    """

    typed: Typed | None = None
    _seen = math.inf  # when it was drawn

    def on_mount(self) -> None:
        self.call_after_refresh(self._drawn)

    def _drawn(self) -> None:
        self._seen = get_time()

    def passes_on(self, key: events.InputEvent) -> bool:
        """Whether a key was for what is behind, which has it now."""
        if not isinstance(key, events.Key):
            return False
        active = self.active_bindings.get(key.key)
        cancels = active is not None and active.binding.action == "cancel"
        if self.typed is None or cancels or not (key.is_printable or key.time < self._seen):
            return False
        self.typed(key)
        return True

    def on_paste(self, event: events.Paste) -> None:
        if self.typed is not None:
            event.stop()
            self.typed(event)
