"""The figures of a benchmark as tables for the screen."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from eftlocal.benchmark.machine import BUSY
from eftlocal.benchmark.modes import BASE

_GIB = 1 << 30
_REASON = 17  # characters a line: tables are to fit 80 columns


def as_tables(report: dict[str, Any]) -> Iterator[tuple[str, Table]]:
    """Each with its title: speed; drafts, memory, energy."""
    settings = report["settings"]
    title = (
        f"Speed: {settings['prompts']} prompts x {settings['repeat']}, at most "
        f"{settings['max_tokens']} tokens; prefill of {settings['prompt_tokens']}"
    )
    columns = ("prefill tok/s", "first token", "decode tok/s", "over plain [95%]", "over base")
    table = _table("", *columns)
    for name, found in report["modes"].items():
        _row(
            table,
            name,
            _number(found["prefill_tokens_per_second"], "{:.1f}"),
            _number(found["first_token_seconds"], "{:.3f} s"),
            _number(found["decode_tokens_per_second"], "{:.1f}"),
            _interval(found["decode_over_plain"]),
            _number(found["decode_over_base"], "{:.2f}"),
        )
    for name, why in report["not_measured"].items():
        _row(table, name, "", "", "", textwrap.fill(why, _REASON))
    yield title, table

    columns = ("accepted share", "accepted a draft", "same text", "peak memory", "joules a token")
    table = _table("", *columns)
    for name, found in report["modes"].items():
        drafted = found["acceptance"] is not None
        _row(
            table,
            name,
            f"{found['acceptance']:.0%}" if drafted else "no drafts",
            f"{found['accepted_length']:.2f}" if drafted else "-",
            "-" if name == BASE else f"{found['same_text_as_plain']:.0%}",
            f"{found['peak_bytes'] / _GIB:.2f} GiB",
            _number(found["joules_per_token"], "{:.2f}") if report["meters"] else "not told",
        )
    yield "Drafts, memory, energy", table


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What a reader must know of these figures."""
    where = report["machine"]
    yield ", ".join([where["processor"], f"{where['cores']} cores", *where["devices"]])
    if where["busy_percent"] > BUSY:
        yield (
            f"the machine was busy before ({where['busy_percent']:.0f}% of its cores): expect "
            "slower and noisier figures"
        )
    if report["meters"]:
        yield f"energy of the whole {' and '.join(report['meters'])}, other programs included"
    for name, of in report["modes"].items():
        if of["device_bytes"]:
            yield f"{name}: {of['device_bytes'] / _GIB:.2f} GiB of device memory came into use"


def _number(figure: Sequence[float], form: str) -> str:
    return "-" if math.isnan(figure[0]) else form.format(figure[0])


def _interval(figure: Sequence[float]) -> str:
    value, low, high = figure
    return "-" if math.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        header = Text(column.replace(" ", "\n", 1) if i else column)
        table.add_column(header, justify="right" if i else "left", no_wrap=True)
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(cell, no_wrap=True) for cell in cells))
