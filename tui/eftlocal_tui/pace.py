"""How fast work goes on, and about when it will be done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_WINDOW = 20.0  # seconds that the rate is of, or the last two reports
_KNOWN = 0.5  # seconds after which a rate means something

Clock = Callable[[], float]


class Pace:
    """What was told of some work so far.

    Attributes:
        done, total: in one unit; 0 before the first report.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._told: deque[tuple[float, float]] = deque()  # time, and what was done by then
        self.done = self.total = 0.0

    def told(self, done: float, total: float) -> None:
        if done < self.done:  # it began again
            self._told.clear()
        self.done, self.total = done, total
        now = self._clock()
        self._told.append((now, done))
        while len(self._told) > 2 and now - self._told[1][0] > _WINDOW:
            self._told.popleft()

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return min(self.done / self.total, 1.0) if self.total > 0 else 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    @property
    def rate(self) -> float:
        """A second, lately; 0 where it is not known."""
        if not self._told:
            return 0.0
        (first, before), (last, now) = self._told[0], self._told[-1]
        return (now - before) / (last - first) if last - first >= _KNOWN else 0.0

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take; None where nobody knows."""
        if not self.rate:
            return None
        since = self._clock() - self._told[-1][0]
        return max(1.0, (self.total - self.done) / self.rate - since)

    def times(self) -> str:
        """`8 s, about 12 s left`."""
        text, left = duration(self.elapsed), self.left
        if left is not None and self.done < self.total:
            text += f", about {duration(left)} left"
        return text


def duration(seconds: float) -> str:
    """`8 s`, `12 min`, `3 h`."""
    for limit, size, unit in ((99.5, 1, "s"), (5970, 60, "min")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.0f} h"
