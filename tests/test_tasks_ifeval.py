"""The task ifeval: what is read, verdicts that are known, the command."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import COMMIT, HubServer, isolate
from huggingface_hub import constants
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.errors import DownloadError, PromptError, UsageError
from eftlocal.evaluation.figures import means
from eftlocal.evaluation.task import Options
from eftlocal.evaluation.tasks import ifeval
from eftlocal.evaluation.tasks.ifeval import IFEval

checkers = pytest.mark.skipif(find_spec("if_verifiable") is None, reason="needs the extra ifeval")

ROWS: list[dict[str, Any]] = [
    {
        "key": 1,
        "prompt": "Say hello without a comma, and name a hen.",
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
        "kwargs": [{}, {"keywords": ["hen"], "num_words": None}],
    },
    {
        "key": 2,
        "prompt": "Write eight words at the most, all of them small.",
        "instruction_id_list": ["length_constraints:number_words", "change_case:english_lowercase"],
        "kwargs": [{"relation": "less than", "num_words": 9}, {}],
    },
]


def written(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "prompts.jsonl", *ROWS)


@checkers
@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [
        ("Hello and a hen", 2, 2),
        ("Hello, and a hen", 1, 1),
        ("Hello, and a duck", 0, 0),
        ("Well, then:\nHello and a hen", 1, 2),  # without the first line
        ("Hello and a hen\nBye, then", 1, 2),  # without the last line
        ("Hello and a h*e*n", 1, 2),  # without asterisks
        ("", 0, 0),
        (" \n", 0, 0),
    ],
)
def test_verdicts(text: str, strict: int, loose: int, data: Path) -> None:
    task = IFEval(Options(data=data))
    said: Any = SimpleNamespace(text=text)
    assert task.judge(task.items()[0], said) == {
        "prompt_strict": float(strict == 2),
        "instruction_strict": strict,
        "prompt_loose": float(loose == 2),
        "instruction_loose": loose,
        "instructions": 2,
    }


@checkers
def test_instructions_are_counted_over_all_prompts(data: Path) -> None:
    task = IFEval(Options(data=data))
    said: list[Any] = [
        SimpleNamespace(text=text) for text in ("Hello, hen", "this is a hen that we like")
    ]
    values = {
        i: task.judge(item, answer)
        for i, (item, answer) in enumerate(zip(task.items(), said, strict=True))
    }
    found = {name: of.mean for name, of in means(task.metrics, values).items()}
    assert found["prompt_strict"] == 0.5 and found["instruction_strict"] == 0.75
    assert task.items()[1].groups == ("length_constraints", "change_case")


@checkers
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": 1}, 'an object with "prompt" (str) and'),
        ({"prompt": " "}, "the prompt is empty"),
        ({"kwargs": [{}]}, 'as many objects in "kwargs"'),
        ({"kwargs": [{}, 3]}, 'as many objects in "kwargs"'),
        ({"kwargs": [], "instruction_id_list": []}, 'as many objects in "kwargs"'),
        ({"instruction_id_list": ["punctuation:none", "x"]}, "called 'punctuation:none'"),
        ({"kwargs": [{}, {"words": ["hen"]}]}, "TypeError: "),
        ({"kwargs": [{"comma": 1}, {}]}, "TypeError: "),
    ],
)
def test_a_line_of_something_else_is_named(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.jsonl", ROWS[1], {**ROWS[0], **change})
    with pytest.raises(PromptError) as refused:
        IFEval(Options(data=path))
    assert str(refused.value).startswith(f"{path}, line 2: ") and says in str(refused.value)


@checkers
def test_a_checker_that_lacks_its_data_says_so_before_any_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    asked = {"relation": "at least", "num_sentences": 2}
    row = {"instruction_id_list": ["length_constraints:number_sentences"], "kwargs": [asked]}
    with pytest.raises(UsageError, match=r"line 1: .*nltk.downloader punkt_tab"):
        IFEval(Options(data=written(tmp_path / "a.jsonl", {**ROWS[0], **row})))


def test_without_the_package_it_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "if_verifiable", None)
    with pytest.raises(UsageError, match=r"pip install 'eftlocal\[ifeval\]'"):
        IFEval(Options(data=data))


def test_the_prompts_come_from_the_hub(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolate(monkeypatch, tmp_path)
    with HubServer({"datasets/google/IFEval/ifeval_input_data.jsonl": data.read_bytes()}) as server:
        address = f"{server.address()}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        here = ifeval.OnHub("google/IFEval", "ifeval_input_data.jsonl", COMMIT)
        monkeypatch.setattr(ifeval, "PROMPTS", here)
        with pytest.raises(DownloadError, match="offline"):
            IFEval(Options(offline=True))
        if find_spec("if_verifiable"):
            assert IFEval(Options()).items() == IFEval(Options(data=data)).items()
        assert here.path(offline=False).read_bytes() == data.read_bytes()


@checkers
def test_the_command(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["eval", "ifeval", "--data", str(data), "--preset", "demo", "--threads", "1"]
    limits = ["--max-tokens", "16", "--json", "--out", str(out)]
    result = CliRunner().invoke(app, [*command, *limits])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(rows) == 6 and all(row["values"]["instructions"] == 2 for row in rows)
    (first, *_) = json.loads(result.stdout)["points"]
    own = [row["values"]["instruction_strict"] for row in rows[::3]]
    assert first["metrics"]["instruction_strict"]["mean"] == sum(own) / 4
