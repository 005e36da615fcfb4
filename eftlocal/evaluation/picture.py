"""Pictures of an evaluation: curves over a dial, heat maps over two, models side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eftlocal.evaluation.figures import PointSummary, words_of
from eftlocal.evaluation.grid import Point, Value, varied
from eftlocal.evaluation.task import Metric
from eftlocal.study.plot import curve, panels, save
from eftlocal.study.statistics import Interval

MOST_PANELS = 12
_DASHES = ":", "--", "-.", (0, (1, 4))


def plot(summaries: Sequence[PointSummary], metrics: Mapping[str, Metric], path: Path) -> None:
    """Writes one panel a metric, in the format that the file's ending names.

    Two dials of numbers are a heat map. Otherwise the first dial of numbers is the axis, and every
    combination of the others a curve with its 95% band, and the models that they are compared with
    are lines; without one, all stand side by side.

    Raises:
        UsageError: the file cannot be written.
    """
    measured = [m for m in metrics if any(m in s.metrics for s in summaries)][:MOST_PANELS]
    grid = [s for s in summaries if not s.point.model]
    dials = varied([s.point for s in summaries])
    numeric = [d for d in dials if all(_number(s.point.dials[d]) is not None for s in grid)]
    picture, axes = panels(len(measured), columns=3, width=4.4, height=3.4)
    heat = len(dials) == len(numeric) == 2
    for panel, metric in zip(axes, measured, strict=False):
        panel.set_title(words_of(metric))
        if heat:
            _heat_map(picture, panel, grid, metric, dials)
            continue
        _curves(panel, summaries, metric, numeric[0] if numeric else None, dials)
        if metrics[metric].is_share:
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
    if axis:
        models = [s for s in summaries if s.point.model and metric in s.metrics]
        for s, dashes in zip(models, _DASHES, strict=False):
            height = s.metrics[metric].mean
            panel.axhline(height, linestyle=dashes, color="gray", label=s.point.model)
        summaries = [s for s in summaries if not s.point.model]
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
        names = [s.point.label(dials) if dials or s.point.model else "emulation" for s in summaries]
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
        return f"{words_of(dial)} of {next(iter(value))}"
    return words_of(dial)
