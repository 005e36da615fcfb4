"""A task on the command line: its session made of the options, answered, shown."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from eftlocal import hub
from eftlocal.cli import option_rules as rules
from eftlocal.cli import options as opt
from eftlocal.cli.eval_judge import as_tables, judged
from eftlocal.cli.progress import Tally, counted, keeping
from eftlocal.cli.screen import Screen
from eftlocal.cli.selection import Selection, loading_bars
from eftlocal.cli.streams import say, tell
from eftlocal.defaults import Defaults
from eftlocal.errors import UsageError
from eftlocal.evaluation import figures
from eftlocal.evaluation.catalogue import make
from eftlocal.evaluation.grid import LARGE, MODELS, Build, Point, compared, cross, parse_dials
from eftlocal.evaluation.judge import Judge
from eftlocal.evaluation.picture import plot
from eftlocal.evaluation.run import FIRST, OF_ANSWERS, Missing, Results, manifest, run, spread
from eftlocal.evaluation.session import Session, check_samples, half, shuffle, task_defaults
from eftlocal.evaluation.task import Metric, Options, Task
from eftlocal.journal.manifest import Manifest, of_roles
from eftlocal.kinds import OFF
from eftlocal.loading.loader import UpTo
from eftlocal.logits.recipe import MADE, TUNED, Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.output_file import check_outputs, write_whole
from eftlocal.scheduler import best_parallel
from eftlocal.study.plot import check_plot
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal.emulator import Emulator


@dataclass
class Run:
    """A session, and what is done with it."""

    session: Session
    large: Path | None
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

    @property
    def summaries(self) -> list[figures.PointSummary]:
        """Of what is on disk, of every metric."""
        return self.session.summaries(self.results, self.session.metrics)

    def metric(self, name: str) -> Metric:
        """A metric that is measured."""
        check_metrics("--save-best", [name], self.session.metrics)
        return self.session.metrics[name]

    def at(self, point: Point) -> Run:
        """With this point as its grid."""
        models = [one for one in self.session.points if one.model]
        return replace(self, session=replace(self.session, points=[point, *models]))

    def place(self, part: str, metrics: str | None, files: Mapping[str, Path | None]) -> None:
        """Checks where the answers, the picture and the page go, and which metrics are shown.

        Args:
            part: of a run of several: it stands before the files' endings.
            files: by the options --out, --plot and --html.

        Raises:
            UsageError: one cannot be written, or a metric is not measured.
        """
        for name in ("", f".{part}") if part else ("",):  # what is no file's name gets no ending
            own = {
                flag: path.with_name(f"{path.stem}{name}{path.suffix}") if path and name else path
                for flag, path in files.items()
            }
            self.out, self.picture, self.page = own.values()
            rows = {"--out": own.pop("--out")}
            check_outputs(own, {"the prompts": self.session.task.options.data}, rows=rows)
        check_plot(self.picture)
        self.shown = _metrics(metrics, self.session.metrics)

    def tell(self) -> None:
        """The grid, and how much there is to do."""
        task, points = self.session.task, self.session.points
        for point in points:
            say(f"{point.label()}  ({point.recipe})")
        count = len(self.session.items)
        answers = len({point.key for point in points}) * count * task.samples
        told = f"{counted(len(points), 'point')} x {counted(count, 'item')}"
        say(f"{task.name}: {told}: {counted(answers, 'answer')}")

    def drawn(self) -> list[figures.PointSummary]:
        """Writes the picture and the page of what is shown, and gives that."""
        task, items, records = self.session.task, self.session.items, self.results.records
        summaries = self.session.summaries(self.results, self.shown)
        if self.picture:
            plot(summaries, self.shown, self.picture)
        if self.page:
            write_whole(self.page, figures.page(task, items, summaries, records, self.shown))
        return summaries

    def report(
        self, identity: Manifest, *, console: Screen | None, judge: Judge | None, parallel: int
    ) -> Any:
        """Has the answers judged, writes the picture and the page; prints the tables, or gives the
        figures as data.

        Args:
            parallel: questions to the judge at once.
        """
        task, items = self.session.task, self.session.items
        summaries = self.drawn()
        said = judged(self, judge, parallel) if judge else []
        if console is None:
            data = figures.as_data(task, items, summaries, identity, [*self.shown])
            return {**data, "judged": said} if judge else data
        told = f"{task.name}: {figures.constants(summaries)}"
        console.print(told, style="bold", markup=False, highlight=False)
        for table in figures.as_tables(task, items, summaries, self.shown, console):
            console.print(table)
        for table in as_tables(said, judge) if judge else ():
            console.print(table)
        return None


class _All:
    """The results of several tasks, as one file of rows."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._all = [of.results for of in runs]
        self.path = ", ".join(str(of.path) for of in self._all)

    @property
    def rows(self) -> int:
        return sum(of.rows for of in self._all)

    def close(self) -> None:
        for of in self._all:
            of.close()


