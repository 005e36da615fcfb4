"""What an evaluation shows: means with intervals, the gap recovered, tables, pictures, a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console, RenderableType
from rich.table import Table

from eftlocal.evaluation.grid import LARGE, SMALL, Point, of_grid, settings, shown, varied
from eftlocal.evaluation.run import Record
from eftlocal.evaluation.task import Item, Metric, Task
from eftlocal.generation import ENDINGS
from eftlocal.journal.manifest import Manifest
from eftlocal.study.page import render
from eftlocal.study.report import interval, number, table, titled
from eftlocal.study.statistics import (
    Array,
    Interval,
    gap_recovered,
    mean,
    of_ratios,
    ratios_of_sums,
)

_WIDEST = 10_000  # columns, to measure a table that nothing squeezes

Values = Mapping[str, float]


class Mean(NamedTuple):
    """A mean over n items and the ends of its 95% interval; the ends are NaN where a value is
    infinite, and the mean itself where there is none."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PointSummary:
    """What was measured at one point.

    Attributes:
        values: of each item that has all its answers, by its index.
        finish_reasons: how many answers ended so.
        metrics: name to mean; a metric nobody measured here is absent.
        gaps: name to the share of the gap between the small and the large tuned model.
        against: model to name to the difference from it, paired over the items.
    """

    point: Point
    values: Mapping[int, Values]
    finish_reasons: Mapping[str, int]
    metrics: Mapping[str, Mean]
    gaps: Mapping[str, Interval]
    against: Mapping[str, Mapping[str, Interval]]

    @property
    def n(self) -> int:
        """Items that have all their answers."""
        return len(self.values)


def summarise(
    task: Task,
    metrics: Mapping[str, Metric],
    points: Sequence[Point],
    indexes: Sequence[int],
    records: Mapping[tuple[str, int, int], Record],
) -> list[PointSummary]:
    """One summary a point, over the items that are done there."""
    values, reasons = {}, {}
    for point in points:
        of_item = {
            index: [records.get((point.key, index, sample)) for sample in range(task.samples)]
            for index in indexes
        }
        done = {i: [r for r in rows if r] for i, rows in of_item.items() if all(rows)}
        values[point.key] = {i: task.gather([r.values for r in rows]) for i, rows in done.items()}
        ended = Counter(r.finish_reason for rows in done.values() for r in rows)
        reasons[point.key] = dict(sorted(ended.items()))
    by_model = {point.model: values[point.key] for point in points if point.model}
    summaries = []
    for point in points:
        own = values[point.key]
        summaries.append(
            PointSummary(
                point=point,
                values=own,
                finish_reasons=reasons[point.key],
                metrics=means(metrics, own),
                gaps={} if point.model else _gaps(task, own, by_model),
                against={}
                if point.model
                else {
                    model: _differences(task, own, other)
                    for model, other in by_model.items()
                    if model != LARGE
                },
            )
        )
    return summaries


def means(metrics: Mapping[str, Metric], values: Mapping[int, Values]) -> dict[str, Mean]:
    """Of each metric that was measured."""
    found = {}
    for name, metric in metrics.items():
        needed = {name, metric.over or name}
        rows = [of for of in values.values() if needed <= of.keys()]
        if rows:
            own = [of[name] for of in rows]
            if metric.over:
                (of_all,) = ratios_of_sums([of[metric.over] for of in rows], np.array([own]).T)
            else:
                of_all = mean(own)
            value, low, high = _shown(metric, np.array(of_all)).tolist()
            found[name] = Mean(value, low, high, len(rows))
    return found


def _paired(name: str, metric: Metric, *of: Mapping[int, Values]) -> tuple[Array, Array]:
    """Of a metric, over the items where all models have it: what its sum over these is divided by,
    and what is summed up, each (items, models)."""
    needed = {name, metric.over or name}
    both = [i for i in of[0] if all(needed <= one.get(i, {}).keys() for one in of)]
    above = np.array([[one[i][name] for one in of] for i in both])
    below = np.array([[one[i].get(metric.over, 1.0) for one in of] for i in both])
    return below, above


def _difference(metric: Metric, below: Array, above: Array) -> Interval:
    """The first model's figure less the second's."""
    if not (metric.over or metric.exponential):
        return mean(above[:, 0] - above[:, 1])
    return of_ratios(below, above, lambda r: np.subtract(*_shown(metric, r).T))


def _gap(metric: Metric, below: Array, above: Array) -> Interval:
    """How much of the way from the first model's figure to the third's the second goes."""
    if not (metric.over or metric.exponential):
        return gap_recovered(*above.T)

    def figure(ratios: Array) -> Array:
        small, emulated, large = _shown(metric, ratios).T
        gap: Array = (emulated - small) / (large - small)
        return gap

    found = of_ratios(below, above, figure, resamples=10_000)
    return found if math.isfinite(found.value) else Interval(math.nan, math.nan, math.nan)


