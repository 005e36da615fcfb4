"""Outputs of a batch: formats, what is finished, errors tried again, shards that become one."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from eftlocal.answer import Answer, Timing
from eftlocal.batch import output as output_module
from eftlocal.batch import shards as merge_module
from eftlocal.batch.job import Job, batch_manifest
from eftlocal.batch.lines import Checked, Line
from eftlocal.batch.output import (
    FORMATS,
    Format,
    Output,
    check_output,
    custom_id_of,
    error_row,
    is_error,
    row_of,
)
from eftlocal.batch.shards import Merged, merge
from eftlocal.constraint import Constraint
from eftlocal.defaults import Defaults
from eftlocal.emulator import Emulator
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.journal.manifest import differences, manifest_path, read_manifest, write_manifest
from eftlocal.loading.roles import RoleSource
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.request import Request, RequestDefaults
from eftlocal.sources import Sources
from eftlocal.speculation.settings import OFF, Totals

MANIFEST = {"seed": "0", "format": "plain", "shard": "1/1"}
POSIX = pytest.mark.skipif(os.name != "posix", reason="devices and links of POSIX")
PIECES = {1: b"so ", 2: b"\xc3", 3: b"\xa4", 9: b""}


def answer(text: str = "so ä", **changes: Any) -> Answer:
    totals = Totals(rounds=2, drafts=1, drafted=3, tried=[1, 1], accepted=[1, 0])
    timing = Timing({"base": 5, "tuned": 7}, {"base": 0, "tuned": 3}, 0.25, 1.25, 4)
    settings: dict[str, Any] = {
        "text": text, "tokens": (1, 2, 3, 9), "finish_reason": "stop", "stop": None, "seed": 5,
        "timing": timing, "speculation": totals, "logprobs": None,
    }  # fmt: skip
    return Answer(**settings | changes)


def line(custom_id: str = "a", *, raw: bool = False, **given: Any) -> Line:
    prompt: Any = "Go on" if raw else (
        {"role": "system", "content": "s"}, {"role": "user", "content": "Say so"},
        {"role": "assistant", "content": "so"},
    )  # fmt: skip
    return Line(3, custom_id, Request((prompt,), raw=raw), given)


def piece(token: int, *, special: bool = False) -> bytes:
    return PIECES[token] or (b"<end>" if special else b"")


def row(of: Line, format: Format, given: Answer | None = None) -> dict[str, Any]:
    return row_of(of, [given or answer()], format=format, model="demo", piece=piece,
                  recipe=Recipe.upscale())  # fmt: skip


def error(custom_id: str, format: Format = "plain") -> dict[str, Any]:
    return error_row(custom_id, 7, "line 7: not JSON", format)


def opened(path: str | Path, *, format: Format = "plain", **more: Any) -> Output:
    manifest = more.pop("manifest", MANIFEST | {"format": format})
    return Output(path, manifest, format=format, **more)


def rows_in(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(found) for found in text.split(b"\n")[:-1]]


def write(path: Path, ids: str, *, format: Format = "plain", manifest: Any = None) -> Path:
    """A small letter is an answer, a capital an error."""
    with opened(path, format=format, manifest=manifest or MANIFEST | {"format": format}) as output:
        for name in ids:
            good = name.islower()
            output.add(row(line(name), format) if good else error(name.lower(), format))
    return path


# Formats -----------------------------------------------------------------------------------------


def test_a_chat_completion() -> None:
    found = row(line("ä"), "openai", answer(logprobs=(-0.5, -math.inf, -0.25, -0.1)))
    body = found["response"]["body"]
    assert list(found) == ["id", "custom_id", "response", "error"]
    assert found["id"].startswith("batch_req_") and found["error"] is None
    assert found["response"]["status_code"] == 200
    assert body["id"] == "chatcmpl-" + found["id"].removeprefix("batch_req_")
    assert body["object"] == "chat.completion" and body["model"] == "demo"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "so ä", "refusal": None}
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    content = choice["logprobs"]["content"]
    assert [part["bytes"] for part in content] == [list(PIECES[token]) for token in (1, 2, 3)]
    assert [part["logprob"] for part in content] == [-0.5, -9999.0, -0.25]
    assert content[0] == {"token": "so ", "logprob": -0.5, "bytes": [115, 111, 32],
                          "top_logprobs": []}  # fmt: skip
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11,
                             "prompt_tokens_details": {"cached_tokens": 3}}  # fmt: skip
    assert body["eftlocal"] == {"recipe": "upscale: +1 base, +1 tuned, -1 reference"}
    ours = choice["eftlocal"]
    assert ours["seed"] == 5 and ours["finish_reason"] == "stop"
    assert ours["speculation"] == {"acceptance": 0.5, "rounds": 2, "drafts": 1, "looked_up": 0,
                                   "drafted": 3, "accepted": 1}  # fmt: skip
    assert ours["timings"] == {
        "first_token": 0.25, "seconds": 1.25, "tokens_per_second": 3.0,
        "prompt_tokens": {"base": 5, "tuned": 7}, "reused_tokens": {"base": 0, "tuned": 3},
    }  # fmt: skip
    json.dumps(found, allow_nan=False)


def test_a_text_completion() -> None:
    found = row(line(raw=True), "openai", answer(logprobs=(-0.5, -0.3, -0.2, -0.1)))
    body = found["response"]["body"]
    assert body["object"] == "text_completion" and body["id"].startswith("cmpl-")
    (choice,) = body["choices"]
    assert choice["text"] == "so ä" and "message" not in choice
    assert choice["logprobs"] == {
        "tokens": ["so ", "", "ä"], "token_logprobs": [-0.5, -0.3, -0.2], "top_logprobs": None,
        "text_offset": [0, 3, 3],
    }  # fmt: skip
    assert row(line(raw=True), "openai")["response"]["body"]["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("stop", "stop"), ("length", "length"), ("context", "length"), ("repetition", "length"),
     (None, None)],
)  # fmt: skip
def test_finish_reasons(ours: Any, theirs: str | None) -> None:
    given = answer(finish_reason=ours, logprobs=(0.0,) * 4)
    body = row(line(), "openai", given)["response"]["body"]
    assert body["choices"][0]["finish_reason"] == theirs
    assert body["choices"][0]["eftlocal"]["finish_reason"] == ours
    tokens = len(body["choices"][0]["logprobs"]["content"])
    assert tokens == (3 if ours == "stop" else 4)  # only then the last token is an end token
    assert row(line(), "plain", given)["finish_reason"] == ours


def test_no_token_of_a_stop_string_has_a_log_probability() -> None:
    def told(**given: Any) -> list[str]:
        row_ = row(line(), "openai", answer(logprobs=(0.0,) * 4, **given))
        (choice,) = row_["response"]["body"]["choices"]
        return [entry["token"] for entry in choice["logprobs"]["content"]]

    assert len(told(stop="\n")) == 3  # all of "so ä", and the stop string's own is left out
    assert told(text="so", stop=" ä") == ["so "]  # a token that begins with what was kept
    assert told(text="", stop="so") == []


def test_plain_alpaca_and_humaneval() -> None:
    more = {"finish_reason", "usage", "timings", "acceptance", "seed"}
    plain = row(line("a", instruction="x"), "plain", answer(logprobs=(-math.inf, 0.0, 0.0, 0.0)))
    assert set(plain) == more | {"custom_id", "text", "logprobs"}
    assert plain["logprobs"] == [-9999.0, 0.0, 0.0, 0.0] and plain["acceptance"] == 0.5
    given = {"instruction": "Do", "input": "it", "dataset": "d", "output": "theirs",
             "generator": "they"}  # fmt: skip
    alpaca = row(line("a", **given), "alpaca")
    assert set(alpaca) == more | {*given, "custom_id"}
    assert alpaca | {"output": "so ä", "generator": "demo", "instruction": "Do", "input": "it",
                     "dataset": "d"} == alpaca  # fmt: skip
    assert row(line(), "alpaca")["instruction"] == "Say so"
    assert row(line(raw=True), "alpaca")["instruction"] == "Go on"
    human = row(line("a", task_id="HumanEval/0"), "humaneval")
    assert set(human) == more | {"custom_id", "task_id", "completion"}
    assert (human["task_id"], human["completion"]) == ("HumanEval/0", "so ä")
    assert row(line("b"), "humaneval")["task_id"] == "b"


@pytest.mark.parametrize("format", FORMATS)
def test_every_row_says_whose_it_is_and_whether_it_failed(format: Format) -> None:
    good, bad = row(line("ä"), format), error("ä", format)
    assert custom_id_of(good, format) == custom_id_of(bad, format) == "ä"
    assert not is_error(good, format) and is_error(bad, format)
    assert bad["error"] == {"code": "invalid_request", "message": "line 7: not JSON", "line": 7}
    for other in FORMATS:
        if other != format:
            with pytest.raises((LookupError, TypeError)):
                custom_id_of(good, other)
    for wrong in ({"custom_id": 1}, {"text": "x"}, {"custom_id": "a"}):
        with pytest.raises((LookupError, TypeError)):
            custom_id_of(wrong, format)


def test_ids_are_the_same_whenever_it_runs() -> None:
    assert row(line(), "openai")["id"] == row(line(), "openai")["id"] != error("a", "openai")["id"]
    assert row(line("b"), "openai")["id"] != row(line(), "openai")["id"]


def test_a_real_answer_has_its_bytes(demo: Emulator) -> None:
    given = demo.generate("What is 2 + 2?", logprobs=True, max_tokens=24)
    found = row_of(line(), [given], format="openai", model="demo", piece=demo.piece)
    (choice,) = json.loads(json.dumps(found, allow_nan=False))["response"]["body"]["choices"]
    joined = b"".join(bytes(part["bytes"]) for part in choice["logprobs"]["content"])
    assert joined.decode() == given.text == choice["message"]["content"] != ""


# One file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_finished_is_known_again(name: str, format: Format, tmp_path: Path) -> None:
    path = write(tmp_path / name, "aBc", format=format)
    with opened(path, format=format) as output:
        assert all(i in output for i in "abc") and "d" not in output and "B" not in output
        assert (len(output.finished), output.failed) == (3, 1)
        with pytest.raises(UsageError, match="id 'c' has a row already"):
            output.add(row(line("c"), format))
        output.add(error("d", format))
        assert output.failed == 2
    assert [found["custom_id"] for found in rows_in(path)] == [*"abcd"]
    for other in FORMATS:
        if other != format:
            with pytest.raises(UsageError, match="line 1: not a row of a batch in this format"):
                Output(path, MANIFEST | {"format": format}, format=other)


def test_another_batch_and_an_id_twice_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "out.jsonl", "ab")
    with pytest.raises(UsageError) as refused:
        opened(path, manifest=MANIFEST | {"seed": "4"})
    assert str(refused.value) == (
        f"{path} holds another batch: seed was 0 and is 4. Give another output file"
    )
    data = path.read_bytes()
    path.write_bytes(data + data)
    with pytest.raises(UsageError, match="id 'a' is in it twice; remove one of the two rows"):
        opened(path)
    assert path.read_bytes() == data + data
    path.unlink()
    manifest_path(path).unlink()
    path.write_text("my notes\n")
    with pytest.raises(UsageError, match="so it may not be a batch; give another output file"):
        opened(path)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
@pytest.mark.parametrize("format", FORMATS)
def test_errors_are_taken_out_to_be_tried_again(name: str, format: Format, tmp_path: Path) -> None:
    path = write(tmp_path / name, "AbCdE", format=format)
    with opened(path, format=format, retry_errors=True) as output:
        assert "b" in output and "d" in output and "a" not in output and output.failed == 0
        output.add(row(line("c"), format))
    assert [found["custom_id"] for found in rows_in(path)] == [*"bdc"]


def test_errors_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    with opened(tmp_path / "out.jsonl", retry_errors=True) as output:
        assert output.finished == set()


def test_a_row_is_finished_even_if_the_disk_refuses_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "out.jsonl"
    monkeypatch.setattr(output_module, "SYNC_SECONDS", 0.0)
    with opened(path) as output, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(EftlocalError, match="Input/output error; what is done is kept"):
            output.add(row(line("a"), "plain"))
        with pytest.raises(UsageError, match="id 'a' has a row already"):
            output.add(error("a"))
    with opened(path) as output:
        assert "a" in output


def test_memory_holds_digests_only(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write_manifest(path, MANIFEST)
    template = row(line("ID"), "plain", answer("x" * 800))
    with path.open("w") as file:
        for n in range(4000):
            file.write(json.dumps(template | {"custom_id": f"request-{n:040}"}) + "\n")
    tracemalloc.start()
    with opened(path) as output:
        assert len(output.finished) == 4000
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 900_000 < path.stat().st_size / 4, peak


# Where it may be ---------------------------------------------------------------------------------


@POSIX
def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("{}\n")
    soft, hard = tmp_path / "soft.jsonl", tmp_path / "hard.jsonl"
    soft.symlink_to(source)
    hard.hardlink_to(source)
    for one in (source, soft, hard):
        for other in (source, soft, hard):
            with pytest.raises(UsageError, match="the input and the output are the same file"):
                check_output(str(one), str(other))
    (tmp_path / "out.jsonl.lock").hardlink_to(source)
    with pytest.raises(UsageError, match=r"would be lost: the output writes out\.jsonl\.lock"):
        check_output(str(tmp_path / "out.jsonl"), str(soft))
    assert source.read_text() == "{}\n"
    for name in (source, "-", tmp_path / "not there"):
        check_output(str(tmp_path / "other.jsonl"), str(name))
        check_output("-", str(name))
    assert not (tmp_path / "other.jsonl").exists()


STDOUT = """
import sys
from eftlocal.batch.output import Output, error_row
from eftlocal.errors import EftlocalError
print("before")
try:
    with Output("-", {}, format="plain") as output:
        for n in range(int(sys.argv[1])):
            output.add(error_row(f"\\u00e4{n}", n, "no", "plain"))
            output.sync()
