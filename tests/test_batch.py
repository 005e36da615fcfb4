"""`eftlocal batch` as people use it: files, pipes, kills, shards, and lines that fail."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eftlocal import Emulator, Sampling
from eftlocal.batch.lines import Line
from eftlocal.batch.output import Output
from eftlocal.batch.runner import answer_lines
from eftlocal.cli.app import app
from eftlocal.cli.progress import terminable
from eftlocal.errors import EngineError
from eftlocal.llama import Context, Span
from eftlocal.request import Request

PLACES = ("Toulouse", "Lima", "Oslo", "Quito", "Lyon", "Dakar", "Bonn", "Rome", "Nice", "Paris")
PROGRAM = (sys.executable, "-c", "from eftlocal.cli.app import main; main()")
QUICK = ("--max-tokens", "6", "--parallel", "3", "--speculative", "off", "--quiet")


def batch(*arguments: object, stdin: str | bytes | None = None) -> Any:
    return CliRunner().invoke(app, ["batch", *map(str, arguments)], input=stdin)


def write(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    return path


def questions(count: int) -> list[dict[str, Any]]:
    return [
        {"custom_id": f"q{i}", "prompt": f"Where is {PLACES[i % 10]}?", "temperature": i % 3 * 0.5}
        for i in range(count)
    ]


def rows(path: Path) -> dict[str, dict[str, Any]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    found = [json.loads(line) for line in text.splitlines()]
    by_id = {row["custom_id"]: row for row in found}
    assert len(by_id) == len(found)
    return by_id


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", questions(9))


def test_every_line_becomes_a_row_once(asked: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    first = batch(asked, out, *QUICK, "--limit", 4, "--format", "plain")
    assert first.exit_code == 0, first.output
    before = out.read_bytes()
    assert len(rows(out)) == 4
    again = batch(asked, out, *QUICK, "--format", "plain")
    assert again.exit_code == 0 and out.read_bytes().startswith(before)
    assert list(rows(out)) != [] and set(rows(out)) == {f"q{i}" for i in range(9)}
    whole = out.read_bytes()
    assert batch(asked, out, *QUICK, "--format", "plain").exit_code == 0
    assert out.read_bytes() == whole
    for row in rows(out).values():
        assert row["usage"]["completion_tokens"] == 6 and row["finish_reason"] == "length"
        assert row["timings"]["seconds"] > 0.0 and row["text"]


def test_an_answer_depends_on_its_line_only(asked: Path, tmp_path: Path) -> None:
    """Not on order, on neighbours, or on how many run at once."""

    def texts(records: Sequence[Any], *options: object) -> dict[str, tuple[str, int]]:
        source = write(tmp_path / "other.jsonl", records)
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}.jsonl"
        result = batch(source, out, "--format", "plain", "--max-tokens", 8, "--quiet", *options)
        assert result.exit_code == 0, result.output
        return {id_: (row["text"], row["seed"]) for id_, row in rows(out).items()}

    whole = texts(questions(9), "--parallel", 3)
    assert len({seed for _, seed in whole.values()}) == 9
    assert texts(questions(9)[::-1], "--parallel", 1) == whole
    assert texts(questions(9)[4:6], "--parallel", 8) == {id_: whole[id_] for id_ in ("q4", "q5")}
    assert texts(questions(9), "--seed", 1) != whole


TOKEN = {"token": "str", "logprob": "float", "bytes": ["int"], "top_logprobs": []}
ROW = {
    "id": "str", "custom_id": "str", "error": "NoneType",
    "response": {"status_code": "int", "request_id": "str", "body": {
        "id": "str", "object": "str", "created": "int", "model": "str",
        "eftlocal": {"recipe": "str"},
        "choices": [{
            "index": "int", "finish_reason": "str",
            "message": {"role": "str", "content": "str", "refusal": "NoneType"},
            "logprobs": {"content": [TOKEN] * 4, "refusal": "NoneType"},
        }],
        "usage": {"prompt_tokens": "int", "completion_tokens": "int", "total_tokens": "int",
                  "prompt_tokens_details": {"cached_tokens": "int"}},
    }},
}  # fmt: skip


def shape(value: Any) -> Any:
    """The names of a row with the types of what they hold."""
    if isinstance(value, dict):
        return {name: shape(of) for name, of in value.items()}
    if isinstance(value, list):
        return ["int"] if value and isinstance(value[0], int) else [shape(of) for of in value]
    return type(value).__name__


def test_openais_form_in_and_out(tmp_path: Path) -> None:
    message = {"role": "user", "content": "In which country is Lyon?"}
    body = {"model": "demo", "messages": [message], "max_completion_tokens": 4, "logprobs": True}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    source = write(tmp_path / "in.jsonl", [line])
    out = tmp_path / "out.jsonl.gz"
    result = batch(source, out, *QUICK)
    assert result.exit_code == 0, result.output
    row = rows(out)["a"]
    body = row["response"]["body"]
    (choice,) = body["choices"]
    timings = choice.pop("eftlocal")["timings"]
    assert shape(row) == ROW and row["response"]["status_code"] == 200
    assert (body["object"], body["model"]) == ("chat.completion", "demo")
    assert choice["finish_reason"] == "length" and choice["message"]["role"] == "assistant"
    told = choice["logprobs"]["content"]
    assert len(told) == body["usage"]["completion_tokens"] == 4
    assert "".join(token["token"] for token in told) == choice["message"]["content"]
    assert timings["prompt_tokens"]["base"] > 4


def test_alpaca_and_humaneval(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{"instruction": "Where is Lima?", "dataset": "own"}])
    assert batch(source, tmp_path / "a.out", *QUICK, "--format", "alpaca").exit_code == 0
    (row,) = rows(tmp_path / "a.out").values()
    assert (row["instruction"], row["generator"], row["dataset"]) == (
        "Where is Lima?",
        "demo",
        "own",
    )
    assert row["output"]
    task = {"task_id": "HumanEval/0", "prompt": "Lima is in", "entry_point": "f", "test": "x"}
    source = write(tmp_path / "h.jsonl", [task])
    assert batch(source, tmp_path / "h.out", *QUICK, "--format", "humaneval").exit_code == 0
    (row,) = rows(tmp_path / "h.out").values()
    assert row["task_id"] == "HumanEval/0" and isinstance(row["completion"], str)


def test_pipes() -> None:
    lines = "".join(json.dumps(r) + "\n" for r in questions(3))
    result = batch("-", "-", *QUICK, "--format", "plain", stdin=lines)
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert {row["custom_id"] for row in found} == {"q0", "q1", "q2"}


def test_all_faults_are_told_before_anything_runs(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = json.dumps(questions(1)[0])
    long = json.dumps({"custom_id": "long", "prompt": "Lima " * 4000})
    source.write_text(f"{good}\nnot json\n{good}\n\n{long}\n" + '{"prompt": 3}\n', "utf-8")
    result = batch(source, out, *QUICK)
    assert result.exit_code == 7 and not out.exists()
    told = result.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in told[:5]] == [
        f"line {n}" for n in (2, 3, 4, 5, 6)
    ]
    for line, words in zip(
        told,
        (
            "not JSON",
            "is already used by line 1",
            "it is empty",
            "its context holds",
            "it must be a string, token ids, or a list of either",
        ),
        strict=False,
    ):
        assert words in line
    assert "5 of 6 lines cannot be run" in told[-1] and "--skip-invalid" in told[-1]
    result = batch(source, out, *QUICK, "--skip-invalid")
    assert result.exit_code == 15
    found = rows(out)
    assert set(found) == {"q0", "line-2", "line-3", "line-4", "long", "line-6"}
    assert found["q0"]["error"] is None and found["long"]["response"] is None
    assert found["line-2"]["error"]["line"] == 2
    again = batch(source, out, *QUICK, "--skip-invalid", "--retry-errors")
    assert again.exit_code == 15 and set(rows(out)) == set(found)


def test_another_run_is_not_mixed_in(asked: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert batch(asked, out, *QUICK, "--limit", 2).exit_code == 0
    kept = out.read_bytes()
    for changed, words in (
        (("--seed", 5), "seed was 0 and is 5"),
        (("--beta", 2), "recipe was upscale"),
        (("--temperature", 0.1), "temperature was 0.7 and is 0.1"),
        (("--format", "plain"), "format was openai and is plain"),
        (("--shard", "1/2"), "shard was 1/1 and is 1/2"),
    ):
        result = batch(asked, out, *QUICK, *changed)
        assert result.exit_code == 2 and words in result.stderr, result.stderr
    with asked.open("a") as file:
        file.write('{"prompt": "one more"}\n')
    result = batch(asked, out, *QUICK)
    assert result.exit_code == 2 and "input was sha256" in result.stderr
    assert out.read_bytes() == kept


def test_shards_and_merge(asked: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"part{i}.jsonl" for i in (1, 2, 3)]
    for i, part in enumerate(parts, 1):
        result = batch(asked, part, *QUICK, "--shard", f"{i}/3", "--format", "plain")
        assert result.exit_code == 0, result.output
    merged = tmp_path / "merged.jsonl"
    result = batch("merge", merged, *parts)
    assert result.exit_code == 0, result.output
    whole = tmp_path / "whole.jsonl"
    assert batch(asked, whole, *QUICK, "--format", "plain").exit_code == 0
    assert {i: r["text"] for i, r in rows(merged).items()} == {
        i: r["text"] for i, r in rows(whole).items()
    }
    assert batch("merge", tmp_path / "m2.jsonl", *parts[:2]).exit_code == 2
    assert "have no row" not in result.stderr
    short = tmp_path / "short.jsonl"
    assert batch(asked, short, *QUICK, "--shard", "1/1", "--limit", 2).exit_code == 0
    result = batch("merge", tmp_path / "m3.jsonl", short)
    assert result.exit_code == 0 and "7 have no row" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shard", "0/2"), "--shard 0/2: give the part"),
        (("--parallel", "many"), "--parallel is 'many'; it must be"),
        (("--raw", "--system", "x"), "--system needs the chat template"),
        (("--max-tokens", "0"), "--max-tokens is 0"),
        (("--recipe", "nonsense"), "nonsense"),
    ],
)
def test_options_that_are_refused(
    options: tuple[str, ...], words: str, asked: Path, tmp_path: Path
) -> None:
    for source, output, *given in (
        (asked, tmp_path / "out.jsonl", words, *options),
        (tmp_path / "none.jsonl", tmp_path / "out.jsonl", "No such file"),
        (asked, asked, "are the same file"),
        (asked, tmp_path, "folder"),
    ):
        result = batch(source, output, *given[1:])
        assert result.exit_code == 2 and given[0] in result.stderr
    assert list(tmp_path.iterdir()) == [asked]


def test_an_answers_form(tmp_path: Path) -> None:
    """--grammar and --json-schema are defaults, and part of what a batch is."""
    grammar, schema = tmp_path / "g.gbnf", tmp_path / "s.json"
    grammar.write_text('root ::= "yes" | "no"')
    schema.write_text('{"type": "boolean"}')
    question = {"prompt": "Is Lima in Peru?"}
    source = write(
        tmp_path / "in.jsonl",
        [
            question,
            {**question, "grammar": 'root ::= "maybe"'},
            {**question, "json_schema": {"type": "null"}},
            {**question, "response_format": {"type": "text"}},
        ],
    )
    told = {}
    forms = {"g": ("--grammar", grammar), "s": ("--json-schema", schema)}
    for name, option in {**forms, "r": ("--regex", "yes|no")}.items():
        out = tmp_path / f"{name}.jsonl"
        result = batch(source, out, *QUICK, "--format", "plain", *option)
        assert result.exit_code == 0, result.stderr
        first, *told[name] = [rows(out)[f"line-{n}"]["text"] for n in (1, 2, 3, 4)]
        assert first in (("true", "false") if name == "s" else ("yes", "no"))
        assert told[name][:2] == ["maybe", "null"] and " " in told[name][2].strip()
    assert told["g"] == told["s"] == told["r"]

    other = batch(source, tmp_path / "g.jsonl", *QUICK, "--format", "plain")
    assert other.exit_code == 2 and "grammar was 'root ::= " in other.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"--grammar": "root = x"}, "grammar: "),
        ({"--json-schema": '{"type": "colour"}'}, "Invalid type: colour"),
        ({"--json-schema": "{"}, "JSON schema: not JSON"),
        ({"--lark": "start: x"}, 'Lark grammar: line 1, column 8: unknown name: "x"'),
        ({"--grammar": None}, "No such file"),
        ({"--grammar": 'root ::= "a"', "--json-schema": "{}"}, "exclude each other"),
    ],
)
def test_a_form_that_is_refused_is_told_once(
    options: dict[str, str | None], words: str, asked: Path, tmp_path: Path
) -> None:
    given: list[Any] = []
    for option, text in options.items():
        given += [option, tmp_path / f"form{option}"]
        if text is not None:
            given[-1].write_text(text)
    result = batch(asked, tmp_path / "out.jsonl", *QUICK, *given)
    assert result.exit_code == 2 and words in result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "out.jsonl").exists()


def test_a_bad_line_takes_no_good_lines_row(tmp_path: Path) -> None:
    lines = [{"prompt": "Where is Lima?", "custom_id": "line-2"}, {"prompt": 3}]
    source, out = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    for _ in range(2):
        result = batch(source, out, *QUICK, "--skip-invalid")
        assert result.exit_code == 11
        found = rows(out)
        assert set(found) == {"line-2", "line-2-2"} and found["line-2"]["error"] is None
        assert "1 line has no answer" in result.stderr
        assert "once fixed" in result.stderr and "--retry-errors" not in result.stderr


def test_a_dry_run_writes_nothing_and_tells_all_faults(asked: Path, tmp_path: Path) -> None:
    result = batch(asked, tmp_path / "out.jsonl", "--dry-run", "--shard", "1/2")
    assert result.exit_code == 0 and "9 lines" in result.stderr and "shard 1/2" in result.stderr
    assert list(tmp_path.iterdir()) == [asked]
    (tmp_path / "out.jsonl").touch()
    assert batch(asked, tmp_path / "out.jsonl", "--dry-run").exit_code == 0
    source = write(tmp_path / "bad.jsonl", [{"prompt": n} for n in range(25)])
    told = [batch(source, tmp_path / "out", *more).stderr for more in ((), ("--dry-run",))]
    assert "line 20: " in told[0] and "line 21: " not in told[0]
    assert "and 5 more; --dry-run lists them all" in told[0]
    of_each = "it must be a string, token ids, or a list of either"
    assert told[1].count(of_each) == 25 and "more" not in told[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl", "in.jsonl", "out.jsonl"]


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")
def test_the_script_with_stdin_closed() -> None:
    script = Path(__file__).parent.parent / "scripts" / "run_batch.py"
    found = subprocess.run(
        ["sh", "-c", '"$0" "$1" - - <&-', sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 7
    assert found.stderr == "eftlocal: stdin: no requests in it; write one JSON object per line\n"


def test_stdout_that_goes_into_the_input(asked: Path) -> None:
    before = asked.read_bytes()
    command = [*PROGRAM, "batch", str(asked), "-"]
    with asked.open("ab") as stdout:
        found = subprocess.run(
            command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
    assert found.returncode == 2 and "stdout goes into the input" in found.stderr
    assert asked.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals of POSIX")
def test_on_one_terminal_no_bar_is_drawn_into_the_rows(asked: Path) -> None:
    command = [*PROGRAM, "batch", str(asked), "-", "--max-tokens", "3"]
    ours, theirs = os.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # what Linux says at the end
            while data := os.read(ours, 1 << 16):
                shown += data
        os.close(ours)
    assert process.returncode == 0 and shown.count(b'"custom_id"') == 9
    assert b"answering" not in shown and b"9 rows, 27 tokens" in shown


def test_a_system_prompt_for_lines_without_one(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "Own."}, {"role": "user", "content": "Where is Lima?"}]
    source = write(tmp_path / "in.jsonl", [{"prompt": "Where is Lima?"}, {"messages": own}])
    counts = []
    for options in ((), ("--system", "Say only what you are sure of, and be brief.")):
        out = tmp_path / f"out{len(options)}.jsonl"
        assert batch(source, out, *QUICK, "--format", "plain", *options).exit_code == 0
        counts.append([rows(out)[f"line-{n}"]["usage"]["prompt_tokens"] for n in (1, 2)])
    assert counts[0][0] + 5 < counts[1][0] and counts[0][1] == counts[1][1]


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps an open file where it is")
@pytest.mark.parametrize(
    ("after", "interrupt", "says"),
    [
        (3, False, "{} rows safe in FOLDER/new; put it"),
        (9, False, "{} rows safe in FOLDER/new; put it"),
        (1, True, "was moved away while the run wrote it: {} row safe"),
    ],
)
def test_an_output_that_others_take_away_is_told(
    after: int,
    interrupt: bool,
    says: str,
    asked: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of the run, after the last row, and not as kept where Ctrl-C ends it. What
    else others do to rows is tested of the journal."""
    add, out = Output.add, tmp_path / "out.jsonl"

    def attacked(output: Output, row: Any) -> None:
        add(output, row)
        if len(output.finished) == after:
            out.rename(tmp_path / "new")
            if interrupt:
                raise KeyboardInterrupt

    monkeypatch.setattr(Output, "add", attacked)
    result = batch(asked, out, *QUICK, "--format", "plain")
    assert result.exit_code == 1
    assert says.format(after).replace("FOLDER", str(tmp_path)) in result.stderr
    assert result.stderr.count("\n") == 1 and " rows, " not in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="streams of a shell of POSIX")
