"""The grid: every combination of the dials' values, each with its recipe and sampling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.sweep.dials import Value, shown
from eftlocal.sweep.faults import refuse

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
