"""What a sweep shows: means with intervals, tables, pictures, a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from rich.table import Table
from rich.text import Text

from eftlocal.output_file import write_picture, write_whole
from eftlocal.study.questions import Question
from eftlocal.sweep.answers import METRICS, SHARES, Item, Manifest, Record
from eftlocal.sweep.grid import Point, Value, settings, shown, varied
from eftlocal.terminal_text import printable

_CHUNK = 1 << 22  # counts drawn at once


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


def mean_interval(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Mean:
    """The mean with the 2.5 and 97.5 percentile over resampled prompts (Efron's bootstrap)."""
    n = len(values)
    if not n:
        return Mean(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if not math.isfinite(mean):
        return Mean(mean, math.nan, math.nan, n)
    # Prompts of equal values are interchangeable, so a resample is a draw of their counts.
    kinds, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    rng = np.random.default_rng(seed)
    size = max(1, _CHUNK // len(kinds))
    means = [
        rng.multinomial(n, counts / n, size=min(size, resamples - start)) @ kinds / n
        for start in range(0, resamples, size)
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return Mean(mean, float(low), float(high), n)


def summarise(
    points: Sequence[Point], prompts: int, records: Mapping[tuple[str, int], Record]
) -> list[PointSummary]:
    """One summary a point, over its prompts that are done."""
    return [_point(point, prompts, records) for point in points]


def _point(point: Point, prompts: int, records: Mapping[tuple[str, int], Record]) -> PointSummary:
    done = [r for i in range(prompts) if (r := records.get((point.key, i))) is not None]
    values = {name: [r.values[name] for r in done if name in r.values] for name in METRICS}
    return PointSummary(
        point=point,
        n=len(done),
        finish_reasons=dict(sorted(Counter(r.finish_reason for r in done).items())),
        metrics={name: mean_interval(of) for name, of in values.items() if of},
    )


_GAP = 2  # columns between two cells


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
    summaries: Sequence[PointSummary], metrics: Sequence[str], *, width: int
) -> list[Table]:
    """One row a point; as many tables as the metrics need in this width."""
    dials = varied([s.point for s in summaries])
    measured = [m for m in metrics if any(m in s.metrics for s in summaries)]
    heads = [_title(name) for name in dials] or ["recipe"]
    left = [
        [shown(s.point.dials[dial]) for dial in dials] or [s.point.recipe.name] for s in summaries
    ]
    used = sum(_GAP + max(map(len, [h, *(row[i] for row in left)])) for i, h in enumerate(heads))
    used += _GAP + max(len(str(s.n)) for s in summaries)
    cells = {}
    for m in measured:
        found = [s.metrics.get(m) for s in summaries]
        digits = min(_digits(mean) for mean in found if mean)
        cells[m] = [cell(mean, digits) for mean in found]
    groups: list[list[str]] = [[]]
    room = width - used
    for metric in measured:
        lines = [line for text in (_title(metric), *cells[metric]) for line in text.split("\n")]
        size = _GAP + max(map(len, lines))
        if groups[-1] and size > room:
            groups.append([])
            room = width - used
        groups[-1].append(metric)
        room -= size
    return [_table(heads, left, summaries, {m: cells[m] for m in group}) for group in groups]


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


def _table(
    heads: Sequence[str],
    left: Sequence[Sequence[str]],
    summaries: Sequence[PointSummary],
    cells: dict[str, list[str]],
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for head in heads:
        table.add_column(Text(head), overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    for metric in cells:
        table.add_column(Text(_title(metric)), justify="right", no_wrap=True)
    for i, (row, s) in enumerate(zip(left, summaries, strict=True)):
        table.add_row(*map(Text, row), Text(str(s.n)), *(Text(cells[m][i]) for m in cells))
    return table


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


TEMPLATE = Path(__file__).with_name("page.html")

_REASONS = {
    "stop": "stopped by itself",
    "length": "cut at max-tokens",
    "context": "cut: the context is full",
    "repetition": "stopped: repeating",
}


def write_page(
    path: Path,
    summaries: Sequence[PointSummary],
    items: Sequence[Item],
    records: Mapping[tuple[str, int], Record],
    metrics: Sequence[str],
) -> None:
    """Writes the page; a prompt that no point has answered is left out.

    Raises:
        UsageError: the file cannot be written.
    """
    write_whole(path, render(summaries, items, records, metrics))


def render(
    summaries: Sequence[PointSummary],
    items: Sequence[Item],
    records: Mapping[tuple[str, int], Record],
    metrics: Sequence[str],
) -> str:
    """The page's source."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["visible"] = printable
    dials = varied([s.point for s in summaries])
    columns = [
        {
            "dials": [(dial.replace("_", " "), shown(s.point.dials[dial])) for dial in dials]
            or [("recipe", s.point.recipe.name)],
            "recipe": str(s.point.recipe),
            "figures": [
                (m.replace("_", " "), cell(s.metrics[m]).replace("\n", " "))
                for m in metrics
                if m in s.metrics
            ],
        }
        for s in summaries
    ]
    rows = []
    for index, item in enumerate(items):
        found = [records.get((s.point.key, index)) for s in summaries]
        if any(found):
            gold = [*item.gold, *(q.answers["warm"][0] for q in _asked(item))]
            rows.append(
                {
                    "number": index + 1,
                    "prompt": item.text,
                    "gold": gold[:1],
                    "answers": [_answer(record) for record in found],
                }
            )
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        summary=constants(summaries), columns=columns, rows=rows
    )


def _asked(item: Item) -> tuple[Question, ...]:
    return item.asked.questions if item.asked else ()


def _answer(record: Record | None) -> dict[str, object] | None:
    if record is None:
        return None
    exact = record.values.get("exact")
    return {
        "text": record.text.strip(),
        "ended": _REASONS.get(record.finish_reason, record.finish_reason),
        "tokens": int(record.values.get("tokens", 0)),
        "exact": None if exact is None else exact == 1.0,
    }
