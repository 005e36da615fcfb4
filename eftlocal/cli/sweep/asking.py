"""What `eftlocal sweep` is to ask, measure and write: chosen by options, refused early."""

from __future__ import annotations

from pathlib import Path

from eftlocal.cli.eval import Split
from eftlocal.cli.sweep.options import Questions
from eftlocal.errors import UsageError
from eftlocal.evaluate.demo import FOLDER
from eftlocal.evaluate.plot import check_plot
from eftlocal.output_file import check_outputs
from eftlocal.sweep.prompts import Item, demo_items, file_items, spread


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
    check_outputs({"--plot": picture, "--html": page}, {"--prompts": prompts}, rows={"--out": out})
    if picture:
        check_plot(picture)
