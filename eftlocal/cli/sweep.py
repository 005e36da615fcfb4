"""`eftlocal sweep`: one set of prompts at every point of a grid of dials, resumable."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eftlocal.cli import options as opt
from eftlocal.cli.completion import recipes
from eftlocal.cli.eval import Split
from eftlocal.cli.options import GROUPS, Given, takes
from eftlocal.cli.screen import Screen
from eftlocal.cli.streams import say, tell
from eftlocal.errors import UsageError
from eftlocal.settings import LIMITS, OFF

if TYPE_CHECKING:
    from eftlocal.defaults import Defaults
    from eftlocal.logits.recipe import Recipe
    from eftlocal.logits.sampling import Sampling
    from eftlocal.study.grid import Build, Point
    from eftlocal.study.sweep import Item, Manifest, Results

_GRID = "Grid: 0,0.5,1, off or a range 0:2:0.25; every combination is run"
_ASKED, _OUTPUT = "Prompts", "Output"


class Questions(str, Enum):
    """Sets of questions with right answers."""

    demo = "demo"


def _option(flag: str, text: str, panel: str, **more: Any) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, **more)


def _dial(flag: str, text: str, **more: Any) -> Any:
    return _option(flag, text, _GRID, metavar="VALUES", **more)


PromptsFile = Annotated[
    Path | None,
    _option(
        "--prompts",
        'One prompt a line; or a .jsonl of objects with "prompt" or "messages", and "gold" '
        "(a right answer, or a list) where one is known.",
        _ASKED,
    ),
]
QuestionSetName = Annotated[
    Questions | None,
    _option("--questions", "demo: the demo's held-out questions with answers.", _ASKED),
]
SplitName = Annotated[
    Split | None,
    _option("--split", "Of the questions: validation (default) or test.", _ASKED),
]
Limit = Annotated[
    int | None, _option("--limit", "So many prompts at most, evenly spread.", _ASKED, min=1)
]
System = Annotated[str | None, _option("--system", "A system prompt before each.", _ASKED)]
Raw = Annotated[
    bool, _option("--raw", "Go on with each prompt as it stands, without a template.", _ASKED)
]

Out = Annotated[
    Path | None,
    _option(
        "--out",
        "Results, one JSON object a line, as they come. Run the same command again to go on "
        "after an interruption; points may be added.",
        _OUTPUT,
    ),
]
Metrics = Annotated[
    str | None, _option("--metrics", "Show these only, as in exact,tokens.", _OUTPUT)
]
Json = Annotated[bool, _option("--json", "Print the figures as JSON.", _OUTPUT)]
Picture = Annotated[
    Path | None,
    _option("--plot", "Curves, or heat maps over two dials (extra `plot`).", _OUTPUT),
]
Page = Annotated[Path | None, _option("--html", "The answers side by side, in one page.", _OUTPUT)]
DryRun = Annotated[
    bool, _option("--dry-run", "Print the grid and the number of answers; run nothing.", _OUTPUT)
]

_RECIPES = _dial(
    "--recipe",
    "Names: upscale,proxy. Weights, parted by semicolons: 'tuned;base=1,tuned=1,reference=-1'.",
    autocompletion=recipes,
)
_LAMBDAS = _dial(
    "--lambda",
    "Numbers (realignment); or shares of tuned roles: tuned=0:1:0.25,plain=rest is a line "
    "on which plain takes the rest, a=0:1:0.5,b=0:1:0.5,c=rest a lattice, and "
    "'tuned=0,plain=1;tuned=0.5,plain=0.5' points written out.",
)
_TEMPERATURES = _dial("--temperature", "0 is greedy (default: the preset's; 0 with --questions).")


def axes() -> dict[str, Any]:
    """The options that are axes of a grid: every dial of a recipe and of sampling."""
    found = {}
    for name, dial in (GROUPS["recipe"] | GROUPS["sampling"]).items():
        if name not in ("any_sum", "seed"):
            flag = "--" + name.replace("_", "-")
            found[name] = Annotated[str | None, _dial(flag, dial.__metadata__[0].help)]
    return found | {
        "recipe": Annotated[str | None, _RECIPES],
        "lambda_": Annotated[str | None, _LAMBDAS],
        "temperature": Annotated[str | None, _TEMPERATURES],
    }


Seed = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="INTEGER",
        help="Every prompt's own seed is derived from it.",
        rich_help_panel="Sampling",
    ),
]
Speculative = Annotated[
    str,
    typer.Option(
        help="Tokens of a draft: off, auto, or 1 to 16. With drafts there is an acceptance to "
        "measure; auto follows this machine's speed, so another run may round otherwise.",
        rich_help_panel="Speculation (changes the speed, never the distribution)",
    ),
]
Parallel = Annotated[
    str,
    _option(
        "--parallel",
        "Answers at once, of one prompt: auto, or a number (default: 1; with more, an answer can "
        "differ in its last bits by what runs beside it).",
        "Engine",
    ),
]


def chosen_items(
    prompts: Path | None,
    questions: Questions | None,
    split: Split | None,
    *,
    limit: int | None,
    system: str | None,
    raw: bool,
    special: bool,
) -> tuple[Item, ...]:
    from eftlocal.study.questions import FOLDER
    from eftlocal.study.sweep import demo_items, file_items, spread

    if (prompts is None) == (questions is None):
        raise UsageError("give one of --prompts FILE and --questions demo")
    if prompts is not None:
        if split is not None:
            raise UsageError("--split is for --questions; leave it out with --prompts")
        return spread(file_items(prompts, system=system, raw=raw, special=special), limit)
    if raw or system is not None:
        raise UsageError(f"{'--raw' if raw else '--system'} is for --prompts, not for --questions")
    which = (split or Split.validation).value
    return spread(demo_items(FOLDER / "questions.json", which), limit)


def chosen_metrics(asked: str | None, there: tuple[str, ...]) -> tuple[str, ...]:
    if asked is None:
        return there
    wanted = tuple(dict.fromkeys(name.strip() for name in asked.split(",")))
    for name in wanted:
        if name not in there:
            raise UsageError(f"--metrics: {name!r} is not measured here; {', '.join(there)} are")
    return wanted


def check_files(
    prompts: Path | None, out: Path | None, picture: Path | None, page: Path | None
) -> None:
    """Refuses, before anything is run, a file that could not be written or would be lost."""
    from eftlocal.output_file import check_outputs
    from eftlocal.study.plot import check_plot

    check_outputs({"--plot": picture, "--html": page}, {"--prompts": prompts}, rows={"--out": out})
    if picture:
        check_plot(picture)


def print_grid(points: tuple[Point, ...], prompts: int) -> None:
    lines = [f"{point.label()}  ({point.recipe})" for point in points]
    say("\n".join(lines))
    answers = len({point.key for point in points}) * prompts
    say(f"{len(points)} points x {prompts} prompts: {answers} answers")


def write(
    points: tuple[Point, ...],
    items: tuple[Item, ...],
    results: Results,
    identity: Manifest,
    metrics: tuple[str, ...],
    *,
    json_: bool,
    picture: Path | None,
    page: Path | None,
) -> None:
    from eftlocal.study.report import as_json
    from eftlocal.study.sweep_report import (
        as_data,
        as_tables,
        constants,
        plot,
        summarise,
        write_page,
    )

    summaries = summarise(points, len(items), results.records)
    if picture:
        plot(summaries, metrics, picture)
    if page:
        write_page(page, summaries, items, results.records, metrics)
    if json_:
        typer.echo(as_json(as_data(summaries, identity, metrics)))
        return
    console = Screen()
    console.print(constants(summaries), style="bold", markup=False, highlight=False)
    for table in as_tables(summaries, metrics, width=console.width):
        console.print(table)
        console.print()


_AXES = axes()


@takes(
    *("models", "length", "drafts", "prompt", "raw", "engine"),
    first=_AXES,
    any_sum=opt.AnySum,
)
def sweep(
    prompts: PromptsFile = None,
    questions: QuestionSetName = None,
    split: SplitName = None,
    limit: Limit = None,
    system: System = None,
    raw: Raw = False,
    out: Out = None,
    metrics: Metrics = None,
    json_: Json = False,
    picture: Picture = None,
    page: Page = None,
    dry_run: DryRun = False,
    seed: Seed = 0,
    speculative: Speculative = "off",
    parallel: Parallel = "1",
    *,
    given: Given,
) -> None:
    """Answer a set of prompts at every point of a grid, and compare the points.

    Figures are means over the prompts with 95% bootstrap intervals. Example:

    eftlocal sweep --questions demo --limit 100 --beta 0:2:0.5 --out beta.jsonl --plot beta.png
    """
    from eftlocal.cli.progress import Telling, chosen_parallel, keeping, terminable
    from eftlocal.cli.selection import loading_bars, select
    from eftlocal.loading.loader import UpTo
    from eftlocal.logits.recipe import UNGUIDED
    from eftlocal.scheduler import best_parallel
    from eftlocal.study.answers import LONGEST
    from eftlocal.study.grid import cross, parse_dials
    from eftlocal.study.sweep import Results, lacking, manifest, possible, run_sweep

    opt.check_raw(given)
    selected = select({**given, **dict.fromkeys(_AXES)})
    defaults = selected.defaults
    if questions:
        greedy = replace(defaults.sampling, temperature=0.0)
        defaults = replace(defaults, sampling=greedy, max_tokens=LONGEST)
    max_tokens, stop = given["max_tokens"] or defaults.max_tokens, given["stop"] or ()
    defaults = replace(defaults, max_tokens=max_tokens, stop=(*defaults.stop, *stop))
    dials = parse_dials({name.rstrip("_"): given[name] for name in _AXES})
    points = cross(dials, _builder(defaults, selected.roles, given["any_sum"]))
    items = chosen_items(
        prompts, questions, split, limit=limit, system=system, raw=raw, special=given["special"]
    )
    drafts = not defaults.speculation.off
    shown = chosen_metrics(metrics, possible(items, selected.roles, drafts=drafts))
    at_once = chosen_parallel(parallel)
    check_files(prompts, out, picture, page)
    if dry_run:
        print_grid(points, len(items))
        return
    if out is None:
        raise UsageError("--out is missing: name a file for the results, as in --out sweep.jsonl")
    # Only a default recipe that needs it brings the role `unguided` along.
    first = next((p for p in points if UNGUIDED in p.recipe.roles), points[0])
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
                        n_seq_max=at_once or UpTo(),
                        progress=bars.weights,
                        checking=bars.checking,
                    )
                    if defaults.speculation.length is None or at_once is None:
                        emulator.measure(bars.measuring)
                spelled = "\n".join(str(i.prompt) for i in items if i.raw and not i.special)
                notes = (n for p in points for n in emulator.notes(p.recipe, raw_text=spelled))
                for note in dict.fromkeys(notes):
                    tell(f"note: {note}")
                telling = Telling(left, quiet=not sys.stderr.isatty())
                with emulator, telling.shown():
                    for _ in run_sweep(
                        emulator,
                        points,
                        items,
                        results,
                        seed=seed,
                        parallel=at_once or best_parallel(emulator),
                        on_tokens=telling.on_tokens,
                    ):
                        telling.on_row(answered=True)
    write(points, items, results, identity, shown, json_=json_, picture=picture, page=page)


def _builder(defaults: Defaults, roles: tuple[str, ...], any_sum: bool) -> Build:
    """What a combination of dials means; the others are the preset's."""

    def build(dials: Mapping[str, Any]) -> tuple[Recipe, Sampling]:
        # No limit at all is None in a grid.
        limits = {
            name: OFF if dials[name] is None else dials[name] for name in LIMITS if name in dials
        }
        recipe = opt.chosen_recipe(
            defaults.recipe,
            name=dials.get("recipe"),
            alpha=dials.get("alpha"),
            beta=dials.get("beta"),
            lambda_=dials.get("lambda"),
            strength=dials.get("strength"),
            any_sum=any_sum,
            **limits,
        )
        opt.check_roles(recipe, None, roles)
        known = vars(defaults.sampling)
        return recipe, replace(defaults.sampling, **{k: v for k, v in dials.items() if k in known})

    return build
