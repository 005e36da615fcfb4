"""What a decode of n rows costs for each role on this machine, and how a call is best padded.

The curve has steps, because kernels work on blocks of rows: four rows may cost less than three.
So draft lengths are chosen from measured costs, not from a rule, and a call is padded to where
more rows cost less. What a plan counts on is the cost of the padded call.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eftlocal.settings import MAX_DRAFT

LONGEST = MAX_DRAFT + 1  # tokens of a sequence that may be padded or share a call with others
_CORRECTION = 0.1  # share of a new time in a curve's point
_BLOCK = 16  # rows of the largest block of a kernel: more padding would be a block of its own
_WORTH = 0.95  # of a call's time: with padding it must take less, or noise would decide
_FIRST_LOOK, _EVERY_LOOK = 8, 64  # of so many padded calls, one is made without
_READ_ANEW = 64  # observed times after which what was read off a curve is read again


class Room(NamedTuple):
    """The most that a call may grow to: sequences, tokens of each, rows in all."""

    sequences: int = 1
    tokens: int = LONGEST
    rows: int = 1 << 30


class Curve:
    """Seconds of one decode call by its number of rows.

    Attributes:
        usable: the numbers of rows that a call without a prompt may have; None is any. The others
            cost inf.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self.rows = sorted(seconds)
        self.seconds = [seconds[n] for n in self.rows]
        self.usable: frozenset[int] | None = None
        self._cheaper: dict[int, list[int]] = {}
        self._least: dict[int, float] = {}
        self._looks: Counter[int] = Counter()
        self._observed = 0

    def __call__(self, rows: int) -> float:
        """Between measured points along a line; beyond them by the slope from first to last."""
        if self.usable is not None and rows not in self.usable:
            return math.inf
        at = bisect_left(self.rows, rows)
        if at < len(self.rows) and self.rows[at] == rows:
            return self.seconds[at]
        if at == 0:
            return self.seconds[0]
        if at == len(self.rows):
            # The last two points lie so near that their slope is noise, even below 0.
            slope = (self.seconds[-1] - self.seconds[0]) / (self.rows[-1] - self.rows[0])
            return self.seconds[-1] + max(0.0, slope) * (rows - self.rows[-1])
        (n, m), (a, b) = self.rows[at - 1 : at + 1], self.seconds[at - 1 : at + 1]
        return a + (b - a) * (rows - n) / (m - n)

    def cheaper(self, rows: int) -> Sequence[int]:
        """Larger numbers of rows that cost less, the least first."""
        if rows not in self._cheaper:
            bound = _WORTH * self(rows)
            more = [n for n in self.rows if rows < n < rows + _BLOCK and self(n) < bound]
            self._cheaper[rows] = sorted(more, key=self)
        return self._cheaper[rows]

    def padded(self, sequences: int, tokens: int, room: Room) -> tuple[int, int]:
        """The sequences and the tokens of each by which a call of so many is best padded."""
        for n in self.cheaper(sequences * tokens):
            for width in range(sequences, room.sequences + 1):
                if n <= room.rows and n % width == 0 and tokens <= n // width <= room.tokens:
                    return width, n // width
        return sequences, tokens

    def look(self, rows: int) -> bool:
        """Whether a call that would be padded is to be made without: what they cost is seen then.

        Another program can have slowed down the one time when they were measured. Not where no
        times are observed.
        """
        self._looks[rows] += 1
        look = self._looks[rows] % _EVERY_LOOK == _FIRST_LOOK
        return look and self._observed > 0 and self.usable is None

    def least(self, rows: int) -> float:
        """Seconds that so many rows take at least, however they are divided into calls."""
        if rows not in self._least:
            # A call of n rows costs the least of n and more; none gives a row for less than that.
            of_call = min(map(self, (n for n in (*self.rows, rows) if n >= rows)))
            each = of_call / rows
            for n in range(rows - 1, 0, -1):
                of_call = min(of_call, self(n))
                each = min(each, of_call / n)
            self._least[rows] = rows * each
        return self._least[rows]

    def observe(self, rows: int, seconds: float) -> None:
        """Draws the curve towards what a decode took just now: its own point, and the others half
        as far, since what slows a machine down slows down every decode."""
        at = bisect_left(self.rows, rows)
        if at == len(self.rows) or self.rows[at] != rows:
            return
        self._observed += 1
        if seconds < self.seconds[at] and self._cheaper.get(rows):  # so less padding, or none
            self.seconds[at] = seconds
            self._read_anew()
            return
        # One slow call (another program, a page fault) must not bend the curve.
        off = min(seconds / self.seconds[at], 3.0) - 1.0
        others = 1.0 + 0.5 * _CORRECTION * off
        own = (1.0 + _CORRECTION * off) / others
        self.seconds = [each * others for each in self.seconds]
        self.seconds[at] *= own
        if self._observed % _READ_ANEW == 0:
            self._read_anew()

    def _read_anew(self) -> None:
        self._cheaper.clear()
        self._least.clear()


class Costs:
    """The curve of each role, and whether the roles are faster side by side (None: not tried)."""

    def __init__(self, curves: Mapping[str, Curve], side_by_side: bool | None = None) -> None:
        self.curves = dict(curves)
        self.side_by_side = side_by_side

    def __call__(self, role: str, rows: int) -> float:
        """Seconds of a decode of that many rows."""
        return self.curves[role](rows)

    def padded(self, role: str, sequences: int, tokens: int, room: Room) -> float:
        """Seconds of a decode of sequences with so many tokens each, padded where that is less."""
        curve = self.curves[role]
        width, length = curve.padded(sequences, tokens, room)
        return curve(width * length)

    def restrict(self, usable: Mapping[str, frozenset[int]]) -> None:
        """Says of each role which numbers of rows its calls may have."""
        for role, numbers in usable.items():
            self.curves[role].usable = numbers

    def observe(self, role: str, rows: int, seconds: float) -> None:
        """Takes in what a decode without a prompt took."""
        self.curves[role].observe(rows, seconds)
