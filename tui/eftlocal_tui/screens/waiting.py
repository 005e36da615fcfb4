"""While models read, a person sees how far they are and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from textual.timer import Timer

from eftlocal.bases import Closing
from eftlocal_tui.engine import Reading
from eftlocal_tui.pace import Clock, Pace
from eftlocal_tui.screens.base import BaseScreen

_MOMENT = 1.0  # seconds that pass without a word
_AGAIN = 0.5  # seconds between two lines


class Waiting(Closing):
    """Says it again and again until it is closed.

    Args:
        screen: whose timer it is; it is left with the screen.
        say: shows a line.
        what: is being read.
    """

    def __init__(
        self,
        screen: BaseScreen[Any],
        say: Callable[[str], None],
        what: str = "the prompt",
        clock: Clock = time.monotonic,
    ) -> None:
        self._say, self._what = say, what
        self._pace = Pace(clock)
        self._timer: Timer | None = screen.set_interval(_AGAIN, self._show)

    def told(self, reading: Reading) -> None:
        self._pace.told(reading.done, reading.total)
        self._show()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _show(self) -> None:
        pace = self._pace
        if self._timer is not None and pace.total and pace.elapsed >= _MOMENT:
            read = f"{pace.done:,.0f} of {pace.total:,.0f} tokens"
            self._say(f"Reading {self._what} {read} · {pace.times()}")
