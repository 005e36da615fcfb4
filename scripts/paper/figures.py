"""The experiments, and what is kept of their runs: tables of published and measured figures."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from eftlocal.json_text import parse_toml
from eftlocal.study.report import interval

TOLD: dict[str, Any] = parse_toml((HERE / "experiments.toml").read_text("utf-8"))
EXPERIMENTS: dict[str, dict[str, Any]] = {of["name"]: of for of in TOLD["experiment"]}
RESULTS = HERE / "results"
WARNING = "stand-in models: these figures say nothing of the paper's"


def figures(experiment: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a run: items, and by row and metric a mean with the ends of its interval.

    Args:
        data: what `eftlocal eval --json` printed.
    """
    points = data["points"]
    grid = [point for point in points if point["model"] == "emulation"]
    dials = [d for d in grid[0]["dials"] if any(p["dials"][d] != grid[0]["dials"][d] for p in grid)]
    rows = {}
    for point in points:
        names = experiment.get("metrics") or [next(iter(point["metrics"]))]
        own = {name: point["metrics"][name] for name in names if name in point["metrics"]}
        values = {name: [of["mean"], of["low"], of["high"]] for name, of in own.items()}
        rows[_named(point, dials)] = values
    for verdict in data.get("judged", ()):
        of_row = rows.setdefault(f"{verdict['point']} against {verdict['against']}", {})
        for criterion, tally in verdict["criteria"].items():
            rate = tally["rate"]
            of_row[f"win rate, {criterion}"] = [rate["value"], rate["low"], rate["high"]]
    return {"items": max(point["n"] for point in points), "rows": rows}


def _named(point: Mapping[str, Any], dials: Sequence[str]) -> str:
    if point["model"] != "emulation" or not dials:
        return str(point["model"])
    return ", ".join(f"{dial} {_shown(point['dials'][dial])}" for dial in dials)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{role}={share:g}" for role, share in value.items())
    return "off" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def table(
    experiment: Mapping[str, Any], result: Mapping[str, Any] | None, *, beside: bool = True
) -> str:
    """Published and measured, row by row; without a result the latter is empty.

    Args:
        beside: with the published figures.
    """
    published = experiment.get("published", {}) if beside else {}
    rows = result["rows"] if result else {}
    metrics = list(dict.fromkeys(name for of in rows.values() for name in of)) or [""]
    columns = [("published", experiment.get("measure"))] * beside
    measured = "stand-in" if result and result.get("stand_in") else "measured"
    columns += [(measured, metric) for metric in metrics]
    head = ["", *(f"{what}: {of}" if of else what for what, of in columns)]
    body = []
    for row in dict.fromkeys([*published, *rows]):
        own = rows.get(row, {})
        said = [f"{published[row] / 100:.3f}" if row in published else ""] * beside
        body.append([row, *said, *(cell(own[m]) if m in own else "" for m in metrics)])
    told = f"\n{result['items']} items.\n" if result else ""
    return markdown(head, body) + told if body else ""


def cell(found: Sequence[float | None], form: str = ".3f") -> str:
    """A figure with its interval; without where all items have one value."""
    value, low, high = map(_nan, found)
    return f"{value:{form}}" if low == high else interval((value, low, high), form)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


HEADS = ["name", "in the paper", "task", "models", "published", "measured"]


def listed(experiment: Mapping[str, Any]) -> list[str]:
    published = experiment.get("published", {})
    told = ", ".join(f"{row} {value:g}" for row, value in published.items())
    result = kept().get((experiment["name"], None))
    rows = (result["rows"] if result else {}).items()
    first = {row: next(iter(of.values()))[0] for row, of in rows if of}
    measured = ", ".join(f"{row} {100 * _nan(value):.1f}" for row, value in first.items())
    cells = [experiment[key] for key in ("name", "where", "task", "models")]
    return [*cells, told, measured]


def kept() -> dict[tuple[str, str | None], dict[str, Any]]:
    """The figures in results/, by experiment and stand-in."""
    paths = [path for path in sorted(RESULTS.glob("*.json")) if ".jsonl." not in path.name]
    found = [json.loads(path.read_text("utf-8")) for path in paths]
    return {(of["name"], of["stand_in"]): of for of in found}
