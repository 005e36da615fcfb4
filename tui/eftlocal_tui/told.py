"""A failure that has a line of its own is told on the screen; only a bug ends the program."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from textual.app import App
from textual.screen import Screen

from eftlocal.errors import EftlocalError
from eftlocal.terminal_text import one_line

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
