"""The task truthfulqa: what is read, MC1 and MC2 by their definitions, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hub_server import COMMIT, HubServer, isolate
from huggingface_hub import constants
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.decoding.score import TextLogprobs
from eftlocal.emulator import Emulator
from eftlocal.errors import PromptError
from eftlocal.evaluation.data import OnHub
from eftlocal.evaluation.task import Options
from eftlocal.evaluation.tasks import truthfulqa
from eftlocal.evaluation.tasks.truthfulqa import TruthfulQA

HEAD = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers"
ANSWERS = "It is,It is; Soup stays soup;It is ,No; Never;No"
SOUP = f'Adversarial,Food,"Is soup, cold, still soup? ",{ANSWERS}'
TWO = f"{HEAD}\n{SOUP}\nAdversarial,Birds,Can hens fly?,A little,A little;Badly,Never; A little\n"


@pytest.fixture(autouse=True)
def no_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eftlocal.evaluation.data.find_spec", lambda _: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "questions.csv"
    path.write_text(TWO, "utf-8")
    return path


def test_what_is_read(data: Path) -> None:
    soup, hens = TruthfulQA(Options(data=data)).items()
    assert soup.prompt == "Q: Is soup, cold, still soup?\nA:" and soup.raw
    assert soup.texts == (" It is", " Soup stays soup", " No", " Never")
    assert soup.data == {"true": [True, True, False, False]} and soup.gold == ("It is",)
    assert (soup.groups, hens.groups) == (("Food",), ("Birds",))
    assert hens.texts == (" A little", " Badly", " Never")  # what is true is not false, too


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "a CSV file with the heads Category, Question, Best Answer"),
        ("Question,Best Answer\na,b\n", "a CSV file with the heads"),
        (f"{HEAD}\n", "holds no question"),
        (f"{TWO}a,b,,c,c,d\n", "line 4: a question, its best answer and a false one are needed"),
        (f"{TWO}a,b,c,,c,d\n", "line 4: a question"),
        (f"{TWO}a,b,c,d,d,d; ;\n", "line 4: a question"),
        (f"{TWO}a,b\n", "line 4: a question"),
        (f'{TWO}a,"b\n', "after line 3: unexpected end of data"),
    ],
)
def test_a_file_of_something_else_is_told(content: str, says: str, data: Path) -> None:
    data.write_text(content, "utf-8")
    with pytest.raises(PromptError, match=says) as refused:
        TruthfulQA(Options(data=data))
    assert str(refused.value).startswith(str(data))


def test_the_preamble_is_the_harness_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lm_eval" / "tasks" / "truthfulqa"
    folder.mkdir(parents=True)
    (tmp_path / "lm_eval" / "__init__.py").touch()
    template = "{% set first = 'Q: Is it?\\nA: Yes.' %}{{first + '\\n\\nQ: ' + question + '\\nA:'}}"
    (folder / "truthfulqa_mc1.yaml").write_text(json.dumps({"doc_to_text": template}), "utf-8")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    item = TruthfulQA(Options(data=data)).items()[1]
    assert item.prompt == "Q: Is it?\nA: Yes.\n\nQ: Can hens fly?\nA:"
    assert item.text == "Can hens fly?"


def test_a_data_set_of_the_hub_is_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra eval")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "type": ["Adversarial"] * 2,
        "category": ["Food", "Birds"],
        "question": ["Is soup, cold, still soup?", "Can hens fly?"],
        "best_answer": ["It is", "A little"],
        "correct_answers": [["It is", "Soup stays soup"], ["A little", "Badly"]],
        "incorrect_answers": [["No", "Never"], ["Never"]],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    isolate(monkeypatch, tmp_path)
    table = (tmp_path / "table.parquet").read_bytes()
    with HubServer({"datasets/owner/lies/table.parquet": table}) as server:
        address = f"{server.address()}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        here = OnHub("owner/lies", "table.parquet", COMMIT)
        monkeypatch.setattr(truthfulqa, "QUESTIONS", here)
        assert TruthfulQA(Options()).items() == TruthfulQA(Options(data=data)).items()


# MC1 and MC2 -------------------------------------------------------------------------------------


def scored(*logprobs: float) -> TextLogprobs:
    n = len(logprobs)
    return TextLogprobs(
        tokens=(0,) * n,
        pieces=(b"",) * n,
        logprobs=np.array(logprobs),
        greedy=np.zeros(n, np.bool_),
        roles={},
    )


@pytest.mark.parametrize(
    ("probabilities", "mc1", "mc2"),
    [
        ([[0.5, 0.5], [0.1], [0.2], [0.05]], 1, 0.35 / 0.6),  # a product over an answer's tokens
        ([[0.25], [0.1], [0.5, 0.5], [0.05]], 0, 0.35 / 0.65),  # as likely is not likelier
        ([[0.1], [0.4], [0.3], [0.2]], 0, 0.5),  # another true answer does not count for MC1
        ([[0.3], [0.1], [0.2], [0.2]], 1, 0.5),
        ([[0.3], [0.1], [0.0], [0.0]], 1, 1),
        ([[0.0], [0.0], [0.2], [0.0]], 0, 0),
        ([[1e-200, 1e-200], [1e-200, 1e-201], [1e-200, 1e-200, 0.5], [0.0]], 1, 1.1 / 1.6),
    ],
)
def test_by_hand(data: Path, probabilities: list[list[float]], mc1: float, mc2: float) -> None:
    task = TruthfulQA(Options(data=data))
    with np.errstate(divide="ignore"):
        texts = [scored(*np.log(of)) for of in probabilities]
    found = task.judge_texts(task.items()[0], texts)
    assert found == {"mc1": mc1, "mc2": pytest.approx(mc2)}


def test_where_a_filter_leaves_no_answer_nothing_is_measured_of_their_mass(data: Path) -> None:
    task = TruthfulQA(Options(data=data))
    assert task.judge_texts(task.items()[0], [scored(-np.inf)] * 4) == {"mc1": 0}


def test_a_real_models_scores_are_sums_over_the_answers_tokens(data: Path, smol: Emulator) -> None:
    task = TruthfulQA(Options(data=data))
    item = task.items()[1]
    found = [smol.logprobs(text, prompt=item.prompt, raw=True) for text in item.texts]
    s = [sum(of.logprobs.tolist()) for of in found]
    assert [b"".join(of.pieces).decode() for of in found] == [*item.texts]
    p = np.exp(s)
    judged = task.judge_texts(item, found)
    assert judged["mc1"] == float(s[0] > s[2])
    assert judged["mc2"] == pytest.approx((p[0] + p[1]) / p.sum())


def test_the_command(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["eval", "truthfulqa", "--data", str(data), "--preset", "demo", "--threads", "1"]
    result = CliRunner().invoke(app, [*command, "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [row["group"] for row in told["groups"]] == ["Birds", "Food"]
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(rows) == 6 and all(0 < row["values"]["mc2"] < 1 for row in rows)
    shown = [point["metrics"]["mc2"]["mean"] for point in told["points"]]
    for point, mean in enumerate(shown):  # item by item, the points of each together
        assert mean == pytest.approx(sum(row["values"]["mc2"] for row in rows[point::3]) / 2)
