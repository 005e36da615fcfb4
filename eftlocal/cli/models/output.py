"""How `eftlocal models` writes: tables whose cells are never markup, sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from eftlocal import hub
from eftlocal.cli.screen import Screen


def new_table(*columns: str) -> Table:
    """A table with a head. Cells fold where a word is too long, so that nothing is cut off."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def new_fact_sheet() -> Table:
    """Two columns without a head: what it is about, and what there is to say."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def add_row(table: Table, *cells: str | Sequence[str]) -> None:
    """A row; a cell is one line, or a line for each text of a list, whatever the texts hold."""
    lines = ([cell] if isinstance(cell, str) else cell for cell in cells)
    table.add_row(
        *(Text("\n".join(" ".join(line.splitlines()) for line in cell)) for cell in lines)
    )


def print_table(table: Table) -> None:
    Screen().print(table)


def screen_width() -> int:
    """Characters on a line; 80 where nothing tells."""
    return Screen().width


def size_text(size: int | None) -> str:
    return "?" if size is None else hub.readable(size)


def plain(value: Any) -> str:
    """A setting, or a table of settings, on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} = {plain(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