@pytest.mark.parametrize(
    ("words", "code", "said", "kept"),
    [
        ("- >&-", 2, "stdout is closed, so no row would be kept; name an output file", 0),
        ("- >/dev/full", 1, "stdout: No space left on device; the rows before this one", 0),
        ("out 2>&-", 0, "", 9),
        ("out 2>/dev/full", 0, "", 9),
        ("out <&- >&- 2>&-", 0, "", 9),
    ],
)
def test_streams_that_are_closed_or_full(
    words: str, code: int, said: str, kept: int, asked: Path, tmp_path: Path
) -> None:
    found = subprocess.run(
        ["sh", "-c", f'"$0" "$1" "$2" batch in.jsonl --max-tokens 3 {words}', *PROGRAM],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (code, "")
    assert said in found.stderr and found.stderr.count("\n") == bool(said)
    assert len(rows(tmp_path / "out")) == kept if kept else not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.jsonl", questions(300)), tmp_path / "out.jsonl"
    command = [*PROGRAM, "batch", str(source), str(out)]
    command += ["--format", "plain", "--max-tokens", "30", "--parallel", "2", "--quiet"]
    for number, code in (
        *((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130), (signal.SIGINT, 130)),
        (signal.SIGKILL, -signal.SIGKILL),
    ):
        there = out.read_bytes().count(b"\n") if out.exists() else 0
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while child.poll() is None and not (
            out.exists() and out.read_bytes().count(b"\n") > there + 5
        ):
            time.sleep(0.01)
        child.send_signal(number)
        _, said = child.communicate()
        assert child.returncode == code, said
        assert code < 0 or "run the same command again to resume" in said
        with out.open("ab") as file:
            file.write(b'{"custom_id": "torn')
    assert subprocess.run(command, check=False).returncode == 0
    assert set(rows(out)) == {f"q{i}" for i in range(300)}


def test_sigterm_ends_a_run_as_ctrl_c_does_where_nobody_handles_it() -> None:
    with terminable(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with terminable():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


# Lines that fail while they run ------------------------------------------------------------------


@pytest.fixture
def poisoned(demo: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[int]]]:
    """llama.cpp fails wherever one of these sequences of token ids is decoded."""
    poison: list[list[int]] = []
    decode = Context.decode

    def fails(context: Context, spans: Sequence[Span], *more: Any) -> Any:
        for span in spans:
            held = [*context.tokens(span.sequence), *span.tokens]
            if any(held[: len(ids)] == ids for ids in poison):
                raise EngineError("llama_decode returned -3")
        return decode(context, spans, *more)

    monkeypatch.setattr(Context, "decode", fails)
    yield poison


def _lines(count: int) -> list[Line]:
    greedy = Sampling(temperature=0.0)
    return [
        Line(i, f"q{i}", Request((f"Where is {PLACES[i]}?",), sampling=greedy, max_tokens=4))
        for i in range(count)
    ]


def test_a_line_that_breaks_the_engine_fails_alone(
    demo: Emulator, poisoned: list[list[int]]
) -> None:
    lines = _lines(6)
    poisoned.append(demo.tokenize("Where is Oslo?")["base"])
    found = {
        line.custom_id: outcome for line, outcome in answer_lines(demo, lines, seed=0, parallel=2)
    }
    assert set(found) == {f"q{i}" for i in range(6)}
    assert [i for i, o in found.items() if isinstance(o, EngineError)] == ["q2"]


def test_an_engine_that_fails_on_and_on_ends_the_run(
    demo: Emulator, poisoned: list[list[int]]
) -> None:
    poisoned.extend(demo.tokenize(f"Where is {place}?")["base"] for place in PLACES)
    came = []
    with pytest.raises(EngineError, match="returned -3"):
        for line, _ in answer_lines(demo, _lines(10), seed=0, parallel=2):
            came.append(line)
    assert came == []  # rows of lines that may be good: they are answered when the run goes on
