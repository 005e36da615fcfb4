"""`eftlocal sweep`: one set of prompts at every point of a grid of dials, resumable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eftlocal.cli import option_rules as rules
from eftlocal.cli import options as opt
from eftlocal.cli.eval import Split
from eftlocal.cli.options import takes
from eftlocal.cli.options import verb_option as _option
from eftlocal.cli.screen import Screen
from eftlocal.cli.streams import say, tell
from eftlocal.errors import UsageError
from eftlocal.kinds import OFF
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal.defaults import Defaults
    from eftlocal.logits.recipe import Recipe
    from eftlocal.logits.sampling import Sampling
    from eftlocal.study.grid import Build
    from eftlocal.study.sweep import Item

_GRID = "Grid: 0,0.5,1, off or a range 0:2:0.25; every combination is run"
_PROMPTS, _OUTPUT = "Prompts", "Output"
_FIXED = "any_sum", "persona"  # of the recipe, the same at every point


_AXES = opt.axes(
    _GRID,
    {
        "recipe": "Names: upscale,proxy. Weights between semicolons: "
        "'tuned;base=1,tuned=1,reference=-1'.",
        "lambda": "Numbers (realignment); or shares of tuned roles: tuned=0:1:0.25,plain=rest is "
        "a line on which plain takes the rest, a=0:1:0.5,b=0:1:0.5,c=rest a lattice, and "
        "'tuned=0,plain=1;tuned=0.5,plain=0.5' points written out.",
        "temperature": "0 is greedy (default: the preset's; 0 with --questions).",
    },
)


@takes(
    *("models", "length", "drafts", "prompt", "raw", "engine"),
    first=_AXES,
    also=_FIXED,
    shared=["seed", "speculative"],
)
def sweep(
    prompts: Annotated[
        Path | None,
        _option(
            "--prompts",
            'One prompt a line; or a .jsonl of objects with "prompt" or "messages", and "gold" '
            "(a right answer, or a list of them) where there is one.",
            _PROMPTS,
        ),
    ] = None,
    questions: Annotated[
        Literal["demo"] | None,
        _option("--questions", "demo: the demo's held-out questions with answers.", _PROMPTS),
    ] = None,
    split: Annotated[
        Split | None,
        _option("--split", "Of the questions: validation (default) or test.", _PROMPTS),
    ] = None,
    limit: Annotated[
        int | None, _option("--limit", "At most N prompts, evenly spread.", _PROMPTS, min=1)
    ] = None,
    system: Annotated[str | None, _option("--system", "System prompt.", _PROMPTS)] = None,
    raw: Annotated[
        bool, _option("--raw", "Continue each prompt as it is, without a template.", _PROMPTS)
    ] = False,
    out: Annotated[
        Path | None,
        _option(
            "--out",
            "File for the answers, one JSON object a line, written as they come. The same command "
            "resumes an interrupted sweep; points may be added.",
            _OUTPUT,
        ),
    ] = None,
    metrics: Annotated[
        str | None, _option("--metrics", "Show only these, as in exact,tokens.", _OUTPUT)
    ] = None,
    json_: Annotated[bool, _option("--json", "Print the figures as JSON.", _OUTPUT)] = False,
    picture: Annotated[
        Path | None,
        _option("--plot", "Curves, or heat maps over two dials (extra `plot`).", _OUTPUT),
    ] = None,
    page: Annotated[
        Path | None, _option("--html", "A page with the answers side by side.", _OUTPUT)
    ] = None,
    dry_run: Annotated[
        bool,
        _option("--dry-run", "Print the grid and the number of answers; run nothing.", _OUTPUT),
    ] = False,
    seed: Annotated[
        int,
        _option(
            "--seed", "Each prompt's own seed is derived from it (default: 0).", "Sampling", min=0
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
            "Points answered at once: a number (default: 1) or auto. With more than one, answers "
            "may round differently from run to run.",
            "Engine",
            parser=opt.parallel,
            metavar="<number|auto>",
        ),
    ] = 1,
    *,
    given: Given,
) -> None:
    """Answer a set of prompts at every point of a grid, and compare the points.

    Figures are means over the prompts with 95% bootstrap intervals. Example:

    \b
    eftlocal sweep --questions demo --limit 100 --beta 0:2:0.5 --out beta.jsonl --plot beta.png
    """
    from eftlocal.cli.progress import Tally, keeping, terminable
    from eftlocal.cli.selection import loading_bars, select
    from eftlocal.loading.loader import UpTo
    from eftlocal.logits.recipe import MADE
    from eftlocal.output_file import check_outputs, write_whole
    from eftlocal.scheduler import best_parallel
    from eftlocal.study import sweep_report as report
    from eftlocal.study.answers import LONGEST
    from eftlocal.study.grid import cross, parse_dials
    from eftlocal.study.plot import check_plot
    from eftlocal.study.report import as_json
    from eftlocal.study.sweep import Results, lacking, manifest, possible, run_sweep

    rules.check_raw(given)
    selected = select(rules.without_axes(given, _AXES).changed(seed=None))  # --seed is the run's
    defaults = selected.defaults
    if questions:
        greedy = replace(defaults.sampling, temperature=0.0)
        longest = given["max_tokens"] or LONGEST
        defaults = replace(defaults, sampling=greedy, max_tokens=longest)
    dials = parse_dials({name.rstrip("_"): given[name] for name in _AXES})
    points = cross(dials, _builder(defaults, selected.roles, given))
    items = _items(given)
    if not all(item.has_system for item in items):
        for point in points:
            rules.check_guidance(point.recipe, None, selected.roles)
    drafts = not defaults.speculation.off
    shown = _metrics(metrics, possible(items, selected.roles, drafts=drafts))
    check_outputs({"--plot": picture, "--html": page}, {"--prompts": prompts}, rows={"--out": out})
    check_plot(picture)
    if dry_run:
        for point in points:
            say(f"{point.label()}  ({point.recipe})")
        answers = len({point.key for point in points}) * len(items)
        say(f"{len(points)} points x {len(items)} prompts: {answers} answers")
        return
    if out is None:
        raise UsageError("--out is missing: name a file for the results, as in --out sweep.jsonl")
    # Only a default recipe that has it brings a role along that is made of the tuned one.
    first = next((p for p in points if p.recipe.weights.keys() & {*MADE}), points[0])
    with loading_bars() as bars:
        sources = replace(selected.sources(bars), defaults=replace(defaults, recipe=first.recipe))
    identity = manifest(sources, items, seed)
    with terminable(), Results(out, identity) as results:
        if missing := lacking(points, items, results):
            left = sum(map(len, missing.values()))
            with keeping(results, left):
                with loading_bars() as bars:
                    emulator = sources.load(
                        force=given["force"],
                        n_seq_max=parallel or UpTo(),
                        progress=bars.weights,
                        checking=bars.checking,
                    )
                    if not defaults.speculation.off or not parallel:
                        emulator.measure(bars.measuring)
                spelled = "\n".join(str(i.prompt) for i in items if i.raw and not i.special)
                notes = (n for p in points for n in emulator.notes(p.recipe, raw_text=spelled))
                for note in dict.fromkeys(notes):
                    tell(f"note: {note}")
                tally = Tally(left, quiet=False)
                with emulator, tally.shown():
                    for _ in run_sweep(
                        emulator,
                        points,
                        items,
                        results,
                        seed=seed,
                        parallel=parallel or best_parallel(emulator),
                        on_tokens=tally.on_tokens,
                    ):
                        tally.on_row(answered=True)
    summaries = report.summarise(points, len(items), results.records)
    if picture:
        report.plot(summaries, shown, picture)
    if page:
        write_whole(page, report.page(summaries, items, results.records, shown))
    if json_:
        typer.echo(as_json(report.as_data(summaries, identity, shown)))
        return
    console = Screen()
    console.print(report.constants(summaries), style="bold", markup=False, highlight=False)
    for table in report.as_tables(summaries, shown, console):
        console.print(table)
        console.print()


def _items(given: Given) -> tuple[Item, ...]:
    """The prompts of a file, or the questions."""
    from eftlocal.study.questions import FOLDER
    from eftlocal.study.sweep import demo_items, file_items, spread

    prompts, split = given["prompts"], given["split"]
    if (prompts is None) == (given["questions"] is None):
        raise UsageError("give either --prompts FILE or --questions demo")
    if prompts is not None:
        if split is not None:
            raise UsageError("--split is for --questions; leave it out with --prompts")
        how = {name: given[name] for name in ("system", "raw", "special")}
        return spread(file_items(prompts, **how), given["limit"])
    for name in ("raw", "system"):
        if given[name] not in (False, None):
            raise UsageError(f"--{name} is for --prompts, not for --questions")
    which = split or "validation"
    return spread(demo_items(FOLDER / "questions.json", which), given["limit"])


def _metrics(asked: str | None, there: tuple[str, ...]) -> tuple[str, ...]:
    if asked is None:
        return there
    wanted = tuple(dict.fromkeys(name.strip() for name in asked.split(",")))
    for name in wanted:
        if name not in there:
            raise UsageError(f"--metrics: {name!r} is not measured here; known: {', '.join(there)}")
    return wanted


def _builder(defaults: Defaults, roles: tuple[str, ...], given: Given) -> Build:
    """What a combination of dials means; the others are the preset's."""

    def build(dials: Mapping[str, Any]) -> tuple[Recipe, Sampling]:
        here = {name: given.get(name) if name in _FIXED else None for name in opt.GROUPS["recipe"]}
        for dial, value in dials.items():  # no limit at all is None in a grid
            here["lambda_" if dial == "lambda" else dial] = OFF if value is None else value
        made = rules.chosen_defaults(defaults, here)
        rules.check_roles(made.recipe, None, roles)
        return made.recipe, made.sampling

    return build
