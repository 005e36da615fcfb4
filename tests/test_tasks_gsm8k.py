"""The tasks gsm8k and gsm_symbolic: numbers of answers, where problems come from, the command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import COMMIT, HubServer, isolate
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from eftlocal.cli.app import app
from eftlocal.errors import DownloadError, PromptError, UsageError
from eftlocal.evaluation.data import OnHub
from eftlocal.evaluation.final_number import final_number, marked_number
from eftlocal.evaluation.task import Options
from eftlocal.evaluation.tasks import gsm8k
from eftlocal.evaluation.tasks.gsm8k import Gsm8k
from eftlocal.evaluation.tasks.gsm_symbolic import GsmSymbolic

PROBLEMS = [
    ("A hen lays 2 eggs a day. How many in a week?", "2 * 7 = <<2*7=14>>14\n#### 14"),
    ("Ben owes $5 and pays $1,205. What is left of a debt of -5?", "He owed.\n#### 1,200"),
    ("Half of an hour is how many hours?", "#### 0.5"),
]


def written(path: Path, *problems: tuple[str, str]) -> Path:
    lines = [json.dumps({"question": q, "answer": a, "n": 1}) for q, a in problems]
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "problems.jsonl", *PROBLEMS)


# Numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "flexible", "strict"),
    [
        ("", None, None),
        ("I do not know.", None, None),
        ("The answer is unknown.", None, None),
        ("5", "5", None),
        ("it is 5.", "5", None),
        ("5 apples", "5", None),
        ("#### 5", "5", "5"),
        ("####5", "5", "5"),
        ("#### $1,234.00", "1234", "1234"),
        ("The answer is 5.", "5", "5"),
        ("the final answer is: **5**", "5", "5"),
        ("The answer is 3. That is 4 more than before.", "3", "3"),
        ("The answer is 3. No: 4. The answer is 4.", "4", "4"),
        ("The answer is 7.\n#### The end", "7", "7"),
        ("The answer is unknown, or 8", "8", "8"),
        ("2 + 3 = 5", "5", None),
        ("10-4", "4", None),
        ("10 - 4", "4", None),
        ("from 3-5", "5", None),
        ("= -5", "-5", None),
        ("(-5)", "-5", None),
        ("−5", "-5", None),
        ("-$5", "-5", None),
        ("$-5", "-5", None),
        ("1,000", "1000", None),
        ("1,000,000.", "1000000", None),
        ("1, 2, 3", "3", None),
        ("1,2,3", "3", None),
        ("1,234.50", "1234.5", None),
        (".5", "0.5", None),
        ("1/2", "1/2", None),
        ("-3/4", "-3/4", None),
        ("1/0", "0", None),
        ("The answer is 18%", "18", "18"),
        ("The answer is £18 or £20", "18", "18"),
        ("\\boxed{18}", "18", None),
        ("007", "7", None),
        ("٣", None, None),
    ],
)
def test_numbers(text: str, flexible: str | None, strict: str | None) -> None:
    asked = [flexible, strict]
    found = [final_number(text), marked_number(text)]
    assert found == [n if n is None else Fraction(n) for n in asked]


def test_judging(data: Path) -> None:
    task = Gsm8k(Options(data=data))
    for item, right, wrong in zip(
        task.items(), ("14.00", "$1,200", "1/2"), ("-14", "1.2", "2"), strict=True
    ):
        said: list[Any] = [
            SimpleNamespace(text=text)
            for text in (f"The answer is {right}.", f"so {right}", f"#### {wrong}", "")
        ]
        judged = [task.judge(item, answer) for answer in said]
        assert [one["exact"] for one in judged] == [1, 1, 0, 0]
        assert [one["strict"] for one in judged] == [1, 0, 0, 0]


# Problems ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"question": "a", "answer": "none"}', "ends with no number"),
        ('{"question": "a", "answer": "12 ####"}', "ends with no number"),
        ('{"question": "a", "answer": 12}', r'"question" \(str\) and "answer" \(str\) is needed'),
        ('{"question": "a"}', r'"question" \(str\) and "answer" \(str\) is needed'),
        ("[]", r'"question" \(str\) and "answer" \(str\) is needed'),
        ("12", "is needed"),
        ('{"question": " ", "answer": "1"}', "the prompt is empty"),
        ('{"question": "\\ud800", "answer": "1"}', "an unpaired surrogate"),
        ("x", "not JSON"),
    ],
)
def test_a_line_of_something_else_is_named(line: str, says: str, data: Path) -> None:
    data.write_text(f"{data.read_text('utf-8')}\n\n{line}\n", "utf-8")
    with pytest.raises(PromptError, match=says) as refused:
        Gsm8k(Options(data=data))
    assert str(refused.value).startswith(f"{data}, line 5: ")


def test_without_shots_it_is_a_message(data: Path) -> None:
    item = Gsm8k(Options(data=data)).items()[0]
    assert item.gold == ("14",) and not item.raw
    assert item.text.startswith(f"{PROBLEMS[0][0]}\n\n") and "The answer is N." in item.text


HARNESS = """
doc_to_text: 'In: {{question}}

  Out:'
doc_to_target: '{{answer.split("####")[-1].strip() if answer is defined else target}}'
generation_kwargs: {until: ['In:', <|end|>]}
fewshot_config:
  samples:
  - {question: 'One and one?', target: It is two. The answer is 2.}
  - {question: 'Two and two?', target: It is four. The answer is 4.}
