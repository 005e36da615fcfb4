"""`eftlocal eval`: the emulation, at one point or a grid of them, beside its models alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eftlocal.cli import option_rules as rules
from eftlocal.cli import options as opt
from eftlocal.cli.options import takes
from eftlocal.cli.options import verb_option as _option
from eftlocal.cli.screen import Screen
from eftlocal.cli.streams import say, tell
from eftlocal.errors import UsageError
from eftlocal.evaluation.tasks import names
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal.cli.eval_run import Run

_GRID = "Grid: 0,0.5,1, off or a range 0:2:0.25; every combination is run"
_ASKED, _JUDGED, _OUTPUT = "What is asked", "A judge", "Output"
_TASKS = ", ".join(names())
Split = Literal["validation", "test"]

_AXES = opt.axes(
    _GRID,
    {
        "recipe": "Names: upscale,proxy. Weights between semicolons: "
        "'tuned;base=1,tuned=1,reference=-1'.",
        "lambda": "Numbers (realignment); or shares of tuned roles: tuned=0:1:0.25,plain=rest is "
        "a line on which plain takes the rest, a=0:1:0.5,b=0:1:0.5,c=rest a lattice, and "
        "'tuned=0,plain=1;tuned=0.5,plain=0.5' points written out.",
        "temperature": "0 is greedy (default: 0; of a file of prompts the preset's).",
    },
)


@takes(
    *("models", "length", "drafts", "prompt", "raw", "engine"),
    first=_AXES,
    also=opt.FIXED,
    shared=["seed", "speculative"],
)
def evaluate(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Some of {_TASKS}; or a file of prompts, one a line, or a .jsonl of "
            'objects with "prompt" or "messages", and "gold" (a right answer, or a list of them) '
            "where there is one; or a .py file with a task of your own.",
            autocompletion=names,
        ),
    ] = None,
    data: Annotated[
        Path | None, _option("--data", "The task's file, instead of its own source.", _ASKED)
    ] = None,
    split: Annotated[
        Split | None,
        _option(
            "--split",
            "Half of the items: validation, for choices, or test, for final numbers "
            "(default: all; of the demo validation for a grid, else test).",
            _ASKED,
        ),
    ] = None,
    limit: Annotated[
        int | None, _option("--limit", "At most N items, evenly spread.", _ASKED, min=1)
    ] = None,
    shots: Annotated[
        int | None, _option("--shots", "Worked examples before each item.", _ASKED, min=0)
    ] = None,
    samples: Annotated[
        int | None, _option("--samples", "Answers to each item (default: 1).", _ASKED, min=1)
    ] = None,
    run_code: Annotated[
        bool, _option("--run-code", "Run generated programs, in a sandbox.", _ASKED)
    ] = False,
    system: Annotated[str | None, _option("--system", "System prompt.", _ASKED)] = None,
    raw: Annotated[
        bool, _option("--raw", "Continue each prompt as it is, without a template.", _ASKED)
    ] = False,
    compare: Annotated[
        str | None,
        _option(
            "--compare",
            "Which models to answer alone, too: some of tuned,base,reference, or none (default: "
            "tuned,base).",
            "Models",
        ),
    ] = None,
    large: Annotated[
        Path | None,
        _option(
            "--large",
            "GGUF file of the large model tuned as the small one was, where there is one: the gap "
            "recovered is measured against it. It is loaded by itself.",
            "Models",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        _option(
            "--judge",
            "URL of an OpenAI-compatible server whose model compares the emulation's answers with "
            "each model's, in both orders. Its key is read from EFTLOCAL_JUDGE_KEY.",
            _JUDGED,
        ),
    ] = None,
    judge_model: Annotated[
        str | None, _option("--judge-model", "The judge, as its server calls it.", _JUDGED)
    ] = None,
    criteria: Annotated[
        str | None,
        _option(
            "--criteria",
            "What it judges: some of overall (default), helpfulness, factuality, harmlessness.",
            _JUDGED,
        ),
    ] = None,
    judge_parallel: Annotated[
        int | None, _option("--judge-parallel", "Questions at once (default: 4).", _JUDGED, min=1)
    ] = None,
    out: Annotated[
        Path | None,
        _option(
            "--out",
            "File for the answers, one JSON object a line, written as they come; of several tasks "
            "each puts its name before the ending. The same command resumes an interrupted run; "
            "points and models may be added.",
            _OUTPUT,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        _option("--metrics", "Show these, as in exact,tokens, or all that are measured.", _OUTPUT),
    ] = None,
    json_: Annotated[bool, _option("--json", "Print the figures as JSON.", _OUTPUT)] = False,
    picture: Annotated[
        Path | None,
        _option("--plot", "Curves, heat maps over two dials, or bars (extra `plot`).", _OUTPUT),
    ] = None,
    page: Annotated[
        Path | None, _option("--html", "A page with the answers side by side.", _OUTPUT)
    ] = None,
    quick: Annotated[
        bool,
        _option(
            "--quick",
            "In a few minutes, is this trio worth its cost? A few items of several tasks (those "
            "named, or those that can be had), speed, memory, and one sentence.",
            _OUTPUT,
        ),
    ] = False,
    minutes: Annotated[
        float | None, _option("--minutes", "Of --quick (default: 5).", _OUTPUT, min=0.01)
    ] = None,
    save_best: Annotated[
        str | None,
        _option(
            "--save-best",
            "Choose the point of the grid with the best of this metric on the validation half, "
            "measure it on the test half, and save it as the preset --as.",
            _OUTPUT,
        ),
    ] = None,
    as_: Annotated[
        str | None, _option("--as", "Name of the preset that --save-best writes.", _OUTPUT)
    ] = None,
    dry_run: Annotated[
        bool,
        _option("--dry-run", "Print the grid and the number of answers; run nothing.", _OUTPUT),
    ] = False,
    seed: Annotated[
        int,
        _option(
            "--seed", "Each item's own seed is derived from it (default: 0).", "Sampling", min=0
        ),
    ] = 0,
    speculative: Annotated[
        str,
        _option(
            "--speculative",
            "Draft length in tokens: off (default), auto, or 1 to 16. Needed to measure the "
            "acceptance; auto depends on this machine's speed, so that runs may round differently.",
            opt.HEADINGS["drafts"],
        ),
    ] = "off",
    parallel: Annotated[
        int,
        _option(
            "--parallel",
            "Answers at once: a number (default: 1) or auto. With more than one, answers "
            "may round differently from run to run.",
            "Engine",
            parser=opt.parallel,
            metavar="<number|auto>",
        ),
    ] = 1,
    *,
    given: Given,
) -> None:
    """Measure the emulation on tasks, beside the small tuned model and the base alone.

    Figures are means over the items with 95% bootstrap intervals. With a large tuned model, the
    gap recovered is (emulation - small tuned) / (large tuned - small tuned). Example:

    \b
    eftlocal eval demo --limit 100 --beta 0:2:0.5 --out beta.jsonl --plot beta.png
    """
    del speculative, system, raw, shots, run_code, data, split, limit, samples, compare, large
    del seed, parallel, as_, judge, judge_model, criteria  # all of them are read in `given`
    from eftlocal.cli.eval_best import best, check_points, check_save, save
    from eftlocal.cli.eval_judge import check_pairs, read_judge
    from eftlocal.cli.eval_quick import memory_of, quick_report, quick_runs
    from eftlocal.cli.eval_run import answer, kept, made, place
    from eftlocal.cli.progress import terminable
    from eftlocal.cli.selection import loading_bars, select
    from eftlocal.study.report import as_json, interval

    rules.check_raw(given)
    tasks = tasks or []
    if not tasks and not quick:
        raise UsageError(f"name a task: {_TASKS}, or a file of prompts")
    if minutes is not None and not quick:
        raise UsageError("--minutes is for --quick")
    chosen_by, asked = check_save(given, tasks), read_judge(given)
    own = rules.without_axes(given, opt.GRID).changed(seed=None)  # --seed is the run's
    selected = select(own, has_grid=True)
    files = {"--out": out, "--plot": picture, "--html": page}
    console = None if json_ else Screen()
    found: list[Any] = []

    def run(runs: list[Run]) -> None:
        with terminable(), kept(runs) as opened:
            identities = answer(runs, selected, opened, given)
            for one, identity in zip(runs, identities, strict=True):
                found.append(
                    one.report(identity, console=console, judge=asked, parallel=judge_parallel or 4)
                )

    def dry(runs: Sequence[Run]) -> bool:
        for one in runs if dry_run else ():
            one.tell()
        return dry_run

    if quick:
        runs = quick_runs(tasks, selected, given)
        place(runs, metrics, files)
        if dry(runs):
            return
        with terminable(), loading_bars() as bars:
            memory = memory_of(selected.sources(bars))
        with terminable(), kept(runs) as opened:
            answer(runs, selected, opened, given, seconds=60.0 * (minutes or 5.0) / len(runs))
            found.append(quick_report(runs, memory, console))
    elif chosen_by is None:
        runs = [made(name, selected, given, among=tasks) for name in tasks]
        for one in runs if asked else ():
            check_pairs(one)
        place(runs, metrics, files)
        if dry(runs):
            return
        run(runs)
    else:
        first = made(tasks[0], selected, given, split="validation", compares=False)
        second = made(tasks[0], selected, given, split="test")
        first.place("validation", metrics, files)
        second.place("test", metrics, files)
        if asked:
            check_pairs(second)
        metric = first.metric(chosen_by)
        check_points(selected, given, first.session.points)
        if dry([first]):
            return
        run([first])
        point = best(first.summaries, chosen_by, metric).point
        told = say if console else tell
        told(f"best {chosen_by} on the validation half: {point.label()}")
        second = second.at(point)
        run([second])
        mean = second.summaries[0].metrics[chosen_by]
        save(selected, given, point, f"{chosen_by} {interval(mean[:3], '.3f')} of {mean.n} items")
        if point.sampling.greedy and not selected.defaults.sampling.greedy:
            hot = selected.defaults.sampling.temperature
            told(f"note: it was measured greedy; the preset keeps its temperature {hot:g}")
        told(f"written: eftlocal chat --preset {given['as_']}")
    if json_:
        typer.echo(as_json(found[0] if len(found) == 1 else found))
    if out is None:
        tell("note: the answers were not kept; --out FILE keeps them")
