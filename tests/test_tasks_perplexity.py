"""The task perplexity: its parts, its figures by their definitions, the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from eftlocal.cli.app import app
from eftlocal.decoding.score import text_rows
from eftlocal.emulator import Emulator
from eftlocal.errors import PromptError, UsageError
from eftlocal.evaluation.figures import means
from eftlocal.evaluation.task import Options
from eftlocal.evaluation.tasks.perplexity import Perplexity, parts

TEXTS = [
    "The capital of Peru is Lima, and the river that runs through it is the Rimac.",
    "Wer wagt, gewinnt – und wer nicht wagt, der fragt.",
    "7",
]


def written(path: Path, *texts: str) -> Path:
    path.write_text("\n".join(json.dumps({"text": text, "n": 1}) for text in texts), "utf-8")
    return path


@given(st.text(alphabet="ab \n", max_size=300))
def test_parts_are_the_text_and_no_longer_than_they_may_be(text: str) -> None:
    found = list(parts(text, 20))
    assert "".join(found) == text
    assert all(1 <= len(part) <= 20 for part in found)


def test_parts_end_where_paragraphs_do() -> None:
    short, long = "one two.\n\n", "three four five six seven\nseven"
    assert list(parts(short * 2 + long, 25)) == [short * 2, "three four five six ", "seven\nseven"]
    assert list(parts("a" * 30, 25)) == ["a" * 25, "a" * 5]
    assert list(parts("a\n \nb" + "c" * 25, 25)) == ["a\n \n", "b" + "c" * 24, "c"]


def test_what_is_read(tmp_path: Path) -> None:
    lines = Perplexity(Options(data=written(tmp_path / "a.jsonl", *TEXTS, " "))).items()
    assert [item.texts for item in lines] == [(text,) for text in TEXTS]
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(["word " * 100] * 9), "utf-8")
    found = Perplexity(Options(data=book)).items()
    assert len(found) == 3 and all(item.alone for item in found)
    assert "".join(item.texts[0] for item in found) == book.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", " \n", "a.txt holds no text"),
        ("a.jsonl", "\n", "a.jsonl holds nothing"),
        ("a.jsonl", '{"text": " "}', "a.jsonl holds no text"),
        ("a.jsonl", '{"text": "a"}\n{"text": 1}', r'line 2: an object with "text" \(str\)'),
        ("a.jsonl", '{"text": "a"}\nb', "line 2: not JSON"),
        ("a.jsonl", '{"text": ""}\n{"text": "\\ud800"}', "line 2: .*an unpaired surrogate"),
    ],
)
def test_a_file_of_something_else(name: str, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(PromptError, match=says):
        Perplexity(Options(data=tmp_path / name)).items()


def test_without_a_file() -> None:
    with pytest.raises(UsageError, match="--data FILE"):
        Perplexity(Options())


def test_the_figures_are_those_of_the_definition(smol: Emulator, tmp_path: Path) -> None:
    """Whose first token nothing predicts: SmolLM2 has no BOS before a text."""
    task = Perplexity(Options(data=written(tmp_path / "a.jsonl", *TEXTS[:2])))
    loss, tokens, size, values = 0.0, 0, 0, {}
    for index, item in enumerate(task.items()):
        scored = smol.logprobs(item.texts[0])
        assert math.isnan(scored.logprobs[0])
        ids = smol.text_model.tokenize(item.texts[0])
        before = dict.fromkeys(smol.roles, ids[:1])
        recipe = smol.defaults.recipe
        for token, row, _ in text_rows(smol.ensemble, before, ids[1:], recipe=recipe):
            z = row.astype(np.float64)
            loss -= z[token] - np.logaddexp.reduce(z)
        tokens += len(ids) - 1
        size += len(item.texts[0].encode()) - len(scored.pieces[0])
        values[index] = task.judge_texts(item, [scored])
    found = means(task.metrics, values)
    assert found["perplexity"].mean == pytest.approx(math.exp(loss / tokens), rel=1e-5)
    assert found["bits_per_byte"].mean == pytest.approx(loss / math.log(2) / size, rel=1e-5)


def asked(*args: str | Path) -> Result:
    command = ["eval", "perplexity", "--preset", "demo", "--threads", "1", *map(str, args)]
    return CliRunner().invoke(app, command)


def test_the_command(tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", *TEXTS[:1])
    result = asked("--data", data, "--json")
    assert result.exit_code == 0, result.output
    points = json.loads(result.stdout)["points"]
    assert all(point["metrics"]["perplexity"]["mean"] > 1 for point in points)
    assert points[0]["finish_reasons"] == {"scored": 1}
    table = asked("--data", data)
    means = [point["metrics"]["perplexity"]["mean"] for point in points]
    less = points[0]["against"]["small tuned"]["perplexity"]["value"]
    assert less == pytest.approx(means[0] - means[1])
    assert "Perplexity: the emulation less each other model" in table.stdout


def test_a_text_that_is_too_long_is_told_with_what_helps(tmp_path: Path) -> None:
    long = "The capital of Peru is Lima. " * 100
    data = written(tmp_path / "a.jsonl", TEXTS[0], long)
    result = asked("--data", data)
    assert result.exit_code == 7
    assert "prompt 2 has" in result.stderr and "the context holds 512" in result.stderr
    needed = result.stderr.partition("--n-ctx to ")[2].partition(",")[0]
    enough = asked("--data", data, "--n-ctx", needed)
    assert enough.exit_code == 0, enough.stderr
