"""`eftlocal eval --quick`: in a few minutes, is this trio worth its cost?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from eftlocal.cli.eval_run import Run, made
from eftlocal.cli.screen import Screen
from eftlocal.cli.streams import tell
from eftlocal.disk import readable
from eftlocal.errors import DownloadError, EftlocalError, UsageError
from eftlocal.evaluation.grid import BASE_ALONE, SMALL, of_grid
from eftlocal.evaluation.questions import FOLDER
from eftlocal.evaluation.worth import Compared, verdict
from eftlocal.logits.recipe import BASE, TUNED
from eftlocal.settings import flag_of
from eftlocal.study.report import interval, table, titled
from eftlocal.study.statistics import median

if TYPE_CHECKING:
    from eftlocal.cli.selection import Selection
    from eftlocal.sources import Sources
    from eftlocal.user_settings import Given

TASKS = ("gsm8k", "gsm_symbolic", "truthfulqa", "ifeval")
"""What is asked of models that are no demo; each that cannot be had is left out."""
_OF_HUB = {"gsm8k", "truthfulqa", "ifeval"}
_INSTEAD = {"gsm_symbolic": "gsm8k"}  # asked only where the other is not there
_MOST = 200  # items of each task


def quick_runs(tasks: Sequence[str], selected: Selection, given: Given) -> list[Run]:
    """The tasks that can be asked here, in an order of their own that is no order of difficulty.

    Raises:
        UsageError: none can be; why is said before.
    """
    for name in ("compare", "large", "judge", "save_best"):
        if given[name] is not None:
            raise UsageError(f"{flag_of(name)} does not go with --quick")
    for role in (TUNED, BASE):
        if role not in selected.roles:
            raise UsageError(f"--quick compares with the {role} model alone; give --{role}")
    others = [*TASKS, *["humaneval"] * given["run_code"]]
    wanted = list(tasks) or (["demo"] if selected.lies_in(FOLDER) else others)
    runs: list[Run] = []
    out_of_reach: Collection[str] = ()
    given = given.changed(limit=given["limit"] or _MOST)
    for name in wanted:
        if name in out_of_reach:
            continue
        if not tasks and _INSTEAD.get(name) in {run.session.task.name for run in runs}:
            continue
        try:
            one = made(name, selected, given, shuffled=True, large=False, among=wanted)
        except EftlocalError as error:
            if tasks:
                raise
            tell(f"note: {name} is left out: {error}")
            if isinstance(error, DownloadError):  # each would be waited for as long
                out_of_reach = _OF_HUB
            continue
        if len(of_grid(one.session.points)) > 1:
            raise UsageError("--quick looks at one point; give each dial one value")
        if not one.session.task.metrics:
            raise UsageError(f"{one.session.task.name} measures nothing that could be compared")
        runs.append(one)
    if not runs:
        raise UsageError("--quick: no task can be asked here; name one, with --data FILE")
    return runs


def memory_of(sources: Sources) -> dict[str, int]:
    """Bytes of the base alone, the small tuned model alone, and all together, as planned."""
    parts = {
        BASE_ALONE: {r: s for r, s in sources.roles.items() if r == BASE},
        SMALL: {r: s for r, s in sources.roles.items() if r == TUNED},
        "emulation": sources.roles,
    }
    found = {}
    for name, roles in parts.items():
        placements = sources.with_roles(roles).prepare().plan.roles.values()
        found[name] = sum(of.host_bytes + sum(of.device_bytes) for of in placements)
    return found


def quick_report(runs: Sequence[Run], memory: dict[str, int], console: Screen | None) -> Any:
    """Prints a table and the verdict, or gives them as data."""
    names = ("emulation", SMALL, BASE_ALONE)
    found, rows, rates = [], [], {name: list[float]() for name in names}
    for run in runs:
        run.drawn()
        task = run.session.task
        first = next(iter(task.metrics))
        by_model = {s.point.model or "emulation": s for s in run.summaries}
        for name, summary in by_model.items():
            values = summary.values.values()
            rates[name] += [of["tokens_per_second"] for of in values if "tokens_per_second" in of]
        emulation = by_model["emulation"]
        if not all(first in summary.metrics for summary in by_model.values()):
            continue
        less = {model: of[first] for model, of in emulation.against.items() if first in of}
        metric = task.metrics[first]
        found.append(Compared(task.name, emulation.n, less, metric.less_is_better))
        cells = (interval(by_model[name].metrics[first][:3]) for name in names)
        rows.append([task.name, first.replace("_", " "), str(emulation.n), *cells])
    if not found:
        raise EftlocalError("--quick: no item was answered in time; give more --minutes")
    speed = {name: median(of).value for name, of in rates.items() if of}
    time = speed[BASE_ALONE] / speed["emulation"] if speed else None
    said = verdict(found, time, memory["emulation"] / memory[BASE_ALONE])
    if console is None:
        compared = [{**vars(one), "less": dict(one.less)} for one in found]
        return {"tasks": compared, "tokens_per_second": speed, "memory": memory, "verdict": said}
    costs = [
        *([["tokens/s", "", "", *(f"{speed[name]:.4g}" for name in names)]] if speed else []),
        ["memory", "", "", *(readable(memory[name]) for name in names)],
    ]
    heads = ["task", "measured", "n", *names]
    console.print(titled("A quick look", table(heads, [*rows, *costs], texts=(0, 1))))
    console.print(said, markup=False, highlight=False)
    return None
