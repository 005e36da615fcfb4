"""The table of tasks in docs/evaluation.md: every task is there, and its command is one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from eftlocal.cli.app import app
from eftlocal.evaluation.catalogue import names

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"


def test_the_table_has_every_task_and_a_command_that_names_it() -> None:
    """Most need what is on the hub, so that they are parsed, not run."""
    table = PAGE.read_text("utf-8").partition("## Tasks")[2].partition("\n\n")[2].partition("\n\n")
    rows = [line.strip("| ").split(" | ") for line in table[0].splitlines()[2:]]
    assert {row[0].strip("`") for row in rows} == {*names()}
    group: Any = get_command(app)
    context = typer.Context(group)
    for task, *_, command in rows:
        program, *words = shlex.split(command.strip("`"))
        name, verb, given = group.resolve_command(context, words)
        assert (program, name) == ("eftlocal", "eval")
        parsed = verb.make_context(name, given, parent=context)
        assert parsed.params["tasks"] == [task.strip("`")]
