"""`eftlocal bench`: how fast this machine answers, with and without the small models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from eftlocal.cli import options as opt
from eftlocal.cli.options import Given, takes
from eftlocal.cli.screen import Screen
from eftlocal.output_file import check_outputs, is_stdout, write_whole
from eftlocal.speculation.settings import MAX_DRAFT


@takes(
    *("models", "prompt", "engine"),
    without=["role"],
    temperature=opt.Temperature,
    draft_rule=opt.DraftRule,
    draft_source=opt.DraftSource,
)
def bench(
    prompts: Annotated[
        Path | None,
        typer.Option(help='Prompts: one a line, or a .jsonl with "prompt" (default: built-in).'),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of an answer.")] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Times each prompt is answered.")] = 3,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(help="Length of the prompt that prefill is measured on (default: 512)."),
    ] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", help="Write everything as JSON; - is stdout.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Write a picture (extra `plot`).")
    ] = None,
    speculative: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=MAX_DRAFT, help="Also drafts of just this many tokens. Repeatable."
        ),
    ] = None,
    *,
    given: Given,
) -> None:
    """Measure base alone, plain emulation and speculative emulation, in turn.

    Ratios are taken prompt by prompt, with 95% intervals: a busy machine makes them wider.
    """
    from eftlocal.benchmark.machine import machine
    from eftlocal.benchmark.memory import device_used
    from eftlocal.benchmark.prompts import built_in, read_prompts
    from eftlocal.benchmark.session import Settings, benchmark, memory_of_base
    from eftlocal.cli.screen import counting_bars
    from eftlocal.cli.selection import loading_bars, sources_of
    from eftlocal.defaults import chosen_sampling
    from eftlocal.evaluate.plot import check_plot
    from eftlocal.presets.reading import find

    offline, force = given["offline"], given["force"]
    models = opt.chosen_models(given)
    roles = find(models).roles if isinstance(models, str) else models
    engine = opt.engine(given, roles)
    asked = read_prompts(prompts) if prompts else built_in(str(models))
    check_outputs({"--json": json_, "--plot": picture}, {"--prompts": prompts}, stdout=["--json"])
    if picture:
        check_plot(picture)
    with loading_bars() as bars:
        sources = sources_of(models, bars, offline=offline, **engine)
        opt.check_roles(sources.defaults.recipe, None, sources.roles)
        settings = Settings(
            asked,
            chosen_sampling(sources.defaults.sampling, temperature=given["temperature"]),
            opt.chosen_speculation(
                sources.defaults.speculation,
                length="auto",
                rule=given["draft_rule"],
                source=given["draft_source"],
            ),
            lengths=speculative or (),
            max_tokens=max_tokens,
            repeat=repeat,
            prompt_tokens=prompt_tokens,
        )
        where = machine()
        shown: Any = {"progress": bars.weights, "checking": bars.checking}
        base_memory = memory_of_base(sources, settings, force=force, **shown)
        device_before = device_used()
        emulator = sources.load(force=force, **shown)
        emulator.measure(bars.measuring)
    with emulator, counting_bars() as begin:
        report = benchmark(
            emulator,
            sources,
            settings,
            machine=where,
            base_memory=base_memory,
            device_before=device_before,
            started=partial(begin, "measuring"),
        )
    _write(report, json_, picture)


def _write(report: dict[str, Any], file: Path | None, picture: Path | None) -> None:
    from eftlocal.benchmark.plot import plot
    from eftlocal.benchmark.report import as_tables, notes
    from eftlocal.evaluate.report import as_json

    if picture:
        plot(report, picture)
    if file:
        write_whole(file, as_json(report) + "\n")
        if is_stdout(file):
            return
    console = Screen()
    for title, table in as_tables(report):
        console.print(title, style="bold", markup=False, highlight=False)
        console.print(table)
        console.print()
    for note in notes(report):
        console.print(note, markup=False, highlight=False)
