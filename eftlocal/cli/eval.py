"""`eftlocal eval`: measure what the emulation recovers, as tables, JSON or a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from eftlocal.cli.options import takes
from eftlocal.cli.screen import Screen
from eftlocal.output_file import check_outputs
from eftlocal.user_settings import Given

Split = Literal["validation", "test"]


@takes(also=["trust"], shared=["threads"])
def evaluate(
    name: Annotated[Literal["demo"], typer.Argument(help="What to evaluate.")],
    split: Annotated[
        Split, typer.Option(help="validation for tuning, test for final numbers.")
    ] = "test",
    questions: Annotated[
        int | None, typer.Option(min=1, help="Questions per family (default: all).")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option("--plot", help="Write the curves as a plot (needs the extra `plot`)."),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads; one is enough for the demo.")
    ] = 1,
    *,
    given: Given,
) -> None:
    """Compare small tuned, base, emulation and large tuned models on held-out questions.

    PGR is the performance gap recovered: (emulation - small tuned) / (large tuned - small tuned).
    """
    del name, given  # there is one evaluation; its files are the program's own, and never tried
    from eftlocal.cli.screen import counting_bars
    from eftlocal.study.evaluation import evaluate_demo, plot, summary, tables
    from eftlocal.study.plot import check_plot
    from eftlocal.study.questions import FOLDER
    from eftlocal.study.report import as_json

    check_outputs({"--plot": picture})
    check_plot(picture)
    with counting_bars() as started:
        figures = evaluate_demo(
            FOLDER, split=split, each=questions, threads=threads, started=started
        )
    if picture:
        plot(figures, picture)
    if json_:
        typer.echo(as_json(figures))
        return
    console = Screen(highlight=False)
    for shown in tables(figures):
        console.print(shown)
    console.print(summary(figures), markup=False)