def _shown(metric: Metric, ratios: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(ratios) if metric.exponential else ratios


def _gaps(
    task: Task, own: Mapping[int, Values], by_model: Mapping[str, Mapping[int, Values]]
) -> dict[str, Interval]:
    if SMALL not in by_model or LARGE not in by_model:
        return {}
    found = {}
    for name, metric in task.metrics.items():
        below, above = _paired(name, metric, by_model[SMALL], own, by_model[LARGE])
        if len(above):
            found[name] = _gap(metric, below, above)
    return found


def _differences(
    task: Task, own: Mapping[int, Values], other: Mapping[int, Values]
) -> dict[str, Interval]:
    found = {}
    for name, metric in task.metrics.items():
        below, above = _paired(name, metric, own, other)
        if len(above):
            found[name] = _difference(metric, below, above)
    return found


def as_data(
    task: Task,
    items: Sequence[Item],
    summaries: Sequence[PointSummary],
    manifest: Manifest,
    metrics: Sequence[str],
) -> dict[str, Any]:
    """Everything, ready for JSON."""
    return {
        "manifest": manifest,
        "points": [
            {
                **settings(s.point),
                "n": s.n,
                "finish_reasons": dict(s.finish_reasons),
                "metrics": {m: s.metrics[m]._asdict() for m in metrics if m in s.metrics},
                "gap_recovered": {m: of for m, of in s.gaps.items() if m in metrics},
                "against": {
                    model: {m: of for m, of in found.items() if m in metrics}
                    for model, found in s.against.items()
                },
            }
            for s in summaries
        ],
        "groups": [
            {"group": group, "n": n, "metric": next(iter(task.metrics)), "gap_recovered": gap}
            | {"models": dict(zip((s.point.label() for s in summaries), found, strict=True))}
            for group, n, found, gap in _groups(task, items, summaries)
        ],
    }


def as_tables(
    task: Task,
    items: Sequence[Item],
    summaries: Sequence[PointSummary],
    metrics: Mapping[str, Metric],
    console: Console,
) -> Iterator[RenderableType]:
    """One row a point, in as many tables as the metrics need in the console's width; the grid
    against the models that it is compared with; the groups of the items."""
    dials = varied([s.point for s in summaries])
    compares = any(s.point.model for s in summaries)
    heads = ["model"] * compares + [*map(words_of, dials)]
    heads = heads or ["recipe"]
    left = [[*_names(s.point, dials, compares), str(s.n)] for s in summaries]
    columns: dict[str, list[str]] = {}
    for metric in metrics:
        found = [s.metrics.get(metric) for s in summaries]
        if any(found):
            digits = min(_digits(mean) for mean in found if mean)
            columns[words_of(metric)] = [
                cell(mean, s.n, digits) for mean, s in zip(found, summaries, strict=True)
            ]

    yield from _fitted([*heads, "n"], left, columns, console)
    yield from _compared(task, summaries, dials, console)
    parts = list(_groups(task, items, summaries))
    if parts and len(of_grid([s.point for s in summaries])) == 1:
        names = [s.point.label() if s.point.model else "emulation" for s in summaries]
        first = next(iter(task.metrics))
        columns = {
            name: [number(of[i].mean, ".3f") for _, _, of, _ in parts]
            for i, name in enumerate(names)
        }
        if any(not math.isnan(gap.value) for *_, gap in parts):
            columns["gap recovered"] = [interval(gap) for *_, gap in parts]
        left = [[name, str(n)] for name, n, *_ in parts]
        tables = _fitted(["group", "n"], left, columns, console)
        yield titled(f"By group: {words_of(first)}", *tables)


def _fitted(
    heads: Sequence[str],
    left: Sequence[Sequence[str]],
    columns: Mapping[str, Sequence[str]],
    console: Console,
) -> Iterator[Table]:
    """In as many tables as the columns need in the console's width, what stands left in each.

    Args:
        heads: of what stands left, where only n is a number.
    """

    def shown_with(titles: Sequence[str]) -> Table:
        rows = ([*row, *(columns[title][i] for title in titles)] for i, row in enumerate(left))
        return table([*heads, *titles], rows, texts=range(len(heads) - ("n" in heads)))

    group: list[str] = []
    unlimited = console.options.update(width=_WIDEST)
    for title in columns:
        wider = console.measure(shown_with([*group, title]), options=unlimited)
        if group and wider.maximum > console.width:
            yield shown_with(group)
            group = []
        group.append(title)
    yield shown_with(group)


def _names(point: Point, dials: Sequence[str], compares: bool) -> list[str]:
    values = [shown(point.dials[d]) if d in point.dials else "" for d in dials]
    named = [point.model or "emulation"] if compares else []
    return [*named, *values] or [point.recipe.name]


def _compared(
    task: Task, summaries: Sequence[PointSummary], dials: Sequence[str], console: Console
) -> Iterator[RenderableType]:
    grid = [s for s in summaries if s.against]
    first = next(iter(task.metrics), "")
    if not any(first in found for s in grid for found in s.against.values()):
        return
    others = list(grid[0].against)
    gaps = ["gap recovered"] if any(first in s.gaps for s in grid) else []
    none = Interval(math.nan, math.nan, math.nan)
    title = (
        f"{words_of(first).capitalize()}: the emulation less each other model, with 95% intervals"
    )
    columns = {
        f"less {name}": [interval(s.against[name].get(first, none), "+.3f") for s in grid]
        for name in others
    }
    for name in gaps:
        columns[name] = [interval(s.gaps.get(first, none)) for s in grid]
    left = [[s.point.label(dials) if dials else "as set"] for s in grid]
    yield titled(title, *_fitted(["emulation"], left, columns, console))


def _groups(
    task: Task, items: Sequence[Item], summaries: Sequence[PointSummary]
) -> Iterator[tuple[str, int, list[Mean], Interval]]:
    """Of each group of items: the first metric's mean at each point, and the gap that the first
    point of the grid recovers."""
    if not task.metrics:
        return
    first = next(iter(task.metrics))
    of_first = {first: task.metrics[first]}
    none = Mean(math.nan, math.nan, math.nan, 0)
    by_model = {s.point.model: s.values for s in summaries if s.point.model}
    grid = next((s for s in summaries if not s.point.model), None)
    for group in sorted({name for item in items for name in item.groups}):
        ours = {i for i, item in enumerate(items) if group in item.groups}

        def within(values: Mapping[int, Values], ours: set[int] = ours) -> dict[int, Values]:
            return {i: of for i, of in values.items() if i in ours}

        found = [means(of_first, within(s.values)).get(first, none) for s in summaries]
        n = max((of.n for of in found), default=0)
        if grid is None or not n:
            continue
        models = {name: within(values) for name, values in by_model.items()}
        gap = _gaps(task, within(grid.values), models).get(
            first, Interval(math.nan, math.nan, math.nan)
        )
        yield group, n, found, gap


def constants(summaries: Sequence[PointSummary]) -> str:
    """The dials that every point shares, and how many items were answered."""
    points = [s.point for s in summaries]
    dials, grid = varied(points), of_grid(points)
    counts = [s.n for s in summaries]
    least, most = min(counts), max(counts)
    answered = _counted(most, "prompt") if least == most else f"{least} to {most} prompts"
    models = [_counted(len(points) - len(grid), "model")] if grid != points else []
    what = [_counted(len(grid), "point") if len(grid) > 1 or not models else "the emulation"]
    told = [f"{' and '.join(what + models)}, {answered} each"]
    fixed = [dial for dial in grid[0].dials if dial not in dials] if grid else []
    return "; ".join(told + ([grid[0].label(fixed)] if fixed else []))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def cell(found: Mean | None, n: int, digits: int | None = None) -> str:
    """`0.48`, under it `[0.44, 0.52]`, and where it is not of all n items, `of 3`.

    Args:
        digits: decimals; without, three digits in all.
    """
    if found is None:
        return ""
    digits = _digits(found) if digits is None else digits
    lines = [f"{found.mean:.{digits}f}"]
    if not math.isnan(found.low):
        lines.append(f"[{found.low:.{digits}f}, {found.high:.{digits}f}]")
    if found.n != n:
        lines.append(f"of {found.n}")
    return "\n".join(lines)


def _digits(found: Mean) -> int:
    """Decimals that show three digits of the largest."""
    largest = max((abs(number) for number in found[:3] if math.isfinite(number)), default=0.0)
    return 3 if largest <= 1 else 2 if largest < 10 else 1


def words_of(name: str) -> str:
    return name.replace("_", " ")


def page(
    task: Task,
    items: Sequence[Item],
    summaries: Sequence[PointSummary],
    records: Mapping[tuple[str, int, int], Record],
    metrics: Mapping[str, Metric],
) -> str:
    """The HTML page: the first answers of every point side by side; an item that no point has
    answered is left out."""
    rows = [
        (number, item, [records.get((s.point.key, number - 1, 0)) for s in summaries])
        for number, item in enumerate(items, 1)
    ]
    return render(
        "eval",
        task=task.name,
        summary=constants(summaries),
        summaries=summaries,
        dials=varied([s.point for s in summaries]),
        metrics={name: of.about for name, of in metrics.items()},
        shares=[name for name, of in task.metrics.items() if of.is_share][:1],
        rows=[row for row in rows if any(row[2])],
        reasons={**ENDINGS, "stop": "stopped by itself", "scored": "not generated"},
        cell=cell,
        interval=interval,
        shown=shown,
    )
