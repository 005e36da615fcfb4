"""The metrics over the dials as a picture: curves, or heat maps over two. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eftlocal.output_file import write_picture
from eftlocal.sweep.dials import Value
from eftlocal.sweep.grid import Point, varied
from eftlocal.sweep.measures import SHARES
from eftlocal.sweep.summary import PointSummary

MOST_PANELS = 12
_COLUMNS = 3


def plot(summaries: Sequence[PointSummary], metrics: Sequence[str], path: Path) -> None:
    """Writes one panel a metric, in the format that the file's ending names.

    Two dials of numbers are a heat map. Otherwise the first dial of numbers is the axis, and every
    combination of the others a curve with its 95% band; without one, the points stand side by side.

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    measured = [m for m in metrics if any(m in s.metrics for s in summaries)][:MOST_PANELS]
    dials = varied([s.point for s in summaries])
    numeric = [d for d in dials if all(_number(s.point.dials[d]) is not None for s in summaries)]
    columns = max(1, min(_COLUMNS, len(measured)))
    rows = max(1, math.ceil(len(measured) / columns))
    picture = Figure(figsize=(4.4 * columns, 3.4 * rows), layout="constrained")
    panels = picture.subplots(rows, columns, squeeze=False).flat
    for panel in panels[len(measured) :]:
        panel.set_axis_off()
    for panel, metric in zip(panels, measured, strict=False):
        if len(dials) == len(numeric) == 2:
            _heat_map(picture, panel, summaries, metric, dials)
        else:
            _curves(panel, summaries, metric, numeric[0] if numeric else None, dials)
            if metric in SHARES:
                panel.set_ylim(-0.03, 1.03)
        panel.set_title(_title(metric))
    if not (len(dials) == len(numeric) == 2):
        _legend(picture, panels[0])
    write_picture(picture, path)


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
        x = [at for at, _ in line]
        found = [s.metrics[metric] for _, s in line]
        (drawn,) = panel.plot(
            x, [m.mean for m in found], "o-" if axis else "o", markersize=4, label=name
        )
        low, high = [m.low for m in found], [m.high for m in found]
        if axis:
            panel.fill_between(x, low, high, color=drawn.get_color(), alpha=0.18, linewidth=0)
        else:
            panel.vlines(x, low, high, color=drawn.get_color())
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


def _title(name: str) -> str:
    return name.replace("_", " ")
