"""What a sweep shows: means with intervals, tables, pictures, a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from eftlocal.generation import ENDINGS
from eftlocal.journal.manifest import Manifest
from eftlocal.study.grid import Point, Value, settings, shown, varied
from eftlocal.study.page import render
from eftlocal.study.plot import curve, panels, save
from eftlocal.study.report import table
from eftlocal.study.statistics import Interval, mean
from eftlocal.study.sweep import METRICS, Item, Record

_WIDEST = 10_000  # columns, to measure a table that nothing squeezes
MOST_PANELS = 12


class Mean(NamedTuple):
    """A mean over n prompts and the ends of its 95% interval; the ends are NaN where a value is
    infinite, and the mean itself where there is none."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PointSummary:
    """What was measured at one point.

    Attributes:
        n: prompts answered.
        finish_reasons: how many answers ended so.
        metrics: name to mean; a metric nobody measured here is absent.
    """

    point: Point
    n: int
    finish_reasons: Mapping[str, int]
    metrics: Mapping[str, Mean]


def summarise(
    points: Sequence[Point], prompts: int, records: Mapping[tuple[str, int], Record]
) -> list[PointSummary]:
    """One summary a point, over its prompts that are done."""
    summaries = []
    for point in points:
        done = [r for i in range(prompts) if (r := records.get((point.key, i))) is not None]
        values = {name: [r.values[name] for r in done if name in r.values] for name in METRICS}
        reasons = dict(sorted(Counter(r.finish_reason for r in done).items()))
        means = {name: Mean(*mean(of), len(of)) for name, of in values.items() if of}
        summaries.append(PointSummary(point, len(done), reasons, means))
    return summaries


def as_data(
    summaries: Sequence[PointSummary], manifest: Manifest, metrics: Sequence[str]
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
            }
            for s in summaries
        ],
    }


def as_tables(
    summaries: Sequence[PointSummary], metrics: Sequence[str], console: Console
) -> list[Table]:
    """One row a point; as many tables as the metrics need in the console's width."""
    dials = varied([s.point for s in summaries])
    heads = [*map(_title, dials or ["recipe"]), "n"]
    left = [
        [*([shown(s.point.dials[dial]) for dial in dials] or [s.point.recipe.name]), str(s.n)]
        for s in summaries
    ]
    columns: dict[str, list[str]] = {}
    for metric in metrics:
        found = [s.metrics.get(metric) for s in summaries]
        if any(found):
            digits = min(_digits(mean) for mean in found if mean)
            columns[_title(metric)] = [cell(mean, digits) for mean in found]

    def shown_with(titles: Sequence[str]) -> Table:
        rows = ([*row, *(columns[title][i] for title in titles)] for i, row in enumerate(left))
        return table([*heads, *titles], rows, texts=range(len(heads) - 1))

    made: list[Table] = []
    group: list[str] = []
    unlimited = console.options.update(width=_WIDEST)
    for title in columns:
        wider = console.measure(shown_with([*group, title]), options=unlimited)
        if group and wider.maximum > console.width:
            made.append(shown_with(group))
            group = []
        group.append(title)
    return [*made, shown_with(group)]


def constants(summaries: Sequence[PointSummary]) -> str:
    """The dials that every point shares, and how many prompts were answered."""
    first = summaries[0].point
    dials = varied([s.point for s in summaries])
    fixed = [dial for dial in first.dials if dial not in dials]
    counts = [s.n for s in summaries]
    answered = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    told = [f"{len(summaries)} points, {answered} prompts each"]
    return "; ".join(told + ([first.label(fixed)] if fixed else []))


def cell(found: Mean | None, digits: int | None = None) -> str:
    """`0.48`, and under it `[0.44, 0.52]`; so many decimals, or three digits in all."""
    if found is None:
        return ""
    if math.isnan(found.low):
        return f"{found.mean:.3g}"
    digits = _digits(found) if digits is None else digits
    return f"{found.mean:.{digits}f}\n[{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _digits(found: Mean) -> int:
    """Decimals that show three digits of the largest."""
    largest = max((abs(number) for number in found[:3] if math.isfinite(number)), default=0.0)
    return 3 if largest <= 1 else 2 if largest < 10 else 1


def _title(name: str) -> str:
    return name.replace("_", " ")


