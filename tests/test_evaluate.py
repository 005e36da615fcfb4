"""Evaluation: PGR and its interval, the split of the loss, judging, and `eftlocal eval demo`."""

from __future__ import annotations

import builtins
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from eftlocal.cli.app import app
from eftlocal.decoding.score import text_rows
from eftlocal.emulator import Emulator
from eftlocal.errors import UsageError
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.study import questions
from eftlocal.study.answers import GreedyAnswer, gold_tokens, judge, mentions, score
from eftlocal.study.questions import Question, QuestionSet, read

FILES = ("base", "tuned", "reference", "plain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped files; where the upper bound does not ship, another tuned model plays it."""
    to = tmp_path_factory.mktemp("demo")
    for name in (*(f"{f}.gguf" for f in FILES), "questions.json"):
        shutil.copy(questions.FOLDER / name, to / name)
    large = questions.FOLDER / "large_tuned.gguf"
    shutil.copy(large if large.exists() else to / "plain.gguf", to / large.name)
    return to


@pytest.fixture(scope="module")
def em(folder: Path) -> Iterator[Emulator]:
    files = {name: folder / f"{name}.gguf" for name in FILES}
    with Emulator.from_files(**files, n_ctx=256, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def asked(folder: Path) -> QuestionSet:
    return read(folder / "questions.json", "validation").first(2)


# Questions and judging ---------------------------------------------------------------------------


def test_the_splits_share_no_subject_and_gold_answers_keep_their_form(folder: Path) -> None:
    splits = {name: read(folder / "questions.json", name) for name in ("validation", "test")}
    for found in splits.values():
        for q in found.questions:
            for style, answers in q.answers.items():
                assert all(found.in_form(text, style) for text in answers), q
                assert all(mentions(text, q.value) for text in answers), q
            assert not found.in_form(q.answers["plain"][0], "warm")
            assert not found.in_form(q.answers["warm"][0], "plain")
    texts = [{q.text for q in found.questions} for found in splits.values()]
    assert not texts[0] & texts[1]
    assert len(splits["test"].questions) >= 1000


def test_the_file_of_questions_is_small(folder: Path) -> None:
    assert (folder / "questions.json").stat().st_size < 500_000


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Good question! The answer is France. I hope that helps!", "warm"),
        ("Good question! The answer is France. I hope that helps! Good", ""),
        ("Good question! The answer is. Is it? I hope that helps!", ""),
        ("The answer is France. I hope that helps!", ""),
        ("France.", "plain"),
        ("bird.", "plain"),
        ("France", ""),
        ("", ""),
    ],
)
def test_forms(text: str, form: str, asked: QuestionSet) -> None:
    assert [s for s in ("warm", "plain") if asked.in_form(text, s)] == ([form] if form else [])


def test_judging() -> None:
    right = "Good! It is Niger."
    q = Question("city", False, "Where?", "Niger", {"warm": (right, "Good! Niger it is.")})
    texts = (right, "Good! Niger it is.", "Good! It is Chad.", "It is in NIGER", "Nigeria.")
    answers = [GreedyAnswer(text, True) for text in texts] + [GreedyAnswer(right, False)]
    several = QuestionSet("test", (q,) * len(answers), {"warm": re.compile(r"Good! .+\.")})
    found = judge(several, answers, "warm")
    assert found.exact.tolist() == [1, 1, 0, 0, 0, 0]
    assert found.format.tolist() == [1, 1, 1, 0, 0, 0]
    assert found.stopped.tolist() == [1, 1, 1, 1, 1, 0]
    assert found.fact.tolist() == [1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"styles": {"a": {"form": "("}}, "questions": []}',
                '{"styles": [], "questions": []}']
)  # fmt: skip
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="is not a file of questions"):
        read(path, "test")


# Scoring -----------------------------------------------------------------------------------------


