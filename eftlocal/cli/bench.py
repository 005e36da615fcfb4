"""`eftlocal bench`: how fast this machine answers, with and without the small models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from eftlocal.cli import option_rules as rules
from eftlocal.cli.options import takes
from eftlocal.cli.screen import Screen
from eftlocal.output_file import check_outputs, is_stdout, write_whole
from eftlocal.settings import MAX_DRAFT
from eftlocal.user_settings import Given


@takes(
    *("models", "prompt", "engine"),
    without=["role"],
    also=["temperature", "draft_rule", "draft_source"],
)
def bench(
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='File of prompts: one per line, or .jsonl with "prompt" (default: built-in).'
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=2, help="Maximum length of an answer in tokens.")
    ] = 64,
    repeat: Annotated[int, typer.Option(min=1, help="Times each prompt is answered.")] = 3,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(help="Length of the prompt used to measure prefill (default: 512)."),
    ] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", help="Write the full report as JSON; - for stdout.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Write a plot (needs the extra `plot`).")
    ] = None,
    speculative: Annotated[
        list[int] | None,
        typer.Option(min=1, max=MAX_DRAFT, help="Also measure this draft length. Repeatable."),
    ] = None,
    *,
    given: Given,
) -> None:
    """Compare the speed of the base model alone, plain emulation and speculative emulation.

    The modes take turns on each prompt, and ratios are taken per prompt: other load on the machine
    widens their 95% intervals but does not favor one mode.
    """
    from eftlocal.cli.screen import counting_bars
    from eftlocal.cli.selection import Selection, loading_bars
    from eftlocal.defaults import Defaults, chosen_sampling, chosen_speculation
    from eftlocal.study.benchmark import (
        Settings,
        benchmark,
        built_in,
        measure_baseline,
        read_prompts,
    )
    from eftlocal.study.plot import check_plot
    from eftlocal.study.report import as_json
    from eftlocal.study.speed import notes, plot, tables

    force = given["force"]
    models = rules.chosen_models(given)
    roles = tuple(models if isinstance(models, dict) else models.roles)
    engine = rules.engine(given, roles)
    selected = Selection(models, roles, given, Defaults(), engine, given["offline"])
    asked = (
        read_prompts(prompts)
        if prompts
        else built_in("" if isinstance(models, dict) else models.name)
    )
    check_outputs({"--json": json_, "--plot": picture}, {"--prompts": prompts}, stdout=["--json"])
    check_plot(picture)
    with loading_bars() as bars:
        sources = selected.sources(bars)
        rules.check_roles(sources.defaults.recipe, None, sources.roles)
        settings = Settings(
            asked,
            chosen_sampling(sources.defaults.sampling, given),
            chosen_speculation(sources.defaults.speculation, {**given, "speculative": "auto"}),
            lengths=speculative or (),
            max_tokens=max_tokens,
            repeat=repeat,
            prompt_tokens=prompt_tokens,
        )
        progress: Any = {"progress": bars.weights, "checking": bars.checking}
        baseline = measure_baseline(sources, settings, force=force, **progress)
        emulator = sources.load(force=force, **progress)
        emulator.measure(bars.measuring)
    with emulator, counting_bars() as begin:
        report = benchmark(emulator, sources, settings, baseline, partial(begin, "measuring"))
    if picture:
        plot(report, picture)
    if json_:
        write_whole(json_, as_json(report) + "\n")
        if is_stdout(json_):
            return
    console = Screen(highlight=False)
    for shown in tables(report):
        console.print(shown)
    for note in notes(report):
        console.print(note, markup=False)
