"""A task in a file of the user's own: what is wrong with it is one line, with file and place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eftlocal.cli.app import app

TASK = """
from eftlocal.evaluation.task import Item, Metric, Task

class Own(Task):
    name = {name!r}
    about = "x"
    metrics = {metrics}
    generates = {generates}
    max_tokens = 2
    def items(self):
        return {items}
    def judge(self, item, answer):
        print("printed")
        return {values}

TASK = Own
"""
USUAL = {
    "name": "own",
    "metrics": '{"a": Metric("x"), "b": Metric("y")}',
    "generates": "True",
    "items": '[Item.chat(f"Where is {i}?") for i in range(3)]',
    "values": '{"a": 1.0}',
}


def evaluate(path: Path, *more: str, **changed: str) -> Result:
    path.write_text(TASK.format(**{**USUAL, **changed}), "utf-8")
    runner = CliRunner(env={"COLUMNS": "100"})
    options = ["--threads", "1", "--compare", "none", *more]
    return runner.invoke(app, ["eval", str(path), *options], prog_name="eftlocal")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"items": "1 / 0"}, "own.py, line 11, in items: ZeroDivisionError: division by zero"),
        ({"items": "None"}, "in items: TypeError"),
        ({"items": "['x']"}, "own.py: item 1 is 'x', not an Item"),
        ({"items": "[]"}, "own: there is no item to answer"),
        ({"items": '[Item.chat("q", data={"s": {1}})]'}, "item 1: what it holds must be plain"),
        ({"generates": "False"}, "item 1 has no texts to score, and generates is False"),
        ({"name": "a/b"}, "own.py: name is 'a/b'; files are named after it"),
        ({"metrics": "['a']"}, "own.py: metrics must map names to Metric(...)"),
        ({"values": "1 / 0"}, "own.py, line 14, in judge: ZeroDivisionError"),
        ({"values": "exit(3)"}, "in judge: SystemExit: 3"),
        ({"values": "None"}, "own.py: judge gave None, not a dict of metrics"),
        ({"values": "{'c': 1}"}, "own.py: judge gave 'c', which is no metric"),
        ({"values": "{'a': 'yes'}"}, "own.py: judge gave 'yes' as a; give a number"),
        ({"values": "{'a': None}"}, "own.py: judge gave None as a; give a number"),
        ({"values": "{'a': float('nan')}"}, "own.py: judge gave nan as a; give a number"),
        ({"values": "{'a': -float('inf')}"}, "own.py: judge gave -inf as a; give a number"),
    ],
)
def test_a_fault_is_one_line(changed: dict[str, str], says: str, tmp_path: Path) -> None:
    result = evaluate(tmp_path / "own.py", "--out", str(tmp_path / "o.jsonl"), **changed)
    assert result.exit_code == 2, result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("eftlocal: ") and says in last
    assert "Traceback" not in result.output


def test_what_it_prints_is_no_part_of_the_json_and_numbers_of_any_kind_do(tmp_path: Path) -> None:
    values = "{'a': __import__('numpy').float32(0.5), 'b': True}"
    result = evaluate(tmp_path / "own.py", "--json", values=values)
    assert result.exit_code == 0, result.output
    (point,) = json.loads(result.stdout)["points"]
    assert {m: point["metrics"][m]["mean"] for m in ("a", "b")} == {"a": 0.5, "b": 1.0}
    assert "printed" in result.stderr


def test_a_metric_of_some_items_is_told_with_their_number(tmp_path: Path) -> None:
    values = "{'a': 1.0, **({'b': 2.0} if '0' in item.text else {})}"
    page = tmp_path / "o.html"
    result = evaluate(tmp_path / "own.py", "--html", str(page), values=values)
    assert result.exit_code == 0, result.output
    assert "of 1" in result.stdout and "2.00 of 1" in page.read_text("utf-8")
    assert "of 3" not in result.stdout


def test_a_file_that_ends_the_program_is_told(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("print('printed')\nraise SystemExit(4)\n", "utf-8")
    result = CliRunner().invoke(app, ["eval", str(path)], prog_name="eftlocal")
    assert result.exit_code == 2 and not result.stdout
    assert "own.py: SystemExit: 4" in result.stderr


def test_an_exponential_beyond_all_numbers_is_infinite(tmp_path: Path) -> None:
    metrics = '{"a": Metric("x", exponential=True)}'
    result = evaluate(tmp_path / "own.py", metrics=metrics, values="{'a': 800.0}")
    assert result.exit_code == 0 and "inf" in result.stdout, result.output
