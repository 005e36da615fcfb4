"""One task at the points of a grid and with the models to compare: what lacks, what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from eftlocal.defaults import Defaults
from eftlocal.errors import UsageError
from eftlocal.evaluation.figures import PointSummary, summarise
from eftlocal.evaluation.grid import LARGE, Point
from eftlocal.evaluation.questions import SPLITS
from eftlocal.evaluation.run import Missing, Results, lacking, metrics_of
from eftlocal.evaluation.task import Item, Metric, Task


@dataclass(frozen=True)
class Session:
    """What one task asks of which models.

    Attributes:
        points: of the grid, then the models to compare with.
        defaults: limits and drafts of every answer.
        roles: that are loaded.
    """

    task: Task
    items: Sequence[Item]
    points: Sequence[Point]
    defaults: Defaults
    roles: Collection[str]

    @property
    def metrics(self) -> dict[str, Metric]:
        """What can be measured."""
        return metrics_of(self.task, roles=self.roles, drafts=not self.defaults.speculation.off)

    def with_large(self, identity: Mapping[str, str]) -> Session:
        """With what the large model's answers depend on: those of another file are not its own."""
        told = json.dumps(identity, sort_keys=True)
        points = [replace(p, by_itself=told) if p.model == LARGE else p for p in self.points]
        return replace(self, points=points)

    def missing(self, results: Results, *, large: bool) -> Missing:
        """The answers of the large model, or of the others, that are not there."""
        points = [point for point in self.points if (point.model == LARGE) == large]
        return lacking(points, self.items, self.task.samples, results)

    def begun(self, results: Results) -> set[int]:
        """The items that have some answers and lack others."""
        lacks = {
            index for index, _, _ in lacking(self.points, self.items, self.task.samples, results)
        }
        return lacks & {index for _, index, _ in results.records}

    def summaries(self, results: Results, metrics: Mapping[str, Metric]) -> list[PointSummary]:
        """Of every point."""
        every = range(len(self.items))
        return summarise(self.task, metrics, self.points, every, results.records)


def task_defaults(task: Task, defaults: Defaults, max_tokens: int | None) -> Defaults:
    """A preset's defaults as a task wants them: its own limits, greedy where it is.

    Args:
        max_tokens: what the user says.
    """
    if task.greedy:
        greedy = replace(defaults.sampling, temperature=0.0)
        defaults = replace(defaults, sampling=greedy)
    return replace(
        defaults,
        max_tokens=max_tokens or task.max_tokens or defaults.max_tokens,
        stop=(*defaults.stop, *(stop for stop in task.stop if stop not in defaults.stop)),
    )


def check_samples(task: Task, points: Sequence[Point]) -> None:
    """Refuses several answers that would all be the same.

    Raises:
        UsageError: a point has no randomness.
    """
    if task.samples > 1 and any(point.sampling.greedy for point in points):
        raise UsageError(
            f"{task.samples} greedy answers to one item are one; give --temperature above 0, or "
            "leave out --samples"
        )


def shuffle(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items in an order by what they ask, the same whatever order they came in."""
    return tuple(sorted(items, key=_digest))


def half(items: Sequence[Item], split: str) -> tuple[Item, ...]:
    """The items of a split: half of them, by what they ask, wherever they stand."""
    return tuple(item for item in items if SPLITS[_side(item)] == split)


def _side(item: Item) -> int:
    return _digest(item)[0] & 1


def _digest(item: Item) -> bytes:
    told = json.dumps([item.prompt, item.texts], sort_keys=True, default=dict)
    return hashlib.sha256(told.encode()).digest()
