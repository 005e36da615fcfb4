"""Whether an emulation is worth its cost, in one sentence, from a few items of some tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eftlocal.evaluation.grid import BASE_ALONE, SMALL
from eftlocal.study.statistics import Interval

FEWEST = 6
"""Items: with fewer, even if all agree, chance is no less likely than 5% (sign test, two-sided)."""
Standing = Literal["better", "worse", "unclear"]
_CALLED = {SMALL: "the small tuned model", BASE_ALONE: "the base"}


@dataclass(frozen=True)
class Compared:
    """One task's first metric.

    Attributes:
        items: that were answered.
        less: model to the emulation's mean less its own, with its 95% interval.
        less_is_better: of the metric.
    """

    task: str
    items: int
    less: Mapping[str, Interval]
    less_is_better: bool = False

    def standing(self, model: str) -> Standing:
        """Of the emulation beside a model: better or worse where the interval leaves out 0."""
        _, low, high = self.less[model]
        if self.items < FEWEST:
            return "unclear"
        if self.less_is_better:
            low, high = -high, -low
        return "better" if low > 0 else "worse" if high < 0 else "unclear"


def verdict(found: Sequence[Compared], time: float | None, memory: float) -> str:
    """One sentence.

    Args:
        found: one for each task, at least one, all beside the same models.
        time: of a token, by the base's; None where none was generated.
        memory: of all models, by the base's.
    """
    beaten = [one for one in found if "worse" in _standings(one)]
    better = [one for one in found if set(_standings(one)) == {"better"}]
    if beaten:
        word = "Not worth it" if not better else "Worth it for some things"
    else:
        word = "Worth it" if better else "Not shown to be worth it"
    told = "; ".join(map(_of_task, found))
    costs = [] if time is None else [f"a token takes {time:.1f} times the base's time"]
    costs.append(f"all models take {memory:.1f} times its memory")
    cost = ", and ".join(costs)
    return f"{word}: {told}. {cost[0].upper()}{cost[1:]}."


def _standings(one: Compared) -> list[Standing]:
    return [one.standing(model) for model in one.less]


def _of_task(one: Compared) -> str:
    by: dict[Standing, list[str]] = {}
    for model in one.less:
        difference = f" ({one.less[model].value:+.2f})"
        by.setdefault(one.standing(model), []).append(_CALLED[model] + difference)
    words = {
        "better": "better than {}",
        "worse": "worse than {}",
        "unclear": f"not told apart from {{}} by {one.items} item{'' if one.items == 1 else 's'}",
    }
    parts = [words[how].format(" and ".join(models)) for how, models in by.items()]
    return f"on {one.task} it is {', '.join(parts)}"
