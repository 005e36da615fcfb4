"""`eftlocal inspect`: coloured text, tables, JSON, the page, many prompts; refusals in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from eftlocal import Emulator, Recipe
from eftlocal.cli.app import app
from eftlocal.study.influence import inspect
from eftlocal.study.inspection import COMBINATION, level, measure_of, measures_of
from eftlocal.study.view import heat, legend, quoted

QUICK = ["--threads", "1", "--n-ctx", "256"]
DRAWN = ["--max-tokens", "12", "--seed", "3"]


@pytest.fixture
def files(tiny_files: dict[str, Path]) -> list[str]:
    return [part for role, path in tiny_files.items() for part in (f"--{role}", str(path))]


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    wide = {"COLUMNS": "200"}
    command = ["inspect", *map(str, arguments)]
    return CliRunner(env=wide).invoke(app, command, input=stdin, prog_name="eftlocal")


def test_text_legend_table_and_summary(files: list[str]) -> None:
    result = run("Hello", *files, *QUICK, *DRAWN)
    assert result.exit_code == 0, result.output
    assert "tv-base: below 0.1, from 0.1, ‹from 0.3›, «from 0.6»" in result.stdout
    assert "12 tokens, mean tv-base" in result.stdout
    assert re.search(r"\d+ of 12 tokens|none of 12 tokens", result.stdout)
    assert "decided" in result.stdout or "sampled" in result.stdout
    assert "whose first choice:" in result.stdout and "by rank in the base:" in result.stdout
    assert run(*files, *QUICK, *DRAWN, stdin="Hello").stdout == result.stdout
    short = run("Hello", *files, *QUICK, *DRAWN, "--top", "0").stdout
    assert len(short) < len(result.stdout) and "verdict" not in short


def test_json_of_a_given_answer(files: list[str]) -> None:
    result = run("Hello", "--answer", " it is [red]so[/red]\n", *files, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["answer"] == "".join(t["text"] for t in record["tokens"])
    assert record["answer"] == " it is [red]so[/red]\n" and record["seed"] is None
    token = record["tokens"][3]
    assert set(token["probability"]) == {"base", "tuned", "reference", COMBINATION}
    assert set(token["measures"]) == set(record["measures"]) == set(record["means"])
    assert len(token["candidates"]["base"]) == 5
    assert sum(record["won"].values()) == len(record["tokens"])
    assert token["verdict"].keys() == {"kind", "by", "text"}
    assert "together" in token["verdict"]["text"] and " moved" in record["tally"]


def test_json_of_a_generated_answer_is_that_of_run(files: list[str]) -> None:
    options = ["Hello", *files, *QUICK, *DRAWN, "--beta", "1.5", "--json"]
    ours = json.loads(run(*options, "--candidates", "2").stdout)
    theirs = CliRunner().invoke(app, ["run", *options], prog_name="eftlocal")
    assert ours["answer"] == json.loads(theirs.stdout)["text"]
    assert ours["weights"] == {"base": 1.5, "tuned": 1.0, "reference": -1.5}
    assert (ours["seed"], ours["finish_reason"]) == (3, "length")
    assert len(ours["tokens"][0]["candidates"][COMBINATION]) == 2


def test_a_narrow_terminal_breaks_no_token_into_letters(files: list[str]) -> None:
    narrow = {"COLUMNS": "60"}
    words = ["inspect", "hello", "--answer", "the cat", *files, "--plain"]
    shown = CliRunner().invoke(app, words, env=narrow).stdout
    letters = [line for line in shown.splitlines() if len(line.strip()) == 1]
    assert not letters and "token" in shown


def test_an_answer_from_a_file_and_a_plain_table(files: list[str], tmp_path: Path) -> None:
    file = tmp_path / "answer.txt"
    file.write_text(" one two\n", "utf-8")
    result = run(
        "Hello", "--answer-file", file, *files, *QUICK, "--plain", "--measure", "rank-base"
    )
    assert result.exit_code == 0, result.output
    given = run("Hello", "--answer", " one two\n", *files, *QUICK, "--json")
    tokens = json.loads(given.stdout)["tokens"]
    lines = [line.split() for line in result.stdout.splitlines()]
    rows = [line for line in lines if line and line[0].isdigit() and line[1].startswith("'")]
    assert [int(row[0]) for row in rows] == [token["index"] for token in tokens]
    assert "\x1b" not in result.stdout and "«" not in result.stdout


def test_the_page_is_written(files: list[str], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    result = run("Hello", *files, *QUICK, *DRAWN, "--html", file, "--measure", "gain-tuned")
    assert result.exit_code == 0, result.output
    text = file.read_bytes().decode("utf-8")
    assert text.startswith("<!doctype html>") and "\r" not in text
    assert "{{" not in text.partition('id="data">')[0]


def test_many_prompts(files: list[str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    records = [
        {"prompt": "Hello", "answer": " it is 12, because it is."},
        {"prompt": "Well?", "answer": " it may be 7 or 8."},
        {"prompt": "So"},
    ]
    prompts.write_text("\n".join(map(json.dumps, records)), "utf-8")
    options = ["--prompts", prompts, *files, *QUICK, *DRAWN, "--least", "2"]
    result = run(*options)
    assert result.exit_code == 0, result.output
    assert "token class" in result.stdout and "of 3 answers" in result.stdout
    assert "Most moved tokens, seen at least 2 times" in result.stdout
    figures = json.loads(run(*options, "--json").stdout)
    assert figures["answers"] == 3 and "number" in figures["classes"]
    mean = figures["all"]["mean"]
    assert mean["low"] <= mean["value"] <= mean["high"]
    assert set(figures["all"]["won"]) == {"agreed", "base", "tuned", COMBINATION, "nobody"}


def test_a_survey_as_a_picture(files: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    prompts, picture = tmp_path / "p.txt", tmp_path / "p.svg"
    prompts.write_text("Hello $x_1$\nWell\n", "utf-8")
    result = run("--prompts", prompts, *files, *QUICK, *DRAWN, "--plot", picture)
    assert result.exit_code == 0, result.output
    assert "token classes" in picture.read_text("utf-8") or picture.stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["hi", "--measure", "tv-tund"], 2, "did you mean tv-tuned?"),
        (["hi", "--answer", "x", "--answer-file", "y"], 2, "--answer and --answer-file exclude"),
        (["hi", "--answer", ""], 7, "the answer is empty"),
        (["hi", "--answer-file", "none.txt"], 2, "--answer-file none.txt: "),
        (["hi", "--answer", "x", "--seed", "3"], 2, "--seed is for generated answers"),
        (["hi", "--answer", "x", "--max-tokens", "3"], 2, "--max-tokens is for generated answers"),
        (["hi", "--prompts", "p.txt"], 2, "PROMPT cannot be used with --prompts"),
        (["--prompts", "p.txt", "--html", "x"], 2, "--html cannot be used with --prompts"),
        (["--prompts", "none.txt"], 2, "none.txt: cannot be read"),
        (["hi", "--plot", "x.png"], 2, "--plot needs --prompts"),
        (["hi", "--least", "2"], 2, "--least needs --prompts"),
        (["hi", "--json", "--plain"], 2, "--json and --plain exclude each other"),
        (["hi", "--html", "no/folder/x.html"], 2, "there is no folder"),
        (["hi", "--html", "."], 2, "--html: . is a folder"),
        (["hi", "--raw", "--system", "x"], 2, "--system needs the chat template"),
        (["hi", "--recipe", "upscal"], 2, "did you mean upscale?"),
        (["hi", "--base", "x"], 2, "only base; give --tuned and --reference, or"),
        (["", "--n-ctx", "256"], 7, "the prompt is empty"),
        (["hi", "--candidates", "0"], 2, "--candidates"),
    ],
)
def test_refused_in_one_line(arguments: list[str], code: int, says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    if not result.stderr.startswith("Usage:"):
        assert result.stderr.startswith("eftlocal: ") and result.stderr.count("\n") == 1


# The coloured text ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reached"), [(0.0, 0), (0.1, 1), (-0.35, 2), (0.59, 2), (0.6, 3), (-1.0, 3)]
)
def test_levels(value: float, reached: int) -> None:
    assert level(value) == reached


def test_heat_shows_the_text_and_marks_what_moved(demo: Emulator) -> None:
    answer = " It is [bold]so[/bold] :smile:\n\nbecause"
    found = inspect(demo, "Where is Braga?", answer, recipe=Recipe.upscale())
    for measure in measures_of(found):
        text = heat(found, measure)
        values = measure.values(found).tolist()
        marks = sum(text.plain.count(mark) for mark in "«‹")
        assert marks == sum(level(value) >= 2 for value in values)
        bare = text.plain.translate({ord(mark): None for mark in "«»‹›↵"})
        if not measure.signed:
            assert bare == answer
        assert len(text.spans) == sum(level(value) >= 1 for value in values)
    signed = measure_of(measures_of(found), "gain-base")
    assert "‹-to -0.3›" in legend(signed).plain


def test_the_text_drives_no_terminal(demo: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    found = inspect(demo, "Where?", " a\x1b[31m\u202eb", recipe=Recipe.upscale())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    console = Console(force_terminal=True, color_system=None, width=80)
    with console.capture() as capture:
        console.print(heat(found, measures_of(found)[0]))
    assert "\x1b[31m" not in capture.get() and "\u202e" not in capture.get()
    assert quoted("\x1b[31m\u202e\n") == r"'\x1b[31m\u202e\n'"