@contextmanager
def kept(runs: Sequence[Run]) -> Iterator[ExitStack]:
    """What closes the runs' results; those that go nowhere are kept as long as the block lasts."""
    with ExitStack() as opened:
        for number, one in enumerate(runs):
            if one.out is None:
                folder = Path(opened.enter_context(TemporaryDirectory()))
                one.out = folder / f"{number}.jsonl"
        yield opened


def made(
    name: str,
    selected: Selection,
    given: Given,
    *,
    split: str | None = None,
    compares: bool = True,
    large: bool = True,
    shuffled: bool = False,
    among: Sequence[str] = (),
) -> Run:
    """A task with its items, on the points that the options name.

    Args:
        split: instead of the options'.
        compares: with the models to compare with; large: the large tuned one, too.
        among: the names of all tasks of a run of several.
        shuffled: the items in an order of their own, so that the first few are a fair part.
    """
    dials = parse_dials({axis.rstrip("_"): given[axis] for axis in opt.GRID})
    told = {each.name: given[each.name] for each in fields(Options) if each.name != "split"}
    split = split or given["split"]
    is_grid = any(len(values) > 1 for values in dials.values())
    task = make(name, Options(**told), split=split, is_grid=is_grid, among=among)
    defaults = task_defaults(task, selected.defaults, given["max_tokens"])
    grid = cross(dials, _builder(defaults, selected.roles, given))
    items = task.items()
    if split and "split" not in task.takes:
        items = half(items, split)
        if not items:
            raise UsageError(f"{task.name}: its {split} half is empty; it has too few items")
    items = spread(shuffle(items) if shuffled else items, given["limit"])
    if not items:
        raise UsageError(f"{task.name}: there is no item to answer")
    if not all(item.has_system for item in items):
        for point in grid:
            rules.check_guidance(point.recipe, None, selected.roles)
    check_samples(task, grid)
    file = _large(given, task, selected) if compares and large else None
    models = _models(given, selected.roles, large=file is not None) if compares else []
    points = (*grid, *compared(models, grid[0].sampling))
    return Run(Session(task, items, points, defaults, selected.roles), file)


def _models(given: Given, roles: Sequence[str], *, large: bool) -> list[str]:
    """The names of the models to compare with."""

    by_role = {role: name for name, role in MODELS.items() if name != LARGE}
    asked = given["compare"]
    wanted = [role for role in ("tuned", "base") if role in roles]
    if asked is not None:
        wanted = [] if asked == "none" else _names(asked)
    for role in wanted:
        if role not in by_role or role not in roles:
            there = [known for known in by_role if known in roles]
            raise UsageError(f"--compare: {role!r}; give some of {', '.join(there)}, or none")
    return [by_role[role] for role in dict.fromkeys(wanted)] + [LARGE] * large


def _large(given: Given, task: Task, selected: Selection) -> Path | None:
    """The large tuned model's file: the option's, or that which a task has beside its preset's."""
    if given["large"] is not None and TUNED not in selected.roles:
        raise UsageError("--large is compared with a small tuned model; give that with --tuned")
    if given["large"] is not None or given["compare"] == "none":
        return given["large"]  # type: ignore[no-any-return]
    return task.large if task.large and selected.lies_in(task.large.parent) else None


