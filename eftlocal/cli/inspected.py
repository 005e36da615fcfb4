"""What `eftlocal inspect` prints and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eftlocal.cli.heat import heat, legend
from eftlocal.cli.screen import Screen
from eftlocal.cli.streams import print_json
from eftlocal.influence import Inspection
from eftlocal.influence.measures import measure_of, measures_of
from eftlocal.influence.page import page
from eftlocal.influence.plot import plot_survey
from eftlocal.influence.report import (
    as_data,
    most_moved,
    summary,
    survey_data,
    survey_tables,
    token_table,
)
from eftlocal.influence.survey import survey
from eftlocal.output_file import write_whole


def print_one(
    seen: Inspection,
    measure: str | None,
    *,
    top: int,
    plain: bool,
    as_json: bool,
    html: Path | None,
) -> None:
    """One answer: coloured text, a table of all its tokens (plain), or JSON; and a page."""
    chosen = measure_of(measures_of(seen), measure)
    if html is not None:
        write_whole(html, page(seen, chosen.name))
    if as_json:
        print_json(as_data(seen))
        return
    console = Screen(highlight=False)
    if plain:
        console.print(token_table(seen, chosen, seen.tokens))
    else:
        console.print(heat(seen, chosen), soft_wrap=True)
        console.print()
        console.print(legend(chosen))
        if top:
            console.print()
            console.print(token_table(seen, chosen, most_moved(seen, chosen, top)))
    console.print()
    console.print(summary(seen, chosen), markup=False)


def print_survey(
    seen: Sequence[Inspection],
    measure: str | None,
    *,
    top: int,
    least: int,
    as_json: bool,
    picture: Path | None,
) -> None:
    """Many answers: classes of token and single tokens as tables or JSON; and a picture."""
    figures = survey(seen, measure, least=least)
    if picture is not None:
        plot_survey(figures, picture)
    if as_json:
        print_json(survey_data(figures))
        return
    console = Screen(highlight=False)
    for title, table in survey_tables(figures, top):
        console.print(title, style="bold", markup=False)
        console.print(table)
        console.print()
