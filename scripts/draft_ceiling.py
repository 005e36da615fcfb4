"""The best possible speed of drafting, by arithmetic: measured costs, a rate, and no overhead.

A round of k drafts brings 1 + (accepted) tokens and costs k single-row decodes of the drafter, a
decode of k + 1 rows in each other role, and, when all were accepted, the drafter's last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from eftlocal.settings import MAX_DRAFT
from eftlocal.speculation.drafting import Plan


class Ceiling(NamedTuple):
    """The best draft length, and its speed over plain decoding."""

    length: int
    speed_up: float


def round_seconds(plan: Plan, length: int, bonus: float) -> float:
    """Of a round without overhead; `bonus` is the chance that all drafts are accepted."""
    if length == 0:
        return plan.together[0]
    return length * plan.draft + plan.verify[length] + bonus * plan.bonus


def expected(plan: Plan, length: int, rate: float) -> float:
    """Speed over plain at this acceptance rate: E_k / C_k over E_0 / C_0."""
    tokens = sum(rate**j for j in range(length + 1))
    return tokens * (plan.together[0] / round_seconds(plan, length, rate**length))


def ceiling(plan: Plan, rate: float) -> Ceiling:
    """Of all lengths, tried one by one."""
    return max(
        (Ceiling(k, expected(plan, k, rate)) for k in range(MAX_DRAFT + 1)),
        key=lambda found: found.speed_up,
    )


def simulated(
    plan: Plan, length: int, accepts: Callable[[int, int], bool], runs: Sequence[tuple[int, int]]
) -> float:
    """Speed over plain for given decisions instead of a rate: short runs have their luck.

    Args:
        accepts: tells of a seed and a position whether its draft is accepted.
        runs: (seed, tokens) of each run.
    """
    seconds, tokens = 0.0, 0
    for seed, wanted in runs:
        position = 0
        while position < wanted:
            accepted = 0
            while accepted < length and accepts(seed, position + accepted):
                accepted += 1
            seconds += round_seconds(plan, length, float(accepted == length))
            position += accepted + 1
        tokens += position
    return tokens * (plan.together[0] / seconds)


def simulated_ceiling(
    plan: Plan,
    accepts: Callable[[int, int], bool],
    runs: Sequence[tuple[int, int]],
    lengths: Sequence[int] = range(MAX_DRAFT + 1),
) -> Ceiling:
    """The best of some fixed lengths, or of all, for given decisions."""
    return max(
        (Ceiling(k, simulated(plan, k, accepts, runs)) for k in lengths),
        key=lambda found: found.speed_up,
    )
