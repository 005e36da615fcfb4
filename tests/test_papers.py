"""`scripts/paper`: every experiment's words are a command of `eftlocal eval`; one is run whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_judge import ScriptedJudge
from typer.testing import CliRunner

from eftlocal.answer import Answer, Timing
from eftlocal.cli.app import app
from eftlocal.evaluation.task import Options
from eftlocal.speculation.settings import Totals

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "paper"))
import figures
import page
import run
from in_german import TASK

ROOT = figures.ROOT


@pytest.mark.parametrize("name", figures.EXPERIMENTS)
def test_the_words_are_a_command_of_eval(name: str) -> None:
    experiment = figures.EXPERIMENTS[name]
    if experiment["task"] == "humaneval" and sys.platform != "linux":
        pytest.skip("its sandbox is Linux's")
    asked = run.words(experiment, stand_in="demo")
    result = CliRunner().invoke(app, [*asked, "--dry-run"], prog_name="eftlocal")
    assert result.exit_code == 0, result.output
    points = result.stdout.splitlines()[:-1]
    dials = [value for value in experiment["words"] if ":" in value or value.endswith(",off")]
    assert len([p for p in points if not p.startswith(("small tuned", "base ", "large "))]) > len(
        dials
    )
    assert "4 items" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", figures.EXPERIMENTS)
def test_an_experiment_is_told_whole(name: str) -> None:
    of = figures.EXPERIMENTS[name]
    assert of["paper"] in figures.TOLD["papers"]
    assert bool(of.get("published")) == ("source" in of)
    assert of.get("source", "both") in figures.TOLD["sources"]
    models = figures.TOLD["models"][of["models"]]
    for role, model in models.items():
        if role != "templates":
            for places in figures.TOLD["stand_in"].values():
                assert model["place"] in places
            file = model["file"]
            assert file.startswith(("hf:", "make: ")) or (ROOT / file).is_file()
    rows = {"base", "small tuned", "emulation", "large tuned"}
    assert all(row in rows or row.startswith("alpha ") for row in of.get("published", {}))


def test_what_has_to_be_made_or_given_is_said() -> None:
    frontier = figures.EXPERIMENTS["eft-frontier"]
    with pytest.raises(ValueError, match=r"helpful: no GGUF is known of .* --model helpful=FILE"):
        run.words(frontier, data="p.jsonl")
    made = {"helpful": "a.gguf", "harmless": "b.gguf"}
    asked = run.words(frontier, data="p.jsonl", models=made)
    assert asked[asked.index("--role") + 1] == "helpful=a.gguf"
    assert "--chat-template" in asked and "--threads" not in asked
    with pytest.raises(ValueError, match="eft-frontier: give --data FILE: HH's test prompts"):
        run.words(frontier, models=made)


def test_a_stand_in_is_run_whole_judged_and_named_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("EFTLOCAL_JUDGE_KEY", raising=False)
    command = [sys.executable, str(ROOT / "scripts" / "paper" / "run.py"), "eft-eli5-llama2"]
    command += ["--stand-in", "demo", "--limit", "2", "--out", str(tmp_path), "--"]
    with ScriptedJudge() as judge:
        command += ["--judge", judge.url, "--judge-model", "judge-1"]
        counts = []
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"{figures.WARNING} (demo)\n")
            counts.append(len(judge.requests))
    assert counts[0] == counts[1] > 0  # all is kept
    assert "| stand-in: characters |" in done.stdout and "2 items." in done.stdout
    name = "eft-eli5-llama2.stand-in-demo"
    assert len((tmp_path / f"{name}.jsonl").read_text("utf-8").splitlines()) == 2 * 4
    rows = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))["rows"]
    assert list(rows)[:4] == ["emulation", "small tuned", "base", "large tuned"]
    against = [of for row, of in rows.items() if " against " in row]
    assert len(against) == 3
    assert all({*of} == {"win rate, factuality", "win rate, helpfulness"} for of in against)


def test_a_table_has_both_and_none_where_there_is_none() -> None:
    of = {"published": {"base": 9.6, "emulation": 33.5}}
    empty = figures.table(of, None)
    assert empty.splitlines()[2:] == ["| base | 0.096 |  |", "| emulation | 0.335 |  |"]
    rows = {"emulation": {"right": [0.5, 0.25, 0.75]}, "small tuned": {"right": [1.0, 1.0, 1.0]}}
    shown = figures.table(of, {"items": 4, "rows": rows}).splitlines()
    assert shown[2:5] == [
        "| base | 0.096 |  |",
        "| emulation | 0.335 | 0.500 [0.250, 0.750] |",
        "| small tuned |  | 1.000 |",
    ]


def test_the_page_is_what_the_script_makes() -> None:
    assert (ROOT / "docs" / "papers.md").read_text("utf-8") == page.page()


def test_the_words_of_german_are_told_from_english() -> None:
    def is_german(text: str) -> float:
        timing = Timing({}, {}, 0.0, 0.0, 0)
        answer = Answer(text, (), "stop", None, 0, timing, Totals())
        return task.judge(task.items()[0], answer)["german"]

    task = TASK(Options())
    assert is_german("Der Himmel ist blau und die Sonne scheint.") == 1
    assert is_german("Dice roll; the die is cast, and that is an end.") == 0
