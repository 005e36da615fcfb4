"""`eftlocal eval --quick`: the verdict, and the command on the demo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eftlocal.cli.app import app
from eftlocal.evaluation.questions import FOLDER
from eftlocal.evaluation.worth import Compared, verdict
from eftlocal.study.statistics import Interval

UP, DOWN, EVEN = Interval(0.2, 0.1, 0.3), Interval(-0.2, -0.3, -0.1), Interval(0.1, -0.1, 0.3)


def beside(small: Interval, base: Interval, task: str = "demo", less: bool = False) -> Compared:
    return Compared(task, 24, {"small tuned": small, "base": base}, less)


@pytest.mark.parametrize(
    ("found", "word", "says"),
    [
        ([beside(UP, UP)], "Worth it", "better than the small tuned model (+0.20) and the base"),
        ([beside(UP, EVEN)], "Not shown to be worth it", "not told apart from the base (+0.10) by"),
        ([beside(UP, DOWN)], "Not worth it", "worse than the base (-0.20)"),
        ([beside(UP, UP), beside(DOWN, UP, "x")], "Worth it for some things", "on x it is"),
        ([beside(DOWN, DOWN, less=True)], "Worth it", "better than the small tuned model (-0.20)"),
        ([beside(EVEN, EVEN)], "Not shown to be worth it", "by 24 items"),
        (
            [Compared("demo", 5, {"base": UP})],
            "Not shown to be worth it",
            "base (+0.20) by 5 items",
        ),
    ],
)
def test_the_verdict_claims_what_the_intervals_show(
    found: list[Compared], word: str, says: str
) -> None:
    said = verdict(found, 1.6, 1.25)
    assert said.startswith(f"{word}: on demo it is ") and says in said
    assert said.endswith("A token takes 1.6 times the base's time, and all models take 1.2 times "
                         "its memory.")  # fmt: skip


def evaluate(*words: str) -> Result:
    runner = CliRunner(env={"COLUMNS": "80"})
    options = ["eval", *words, "--quick", "--threads", "1"]
    return runner.invoke(app, options, prog_name="eftlocal")


def test_the_demo_is_worth_it_and_time_ends_it(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = evaluate("--minutes", "0.01", "--limit", "1000", "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (task,) = found["tasks"]
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert task["items"] < 1000 and len(rows) == 3 * task["items"]  # whole items, all models
    whole = evaluate("--limit", "24")
    assert whole.exit_code == 0 and "Worth it: on demo it is better than" in whole.stdout
    assert all(len(line) <= 80 for line in whole.stdout.splitlines())
    memory = found["memory"]
    sizes = {n: (FOLDER / f"{n}.gguf").stat().st_size for n in ("base", "tuned", "reference")}
    assert memory["base"] > sizes["base"] and memory["small tuned"] > sizes["tuned"]
    assert sum(sizes.values()) < memory["emulation"] <= memory["base"] + 2 * memory["small tuned"]


def test_tasks_that_cannot_be_asked_are_left_out_and_said(tmp_path: Path) -> None:
    files = [
        p for r in ("base", "tuned", "reference") for p in (f"--{r}", str(FOLDER / f"{r}.gguf"))
    ]
    result = evaluate(*files, "--offline", "--minutes", "0.01", "--limit", "1")
    for line in result.stderr.splitlines():
        assert line.startswith(("note: ", "eftlocal: "))
    named = evaluate("prompts", *files)
    assert named.exit_code == 2 and "give the file of prompts" in named.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--compare", "none"], "--compare does not go with --quick"),
        (["--large", "x.gguf"], "--large does not go with --quick"),
        (["--save-best", "exact", "--as", "x"], "--save-best does not go with --quick"),
        (["--beta", "0,1"], "--quick looks at one point"),
        (["--base", str(FOLDER / "base.gguf"), "--recipe", "base=1"], "give --tuned"),
    ],
)
def test_what_it_does_not_heed_is_refused(options: list[str], says: str) -> None:
    result = evaluate("demo", *options)
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1


def test_prompts_without_right_answers_measure_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("Where is Toulouse?", "utf-8")
    result = evaluate(str(path))
    assert result.exit_code == 2 and "prompts measures nothing" in result.stderr


def test_a_page_and_a_dry_run_of_a_quick_look(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    dry = evaluate("demo", "--limit", "2", "--html", str(page), "--dry-run")
    assert dry.exit_code == 0 and not page.exists()
    assert dry.stdout.splitlines()[-1] == "demo: 3 points x 2 items: 6 answers"
    result = evaluate("demo", "--limit", "2", "--minutes", "0.05", "--html", str(page))
    assert result.exit_code == 0 and "answers side by side" in page.read_text("utf-8")


def test_a_task_that_generates_nothing_has_no_speed(tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": f"{name} lies in France."}) for name in ("Lyon", "Nice")]
    text.write_text("\n".join(lines), "utf-8")
    result = evaluate("perplexity", "--data", str(text), "--limit", "2")
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    assert "by 2 items. All models take" in told and "nan" not in told and "tokens/s" not in told
