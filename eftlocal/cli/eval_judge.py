"""`eftlocal eval --judge`: the emulation's answers beside those of each model alone, by a judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from eftlocal.cli.progress import Bar
from eftlocal.errors import InterruptedRunError, UsageError
from eftlocal.evaluation.chat_server import ChatServer
from eftlocal.evaluation.judge import Judge, judge_pairs
from eftlocal.evaluation.verdicts import Pair, Verdicts
from eftlocal.study.report import interval, number, table, titled

if TYPE_CHECKING:
    from eftlocal.cli.eval_run import Run
    from eftlocal.user_settings import Given


def read_judge(given: Given) -> Judge | None:
    """The judge that the options name; None where none is asked for.

    Raises:
        UsageError: an option lacks another, or is wrong.
    """
    url, model, criteria = given["judge"], given["judge_model"], given["criteria"]
    if url is None:
        for option in ("judge_model", "criteria", "judge_parallel"):
            if given[option] is not None:
                raise UsageError(f"--{option.replace('_', '-')} is for a judge; add --judge URL")
        return None
    if model is None:
        raise UsageError("--judge needs --judge-model NAME, as its server calls it")
    asked = tuple(name.strip() for name in (criteria or "overall").split(","))
    judge = Judge(ChatServer(url, model), asked)
    if given["out"] is None:
        raise UsageError("--judge needs --out FILE: what the judge says is kept beside it")
    return judge


def check_pairs(run: Run) -> None:
    """Refuses a task of which a judge would see no pair of answers.

    Raises:
        UsageError: nothing is generated, or no model answers alone.
    """
    task = run.session.task
    if not task.generates:
        raise UsageError(f"--judge compares answers, and {task.name} has the models write none")
    if not any(point.model for point in run.session.points):
        raise UsageError("--judge compares with models that answer alone; there is none")


def judged(run: Run, judge: Judge, parallel: int) -> list[dict[str, Any]]:
    """Verdicts on the emulation against each model, kept beside the answers.

    Returns:
        for each point of the grid and model: "point", "against", and the tally of each criterion;
        with "groups" the same of each group.
    """
    points = run.session.points
    found = []
    for point in (point for point in points if not point.model):
        for other in (other for other in points if other.model):
            pairs = _pairs(run, point.key, other.key)
            if not pairs:
                continue
            assert run.out is not None
            name = f"{run.out.stem}.judge-{point.key[:8]}-{other.model.replace(' ', '-')}.jsonl"
            bar = Bar("judging", "questions", 2 * len(pairs) * len(judge.criteria), quiet=False)

            def show(done: int, _all: int, bar: Bar = bar) -> None:
                bar.show(done, "")

            path = run.out.with_name(name)
            try:
                with bar.shown():
                    verdicts = judge_pairs(pairs, judge, path, parallel=parallel, on_verdict=show)
            except KeyboardInterrupt:
                raise InterruptedRunError(
                    f"stopped while judging; what was judged is kept in {path}; run the same "
                    "command again to resume"
                ) from None
            found.append(
                {"point": point.label(), "against": other.model, **_tallies(verdicts, judge)}
            )
    return found


def _pairs(run: Run, own: str, other: str) -> list[Pair]:
    """The first answers of both to each item that both have answered."""
    records = run.results.records
    both = [
        (item, records.get((own, i, 0)), records.get((other, i, 0)))
        for i, item in enumerate(run.session.items)
    ]
    return [Pair(item.text, a.text, b.text, item.groups) for item, a, b in both if a and b]


def _tallies(verdicts: Verdicts, judge: Judge) -> dict[str, Any]:
    of_all = {name: vars(verdicts.tally(name)) for name in judge.criteria}
    groups = {
        group: {name: vars(verdicts.tally(name, group)) for name in judge.criteria}
        for group in verdicts.groups
    }
    return {"criteria": of_all, "groups": groups}


def as_tables(found: Sequence[Mapping[str, Any]], judge: Judge) -> Iterator[RenderableType]:
    """One row for each opponent and criterion."""
    heads = ["emulation against", "criterion", "win rate [95%]", "wins", "ties", "losses"]
    heads += ["not readable", "orders agreed"]
    several = len({of["point"] for of in found}) > 1
    rows = [
        [
            f"{of['point']} against {of['against']}" if several else of["against"],
            criterion,
            interval(tally["rate"]),
            *(str(tally[name]) for name in ("wins", "ties", "losses", "unreadable")),
            number(tally["agreed"]),
        ]
        for of in found
        for criterion, tally in of["criteria"].items()
    ]
    title = f"Judged by {judge.server.model}, each pair in both orders; 0.50 is even"
    yield titled(title, table(heads, rows, texts=(0, 1)))
