"""Measures of how far a token was moved, by name: one number per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import UsageError
from eftlocal.influence.inspection import Inspection
from eftlocal.influence.sides import COMBINATION, pairs, sides
from eftlocal.logits.recipe import BASE, REFERENCE, TUNED, Recipe

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """One way to say how far a token was moved.

    Attributes:
        name: as on the command line, "tv-base".
        about: one line for people.
        signed: values in [-1, 1], otherwise in [0, 1].
        values: (n,) of an inspection.
    """

    name: str
    about: str
    signed: bool
    values: Callable[[Inspection], Values]


def measures_for(roles: Sequence[str], recipe: Recipe) -> tuple[Measure, ...]:
    """The measures that loaded roles allow; the first is shown unless told.

    - tv-ROLE: total variation between the combination and a side. Against the base it is what
      the tuned pair did to the large model, against the tuned model what the large model added.
    - tv-base-tuned: how far the two disagree; tv-tuned-reference: what tuning changed.
    - gain-ROLE: probability of the chosen token under the combination less that under a side.
      Against the base it is the measure of proxy-tuning's own analysis (Liu et al. 2024).
    - rank-ROLE: 1 - 1 / rank of the chosen token in a side: 0 is its first choice, 0.5 its
      second, near 1 what it would hardly have said.
    """
    found, between = [], sides(roles, recipe)
    for pair in pairs(roles, recipe):
        one, other = pair
        if one == COMBINATION:
            name, about = f"tv-{other}", f"total variation between combination and {other}"
        elif pair == (REFERENCE, TUNED):
            name, about = "tv-tuned-reference", "total variation between tuned and reference"
        else:
            name, about = f"tv-{one}-{other}", f"total variation between {one} and {other}"
        found.append(Measure(name, about, False, _distance(pair)))
    for role in between:
        about = f"probability under the combination less that under {role}"
        found.append(Measure(f"gain-{role}", about, True, _gain(role)))
    for role in between:
        about = f"1 - 1/rank in {role}: 0 is its first choice, 0.5 its second"
        found.append(Measure(f"rank-{role}", about, False, _rank(role)))
    first = f"tv-{_of_interest(between, recipe)}"
    return tuple(sorted(found, key=lambda measure: measure.name != first))


def measures_of(inspection: Inspection) -> tuple[Measure, ...]:
    """The measures of an inspection; the first is shown unless told."""
    return measures_for(inspection.roles, inspection.recipe)


def measure_of(known: Sequence[Measure], name: str | None) -> Measure:
    """A measure by its name; None is the first.

    Raises:
        UsageError: it is unknown, or its role is not loaded.
    """
    if name is None:
        return known[0]
    by_name = {measure.name: measure for measure in known}
    if name not in by_name:
        near = get_close_matches(name, by_name, 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UsageError(f"unknown measure {name!r}{hint} Known: {', '.join(by_name)}")
    return by_name[name]


def _of_interest(between: Sequence[str], recipe: Recipe) -> str:
    """The side whose distance is shown unless told: the base where it takes part.

    A role that is the whole recipe has no distance; then it is another one.
    """
    taking = [role for role in between if recipe.weights.get(role)]
    others = [role for role in between if role not in taking]
    if len(recipe.roles) == 1 and others:
        return others[0]
    return BASE if BASE in taking else (taking or others)[0]


def _distance(pair: tuple[str, str]) -> Callable[[Inspection], Values]:
    return lambda found: found.columns.distances[found.pairs.index(pair)]


def _gain(role: str) -> Callable[[Inspection], Values]:
    return lambda found: np.exp(found.distribution(COMBINATION)) - np.exp(found.distribution(role))


def _rank(role: str) -> Callable[[Inspection], Values]:
    return lambda found: 1.0 - 1.0 / found.columns.ranks[found.distributions.index(role)]
