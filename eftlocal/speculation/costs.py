"""What a decode of n rows costs for each role on this machine: measured, kept, corrected.

The curve has steps, because kernels work on blocks of rows: four rows may cost less than three.
So draft lengths are chosen from measured costs, not from a rule, and a call is padded to where
more rows cost less. What a plan counts on is the cost of the padded call.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, wait
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eftlocal.disk import cache_folder, replace_text
from eftlocal.llama import Context, Span
from eftlocal.settings import MAX_DRAFT

LONGEST = MAX_DRAFT + 1  # tokens of a sequence that may be padded or share a call with others
ROWS = tuple(range(1, LONGEST + 1))  # all of them: the steps are what is looked for
_WIDE = (24, 32, 48, 64)  # where so many sequences are decoded together
_SECONDS_EACH, _SECONDS_MOST = 1.5, 6.0  # of measuring a role, beyond the first times round
_LEAST_TIMES, _MOST_TIMES = 2, 7
_SETTLED = 0.9  # of what was least before: a round that finds less than this calls for another
_STEP = 1.25  # times what more rows take is the most that rows really take, by the steps of kernels
_CORRECTION = 0.1  # share of a new time in a curve's point
_PAST = 32  # tokens that stand before the timed ones
_PARALLEL_ROWS = 5
_PARALLEL_GAIN = 0.95  # of the time in turn: parallel decodes must take less
_BLOCK = 16  # rows of the largest block of a kernel: more padding would be a block of its own
_WORTH = 0.95  # of a call's time: with padding it must take less, or noise would decide
_FIRST_LOOK, _EVERY_LOOK = 8, 64  # of so many padded calls, one is made without
_READ_ANEW = 64  # observed times after which what was read off a curve is read again
_FORMAT = 3


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

    def __init__(self, seconds: Mapping[int, float], usable: frozenset[int] | None = None) -> None:
        self.rows = sorted(seconds)
        self.seconds = [seconds[n] for n in self.rows]
        self.usable = usable
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


def measure(
    contexts: Mapping[str, Context],
    slot: int,
    *,
    pool: Executor | None = None,
    rows: Sequence[int] = ROWS,
    progress: Callable[[str, float], None] | None = None,
) -> Costs:
    """Times decodes of each role in a free slot, whose cache it empties.

    Every number of rows is timed in turn, and that again until 1.5 s are over and the figures
    have settled (6 s at most), twice at least and 7 times at most; the least of each counts, since
    other programs only ever add time. What is left of that shows where more rows take less.

    Args:
        contexts: of an ensemble, none of them in use, and `measurable`.
        pool: threads in which the roles could decode side by side.
        progress: called with a role and the share done.
    """
    curves = {}
    for role, context in contexts.items():
        most = _most(context)
        counts = [n for n in rows if n <= most]
        past = _prepare(context, slot)
        least: dict[int, float] = {}
        began = time.perf_counter()
        for again in range(_MOST_TIMES):
            settled = True
            for n in counts:
                start = time.perf_counter()
                context.decode([Span(slot, [0] * n, n)])
                took = time.perf_counter() - start
                settled = settled and took >= _SETTLED * least.get(n, took)
                least[n] = min(took, least.get(n, took))
                context.rewind(slot, past)
            spent = time.perf_counter() - began
            if progress is not None:
                done = min(spent / _SECONDS_EACH, (again + 1) / _LEAST_TIMES)
                progress(role, min(1.0, max(done, (again + 1) / _MOST_TIMES)))
            enough = _SECONDS_EACH if settled else _SECONDS_MOST
            if again + 1 >= _LEAST_TIMES and spent > enough:
                break
        context.clear(slot)
        curves[role] = Curve(plausible(least))
    return Costs(curves, None if pool is None else _parallel_is_faster(contexts, slot, pool))


def plausible(seconds: Mapping[int, float]) -> dict[int, float]:
    """Times by rows without those that something else has lengthened."""
    found: dict[int, float] = {}
    bound = float("inf")
    for n in sorted(seconds, reverse=True):
        found[n] = min(seconds[n], _STEP * bound)
        bound = min(bound, seconds[n])
    return found


def rows_for(n_seq_max: int) -> tuple[int, ...]:
    """Numbers of rows that are worth timing where so many sequences may run together."""
    return (*ROWS, *(n for n in _WIDE if n <= n_seq_max))


def measurable(contexts: Mapping[str, Context]) -> bool:
    """Whether every context has the room for drafts, and so for measuring them."""
    return all(_most(context) >= 2 for context in contexts.values())


def _most(context: Context) -> int:
    return min(context.n_rows, context.n_ctx - _PAST)


def _prepare(context: Context, slot: int) -> int:
    """Puts some tokens into a slot; returns how many."""
    context.clear(slot)
    # Repeated tokens cost what others do, and any vocabulary has the first ids.
    past = min(_PAST, context.n_batch)
    context.decode([Span(slot, [0] * past, 0)])
    return past


def _parallel_is_faster(contexts: Mapping[str, Context], slot: int, pool: Executor) -> bool:
    """Whether all roles decode a few rows sooner side by side than one after the other."""
    past = {role: _prepare(context, slot) for role, context in contexts.items()}
    span = Span(slot, [0] * _PARALLEL_ROWS, _PARALLEL_ROWS)
    best = {True: float("inf"), False: float("inf")}
    for beside in (True, False) * _MOST_TIMES:
        began = time.perf_counter()
        if beside:
            wait([pool.submit(context.decode, [span]) for context in contexts.values()])
        else:
            for context in contexts.values():
                context.decode([span])
        best[beside] = min(best[beside], time.perf_counter() - began)
        for role, context in contexts.items():
            context.rewind(slot, past[role])
    for context in contexts.values():
        context.clear(slot)
    return best[True] < _PARALLEL_GAIN * best[False]


class _CostsFile(BaseModel):
    """A file of measured costs."""

    model_config = ConfigDict(extra="forbid")
    format: int = Field(ge=_FORMAT, le=_FORMAT)
    roles: dict[str, dict[int, float]]
    side_by_side: bool | None = None


def remember(costs: Costs, key: str) -> None:
    """Keeps costs for the next start; a folder that cannot be written is no reason to fail."""
    kept = _CostsFile(
        format=_FORMAT,
        roles={
            role: dict(zip(curve.rows, curve.seconds, strict=True))
            for role, curve in costs.curves.items()
        },
        side_by_side=costs.side_by_side,
    )
    with suppress(OSError):
        replace_text(_path(key), kept.model_dump_json())


def recall(key: str, roles: Sequence[str]) -> Costs | None:
    """Costs kept under the key; None where there are none that fit."""
    try:
        kept = _CostsFile.model_validate_json(_path(key).read_bytes())
    except (OSError, ValidationError):
        return None
    fits = set(kept.roles) == set(roles) and all(
        len(times) > 1 and all(n > 0 and s > 0 for n, s in times.items())
        for times in kept.roles.values()
    )
    curves = {role: Curve(times) for role, times in kept.roles.items()}
    return Costs(curves, kept.side_by_side) if fits else None


def _path(key: str) -> Path:
    return cache_folder() / "costs" / f"{key}.json"
