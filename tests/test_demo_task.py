"""The task demo: its questions, what is judged of answers, the loss of right ones, the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from eftlocal.cli.app import app
from eftlocal.defaults import preset_defaults
from eftlocal.emulator import Emulator
from eftlocal.errors import UsageError
from eftlocal.evaluation import questions
from eftlocal.evaluation.mentions import mentions
from eftlocal.evaluation.questions import QuestionSet, read
from eftlocal.evaluation.run import spread
from eftlocal.evaluation.task import Item, Options
from eftlocal.evaluation.tasks.demo import Demo
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.presets.reading import find, user_path

FOLDER = questions.FOLDER


@pytest.fixture(scope="module")
def em() -> Iterator[Emulator]:
    files = {n: FOLDER / f"{n}.gguf" for n in ("base", "tuned", "reference", "plain")}
    with Emulator.from_files(**files, n_ctx=256, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def asked() -> QuestionSet:
    return read(FOLDER / "questions.json", "validation").first(2)


@pytest.fixture(scope="module")
def demo() -> Demo:
    return Demo(Options(split="validation"))


@pytest.fixture(scope="module")
def items(demo: Demo) -> tuple[Item, ...]:
    return spread(demo.items(), 6)


# Questions and judging ---------------------------------------------------------------------------


def test_the_splits_share_no_subject_and_gold_answers_keep_their_form() -> None:
    splits = {name: read(FOLDER / "questions.json", name) for name in ("validation", "test")}
    for found in splits.values():
        for q in found.questions:
            for style, answers in q.answers.items():
                assert all(found.in_form(text, style, q.family) for text in answers), q
                assert all(mentions(text, q.value) for text in answers), q
            assert not found.in_form(q.answers["plain"][0], "warm", q.family)
            assert not found.in_form(q.answers["warm"][0], "plain", q.family)
    texts = [{q.text for q in found.questions} for found in splits.values()]
    assert not texts[0] & texts[1]
    assert len(splits["test"].questions) >= 1000


def test_the_file_of_questions_is_small() -> None:
    assert (FOLDER / "questions.json").stat().st_size < 500_000


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
    kept = [style for style in ("warm", "plain") if asked.in_form(text, style, "city")]
    assert kept == ([form] if form else [])


class Said:
    """An answer, as far as it is judged."""

    def __init__(self, text: str, finish_reason: str = "stop") -> None:
        self.text, self.finish_reason = text, finish_reason


def test_judging(demo: Demo) -> None:
    right = "Good question! The answer is Niger. I hope that helps!"
    data = {"value": "Niger", "family": "city", "plain": ("Niger.",)}
    item = Item("Where?", "Where?", gold=(right,), data=data)
    other = right.replace("Niger", "Chad")
    said = [Said(right), Said(f" {right}\n"), Said(other), Said("It is in NIGER"), Said("Nigeria."),
            Said(right, "length"), Said("Niger.")]  # fmt: skip
    found = [demo.judge(item, one) for one in said]  # type: ignore[arg-type]
    assert [of["exact"] for of in found] == [1, 1, 0, 0, 0, 0, 0]
    assert [of["format"] for of in found] == [1, 1, 1, 0, 0, 0, 0]
    assert [of["fact"] for of in found] == [1, 1, 0, 1, 0, 1, 1]
    assert [of["plain_exact"] for of in found] == [0, 0, 0, 0, 0, 0, 1]
    assert [of["plain_format"] for of in found] == [0, 0, 0, 0, 1, 0, 1]


def test_the_form_is_the_share_of_its_constraints_that_an_answer_keeps(tmp_path: Path) -> None:
    rules = {
        "city": {"twice": r"is (\w+)\. Yes, \1\.", "closing": "Have a good trip!$"},
        "kind": {"twice": r"is (\w+)\. Yes, \1\.", "closing": "Farewell!$"},
    }
    asked = {
        "city": {"split": "test", "question": "Where is Agadez?", "fields": {"v": "Niger"}},
        "kind": {"split": "test", "question": "What is a bus?", "fields": {"v": "vehicle"}},
    }
    answers = {"city": ["It is {v}. Yes, {v}. Have a good trip!"], "kind": ["It is {v}. Farewell!"]}
    data = {
        "styles": {
            "warm": {"form": r"It is \w+\. .*!", "rules": rules, "answers": answers},
            "plain": {"form": r"\w+\.", "answers": answers},
        },
        "questions": [
            {"family": family, "held_out_phrasing": False, **row} for family, row in asked.items()
        ],
    }
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(data), "utf-8")
    demo = Demo(Options(data=path))
    city, kind = demo.items()
    right = "It is Niger. Yes, Niger. Have a good trip!"
    for item, text, ending, form, share in (
        (city, right, "stop", 1.0, 1.0),
        (city, right.replace("Niger", "Chad"), "stop", 1.0, 1.0),
        (city, "It is Niger. Yes, Chad. Have a good trip!", "stop", 0.0, 2 / 3),
        (city, right, "length", 0.0, 2 / 3),
        (city, "Niger", "stop", 0.0, 0.0),
        (kind, right, "stop", 0.0, 2 / 3),
    ):
        found = demo.judge(item, Said(text, ending))  # type: ignore[arg-type]
        assert (found["format"], found["form"]) == (form, pytest.approx(share)), text
        assert found["plain_format"] == 0.0
    assert demo.judge(city, Said("Niger."))["plain_format"] == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"styles": {"a": {"form": "("}}, "questions": []}',
                '{"styles": {"a": {"form": "", "rules": {"city": {"b": "("}}}}, "questions": []}',
                '{"styles": [], "questions": []}']
)  # fmt: skip
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="is not a file of the demo's questions"):
        read(path, "test")


# The loss of right answers ------------------------------------------------------------------------


def test_fact_and_format_are_the_loss_of_their_tokens(
    em: Emulator, demo: Demo, items: tuple[Item, ...]
) -> None:
    recipes = [Recipe.single("tuned"), Recipe.upscale(1.5), Recipe.single("tuned")]
    for item in items:
        text = item.texts[0]
        scored = em.logprobs_under(text, recipes, prompt=item.prompt, ending=True)
        assert scored[0].logprobs.tolist() == scored[2].logprobs.tolist()
        for recipe, one in zip(recipes, scored, strict=True):
            whole = em.logprobs(text, prompt=item.prompt, recipe=recipe)
            assert one.tokens == whole.tokens
            assert one.logprobs == pytest.approx(whole.logprobs, abs=1e-4)
            end = min(em.ensemble.stop_tokens)
            # The end, by the softmax of the row after the whole text.
            rest = em.generate(
                item.prompt, recipe=recipe, sampling=Sampling(temperature=0.0), max_tokens=40,
                logprobs=True,
            )  # fmt: skip
            if rest.text.strip() == text.strip() and rest.finish_reason == "stop":
                assert rest.logprobs is not None and rest.tokens[-1] in em.ensemble.stop_tokens
                assert one.end == pytest.approx(rest.logprobs[-1], abs=1e-3), end
            found = demo.judge_texts(item, [one])
            total = found["fact_nll"] + found["format_nll"]
            assert total == pytest.approx(-(one.logprobs.sum() + one.end), abs=1e-6)
            pieces = [
                (piece, -logprob)
                for piece, logprob in zip(one.pieces, one.logprobs.tolist(), strict=True)
            ]
            value = item.data["value"].encode()
            facts = [(p, nll) for p, nll in pieces if p.strip(b" .") and p.strip(b" .") in value]
            assert b"".join(p for p, _ in facts).strip(b" .") == value
            assert found["fact_nll"] == pytest.approx(sum(nll for _, nll in facts), abs=1e-9)


def test_gold_is_what_greedy_decoding_writes(
    em: Emulator, demo: Demo, items: tuple[Item, ...]
) -> None:
    seen = set()
    for recipe in (Recipe.single("tuned"), Recipe.upscale()):
        for item in items:
            (one,) = em.logprobs_under(item.texts[0], [recipe], prompt=item.prompt, ending=True)
            got = em.generate(
                item.prompt, recipe=recipe, sampling=Sampling(temperature=0.0), max_tokens=40
            )
            written = demo.judge(item, got)["exact"]
            assert written == demo.judge_texts(item, [one])["gold"]
            seen.add(written)
    assert seen == {0.0, 1.0}


def test_recipes_of_two_personas_are_refused(em: Emulator) -> None:
    with pytest.raises(UsageError, match="give at least one, all of the same persona"):
        em.logprobs_under(" Peru", [], prompt="Where?")


# The command -------------------------------------------------------------------------------------


def evaluate(*arguments: str) -> Result:
    runner = CliRunner(env={"COLUMNS": "100"})
    return runner.invoke(app, ["eval", *arguments, "--threads", "1"], prog_name="eftlocal")


def mean(rows: list[dict[str, Any]], model: str, metric: str) -> float:
    (point,) = (row for row in rows if row["model"] == model)
    return float(point["metrics"][metric]["mean"])


def test_four_models_and_the_gap(tmp_path: Path) -> None:
    out, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    options = ["demo", "--limit", "12", "--out", str(out)]
    result = evaluate(*options, "--json")
    assert result.exit_code == 0, result.output

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(result.stdout, parse_constant=refuse)
    rows = found["points"]
    assert [row["model"] for row in rows] == ["emulation", "small tuned", "base", "large tuned"]
    small, emulated, large = (
        mean(rows, model, "exact") for model in ("small tuned", "emulation", "large tuned")
    )
    gap = rows[0]["gap_recovered"]["exact"]
    assert gap["value"] == pytest.approx((emulated - small) / (large - small))
    assert gap["low"] <= gap["value"] <= gap["high"]
    less = rows[0]["against"]["small tuned"]["exact"]["value"]
    assert less == pytest.approx(emulated - small)
    assert sum(group["n"] for group in found["groups"] if "phrasing" in group["group"]) == 12
    # What is on disk says the same, and is shown without loading a model.
    saved = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(saved) == 48
    again = evaluate(*options, "--html", str(page))
    assert again.exit_code == 0 and "gap recovered" in page.read_text("utf-8")
    for expected in (
        "demo: the emulation and 3 models, 12 prompts each",
        "less",
        "By group: exact",
        "large tuned",
    ):
        assert expected in again.stdout


def test_a_narrow_terminal_cuts_no_figure(tmp_path: Path) -> None:
    options = ["eval", "demo", "--limit", "2", "--metrics", "exact", "--threads", "1"]
    result = CliRunner(env={"COLUMNS": "40"}).invoke(app, options, prog_name="eftlocal")
    assert result.exit_code == 0, result.output
    assert "\N{HORIZONTAL ELLIPSIS}" not in result.stdout
    assert all(len(line) <= 40 for line in result.stdout.splitlines())
    assert "known phrasing" in " ".join(result.stdout.split())


def test_the_large_model_is_the_demos_own_only_beside_the_demo(tmp_path: Path) -> None:
    result = evaluate("demo", "--limit", "2", "--preset", "demo-blend", "--dry-run")
    assert "large tuned" in result.stdout
    files = {role: FOLDER / f"{role}.gguf" for role in ("base", "tuned", "reference")}
    own = [part for role, path in files.items() for part in (f"--{role}", str(path))]
    assert "large tuned" not in evaluate("demo", "--limit", "2", *own, "--dry-run").stdout
    tables = [f'[preset.roles.{role}]\nfile = "{path}"\n' for role, path in files.items()]
    named = (f'[[preset]]\nname = "{name}"\ntitle = "x"\n' for name in ("demonstrated", "mine"))
    (tmp_path / "tuned.gguf").write_bytes((FOLDER / "plain.gguf").read_bytes())
    own_tuned = f'[preset.roles.tuned]\nfile = "{tmp_path / "tuned.gguf"}"\n'
    other = [tables[0], own_tuned, tables[2]]
    user_path().parent.mkdir(parents=True, exist_ok=True)
    user_path().write_text("".join([next(named), *other, next(named), *tables]), "utf-8")
    for name, has_large in (("demonstrated", False), ("mine", True)):
        shown = evaluate("demo", "--limit", "2", "--preset", name, "--dry-run")
        assert shown.exit_code == 0, shown.output
        assert ("large tuned" in shown.stdout) == has_large
    given = evaluate("demo", *own, "--large", str(FOLDER / "large_tuned.gguf"), "--dry-run")
    assert "large tuned" in given.stdout


def test_a_folder_just_trained_is_measured(tmp_path: Path) -> None:
    for name in ("base", "tuned", "reference"):
        shutil.copy(FOLDER / f"{name}.gguf", tmp_path)
    data = json.loads((FOLDER / "questions.json").read_text("utf-8"))
    data["questions"] = [q for q in data["questions"] if q["split"] == "test"][:3]
    (tmp_path / "questions.json").write_text(json.dumps(data), "utf-8")
    own = [
        part
        for role in ("base", "tuned", "reference")
        for part in (f"--{role}", str(tmp_path / f"{role}.gguf"))
    ]
    result = evaluate("demo", "--data", str(tmp_path / "questions.json"), *own, "--json")
    assert result.exit_code == 0, result.output
    assert {row["n"] for row in json.loads(result.stdout)["points"]} == {3}
    assert "not kept; --out FILE" in result.stderr


def test_a_grid_is_asked_the_validation_questions_and_one_point_the_test_ones() -> None:
    every = {split: len(Demo(Options(split=split)).items()) for split in questions.SPLITS}
    grid = evaluate("demo", "--beta", "0,1", "--compare", "none", "--dry-run")
    assert f"2 points x {every['validation']} items" in grid.stdout
    one = evaluate("demo", "--compare", "none", "--dry-run")
    assert f"1 point x {every['test']} items" in one.stdout


def test_losses_agree_with_a_softmax_in_float64(em: Emulator, items: tuple[Item, ...]) -> None:
    from eftlocal.decoding.score import text_rows

    item, recipe = items[0], Recipe.upscale(1.5)
    tokens = em.text_model.tokenize(item.texts[0], continues=True)
    end = min(em.ensemble.stop_tokens)
    ids = em.tokenize(item.prompt)
    exact = []
    for token, _, rows in text_rows(em.ensemble, ids, [*tokens, end], recipe=recipe):
        logs = {}
        for role, row in rows.items():
            z = row.astype(np.float64)
            logs[role] = z - np.logaddexp.reduce(z)
        z = logs["tuned"] + 1.5 * (logs["base"] - logs["reference"])
        exact.append(z[token] - np.logaddexp.reduce(z))
    (one,) = em.logprobs_under(item.texts[0], [recipe], prompt=item.prompt, ending=True)
    assert [*one.logprobs, one.end] == pytest.approx(exact, abs=2e-4)


def test_the_best_point_is_chosen_on_one_half_measured_on_the_other_and_saved(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.jsonl"
    options = ["demo", "--limit", "12", "--beta", "1,3", "--top-k", "7,off", "--out", str(out)]
    best = [*options, "--save-best", "exact", "--as", "mine", "--metrics", "fact"]
    result = evaluate(*best, "--json")
    assert result.exit_code == 0, result.output
    validation, test = json.loads(result.stdout)
    scores = {
        (row["dials"]["beta"], row["dials"]["top_k"]): row["metrics"]["fact"]["mean"]
        for row in validation["points"]
    }
    assert len(scores) == 4 and scores[1.0, 7] > scores[3.0, 7]
    assert [row["model"] for row in test["points"]][1:] == ["small tuned", "base", "large tuned"]
    assert test["points"][0]["dials"] == {"beta": 1.0, "top_k": 7}
    asked = [Demo(Options(split=split)).items() for split in questions.SPLITS]
    # Greedy answers have no use for top_k: two of the points are one.
    saved = [out.with_name(f"out.{split}.jsonl") for split in questions.SPLITS]
    rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in saved]
    assert [len(of) for of in rows] == [24, 48] and asked[0] != asked[1]
    defaults = preset_defaults(find("mine"))
    assert defaults.recipe == Recipe.upscale(1.0) and defaults.sampling.top_k == 7
    assert "it was measured greedy; the preset keeps its temperature" in result.stderr
    again = evaluate(*best)
    assert again.exit_code == 2 and 'there is a preset "mine" already' in again.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--save-best", "exact"], "--save-best METRIC and --as NAME go together"),
        (["--save-best", "exact", "--as", "x", "--split", "test"], "no --split"),
        (["--save-best", "exact", "--as", "demo"], 'there is a preset "demo" already'),
        (["--save-best", "nosuch", "--as", "x"], "'nosuch' is not measured here; known: exact,"),
        (["prompts", "--save-best", "exact", "--as", "x"], "--save-best chooses by one task"),
    ],
)
def test_what_cannot_be_saved_is_said_before_anything_is_asked(
    options: list[str], says: str
) -> None:
    result = evaluate("demo", "--limit", "2", "--dry-run", *options)
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1
