"""What every screen has: the services behind it, one line for a failure, and one way to leave."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from textual.app import App
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widget import MountError

from eftlocal.errors import EftlocalError
from eftlocal.terminal_text import one_line
from eftlocal_tui.engine import Engine
from eftlocal_tui.engine.tasks import EngineThread
from eftlocal_tui.history import History
from eftlocal_tui.settings import NAME, Settings


@dataclass
class Services:
    history: History
    engine: Engine
    settings: Settings = field(default_factory=Settings)
    thread: EngineThread = field(default_factory=EngineThread)

    @property
    def remembered(self) -> Path:
        """The file of how the program was left."""
        return self.history.path.with_name(NAME)

    def close(self) -> None:
        """Ends what runs; what came of an answer is kept as stopped."""
        self.thread.close(self.engine.close)
        self.history.close()


R = TypeVar("R")

_left: WeakSet[Screen[Any]] = WeakSet()


def leave(screen: Screen[R], result: R) -> None:
    """Dismisses a screen. Textual (8.2) takes away what is in front, and only a little later: a
    second key would take the screen behind as well."""
    if screen.is_current and screen not in _left:
        _left.add(screen)
        screen.dismiss(result)


async def until_left(screen: Screen[Any], work: Coroutine[Any, Any, None]) -> None:
    """Work that shows something on a screen. Its widgets go before the work does when the screen,
    or the program, is left: that is its end, and no bug."""
    try:
        await work
    except (NoMatches, MountError):
        if screen.is_attached and screen.app.is_running and screen in screen.app.screen_stack:
            raise


_SECONDS = 8.0  # that a failure stays to be read


def tell(where: Screen[Any] | App[Any], error: EftlocalError | str) -> None:
    """One clear line where it is seen."""
    line = one_line(str(error), 400)
    where.notify(line, severity="error", markup=False, timeout=_SECONDS)


def told(
    method: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., Coroutine[Any, Any, None]]:
    """A method of a screen, in which an EftlocalError is told. For what no key calls: keys are
    looked after by the program."""

    @wraps(method)
    async def run(self: Screen[Any], *args: Any, **kwargs: Any) -> None:
        try:
            await method(self, *args, **kwargs)
        except EftlocalError as error:
            tell(self, error)

    return run
