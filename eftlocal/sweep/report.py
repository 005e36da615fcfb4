"""The summaries as tables for the screen, and as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from eftlocal.sweep.dials import shown
from eftlocal.sweep.grid import settings, varied
from eftlocal.sweep.manifest import Manifest
from eftlocal.sweep.summary import Mean, PointSummary

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