def plot(summaries: Sequence[PointSummary], metrics: Sequence[str], path: Path) -> None:
    """Writes one panel a metric, in the format that the file's ending names.

    Two dials of numbers are a heat map. Otherwise the first dial of numbers is the axis, and every
    combination of the others a curve with its 95% band; without one, the points stand side by side.

    Raises:
        UsageError: the file cannot be written.
    """
    measured = [m for m in metrics if any(m in s.metrics for s in summaries)][:MOST_PANELS]
    dials = varied([s.point for s in summaries])
    numeric = [d for d in dials if all(_number(s.point.dials[d]) is not None for s in summaries)]
    picture, axes = panels(len(measured), columns=3, width=4.4, height=3.4)
    heat = len(dials) == len(numeric) == 2
    for panel, metric in zip(axes, measured, strict=False):
        panel.set_title(_title(metric))
        if heat:
            _heat_map(picture, panel, summaries, metric, dials)
            continue
        _curves(panel, summaries, metric, numeric[0] if numeric else None, dials)
        if METRICS[metric].is_share:
            panel.set_ylim(-0.03, 1.03)
    if not heat:
        _legend(picture, axes[0])
    save(picture, path)


def _curves(
    panel: Any,
    summaries: Sequence[PointSummary],
    metric: str,
    axis: str | None,
    dials: Sequence[str],
) -> None:
    others = [dial for dial in dials if dial != axis]
    lines: dict[str, list[tuple[float, PointSummary]]] = {}
    for i, s in enumerate(summaries):
        name = s.point.label(others) if axis and others else ""
        lines.setdefault(name, []).append((_at(s.point, axis, i), s))
    for name, line in lines.items():
        line = [(x, s) for x, s in sorted(line, key=lambda at: at[0]) if metric in s.metrics]
        found = [Interval(*s.metrics[metric][:3]) for _, s in line]
        curve(panel, [x for x, _ in line], found, name, joined=axis is not None)
    if axis:
        panel.set_xlabel(_axis_title(axis, summaries[0].point.dials[axis]))
    else:
        names = [s.point.label(dials) if dials else s.point.label() for s in summaries]
        panel.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize="small")


def _heat_map(
    picture: Any,
    panel: Any,
    summaries: Sequence[PointSummary],
    metric: str,
    dials: Sequence[str],
) -> None:
    down, across = dials
    xs = sorted({_at(s.point, across, 0) for s in summaries})
    ys = sorted({_at(s.point, down, 0) for s in summaries})
    means = [[math.nan] * len(xs) for _ in ys]
    for s in summaries:
        if metric in s.metrics:
            row, column = ys.index(_at(s.point, down, 0)), xs.index(_at(s.point, across, 0))
            means[row][column] = s.metrics[metric].mean
    shades = panel.imshow(means, origin="lower", aspect="auto")
    picture.colorbar(shades, ax=panel)
    if len(xs) * len(ys) <= 64:
        for row, of_row in enumerate(means):
            for column, mean in enumerate(of_row):
                light = math.isfinite(mean) and shades.norm(mean) > 0.6
                panel.text(column, row, f"{mean:.3g}", ha="center", va="center",
                           fontsize="x-small", color="black" if light else "white")  # fmt: skip
    panel.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    panel.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    panel.set_xlabel(_axis_title(across, summaries[0].point.dials[across]))
    panel.set_ylabel(_axis_title(down, summaries[0].point.dials[down]))


def _legend(picture: Any, panel: Any) -> None:
    handles, names = panel.get_legend_handles_labels()
    named = [(h, n) for h, n in zip(handles, names, strict=True) if n]
    if named:
        picture.legend(
            [h for h, _ in named], [n for _, n in named], loc="outside lower center", ncols=3,
            fontsize="small",
        )  # fmt: skip


def _number(value: Value) -> float | None:
    """Where a value stands on an axis; a mixture of two roles stands at the first one's share."""
    if isinstance(value, Mapping):
        return next(iter(value.values())) if len(value) <= 2 else None
    if isinstance(value, str) or value is None or math.isinf(value):
        return None
    return float(value)


def _at(point: Point, dial: str | None, index: int) -> float:
    value = _number(point.dials[dial]) if dial else None
    return float(index) if value is None else value


def _axis_title(dial: str, value: Value) -> str:
    if isinstance(value, Mapping):
        return f"{_title(dial)} of {next(iter(value))}"
    return _title(dial)


def page(
    summaries: Sequence[PointSummary],
    items: Sequence[Item],
    records: Mapping[tuple[str, int], Record],
    metrics: Sequence[str],
) -> str:
    """The HTML page; a prompt that no point has answered is left out."""
    rows = [
        (number, item, [records.get((s.point.key, number - 1)) for s in summaries])
        for number, item in enumerate(items, 1)
    ]
    return render(
        "sweep",
        summary=constants(summaries),
        summaries=summaries,
        dials=varied([s.point for s in summaries]),
        metrics={name: METRICS[name].about for name in metrics},
        rows=[row for row in rows if any(row[2])],
        reasons={**ENDINGS, "stop": "stopped by itself"},
        cell=cell,
        shown=shown,
    )