except EftlocalError as error:
    print(error, file=sys.stderr)
    raise SystemExit(1)
"""


def test_stdout(tmp_path: Path) -> None:
    words = [sys.executable, "-c", STDOUT, "3"]
    found = subprocess.run(words, capture_output=True, check=True)
    first, *rows = found.stdout.split(b"\n")
    assert first.strip() == b"before" and len(rows) == 4 and b"\r" not in rows[0]
    assert [json.loads(found)["custom_id"] for found in rows[:3]] == ["ä0", "ä1", "ä2"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="--retry-errors needs an output file"):
        opened("-", retry_errors=True)
    with opened("-") as output, pytest.raises(UsageError, match="id 'a' has a row already"):
        output.add(error("a"))
        output.add(error("a"))


@POSIX
def test_stdout_that_refuses() -> None:
    words = [sys.executable, "-u", "-c", STDOUT.replace('print("before")', ""), "9"]
    with Path("/dev/full").open("wb") as full:
        found = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False)
    assert found.returncode == 1 and found.stderr.decode().strip() == (
        "stdout: No space left on device; the rows before this one were written"
    )
    words[-1] = "100000"
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert b"custom_id" in process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        says = process.stderr.read().decode()
    assert process.returncode == 1
    assert says.strip() == "stdout: Broken pipe; the rows before this one were written"


# The manifest ------------------------------------------------------------------------------------


def manifest(path: Path, **changes: Any) -> dict[str, str]:
    def given(kind: type, **more: Any) -> dict[str, Any]:
        names = {of.name for of in fields(kind)}
        return more | {name: value for name, value in changes.items() if name in names}

    defaults = Defaults(**given(Defaults))
    sources = Sources(**given(Sources, roles={"base": RoleSource(path)}, defaults=defaults))
    job = Job(**given(Job, source="-", output="-", sources=sources, format="plain", seed=1))
    checked = Checked(**given(Checked, lines=4, total=4, to_run=4, sha256="0" * 64, bad={}))
    of_lines = RequestDefaults(**given(RequestDefaults, answer=defaults, model="demo"))
    return batch_manifest(job, of_lines, checked)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sha256": "1" * 64}, "input was sha256 000000000000 and is sha256 111111111111"),
        ({"model": ""}, "preset was demo and is none"),
        ({"recipe": Recipe.upscale(1.00000001)}, "recipe was upscale: +1 base, +1 tuned"),
        ({"sampling": Sampling(top_k=3)}, "top-k was 0 and is 3"),
        ({"sampling": Sampling(logit_bias=dict.fromkeys(range(99), 1.0))}, "logit-bias was {} and"),
        ({"seed": 2}, "seed was 1 and is 2"),
        ({"max_tokens": 9}, "max-tokens was none and is 9"),
        ({"stop": ("\n",)}, "stop was [] and is ['\\n']"),
        ({"loop_guard": 0}, "loop-guard was 1024 and is off"),
        ({"raw": True}, "raw was false and is true"),
        ({"system": "Be\nkind"}, "system was none and is 'Be\\nkind'"),
        (
            {"constraint": Constraint("grammar", 'root ::= "a"')},
            "grammar was none and is 'root ::= \"a\"'",
        ),
        ({"constraint": Constraint("json_schema", "{}")}, "json-schema was none and is '{}'"),
        ({"constraint": Constraint("regex", "a")}, "regex was not there and is 'a'"),
        ({"speculation": OFF}, "speculative was auto, rule coupled, source auto and is off"),
        ({"format": "openai"}, "format was plain and is openai"),
        ({"shard": (2, 3)}, "shard was 1/1 and is 2/3"),
    ],
)
def test_whatever_rows_depend_on_is_in_the_manifest(
    changes: Mapping[str, Any], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"x")
    (told,) = differences(manifest(path), manifest(path, **changes))
    assert says in told and "\n" not in told


def test_what_changes_only_the_speed_is_not_in_it(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"x")
    fast = {"base": RoleSource(path, threads=3, gpu_layers=-1)}
    assert manifest(path) == manifest(path, roles=fast, shard=(1, 1))
    same = Sampling(seed=3, logit_bias={2: 1.0, 1: 1.0})
    other = Sampling(seed=4, logit_bias={1: 1.0, 2: 1.0})
    assert manifest(path, sampling=same) == manifest(path, sampling=other)


# Shards ------------------------------------------------------------------------------------------


def shards(folder: Path, *ids: str, suffix: str = "", lines: int = 5) -> list[Path]:
    made = []
    for index, names in enumerate(ids, 1):
        of = MANIFEST | {"shard": f"{index}/{len(ids)}", "lines": str(lines)}
        made.append(write(folder / f"{index}.jsonl{suffix}", names, manifest=of))
    return made


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_shards_become_one_that_is_gone_on_with(suffix: str, name: str, tmp_path: Path) -> None:
    parts, out = shards(tmp_path, "aB", "", "cd", suffix=suffix), tmp_path / name
    assert merge(out, [parts[2], parts[0], parts[1]]) == Merged(rows=4, failed=1, lines=5)
    assert [found["custom_id"] for found in rows_in(out)] == [*"cdab"]
    assert [*rows_in(parts[2]), *rows_in(parts[0])] == rows_in(out)
    whole = MANIFEST | {"lines": "5"}
    assert read_manifest(out) == whole
    with opened(out, manifest=whole, retry_errors=True) as output:
        assert "b" not in output and len(output.finished) == 3
        output.add(row(line("b"), "plain"))
    assert len(rows_in(out)) == 4


def change_manifest(path: Path, **changes: str) -> None:
    write_manifest(path, {**MANIFEST, "lines": "5", **changes})


def changed(path: Path, data: bytes | Callable[[bytes], bytes]) -> None:
    path.write_bytes(data(path.read_bytes()) if callable(data) else data)


def copied(parts: list[Path]) -> list[Path]:
    copy = parts[1].with_name("copy.jsonl")
    copy.write_bytes(parts[1].read_bytes())
    change_manifest(copy, shard="2/3")
    return [*parts, copy]


Spoil = Callable[[list[Path]], object]
SPOILED: dict[str, Spoil] = {
    "shard 2/3 missing; name the files of all shards": lambda parts: parts[::2],
    "shard 1/3 and 1 more missing; name the files of all shards": lambda parts: parts[2:],
    "2.jsonl and F/copy.jsonl are both shard 2/3; leave one out": copied,
    "1.jsonl and F/2.jsonl are not of one batch: seed is 0 in the one and 9 in": (
        lambda parts: change_manifest(parts[1], shard="2/3", seed="9")
    ),
    "1.jsonl is one of 3 shards and F/3.jsonl one of 4; they cannot be merged": (
        lambda parts: change_manifest(parts[2], shard="3/4")
    ),
    "1.jsonl: its manifest says shard '0/3', which is not a shard": (
        lambda parts: change_manifest(parts[0], shard="0/3")
    ),
    "id 'a' is in F/1.jsonl and F/3.jsonl; nothing was merged": lambda parts: changed(
        parts[2], lambda data: data + parts[0].read_bytes().splitlines(keepends=True)[0]
    ),
    "id 'a' is in F/1.jsonl twice; nothing was merged": (
        lambda parts: changed(parts[0], lambda data: data * 2)
    ),
    "2.jsonl ends in the middle of a row, so its run is not finished; run it again": (
        lambda parts: changed(parts[1], lambda data: data[:-1])
    ),
    "2.jsonl, line 2: not a row of a batch in the format plain": (
        lambda parts: changed(parts[1], lambda data: data + b'{"custom_id": "x", "output": "y"}\n')
    ),
    "2.jsonl has no 2.jsonl.manifest.json beside it, so it may not be the output": (
        lambda parts: manifest_path(parts[1]).unlink()
    ),
    "2.jsonl is not the output of a batch, according to 2.jsonl.manifest.json": (
        lambda parts: write_manifest(parts[1], {"seed": "0"})
    ),
    "there is no file F/2.jsonl": lambda parts: parts[1].unlink(),
    "1.jsonl.manifest.json is no manifest of a run": (
        lambda parts: changed(manifest_path(parts[0]), b"\xff")
    ),
    "2.jsonl, line 1: not a row of a batch in the format plain": (
        lambda parts: changed(parts[1], b"[" * 100_000 + b"]" * 100_000 + b"\n")
    ),
    "no shards to merge; name their files": lambda parts: [],
}


@pytest.mark.parametrize("says", SPOILED)
def test_what_does_not_go_together_is_refused(says: str, tmp_path: Path) -> None:
    parts = shards(tmp_path, "ab", "C", "de")
    given = SPOILED[says](parts)
    with pytest.raises(UsageError) as refused:
        merge(tmp_path / "all.jsonl", given if isinstance(given, list) else parts)
    assert says.replace("F", str(tmp_path)) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("all*"))


def test_no_file_is_written_over(tmp_path: Path) -> None:
    parts = shards(tmp_path, "ab", "cd")
    before = parts[0].read_bytes()
    for out, says in (
        (parts[0], "already exists; name a new file for the merged rows"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "all.jsonl", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=says):
            merge(out, parts)
    assert parts[0].read_bytes() == before


def test_a_shard_that_is_being_written(tmp_path: Path) -> None:
    parts = shards(tmp_path, "ab", "cd")
    of = MANIFEST | {"lines": "5", "shard": "2/2"}
    with (
        opened(parts[1], manifest=of),
        pytest.raises(
            UsageError, match=r"2\.jsonl is still being written; wait for its run to end"
        ),
    ):
        merge(tmp_path / "all.jsonl", parts)
    merge(tmp_path / "all.jsonl", parts)
    with opened(parts[1], manifest=of) as output:  # the merge holds it no longer
        assert "c" in output


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = shards(tmp_path, "ab", "cd")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merge_module, "write_manifest", full)
    with pytest.raises(EftlocalError, match="No space left on device; nothing was merged"):
        merge(tmp_path / "all.jsonl", parts)
    assert not list(tmp_path.glob("all*"))
