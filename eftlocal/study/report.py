"""How figures are shown: tables for the terminal, intervals in their cells, strict JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from eftlocal.terminal_text import shown_json


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Collection[int] = (0,)
) -> Table:
    """A table without lines.

    Args:
        columns: the headers; those of numbers break at their first space.
        rows: what stands in the cells, as it is.
        texts: places of the columns of texts, which may take several lines; the others are numbers.
    """
    made = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        if i in texts:
            made.add_column(Text(name), overflow="fold", min_width=min(8, len(name)))
        else:
            made.add_column(Text(name.replace(" ", "\n", 1)), justify="right", no_wrap=True)
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def titled(title: str, *shown: Table) -> Group:
    """Tables under their title, with an empty line after it."""
    return Group(Text(title, style="bold"), *shown, "")


def number(value: float, form: str = ".2f") -> str:
    """A figure; a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:{form}}"


def interval(found: Sequence[float], form: str = ".2f", none: str = "-") -> str:
    """`0.48 [0.44, 0.52]` of a value and the ends of its interval; the value alone without ends."""
    value, low, high = found
    if math.isnan(value):
        return none
    ends = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{ends}"


def plain(value: Any, *, digits: int = 17) -> Any:
    """Figures as JSON has them: named tuples as objects, what is not finite as null.

    Args:
        digits: of a float, at most.
    """
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: plain(of, digits=digits) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(of, digits=digits) for of in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def as_json(figures: Any) -> str:
    """The figures as JSON of several lines, safe to show."""
    return shown_json(plain(figures), indent=2)
