"""Trying again: what may pass is repeated with growing waits while it gets anywhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from eftlocal.errors import DownloadError
from eftlocal.hub.disk import readable
from eftlocal.presets.file_ref import FileRef

T = TypeVar("T")
Sleep = Callable[[float], object]
_log = logging.getLogger(__name__)

TRIES = 6  # in a row without one new byte on the disk
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for


class Broken(Exception):  # noqa: N818 - an interruption to recover from, not an error
    """A try that may succeed when repeated, after `wait` seconds if the server named them."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


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
    """
    most, failures = gained(), 0
    while True:
        try:
            return attempt()
        except Broken as broken:
            reason = broken
        failures = 0 if gained() > most else failures + 1
        most = max(most, gained())
        if failures >= tries:
            kept = f"; {readable(gained())} are kept, run it again to go on" if gained() else ""
            raise DownloadError(
                f"{ref}: gave up after {tries} tries without progress ({reason}){kept}"
            ) from reason
        wait = 2.0 ** max(0, failures - 1) if reason.wait is None else reason.wait
        _log.info("%s: %s; trying again in %g s", ref, reason, wait)
        sleep(min(wait, _LONGEST_WAIT))
