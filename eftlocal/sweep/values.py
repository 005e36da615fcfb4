"""Values of one dial from what people write: `0,0.5,1`, or a range `0:2:0.25` with both ends.

Decimal arithmetic: 0:1:0.1 holds 0.3, not 0.30000000000000004.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from eftlocal.errors import UsageError

MOST = 1000  # values of one dial

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)


def parse_decimals(flag: str, text: str) -> tuple[Decimal, ...]:
    """The values in their order, each once.

    Raises:
        UsageError: one line that names the flag, the part and what to write.
    """
    found: dict[Decimal, None] = {}
    for part in text.split(","):
        for value in _part(flag, part.strip()):
            found[value] = None
            if len(found) > MOST:
                raise UsageError(f"{flag} {text}: more than {MOST} values; take a larger step")
    return tuple(found)


def parse_numbers(flag: str, text: str) -> tuple[float, ...]:
    """As `parse_decimals`, in floats."""
    return tuple(dict.fromkeys(float(value) for value in parse_decimals(flag, text)))


def parse_counts(flag: str, text: str) -> tuple[int, ...]:
    """As `parse_decimals`; refuses what is not whole."""
    values = parse_decimals(flag, text)
    for value in values:
        if value != int(value):
            raise UsageError(f"{flag} {text}: {value} is not a whole number")
    return tuple(int(value) for value in values)


def _part(flag: str, part: str) -> Iterator[Decimal]:
    ends = [piece.strip() for piece in part.split(":")]
    if len(ends) not in (1, 3) or not all(_NUMBER.fullmatch(end) for end in ends):
        raise UsageError(
            f"{flag}: {part!r} is neither a number nor a range start:stop:step, as in 0:2:0.25"
        )
    if len(ends) == 1:
        yield _plain(Decimal(ends[0]))
        return
    start, stop, step = (Decimal(end) for end in ends)
    if step == 0 or (stop - start) * step < 0:
        raise UsageError(f"{flag}: the range {part} never gets from {start} to {stop}")
    for index in range(MOST + 1):  # the caller refuses what is more
        value = start + index * step
        if (value - stop) * step > 0:
            return
        yield _plain(value)


def _plain(value: Decimal) -> Decimal:
    """-0 as 0."""
    return value if value else Decimal(0)