def answer(
    runs: Sequence[Run],
    selected: Selection,
    opened: ExitStack,
    given: Given,
    *,
    seconds: float = math.inf,
) -> list[Manifest]:
    """Answers what is missing of every task; gives the manifest of each. The large model comes
    first, by itself.

    Args:
        seconds: after which a task is left with the items that are answered.
    """

    grid = [point for of in runs for point in of.session.points]
    # Only a default recipe that has it brings a role along that is made of the tuned one.
    first = next((p for p in grid if p.recipe.weights.keys() & {*MADE}), grid[0])
    with loading_bars() as bars:
        sources = selected.sources(bars)
        path = next((of.large for of in runs if of.large), None)
        found = path and hub.fetched(path, offline=selected.offline, progress=bars.download)
    trio = replace(sources, defaults=replace(sources.defaults, recipe=first.recipe))
    alone = (
        None
        if not found
        else replace(
            sources,
            roles={TUNED: replace(sources.roles[TUNED], path=found, lora=None)},
            defaults=replace(sources.defaults, recipe=Recipe.single(TUNED)),
            name=LARGE,
        )
    )
    large = of_roles({LARGE: alone.roles[TUNED]}) if alone else {}
    identities = []
    for of in runs:
        limits = replace(trio, defaults=replace(of.session.defaults, recipe=first.recipe))
        identity = manifest(limits, of.session.task, of.session.items, given["seed"])
        assert of.out is not None
        of.opened = opened.enter_context(Results(of.out, identity))
        of.session = of.session.with_large(large)
        identities.append({**identity, **large} if of.large else identity)
    parallel = given["parallel"]
    for models in [*([alone] if alone else []), trio]:
        left = [(of, of.session.missing(of.results, large=models is alone)) for of in runs]
        count = sum(len(missing) for _, missing in left)
        if not count:
            continue
        with keeping(_All(runs), count):
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
                    until = time.monotonic() + seconds
                    for record in run(
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
                        late = time.monotonic() > until
                        if late and record.prompt not in of.session.begun(of.results):
                            break
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
        fixed = {name: given.get(name) for name in opt.FIXED}
        here = dict.fromkeys(opt.GROUPS["recipe"]) | fixed
        for dial, value in dials.items():  # no limit at all is None in a grid
            here["lambda_" if dial == "lambda" else dial] = OFF if value is None else value
        made = rules.chosen_defaults(defaults, here)
        rules.check_roles(made.recipe, None, roles)
        return made.recipe, made.sampling

    return build


def place(runs: Sequence[Run], metrics: str | None, files: Mapping[str, Path | None]) -> None:
    """`Run.place` of each, the files of several named after their tasks.

    Raises:
        UsageError: as that; two tasks have one name, or no task measures a metric.
    """
    names = [of.session.task.name for of in runs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UsageError(f"the task {twice[0]} is given twice; run each by itself")
    if metrics not in (None, "all"):
        known = {name: of for run in runs for name, of in run.session.metrics.items()}
        check_metrics("--metrics", _names(metrics), known)
    for of, name in zip(runs, names, strict=True):
        of.place(name if len(runs) > 1 else "", metrics, files)


def check_metrics(option: str, wanted: Sequence[str], known: Mapping[str, Metric]) -> None:
    """Refuses what is not measured."""
    for name in wanted:
        if name not in known:
            raise UsageError(f"{option}: {name!r} is not measured here; known: {', '.join(known)}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _metrics(asked: str | None, there: Mapping[str, Metric]) -> dict[str, Metric]:
    if asked is None:
        return {name: of for name, of in there.items() if name in FIRST or name not in OF_ANSWERS}
    if asked == "all":
        return dict(there)
    return {name: there[name] for name in _names(asked) if name in there}
