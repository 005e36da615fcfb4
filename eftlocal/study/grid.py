"""The grid of a sweep: how its dials are written, and every combination of their values."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

from eftlocal.bases import FrozenMapping
from eftlocal.errors import UsageError
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.settings import LIMITS, OFF, RANGES, SAMPLING

_SHOWN = 6


def refuse(faults: Sequence[str]) -> None:
    """Raises UsageError when there are faults; equal ones are said once, with their number."""
    counts: dict[str, int] = {}
    for fault in faults:
        counts[fault] = counts.get(fault, 0) + 1
    if not counts:
        return
    told = [f"{fault} ({n} points)" if n > 1 else fault for fault, n in counts.items()]
    if len(told) > _SHOWN:
        told = [*told[:_SHOWN], f"and {len(told) - _SHOWN} more faults"]
    raise UsageError(" | ".join(told))


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


REST = "rest"

Lambda = float | Mapping[str, float]


def parse_lambdas(flag: str, text: str) -> tuple[Lambda, ...]:
    """The values in their order, each once. Whether each is on the simplex, its recipe says.

    Where a role takes the rest, combinations of the others that pass 1 are left out.

    Raises:
        UsageError: one line that names the part and what to write.
    """
    found: dict[Lambda, None] = {}
    for part in text.split(";"):
        if "=" in part:
            found.update((point, None) for point in _mixtures(flag, part))
        else:
            found.update((value, None) for value in parse_numbers(flag, part))
    return tuple(found)


def _mixtures(flag: str, part: str) -> list[FrozenMapping[str, float]]:
    written: dict[str, list[str]] = {}
    role = ""
    for piece in part.split(","):
        name, sign, value = (bit.strip() for bit in piece.partition("="))
        if sign:
            role = name
            if not role.isidentifier() or role in written:
                what = "is given twice" if role in written else "is no name of a role"
                raise UsageError(f"{flag} {part.strip()}: {role!r} {what}")
        elif not role:
            raise UsageError(f"{flag}: {part.strip()!r} begins without role=")
        written.setdefault(role, []).append(value if sign else name)
    rest = [role for role, values in written.items() if values == [REST]]
    if len(rest) > 1:
        raise UsageError(f"{flag} {part.strip()}: {' and '.join(rest)} cannot both take the rest")
    choices = {
        role: (None,) if role in rest else parse_decimals(f"{flag} {role}", ",".join(values))
        for role, values in written.items()
    }
    size = 1
    for values in choices.values():
        size *= len(values)
    if size > MOST:
        raise UsageError(f"{flag} {part.strip()}: more than {MOST} points; take a larger step")
    points = []
    for chosen in product(*choices.values()):
        left = Decimal(1) - sum((value for value in chosen if value is not None), Decimal(0))
        if rest and (left < 0 or any(value is not None and value < 0 for value in chosen)):
            continue
        shares = zip(choices, chosen, strict=True)
        points.append(
            FrozenMapping({r: float(left if value is None else value) for r, value in shares})
        )
    if not points:
        raise UsageError(f"{flag} {part.strip()}: no combination leaves a rest of 0 or more")
    return points


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


MOST_POINTS = 10_000

_FILTERS = ("top_k", "top_p", "min_p")


@dataclass(frozen=True)
class Point:
    """One point of a grid.

    Attributes:
        dials: the value of each dial that was given.
        recipe, sampling: what they mean; the sampling's seed is set prompt by prompt.
    """

    dials: Mapping[str, Value]
    recipe: Recipe
    sampling: Sampling

    @cached_property
    def key(self) -> str:
        """The same for all that gives the same texts, however it was written."""
        recipe: dict[str, Any] = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in vars(self.recipe).items()
            if name in Recipe.__dataclass_fields__ and name not in ("name", "any_sum")
        }
        sampling = {
            name: sorted(value.items()) if isinstance(value, Mapping) else value
            for name, value in vars(self.sampling).items()
            if name != "seed" and not (self.sampling.greedy and name in _FILTERS)
        }
        told = json.dumps([recipe, sampling], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def label(self, dials: Sequence[str] | None = None) -> str:
        """The dials by name and value, or some of them."""
        wanted = self.dials if dials is None else dials
        parts = (f"{dial.replace('_', '-')} {shown(self.dials[dial])}" for dial in wanted)
        return ", ".join(parts) or self.recipe.name


Build = Callable[[Mapping[str, Value]], tuple[Recipe, Sampling]]


def cross(dials: Mapping[str, Sequence[Value]], build: Build) -> tuple[Point, ...]:
    """Every combination; one point where no dial is given.

    Args:
        dials: the values of each.
        build: the recipe and sampling of one combination, or UsageError.

    Raises:
        UsageError: the grid is too large, or a combination is refused: every fault, one line each.
    """
    size = prod(len(values) for values in dials.values())
    if size > MOST_POINTS:
        raise UsageError(f"the grid has {size} points; at most {MOST_POINTS} are swept at once")
    points, faults = [], []
    for chosen in product(*dials.values()):
        values = dict(zip(dials, chosen, strict=True))
        try:
            points.append(Point(values, *build(values)))
        except UsageError as error:
            faults.append(str(error))
    refuse(faults)
    return tuple(points)


def varied(points: Sequence[Point]) -> tuple[str, ...]:
    """The dials that take more than one value."""
    return tuple(
        dial
        for dial in (points[0].dials if points else ())
        if any(shown(p.dials[dial]) != shown(points[0].dials[dial]) for p in points)
    )


def settings(point: Point) -> dict[str, Any]:
    """A point as plain data."""
    return {
        "dials": plain_dials(point),
        "recipe": str(point.recipe),
        "sampling": {
            **asdict(point.sampling),
            "logit_bias": dict(point.sampling.logit_bias),
        },
    }


def plain_dials(point: Point) -> dict[str, Any]:
    """The dials as JSON has them; a limit that is off is null."""
    return {
        dial: None
        if shown(value) == "off"
        else dict(value)
        if isinstance(value, Mapping)
        else value
        for dial, value in point.dials.items()
    }
