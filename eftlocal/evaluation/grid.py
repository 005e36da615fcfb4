"""A grid: how the values of its dials are written, and every combination of them.

    --beta 0,0.5,1                  numbers, or the word off where a dial has one
    --beta 0:2:0.25                 a range with both ends
    --recipe 'upscale,proxy;base=1,tuned=1,reference=-1'      weights stand between semicolons
    --lambda tuned=0:1:0.25,plain=rest          a line: tuned takes each value, plain the rest
    --lambda a=0:1:0.5,b=0:1:0.5,c=rest         a lattice of the simplex of three roles
    --lambda 'tuned=0,plain=1;tuned=0.5,plain=0.5'            points written out

Numbers are read as decimals: 0:1:0.1 holds 0.3, not 0.30000000000000004.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

from eftlocal.bases import FrozenMapping
from eftlocal.errors import UsageError
from eftlocal.kinds import OFF
from eftlocal.logits.recipe import BASE, REFERENCE, TUNED, Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.settings import LIMITS, RANGES, SAMPLING, SETTINGS

MOST = 1000  # values of one dial
MOST_POINTS = 10_000
AXES = (
    *("recipe", "alpha", "beta", "lambda", "strength", *LIMITS),
    *(dial for dial in SAMPLING if dial != "seed"),
)
"""The dials that a grid may have, in the order in which they are shown; the first is slowest."""

SMALL, BASE_ALONE, SMALL_BASE, LARGE = "small tuned", "base", "small base", "large tuned"
MODELS = {SMALL: TUNED, BASE_ALONE: BASE, SMALL_BASE: REFERENCE, LARGE: TUNED}
"""What a grid is compared with, and the role that each is; the large one is loaded by itself."""

_FAULTS = 6  # told in one line
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)
_FILTERS = ("top_k", "top_p", "min_p")

Value = float | int | str | Mapping[str, float] | None


def parse_dials(written: Mapping[str, str | None]) -> dict[str, tuple[Value, ...]]:
    """The values of the dials that were given, each once, in the order of AXES.

    Raises:
        UsageError: every fault: the option, the part of it and what to write.
    """
    found: dict[str, tuple[Value, ...]] = {}
    faults = []
    for dial in AXES:
        if (text := written.get(dial)) is not None:
            try:
                found[dial] = parse_dial(dial, text)
            except UsageError as error:
                faults.append(str(error))
    _refuse(faults)
    return found


def parse_dial(dial: str, text: str) -> tuple[Value, ...]:
    """The values of one dial, each once, in their order."""
    parse = {"recipe": _recipes, "lambda": _lambdas}.get(dial, _numbers)
    found: dict[Value, None] = {}
    for value in parse(dial, text):
        found[value] = None
        if len(found) > MOST:
            raise UsageError(
                f"{SETTINGS[dial].flag} {text}: more than {MOST} values; take a larger step"
            )
    return tuple(found)


def _recipes(dial: str, text: str) -> Iterator[Value]:
    for part in text.split(";"):
        for name in [part] if "=" in part else part.split(","):
            if not name.strip():
                raise UsageError(f"{SETTINGS[dial].flag} {text}: a name is empty")
            yield name.strip()


def _numbers(dial: str, text: str) -> Iterator[Value]:
    rule, flag = RANGES[dial], SETTINGS[dial].flag
    for part in map(str.strip, text.split(",")):
        if part == OFF:
            yield rule.checked(flag, OFF)
            continue
        for value in _range(flag, part):
            if rule.whole and value != int(value):
                raise UsageError(f"{flag} {text}: {value} is not a whole number")
            yield int(value) if rule.whole else float(value)


def _range(flag: str, part: str) -> Iterator[Decimal]:
    """A number, or those of start:stop:step, of which the caller refuses more than MOST."""
    ends = [piece.strip() for piece in part.split(":")]
    if len(ends) not in (1, 3) or not all(_NUMBER.fullmatch(end) for end in ends):
        raise UsageError(
            f"{flag}: {part!r} is neither a number nor a range start:stop:step, as in 0:2:0.25"
        )
    start, *more = map(Decimal, ends)
    if not more:
        yield start or Decimal(0)  # not -0
        return
    stop, step = more
    if step == 0 or (stop - start) * step < 0:
        raise UsageError(f"{flag}: the range {part} never gets from {start} to {stop}")
    for index in range(MOST + 1):
        value = start + index * step
        if (value - stop) * step > 0:
            return
        yield value or Decimal(0)


def _lambdas(dial: str, text: str) -> Iterator[Value]:
    """Strengths of realignment, or shares of roles. Whether they sum to 1, the recipe says."""
    for part in map(str.strip, text.split(";")):
        yield from (
            _mixtures(f"{SETTINGS[dial].flag} {part}", part)
            if "=" in part
            else _numbers(dial, part)
        )


def _mixtures(where: str, part: str) -> Iterator[FrozenMapping[str, float]]:
    """Where a role takes the rest, combinations of the others that pass 1 are left out."""
    written: dict[str, list[str]] = {}
    role = ""
    for piece in part.split(","):
        name, sign, value = (bit.strip() for bit in piece.partition("="))
        if sign:
            role = name
            if not role.isidentifier() or role in written:
                what = "is given twice" if role in written else "is no name of a role"
                raise UsageError(f"{where}: {role!r} {what}")
        elif not role:
            raise UsageError(f"{where}: it must begin with ROLE=")
        written.setdefault(role, []).append(value if sign else name)
    rest = [role for role, values in written.items() if values == ["rest"]]
    if len(rest) > 1:
        raise UsageError(f"{where}: {' and '.join(rest)} cannot both take the rest")
    choices = {
        role: dict.fromkeys(v for value in values for v in _range(f"--lambda {role}", value))
        for role, values in written.items()
        if role not in rest
    }
    if prod(map(len, choices.values())) > MOST:
        raise UsageError(f"{where}: more than {MOST} points; take a larger step")
    left_over = False
    for chosen in product(*choices.values()):
        shares = dict(zip(choices, chosen, strict=True))
        left = Decimal(1) - sum(chosen, Decimal(0))
        if rest and (left < 0 or any(share < 0 for share in chosen)):
            continue
        left_over = True
        yield FrozenMapping({role: float(shares.get(role, left)) for role in written})
    if not left_over:
        raise UsageError(f"{where}: no combination leaves a rest of 0 or more")


def shown(value: Value) -> str:
    """A value as people write it."""
    if value is None or (isinstance(value, float) and math.isinf(value)):
        return OFF
    if isinstance(value, Mapping):
        return ",".join(f"{role}={share:g}" for role, share in value.items())
    return value if isinstance(value, str) else f"{value:.10g}"


@dataclass(frozen=True)
class Point:
    """One point of a grid, or one model to compare it with.

    Attributes:
        dials: the value of each dial that was given.
        recipe, sampling: what they mean; the sampling's seed is set prompt by prompt.
        model: the name of a model to compare with; empty for a point of the grid.
        by_itself: what the answers of a model that is loaded by itself depend on.
    """

    dials: Mapping[str, Value]
    recipe: Recipe
    sampling: Sampling
    model: str = ""
    by_itself: str = ""

    @cached_property
    def key(self) -> str:
        """The same for all that gives the same texts, however it was written."""
        recipe: dict[str, Any] = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in self.recipe.told().items()
            if name not in ("name", "any_sum")
        }
        sampling = {
            name: sorted(value.items()) if isinstance(value, Mapping) else value
            for name, value in vars(self.sampling).items()
            if name != "seed" and not (self.sampling.greedy and name in _FILTERS)
        }
        alone = [self.model, self.by_itself] if self.model == LARGE else []
        told = json.dumps([recipe, sampling, *alone], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def label(self, dials: Sequence[str] | None = None) -> str:
        """The dials by name and value, or some of them."""
        if self.model:
            return self.model
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
        raise UsageError(f"the grid has {size} points; at most {MOST_POINTS} are run at once")
    points, faults = [], []
    for chosen in product(*dials.values()):
        values = dict(zip(dials, chosen, strict=True))
        try:
            points.append(Point(values, *build(values)))
        except UsageError as error:
            faults.append(str(error))
    _refuse(faults)
    return tuple(points)


def compared(names: Sequence[str], sampling: Sampling) -> tuple[Point, ...]:
    """The models of these names by themselves."""
    return tuple(Point({}, Recipe.single(MODELS[name]), sampling, name) for name in names)


def of_grid(points: Sequence[Point]) -> list[Point]:
    """Those that are no model to compare with."""
    return [point for point in points if not point.model]


def varied(points: Sequence[Point]) -> tuple[str, ...]:
    """The dials that take more than one value."""
    grid = of_grid(points)
    return tuple(
        dial
        for dial in (grid[0].dials if grid else ())
        if any(shown(p.dials[dial]) != shown(grid[0].dials[dial]) for p in grid)
    )


def settings(point: Point) -> dict[str, Any]:
    """A point as plain data."""
    return {
        "model": point.model or "emulation",
        "dials": plain_dials(point),
        "recipe": str(point.recipe),
        "sampling": asdict(point.sampling),
    }


def plain_dials(point: Point) -> dict[str, Any]:
    """The dials as JSON has them; a limit that is off is null."""
    plain = {d: dict(v) if isinstance(v, Mapping) else v for d, v in point.dials.items()}
    return {dial: None if shown(value) == OFF else value for dial, value in plain.items()}


def _refuse(faults: Sequence[str]) -> None:
    """Raises UsageError where there are faults; equal ones are told once, with their number."""
    told = [f"{fault} ({n} points)" if n > 1 else fault for fault, n in Counter(faults).items()]
    if len(told) > _FAULTS:
        told = [*told[:_FAULTS], f"and {len(told) - _FAULTS} more faults"]
    if told:
        raise UsageError(" | ".join(told))
