"""The figures of an evaluation as tables for the screen and as strict JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from eftlocal.terminal_text import shown_json

SMALL, EMULATION, LARGE = "small tuned", "emulation", "large tuned"


def as_json(figures: dict[str, Any]) -> str:
    """The figures; NaN and infinity, which JSON does not have, as null."""
    return shown_json(_finite(figures), indent=2)


def as_tables(figures: dict[str, Any]) -> Iterator[tuple[str, Table]]:
    """Each with its title: answers, recipes, families and phrasings, interpolation."""
    answers, scored = figures["answers"], figures["scored"]
    count = figures["questions"]["all"]

    title = f"Greedy answers to {count} {figures['split']} questions"
    table = _table("", "exact", "format", "stopped", "fact", "PGR [95%]")
    for name, parts in answers.items():
        found = parts["all"]
        shares = (_share(found[key]) for key in ("exact", "format", "stopped", "fact"))
        _row(table, name, *shares, _interval(found["pgr"]))
    yield title, table

    title = "Gold answers scored: exact by argmax, negative log-likelihood in nats"
    table = _table("", "exact", "fact", "format", "PGR [95%]")
    for name, parts in scored.items():
        found = parts["all"]
        nll = (_nats(found[key]) for key in ("fact_nll", "format_nll"))
        _row(table, name, _share(found["exact"]), *nll, _interval(found["pgr"]))
    yield title, table

    names = (SMALL, "large base", EMULATION, LARGE)
    title = "By family and phrasing: exact greedy answers"
    table = _table("", "n", *names, "PGR [95%]")
    for part, n in figures["questions"].items():
        exact = (_share(answers[name][part]["exact"]) for name in names)
        _row(table, part, str(n), *exact, _interval(answers[EMULATION][part]["pgr"]))
    yield title, table

    title = "By family and phrasing: format kept; fact and format tokens in nats"
    three = (SMALL, EMULATION, LARGE)
    table = _table("", *three)
    for part in figures["questions"]:
        cells = (
            f"{_share(answers[name][part]['format'])}{_nats(scored[name][part]['fact_nll']):>5}"
            f"{_nats(scored[name][part]['format_nll']):>6}"
            for name in three
        )
        _row(table, part, *cells)
    yield title, table

    keys = ("fact", "warm format", "warm exact", "plain format", "plain exact")
    title = "Interpolation: lambda is the share of the tuned model, the rest is plain"
    table = _table("lambda", *keys)
    for share, found in figures["interpolation"].items():
        _row(table, share, *(_share(found[key]) for key in keys))
    yield title, table


def summary(figures: dict[str, Any]) -> str:
    """The figures that matter most, in three lines."""
    drafts = figures["acceptance"]
    pgr = _interval(figures["answers"][EMULATION]["all"]["pgr"])
    return (
        f"emulation ({figures['recipe']}):\nPGR {pgr} between {SMALL} and {LARGE}\n"
        f"drafts of the {SMALL} model accepted: {_share(drafts['agreement'])} of "
        f"{drafts['tokens']} tokens greedy, {_share(drafts['overlap'])} drawn (mean of 1 - TV)"
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        header = Text(column.replace(" ", "\n", 1) if i else column)
        table.add_column(header, justify="right" if i else "left", no_wrap=True)
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(cell, no_wrap=True) for cell in cells))


def _share(value: float) -> str:
    return f"{value:.3f}"


def _nats(value: float) -> str:
    return f"{value:.2f}"


def _interval(pgr: list[float]) -> str:
    value, low, high = pgr
    return "no gap" if math.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_finite(of) for of in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
