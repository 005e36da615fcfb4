"""Answers side by side in one HTML page, a column a point. No script, no request, all escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from eftlocal.evaluate.questions import Question
from eftlocal.output_file import write_whole
from eftlocal.sweep.dials import shown
from eftlocal.sweep.grid import varied
from eftlocal.sweep.journal import Record
from eftlocal.sweep.prompts import Item
from eftlocal.sweep.report import cell, constants
from eftlocal.sweep.summary import PointSummary
from eftlocal.terminal_text import printable

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
