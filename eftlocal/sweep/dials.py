"""The dials of a sweep: how each is written, parsed and shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from eftlocal.errors import UsageError
from eftlocal.settings import LIMITS, OFF, RANGES, SAMPLING
from eftlocal.sweep.faults import refuse
from eftlocal.sweep.lambdas import parse_lambdas
from eftlocal.sweep.values import parse_counts, parse_numbers

Value = float | int | str | Mapping[str, float] | None
Parser = Callable[[str, str], tuple[Value, ...]]


def _recipes(flag: str, text: str) -> tuple[Value, ...]:
    """Names parted by commas; weights hold commas themselves, so semicolons part those."""
    found: dict[Value, None] = {}
    for part in text.split(";"):
        for name in [part] if "=" in part else part.split(","):
            if not name.strip():
                raise UsageError(f"{flag} {text}: there is an empty name")
            found[name.strip()] = None
    return tuple(found)


def _or_off(dial: str) -> Parser:
    """Numbers, with the word off for the value that means it."""
    numbers = parse_counts if RANGES[dial].whole else parse_numbers

    def parsed(flag: str, text: str) -> tuple[Value, ...]:
        found: dict[Value, None] = {}
        for part in (piece.strip() for piece in text.split(",")):
            off = (RANGES[dial].off,)
            found.update(dict.fromkeys(off if part == OFF else numbers(flag, part)))
        return tuple(found)

    return parsed


# In the order in which they are shown. The first changes slowest.
DIALS: dict[str, Parser] = {
    "recipe": _recipes,
    "alpha": parse_numbers,
    "beta": parse_numbers,
    "lambda": parse_lambdas,
    "strength": parse_numbers,
    **{dial: _or_off(dial) for dial in LIMITS},
    "temperature": parse_numbers,
    **{dial: _or_off(dial) for dial in SAMPLING if dial not in ("temperature", "seed")},
}


def parse_dials(written: Mapping[str, str | None]) -> dict[str, tuple[Value, ...]]:
    """The values of the dials that were given, in the order of DIALS.

    Raises:
        UsageError: every fault, one line each.
    """
    found: dict[str, tuple[Value, ...]] = {}
    faults = []
    for dial, parse in DIALS.items():
        if (text := written.get(dial)) is None:
            continue
        try:
            found[dial] = parse(flag(dial), text)
        except UsageError as error:
            faults.append(str(error))
    refuse(faults)
    return found


def flag(dial: str) -> str:
    return "--" + dial.replace("_", "-")


def shown(value: Value) -> str:
    """A value as people write it."""
    if value is None or (isinstance(value, float) and math.isinf(value)):
        return OFF
    if isinstance(value, Mapping):
        return ",".join(f"{role}={share:g}" for role, share in value.items())
    return value if isinstance(value, str) else f"{value:.10g}"
