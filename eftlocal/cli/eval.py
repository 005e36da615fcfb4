"""`eftlocal eval`: the emulation, at one point or a grid of them, beside its models alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
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
from eftlocal.kinds import OFF
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal.cli.selection import Selection
    from eftlocal.defaults import Defaults
    from eftlocal.emulator import Emulator
    from eftlocal.evaluation.grid import Build
    from eftlocal.evaluation.run import Missing, Results
    from eftlocal.evaluation.session import Session
    from eftlocal.evaluation.task import Metric, Task
    from eftlocal.journal.manifest import Manifest
    from eftlocal.logits.recipe import Recipe
    from eftlocal.logits.sampling import Sampling

_GRID = "Grid: 0,0.5,1, off or a range 0:2:0.25; every combination is run"
_ASKED, _OUTPUT = "What is asked", "Output"
_TASKS = ", ".join(names())
_FIXED = "any_sum", "persona"  # of the recipe, the same at every point
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
    also=_FIXED,
    shared=["seed", "speculative"],
)
def evaluate(
    tasks: Annotated[
        list[str],
        typer.Argument(
            help=f"Some of {_TASKS}; or a file of prompts, one a line, or a .jsonl of "
            'objects with "prompt" or "messages", and "gold" (a right answer, or a list of them) '
            "where there is one; or a .py file with a task of your own.",
            autocompletion=names,
        ),
    ],
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
    del seed, parallel  # all of them are read in `given`
    from eftlocal.cli.progress import terminable
    from eftlocal.cli.selection import select
    from eftlocal.output_file import check_outputs
    from eftlocal.study.plot import check_plot
    from eftlocal.study.report import as_json

    rules.check_raw(given)
    selected = select(rules.without_axes(given, _AXES).changed(seed=None))  # --seed is the run's
    runs = [_run(name, selected, given) for name in tasks]
    for run in runs:
        task = run.session.task
        run.out, run.picture, run.page = (
            path and _place(path, task.name, len(runs)) for path in (out, picture, page)
        )
        check_outputs(
            {"--plot": run.picture, "--html": run.page},
            {"the prompts": task.options.data},
            rows={"--out": run.out},
        )
        check_plot(run.picture)
        run.shown = _metrics(metrics, run.session.metrics, len(runs))
    if dry_run:
        for run in runs:
            run.tell()
        return
    console = None if json_ else Screen()
    with terminable(), ExitStack() as opened:
        if out is None:
            folder = Path(opened.enter_context(TemporaryDirectory()))
            for run in runs:
                run.out = folder / f"{run.session.task.name}.jsonl"
        identities = _answer(runs, selected, opened, given)
        found = [run.report(of, console=console) for run, of in zip(runs, identities, strict=True)]
    if json_:
        typer.echo(as_json(found[0] if len(found) == 1 else found))
    if out is None:
        tell("note: the answers were not kept; --out FILE keeps them")


def _place(path: Path, task: str, tasks: int) -> Path:
    """The file of one task of several: its name stands before the ending."""
    return path if tasks == 1 else path.with_name(f"{path.stem}.{task}{path.suffix}")


def _metrics(asked: str | None, there: Mapping[str, Metric], tasks: int) -> dict[str, Metric]:
    from eftlocal.evaluation.run import FIRST, OF_ANSWERS

    if asked is None:
        return {name: of for name, of in there.items() if name in FIRST or name not in OF_ANSWERS}
    if asked == "all":
        return dict(there)
    wanted = dict.fromkeys(name.strip() for name in asked.split(","))
    for name in wanted:
        if name not in there and tasks == 1:
            raise UsageError(f"--metrics: {name!r} is not measured here; known: {', '.join(there)}")
    return {name: there[name] for name in wanted if name in there}


@dataclass
class _Run:
    """A session, and what is done with it."""

    session: Session
    shown: dict[str, Metric] = field(default_factory=dict)
    out: Path | None = None
    picture: Path | None = None
    page: Path | None = None
    opened: Results | None = None

    @property
    def results(self) -> Results:
        """What is on disk."""
        assert self.opened is not None
        return self.opened

    def tell(self) -> None:
        """The grid, and how much there is to do."""
        from eftlocal.cli.progress import counted

        task, points = self.session.task, self.session.points
        for point in points:
            say(f"{point.label()}  ({point.recipe})")
        count = len(self.session.items)
        answers = len({point.key for point in points}) * count * task.samples
        told = f"{counted(len(points), 'point')} x {counted(count, 'item')}"
        say(f"{task.name}: {told}: {counted(answers, 'answer')}")

    def report(self, identity: Manifest, *, console: Screen | None) -> Any:
        """Writes the picture and the page; prints the tables, or gives the figures as data."""
        from eftlocal.evaluation import figures
        from eftlocal.evaluation.picture import plot
        from eftlocal.output_file import write_whole

        task, items = self.session.task, self.session.items
        summaries = self.session.summaries(self.results, self.shown)
        if self.picture:
            plot(summaries, self.shown, self.picture)
        if self.page:
            records = self.results.records
            write_whole(self.page, figures.page(task, items, summaries, records, self.shown))
        if console is None:
            return figures.as_data(task, items, summaries, identity, [*self.shown])
        told = f"{task.name}: {figures.constants(summaries)}"
        console.print(told, style="bold", markup=False, highlight=False)
        for table in figures.as_tables(task, items, summaries, self.shown, console):
            console.print(table)
        return None


def _run(name: str, selected: Selection, given: Given) -> _Run:
    """A task with its items, on the points that the options name."""
    from eftlocal.evaluation.catalogue import make
    from eftlocal.evaluation.grid import compared, cross, parse_dials
    from eftlocal.evaluation.run import spread
    from eftlocal.evaluation.session import Session, check_samples, half, task_defaults
    from eftlocal.evaluation.task import Options

    dials = parse_dials({axis.rstrip("_"): given[axis] for axis in _AXES})
    told = {each.name: given[each.name] for each in fields(Options) if each.name != "split"}
    split = given["split"]
    is_grid = any(len(values) > 1 for values in dials.values())
    task = make(name, Options(**told), split=split, is_grid=is_grid)
    defaults = task_defaults(task, selected.defaults, given["max_tokens"])
    grid = cross(dials, _builder(defaults, selected.roles, given))
    items = task.items()
    if split and "split" not in task.takes:
        items = half(items, split)
    items = spread(items, given["limit"])
    if not items:
        raise UsageError(f"{task.name}: there is no item to answer")
    if not all(item.has_system for item in items):
        for point in grid:
            rules.check_guidance(point.recipe, None, selected.roles)
    check_samples(task, grid)
    models = _models(given, selected.roles, large=_large(given, task, selected) is not None)
    points = (*grid, *compared(models, grid[0].sampling))
    return _Run(Session(task, items, points, defaults, selected.roles))


def _models(given: Given, roles: Sequence[str], *, large: bool) -> list[str]:
    """The names of the models to compare with."""
    from eftlocal.evaluation.grid import LARGE, MODELS

    by_role = {role: name for name, role in MODELS.items() if name != LARGE}
    asked = given["compare"]
    wanted = [role for role in ("tuned", "base") if role in roles]
    if asked is not None:
        wanted = [] if asked == "none" else [role.strip() for role in asked.split(",")]
    for role in wanted:
        if role not in by_role or role not in roles:
            there = [known for known in by_role if known in roles]
            raise UsageError(f"--compare: {role!r} is none of {', '.join(there)}, and not none")
    return [by_role[role] for role in dict.fromkeys(wanted)] + [LARGE] * large


def _large(given: Given, task: Task, selected: Selection) -> Path | None:
    """The large tuned model's file: the option's, or that which a task has for its preset."""
    if given["large"] is not None or given["compare"] == "none":
        return given["large"]  # type: ignore[no-any-return]
    name = getattr(selected.models, "name", "")
    return task.large if name.startswith(task.name) else None


def _answer(
    runs: Sequence[_Run], selected: Selection, opened: ExitStack, given: Given
) -> list[Manifest]:
    """Answers what is missing of every task; gives the manifest of each. The large model comes
    first, by itself."""
    from eftlocal import hub
    from eftlocal.cli.progress import Tally, keeping
    from eftlocal.cli.selection import loading_bars
    from eftlocal.evaluation.run import Results, manifest, run
    from eftlocal.loading.loader import UpTo
    from eftlocal.logits.recipe import MADE, TUNED, Recipe
    from eftlocal.scheduler import best_parallel

    grid = [point for of in runs for point in of.session.points]
    # Only a default recipe that has it brings a role along that is made of the tuned one.
    first = next((p for p in grid if p.recipe.weights.keys() & {*MADE}), grid[0])
    with loading_bars() as bars:
        sources = selected.sources(bars)
        path = next(filter(None, (_large(given, of.session.task, selected) for of in runs)), None)
        found = path and hub.fetched(path, offline=selected.offline, progress=bars.download)
    trio = replace(sources, defaults=replace(sources.defaults, recipe=first.recipe))
    alone = (
        None
        if not found
        else replace(
            sources,
            roles={TUNED: replace(sources.roles[TUNED], path=found, lora=None)},
            defaults=replace(sources.defaults, recipe=Recipe.single(TUNED)),
            name="large tuned",
        )
    )
    identities = []
    for of in runs:
        limits = replace(trio, defaults=replace(of.session.defaults, recipe=first.recipe))
        more = {"large tuned": alone.roles[TUNED]} if alone else {}
        identity = manifest(limits, of.session.task, of.session.items, given["seed"], more)
        assert of.out is not None
        of.opened = opened.enter_context(Results(of.out, identity))
        identities.append(identity)
    parallel = given["parallel"]
    for models in [*([alone] if alone else []), trio]:
        left = [(of, of.session.missing(of.results, large=models is alone)) for of in runs]
        count = sum(len(missing) for _, missing in left)
        if not count:
            continue
        with ExitStack() as kept:
            for of, missing in left:
                kept.enter_context(keeping(of.results, len(missing)))
            with loading_bars() as bars:
                emulator = models.load(
                    force=given["force"],
                    n_seq_max=parallel or UpTo(),
                    progress=bars.weights,
                    checking=bars.checking,
                )
                if not runs[0].session.defaults.speculation.off or not parallel:
                    emulator.measure(bars.measuring)
            tally = Tally(count, quiet=False)
            with emulator, tally.shown():
                for of, missing in left:
                    _tell_notes(emulator, of.session, missing)
                    emulator.defaults = replace(of.session.defaults, recipe=models.defaults.recipe)
                    for _ in run(
                        emulator,
                        of.session.task,
                        of.session.items,
                        missing,
                        of.results,
                        seed=given["seed"],
                        parallel=parallel or best_parallel(emulator),
                        on_tokens=tally.on_tokens,
                    ):
                        tally.on_row(answered=True)
    return identities


def _tell_notes(emulator: Emulator, session: Session, missing: Missing) -> None:
    spelled = "\n".join(str(i.prompt) for i in session.items if i.raw and not i.special)
    recipes = {point.key: point.recipe for _, point, _ in missing}
    notes = (n for r in recipes.values() for n in emulator.notes(r, raw_text=spelled))
    for note in dict.fromkeys(notes):
        tell(f"note: {note}")


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