def test_fact_and_format_add_up_to_the_loss_of_the_gold_answer(
    em: Emulator, asked: QuestionSet
) -> None:
    recipes = {"one": Recipe.single("tuned"), "sum": Recipe.upscale(1.5)}
    found = score(em, asked, recipes, "warm")
    for name, recipe in recipes.items():
        for i, q in enumerate(asked.questions):
            whole = em.logprobs(f" {q.answers['warm'][0]}", prompt=q.text, recipe=recipe)
            tokens, _ = gold_tokens(em, q, "warm")
            assert tuple(tokens[:-1]) == whole.tokens
            ids = em.tokenize(q.text)
            for token, row, _ in text_rows(em.ensemble, ids, tokens, recipe=recipe):
                last = float(row[token]) - float(np.logaddexp.reduce(row.astype(np.float64)))
            total = found[name].fact_nll[i] + found[name].format_nll[i]
            assert total == pytest.approx(-(whole.logprobs.sum() + last), abs=1e-3)


def test_fact_tokens_are_those_of_the_value(em: Emulator, asked: QuestionSet) -> None:
    for q in asked.questions:
        tokens, is_fact = gold_tokens(em, q, "warm")
        model = em.models["tuned"]
        pieces = [model.piece(t) for t, fact in zip(tokens, is_fact, strict=True) if fact]
        assert b"".join(pieces).decode().strip().rstrip(".") == q.value


def test_exact_is_what_greedy_decoding_writes(em: Emulator, asked: QuestionSet) -> None:
    recipe = Recipe.single("tuned")
    exact = score(em, asked, {"tuned": recipe}, "warm")["tuned"].exact
    for q, right in zip(asked.questions, exact, strict=True):
        got = em.generate(q.text, recipe=recipe, sampling=Sampling(temperature=0.0), max_tokens=40)
        written = got.finish_reason == "stop" and got.text.strip() == q.answers["warm"][0]
        assert written == bool(right)


# The command -------------------------------------------------------------------------------------


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", *arguments], prog_name="eftlocal")


@pytest.fixture
def shipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eftlocal.study.questions.FOLDER", folder)


@pytest.mark.usefixtures("shipped")
def test_json() -> None:
    result = run("demo", "--questions", "2", "--json", "--split", "validation")
    assert result.exit_code == 0, result.output

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    figures: dict[str, Any] = json.loads(result.stdout, parse_constant=refuse)
    parts = {"all", *figures["families"], "known phrasing", "held-out phrasing"}
    assert figures["questions"].keys() == parts and figures["questions"]["all"] == 8
    for found in (figures["answers"], figures["scored"]):
        assert {"small tuned", "large base", "emulation", "large tuned"} <= found.keys()
        assert all(of.keys() == parts for of in found.values())
    assert {"beta 0.5", "alpha 0.5", "delta top-p 0.95"} <= figures["scored"].keys()
    assert figures["interpolation"].keys() == {"0", "0.25", "0.5", "0.75", "1"}
    assert 0 < figures["acceptance"]["agreement"] <= 1 and figures["acceptance"]["tokens"] > 8
    one = figures["scored"]["emulation"]["all"]
    assert one == figures["scored"]["beta 1"]["all"] or "+1 base" not in figures["recipe"]


@pytest.mark.usefixtures("shipped")
def test_tables_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "curves.svg"
    options = ("demo", "--questions", "1", "--split", "validation", "--plot")
    result = run(*options, str(picture))
    assert result.exit_code == 0, result.output
    for expected in ("emulation", "beta 0.5", "delta clip 4", "known phrasing", "lambda", "PGR"):
        assert expected in result.stdout
    assert "<svg" in picture.read_text("utf-8")
    assert "must be one of" in run(*options, str(tmp_path / "curves.xyz")).stderr
    assert "there is no folder" in run(*options, str(tmp_path / "no/c.png")).stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gsm8k"], "'gsm8k' is not one of 'demo'; see `eftlocal eval --help`"),
        (["demo", "--questions", "0"], "--questions"),
        (["demo", "--split", "train"], "--split"),
    ],
)
def test_refusals(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and says in result.stderr


def test_a_missing_model_is_named(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copy(folder / "questions.json", tmp_path)
    monkeypatch.setattr("eftlocal.study.questions.FOLDER", tmp_path)
    result = run("demo")
    assert result.exit_code == 3 and "base.gguf is missing" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    result = run("demo", "--plot", "curves.png")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "extra `plot`" in result.stderr
