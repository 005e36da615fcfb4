"""Who is told that the hub is being waited for, and may end that.

What comes is told by progress, which may end a download too; while nothing comes, this is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], object] | None] = ContextVar("check", default=None)


@contextmanager
def while_waiting(check: Callable[[], object]) -> Iterator[None]:
    """In the block, `check` is called several times a second while this thread waits for a server,
    or to try again; what it raises ends the wait."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def watched() -> bool:
    """Whether somebody is told."""
    return _check.get() is not None


def check_wait() -> None:
    """Called while there is nothing to do but wait."""
    check = _check.get()
    if check is not None:
        check()
