"""Trying again: what may pass is repeated with growing waits while it gets anywhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from eftlocal.disk import readable
from eftlocal.errors import DownloadError
from eftlocal.presets.schema import FileRef

T = TypeVar("T")
Sleep = Callable[[float], object]
_log = logging.getLogger(__name__)

TRIES = 6  # in a row that got nowhere
PROGRESS = 1 << 16  # bytes that a try must bring to have got anywhere
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for


class Broken(Exception):  # noqa: N818 - an interruption to recover from, not an error
    """A try that may succeed when repeated.

    Attributes:
        wait: seconds, if the server said how long to wait.
        in_vain: whatever came, it came too slowly to be waited for.
    """

    def __init__(self, reason: str, wait: float | None = None, *, in_vain: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.in_vain = in_vain


class Hopeless(Exception):  # noqa: N818 - the caller knows the file, and makes the error
    """A try that would fail in the same way when repeated."""


def patiently(
    attempt: Callable[[], T],
    ref: FileRef,
    sleep: Sleep,
    *,
    tries: int,
    gained: Callable[[], int] = lambda: 0,
) -> T:
    """Repeat `attempt` while it breaks; give up after `tries` in a row without progress.

    Progress is the most bytes there have ever been, so that a server that knows no ranges and
    always breaks at the same place cannot keep us for ever.

    Raises:
        DownloadError: it was given up, or was hopeless.
    """
    most, failures = gained(), 0
    while True:
        try:
            return attempt()
        except Broken as broken:
            reason = broken
        except Hopeless as error:
            raise DownloadError(f"{ref}: {error}{_kept(gained())}") from error
        progress = gained() - most >= PROGRESS and not reason.in_vain
        failures = 0 if progress else failures + 1
        most = max(most, gained())
        if failures >= tries:
            raise DownloadError(
                f"{ref}: gave up after {tries} tries without progress ({reason}){_kept(gained())}"
            ) from reason
        wait = 2.0 ** max(0, failures - 1) if reason.wait is None else reason.wait
        wait = min(wait, _LONGEST_WAIT)
        _log.warning("%s: %s; trying again in %g s", ref, reason, wait)
        sleep(wait)


def _kept(size: int) -> str:
    return f"; {readable(size)} are kept, run it again to go on" if size else ""
