"""HumanEval: hand-made answers to three problems, and the estimate of pass@k."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from eftlocal.answer import Answer
from eftlocal.cli.app import app
from eftlocal.errors import UsageError
from eftlocal.evaluation.sandbox_proof import prove
from eftlocal.evaluation.task import Options
from eftlocal.evaluation.tasks import humaneval
from eftlocal.evaluation.tasks.humaneval import HumanEval, pass_at, problems

ALLOWED = Options(run_code=True)


@pytest.fixture(scope="module")
def task() -> HumanEval:
    try:
        prove()
    except UsageError as error:
        pytest.skip(str(error))
    return HumanEval(ALLOWED)


def judged(task: HumanEval, number: int, text: str) -> float:
    answer = cast(Answer, SimpleNamespace(text=text))
    (value,) = task.judge(task.items()[number], answer).values()
    return value


RIGHT_AND_WRONG = [
    (2, "    return number % 1.0\n", "    return number // 1\n"),
    (
        23,
        "    count = 0\n    for _ in string:\n        count += 1\n    return count\n",
        "    return len(string.split())\n",
    ),
    (
        53,
        "    return sum([x, y])\n",
        "    return x + y if x < 100 else 100 + y\n",
    ),
]


@pytest.mark.parametrize(("number", "right", "wrong"), RIGHT_AND_WRONG)
def test_answers_made_by_hand(task: HumanEval, number: int, right: str, wrong: str) -> None:
    assert judged(task, number, right) == 1
    assert judged(task, number, wrong) == 0
    assert judged(task, number, "") == 0
    assert judged(task, number, right + "import os\nos._exit(0)\n") == 0
    assert judged(task, number, "    return all\n") == 0


def test_the_authors_own_solutions_pass(task: HumanEval) -> None:
    known = problems()
    for number in range(0, len(known), 10):
        assert judged(task, number, known[number]["canonical_solution"]) == 1


def test_items(task: HumanEval) -> None:
    known, items = problems(), task.items()
    assert len(items) == len({item.text for item in items}) == 164
    assert all(item.raw and item.prompt == item.text for item in items)
    assert items[0].text == known[0]["prompt"]
    assert task.stop == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert task.greedy and list(task.metrics) == ["pass@1"]


def test_code_is_not_run_unasked() -> None:
    with pytest.raises(UsageError, match=r"executes code .* allow that with --run-code"):
        HumanEval(Options())


def test_the_sandbox_is_proved_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UsageError("no sandbox")

    monkeypatch.setattr(humaneval, "prove", refuse)
    with pytest.raises(UsageError, match="no sandbox"):
        HumanEval(ALLOWED)


def test_the_package_is_missing_or_harmed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(humaneval, "distribution", missing)
    with pytest.raises(UsageError, match=r"pip install 'eftlocal\[eval\]'"):
        problems()
    harmed = tmp_path / "data.gz"
    found = SimpleNamespace(locate_file=lambda name: harmed)
    monkeypatch.setattr(humaneval, "distribution", lambda name: found)
    for content in (None, b"", b"\x1f\x8b\x08", b"no gzip"):
        if content is not None:
            harmed.write_bytes(content)
        with pytest.raises(UsageError, match=r"data\.gz"):
            problems()


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample() -> None:
    for n in range(1, 9):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations([True] * c + [False] * (n - c), k))
                share = Fraction(sum(any(subset) for subset in subsets), len(subsets))
                assert pass_at(k, n, c) == pytest.approx(float(share), abs=1e-15)


def test_pass_at_k_of_many_samples() -> None:
    """Against whole numbers, far beyond the reach of floating-point binomials."""
    from math import comb

    for n, c, k in ((200, 1, 100), (5000, 7, 100), (5000, 4990, 10), (100_000, 3, 100)):
        exact = 1 - Fraction(comb(n - c, k), comb(n, k))
        assert pass_at(k, n, c) == pytest.approx(float(exact), rel=1e-9)


def test_samples_of_an_item(task: HumanEval) -> None:
    many = HumanEval(replace(ALLOWED, samples=12))
    assert not many.greedy and list(many.metrics) == ["pass@1", "pass@10"]
    samples = [{"pass@1": float(i < 2), "tokens": float(i)} for i in range(12)]
    got = many.gather(samples)
    # Of the 66 pairs that 10 of 12 leave out, one holds both right ones.
    assert got == pytest.approx({"pass@1": 2 / 12, "pass@10": 65 / 66, "tokens": 5.5})
    assert "pass@10" not in many.gather(samples[:9])  # an evaluation that was interrupted
    assert task.gather(samples[:1]) == {"pass@1": 1.0, "tokens": 0.0}


def test_at_the_command_line(task: HumanEval, tmp_path: Path) -> None:
    del task  # a sandbox is there
    out = tmp_path / "out.jsonl"
    arguments = [
        "eval",
        "humaneval",
        "--preset",
        "demo",
        "--limit",
        "2",
        "--max-tokens",
        "8",
        "--threads",
        "1",
        "--out",
    ]
    refused = CliRunner().invoke(app, [*arguments, str(out)], prog_name="eftlocal")
    assert refused.exit_code == 2 and not out.exists()
    done = CliRunner().invoke(app, [*arguments, str(out), "--run-code"], prog_name="eftlocal")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["values"]["pass@1"] for row in rows] == [0.0] * 6  # two items, three models