"""


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as lm-eval lays its tasks out."""
    folder = tmp_path / "site" / "lm_eval" / "tasks" / "gsm8k"
    folder.mkdir(parents=True)
    (folder.parents[1] / "__init__.py").write_text("raise ImportError('it is not imported')")
    (folder / "gsm8k-cot.yaml").write_text(HARNESS, "utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder / "gsm8k-cot.yaml"


def test_shots_are_the_harness_own(data: Path, harness: Path) -> None:
    task = Gsm8k(Options(data=data, shots=2))
    item = task.items()[0]
    assert item.raw and task.stop == ("In:", "<|end|>")
    assert item.prompt == (
        "In: One and one?\nOut: It is two. The answer is 2.\n\n"
        "In: Two and two?\nOut: It is four. The answer is 4.\n\n"
        f"In: {PROBLEMS[0][0]}\nOut:"
    )
    with pytest.raises(UsageError, match="--shots 3: there are 2 worked examples"):
        Gsm8k(Options(data=data, shots=3))
    harness.write_text("task: other", "utf-8")
    with pytest.raises(UsageError, match="has no doc_to_target"):
        Gsm8k(Options(data=data, shots=1))
    harness.write_text("a: [", "utf-8")
    with pytest.raises(UsageError, match=r"gsm8k-cot.yaml: while parsing"):
        Gsm8k(Options(data=data, shots=1))


def test_without_the_harness_it_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eftlocal.evaluation.data.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install lm-eval"):
        Gsm8k(Options(data=data, shots=8))


# The hub -----------------------------------------------------------------------------------------

HERE = OnHub("owner/sums", "main/test.parquet", COMMIT)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    isolate(monkeypatch, tmp_path)
    with HubServer({"datasets/owner/sums/main/test.parquet": b"PAR1 is not enough"}) as running:
        address = f"{running.address()}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(gsm8k, "TEST", HERE)
        yield running


def test_a_data_set_is_fetched_once(server: HubServer) -> None:
    with pytest.raises(DownloadError, match=r"owner/sums.*offline; give --data FILE"):
        HERE.path(offline=True)
    assert not server.requests
    assert HERE.path(offline=False).read_bytes() == b"PAR1 is not enough"
    count = len(server.gets())
    assert HERE.path(offline=True).is_file() and HERE.path(offline=False).is_file()
    assert len(server.gets()) == count


def test_what_the_hub_has_not_is_told(server: HubServer) -> None:
    with pytest.raises(DownloadError, match=r"other.jsonl: the hub did not give it: .*--data FILE"):
        OnHub("owner/sums", "other.jsonl", COMMIT).path(offline=False)


def test_without_pyarrow_it_is_named(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"pip install 'eftlocal\[eval\]', or give --data"):
        Gsm8k(Options())


def test_a_parquet_file_of_the_hub_is_read(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra eval")
    parquet = pytest.importorskip("pyarrow.parquet")
    with pytest.raises(UsageError, match=r"test\.parquet: "):
        Gsm8k(Options())
    columns = {"question": [q for q, _ in PROBLEMS], "answer": [a for _, a in PROBLEMS]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    server.files = {
        "datasets/owner/sums/main/table.parquet": (tmp_path / "table.parquet").read_bytes()
    }
    gsm8k.TEST = OnHub("owner/sums", "main/table.parquet", COMMIT)
    data = written(tmp_path / "problems.jsonl", *PROBLEMS)
    assert Gsm8k(Options()).items() == Gsm8k(Options(data=data)).items()


# Made problems -----------------------------------------------------------------------------------


def test_made_problems_are_the_same_every_time() -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra eval")
    items = GsmSymbolic(Options()).items()
    assert len(items) == 500 == len({item.text for item in items})
    assert all(final_number(item.gold[0]) is not None for item in items)
    assert items == GsmSymbolic(Options()).items()


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UsageError, match=r"pip install 'eftlocal\[eval\]'"):
        GsmSymbolic(Options())


# The command -------------------------------------------------------------------------------------


def command(data: Path, *more: str) -> list[str]:
    limits = ["--threads", "1", "--max-tokens", "24"]
    return ["eval", "gsm8k", "--data", str(data), "--preset", "demo", *limits, "--json", *more]


def asked(*args: str) -> Result:
    return CliRunner().invoke(app, args)


def figures(printed: str) -> Any:
    """What does not depend on the machine's speed."""
    points = json.loads(printed)["points"]
    return [{n: of["mean"] for n, of in p["metrics"].items() if "per" not in n} for p in points]


def test_killed_and_resumed_it_says_the_same(data: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    result = asked(*command(data, "--out", str(whole)))
    assert result.exit_code == 0, result.output
    expected = figures(result.stdout)
    assert [set(of) >= {"exact", "strict", "tokens"} for of in expected] == [True] * 3
    program = [sys.executable, "-c", "from eftlocal.cli.app import main; main()"]
    process = subprocess.Popen(
        [*program, *command(data, "--out", str(out))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") >= 2):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 2 <= out.read_bytes().count(b"\n") < 9
    assert figures(asked(*command(data, "--out", str(out))).stdout) == expected
    assert out.read_bytes().count(b"\n") == 9


def test_a_context_without_room_for_the_answer_is_told_with_what_helps(data: Path) -> None:
    long = command(data, "--limit", "1", "--max-tokens", "300", "--n-ctx")
    tight = asked(*long, "256")
    assert tight.exit_code == 7 and "or lower --max-tokens" in tight.stderr
    needed = tight.stderr.partition("--n-ctx to ")[2].partition(",")[0]
    assert asked(*long, needed).exit_code == 0
