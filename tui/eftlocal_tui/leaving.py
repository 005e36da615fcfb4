"""A screen is left once, however fast the keys come, and what still shows something on it ends."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar
from weakref import WeakSet

from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widget import MountError

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
