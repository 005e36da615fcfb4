"""`eftlocal eval --judge`: the command, its server a scripted judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted_judge import ScriptedJudge
from typer.testing import CliRunner, Result

from eftlocal.cli.app import app

ASKED = ["Where is Toulouse?", "In which country is Toulouse?", "What kind of thing is a baboon?"]


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("EFTLOCAL_JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": text}) for text in ASKED), "utf-8")
    return path


def evaluate(*words: str) -> Result:
    options = ["--threads", "1", "--max-tokens", "24", "--temperature", "0"]
    runner = CliRunner(env={"COLUMNS": "120"})
    return runner.invoke(app, ["eval", "judge", *words, *options], prog_name="eftlocal")


def test_verdicts_stand_beside_the_answers_and_are_asked_once(prompts: Path) -> None:
    out = prompts.with_name("out.jsonl")
    with ScriptedJudge() as scripted:
        options = ["--data", str(prompts), "--out", str(out), "--criteria", "overall,factuality"]
        options += ["--judge", scripted.url, "--judge-model", "judge-1"]
        result = evaluate(*options, "--json")
        assert result.exit_code == 0, result.output
        asked = len(scripted.requests)
        again = evaluate(*options)
        assert len(scripted.requests) == asked
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    texts = {(row["point"], row["prompt"]): row["text"].strip() for row in rows}
    keys = list(dict.fromkeys(row["point"] for row in rows))  # emulation, small tuned, base
    found = {of["against"]: of["criteria"] for of in json.loads(result.stdout)["judged"]}
    assert list(found) == ["small tuned", "base"]
    for name, other in zip(found, keys[1:], strict=True):
        pairs = [(texts[keys[0], i], texts[other, i]) for i in range(3)]
        longer = [(len(a) > len(b)) - (len(a) < len(b)) for a, b in pairs]  # what it prefers
        for criterion in ("overall", "factuality"):
            tally = found[name][criterion]
            assert tally["wins"] == longer.count(1) and tally["losses"] == longer.count(-1)
            rate = sum(1 + sign for sign in longer) / 6
            assert tally["rate"]["value"] == pytest.approx(rate)
    assert sorted(p.name for p in prompts.parent.glob("out.judge-*-base.jsonl"))
    assert "Judged by judge-1" in again.stdout and "orders" in again.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--judge-model", "x"], "--judge-model is for a judge; add --judge URL"),
        (["--criteria", "overall"], "--criteria is for a judge; add --judge URL"),
        (["--judge", "http://127.0.0.1:1"], "--judge needs --judge-model NAME"),
        (
            ["--judge", "http://127.0.0.1:1", "--judge-model", "x", "--criteria", "taste"],
            "no criterion 'taste'; there are overall, helpfulness",
        ),
        (["--judge", "http://127.0.0.1:1", "--judge-model", "x"], "--judge needs --out FILE"),
        (
            ["--judge=http://127.0.0.1:1", "--judge-model=x", "--out=x.jsonl", "--compare=none"],
            "--judge compares with models that answer alone; there is none",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(
    options: list[str], says: str, prompts: Path
) -> None:
    result = evaluate("--data", str(prompts), *options)
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1


def test_a_judge_that_refuses_ends_in_one_line_and_the_answers_are_kept(prompts: Path) -> None:
    out = prompts.with_name("out.jsonl")
    options = ["--data", str(prompts), "--out", str(out), "--judge", "http://127.0.0.1:9/v1"]
    result = evaluate(*options, "--judge-model", "x")
    assert result.exit_code != 0 and "127.0.0.1" in result.stderr.splitlines()[-1]
    assert len(out.read_text("utf-8").splitlines()) == 9
