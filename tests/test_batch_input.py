"""A batch's input: reading its lines, telling what is wrong with each, before any is run."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eftlocal.batch.lines as checking
import eftlocal.batch.source as reading
from eftlocal import Emulator
from eftlocal.batch.lines import (
    HUMANEVAL_STOP,
    BadLine,
    Checked,
    Line,
    check,
    digest_of,
    read_line,
    seed_of,
    shard_of,
)
from eftlocal.batch.prompt_bound import PromptBound, prompt_bound
from eftlocal.batch.source import MAX_LINE, TooLong, open_source
from eftlocal.constraint import Constraint, Kind
from eftlocal.errors import PromptError, UsageError
from eftlocal.llama import Model
from eftlocal.loading.loader import prepare
from eftlocal.loading.roles import file_sources, with_settings
from eftlocal.loading.tokenizers import tokenizers
from eftlocal.logits.recipe import Recipe
from eftlocal.prompt.messages import Message
from eftlocal.prompt.reader import PromptReader
from eftlocal.prompt.render import RolePrompt
from eftlocal.request import Request, RequestDefaults
from eftlocal.terminal_text import one_line

DEFAULTS = RequestDefaults(model="demo")


def line(record: Any, number: int = 7) -> Line:
    return read_line(number, json.dumps(record).encode(), DEFAULTS)


def bad(data: bytes | TooLong, number: int = 7) -> BadLine:
    with pytest.raises(BadLine) as refused:
        read_line(number, data, DEFAULTS)
    assert refused.value.number == number
    assert str(refused.value) == f"line {number}: {refused.value.reason}"
    return refused.value


# Lines ----------------------------------------------------------------------------------------


def test_openais_form() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    for outer in ({"method": "POST", "url": "/v1/chat/completions"}, {"method": "POST"}, {}):
        read = line({"custom_id": "a", **outer, "body": {"messages": messages, "max_tokens": 5}})
        assert (read.number, read.custom_id, read.given) == (7, "a", {})
        assert read.request.prompts[0] == tuple(messages)
        assert read.request.max_tokens == 5
    completion = line({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "Once"}})
    assert completion.request.raw


def test_short_forms() -> None:
    read = line({"prompt": "Hello", "temperature": 0, "custom_id": "a"})
    assert (read.custom_id, read.request.prompts[0]) == ("a", "Hello")
    assert read.request.sampling and read.request.sampling.temperature == 0.0
    assert line({"messages": [{"role": "user", "content": "x"}]}).custom_id == "line-7"


def test_alpacas_form() -> None:
    record = {"instruction": "Add.", "input": "1 and 2", "output": "3", "dataset": "d"}
    read = line({**record, "max_tokens": 9})
    assert read.given == record
    assert read.custom_id == "line-7"
    assert read.request.prompts[0] == "Add.\n\n1 and 2"
    assert read.request.max_tokens == 9
    assert not read.request.raw
    assert line({"instruction": "Add.", "input": ""}).request.prompts[0] == "Add."


def test_humanevals_form() -> None:
    task = {"task_id": "HumanEval/0", "prompt": "def f():", "entry_point": "f"}
    read = line({**task, "canonical_solution": "  return 1", "test": "assert f()"})
    assert (read.custom_id, read.given) == ("HumanEval/0", {"task_id": "HumanEval/0"})
    assert read.request.raw
    assert read.request.stop == HUMANEVAL_STOP
    again = line({**task, "custom_id": "HumanEval/0 again", "stop": ["\n"]})
    assert (again.custom_id, again.request.stop) == ("HumanEval/0 again", ("\n",))
    assert again.given == {"task_id": "HumanEval/0"}


DEEP = b'{"prompt": "x", "metadata": {"a": %s%s}}' % (b"[" * 200_000, b"]" * 200_000)


@pytest.mark.parametrize(
    ("data", "reason", "custom_id"),
    [
        (b"hello", "not JSON: Expecting value (character 1)", None),
        (b'{"prompt": "x"', "not JSON: Expecting ',' delimiter (character 15)", None),
        (b'{"prompt": "x"} {}', "not JSON: Extra data (character 17)", None),
        (b"", "it is empty; remove it", None),
        (b" \t\r", "it is empty; remove it", None),
        (bytes(9), "9 zero bytes and no text, as a crash leaves them; remove them", None),
        (b'["x"]', 'it is a list; it must be an object, such as {"prompt": "..."}', None),
        (b"null", 'it is null; it must be an object, such as {"prompt": "..."}', None),
        (b'{"prompt": "\xff"}', "not valid UTF-8 at byte 13", None),
        (TooLong(10_000_000), "10000000 bytes, and a line may have 8388608; shorten it", None),
        (DEEP, "nested more than 200 deep; make it flatter", None),
        (b'{"custom_id": "a", "prompt": "x", "top_p": NaN}', "not JSON: NaN is not a JSON number",
         "a"),
        (b'{"custom_id": "a", "prompt": "x", "beta": -Infinity}',
         "not JSON: -Infinity is not a JSON number", "a"),
        (b'{"custom_id": "a", "prompt": "x", "beta": 1e999}', "the number 1e999 is too large", "a"),
        (b'{"custom_id": "a", "seed": %s}' % (b"9" * 5000),
         "an integer of 5000 digits is too large; 64 bits are the most", "a"),
        (b'{"custom_id": "a", "prompt": "x", "prompt": "y"}', "key 'prompt' is given twice", "a"),
        (b'{"custom_id": "a", "metadata": {"k": 1, "l": 2, "l": 1}}', "key 'l' is given twice",
         "a"),
        (b'{"custom_id": "a", "prompt": "\\ud800"}',
         "prompt: not valid text: an unpaired surrogate at character 0", "a"),
        (b'{"custom_id": "\\uDC00", "prompt": "x"}',
         "custom_id: not valid text: an unpaired surrogate at character 0", None),
        (b'{"instruction": "x", "output": ["\\ud800"]}',
         "output[0]: not valid text: an unpaired surrogate at character 0", None),
        (b'{"custom_id": 5, "prompt": "x"}',
         "custom_id is 5; it must be a string of 1 to 512 characters", None),
        (b'{"custom_id": null, "prompt": "x"}',
         "custom_id is null; it must be a string of 1 to 512 characters", None),
        (b'{"custom_id": "", "prompt": "x"}',
         "custom_id is 0 characters; it must be a string of 1 to 512 characters", None),
        (b'{"custom_id": "%s"}' % (b"x" * 513),
         "custom_id is 513 characters; it must be a string of 1 to 512 characters", None),
        (b'{"task_id": 5, "prompt": "x"}',
         "task_id is 5; it must be a string of 1 to 512 characters", None),
        (b'{"task_id": 5, "custom_id": "a", "prompt": "x"}', "task_id is 5; it must be a string",
         "a"),
        (b'{"task_id": "a", "messages": []}', "field 'messages' is not known; leave it out", "a"),
        (b'{"custom_id": "a"}', "messages or prompt is missing", "a"),
        (b'{"custom_id": "a", "method": "POST"}', "body is missing", "a"),
        (b'{"custom_id": "a", "body": "x"}', 'a request is an object, not "x"', "a"),
        (b'{"custom_id": "a", "body": {}}', "messages or prompt is missing", "a"),
        (b'{"custom_id": "a", "method": "GET", "body": {}}', 'method is "GET"; it must be "POST"',
         "a"),
        (b'{"custom_id": "a", "url": "/v1/embeddings", "body": {}}',
         'url is "/v1/embeddings"; it must be /v1/chat/completions or /v1/completions', "a"),
        (b'{"custom_id": "a", "url": "/v1/completions", "body": {"messages": []}}',
         "messages: text to go on with is given as prompt", "a"),
        (b'{"custom_id": "a", "url": "/v1/chat/completions", "body": {"prompt": "x"}}',
         "prompt: a conversation is given as messages", "a"),
        (b'{"custom_id": "a", "body": {}, "prompt": "x"}',
         "field 'prompt' is not known; leave it out", "a"),
        (b'{"prompt": "x", "temprature": 1}',
         "field 'temprature' is not known; did you mean temperature?", None),
        (b'{"instrution": "x"}', "field 'instrution' is not known; did you mean instruction?",
         None),
        (b'{"instruction": "x", "tools": [1]}',
         'tools[0]: an object with "type": "function" and "function" is needed', None),
        (b'{"prompt": "x", "system": "y"}',
         "field 'system' is not known; give a message of the role system, or --system", None),
        (b'{"prompt": "x", "chat_template": "y"}',
         "field 'chat_template' is not known; it is one for the whole run: --chat-template", None),
        (b'{"instruction": "x", "colour": 1}', "field 'colour' is not known; leave it out", None),
        (b'{"instruction": 5}', "instruction is 5; it must be a string", None),
        (b'{"instruction": "x", "input": ["y"]}', "input is a list; it must be a string", None),
        (b'{"instruction": ""}', "the prompt is empty; give it some text", None),
        (b'{"prompt": "x", "max_tokens": "5"}',
         'max_tokens is "5"; it must be a whole number, 0 or more, or off', None),
        (b'{"prompt": "x", "model": "gpt-4o"}',
         'model "gpt-4o" is not loaded; say "demo" or leave it out', None),
        (b'{"prompt": ""}', "the prompt is empty; give it some text", None),
    ],
)  # fmt: skip
def test_each_kind_of_bad_line(data: bytes | TooLong, reason: str, custom_id: str | None) -> None:
    refused = bad(data)
    assert refused.reason == reason
    assert refused.custom_id == custom_id
    assert refused.row_id == (custom_id or "line-7")


def test_byte_order_marks_are_let_through() -> None:
    assert read_line(2, b'\xef\xbb\xbf{"prompt": "x"}', DEFAULTS).request.prompts[0] == "x"


def test_text_beyond_ascii_comes_through() -> None:
    told = "é 😀 \u2028"
    assert line({"prompt": told}).request.prompts[0] == told  # escaped
    data = json.dumps({"prompt": told}, ensure_ascii=False).encode()
    assert read_line(1, data, DEFAULTS).request.prompts[0] == told


SURROGATES = st.sampled_from(["\ud800", "a\udfff"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | SURROGATES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    *("custom_id", "method", "url", "body", "prompt", "messages", "instruction", "input"),
    *("task_id", "stop", "output", "max_tokens", "json_schema", "lambda"),
)
STRINGS = st.sampled_from(["a", "POST", "/v1/completions", "/v1/chat/completions", "tuned=1"])
RECORDS = st.dictionaries(st.sampled_from(KEYS), JSON | STRINGS, max_size=5)
RECORDS |= st.builds(lambda outer, body: {**outer, "body": body}, RECORDS, RECORDS)


def outcome(data: bytes, number: int) -> Line | BadLine:
    try:
        return read_line(number, data, DEFAULTS)
    except BadLine as error:
        assert error.number == number
        assert one_line(str(error), 10_000) == str(error)
        assert len(str(error)) < 600
        error.row_id.encode()
        return error


@given(st.binary(), st.integers(1, 3))
def test_any_bytes_give_a_line_or_a_bad_line(data: bytes, number: int) -> None:
    outcome(data, number)


@given(RECORDS, st.booleans())
def test_any_json_gives_a_line_or_a_bad_line(record: dict[str, Any], ascii_: bool) -> None:
    text = json.dumps(record, ensure_ascii=ascii_)
    found = outcome(text.encode(errors="surrogatepass"), 1)
    custom_id = record.get("custom_id")
    if found.custom_id not in (None, "line-1"):
        assert found.custom_id in (custom_id, record.get("task_id"))
    elif isinstance(custom_id, str) and ascii_ and 1 <= len(custom_id) <= 512:
        with pytest.raises(UnicodeEncodeError):  # why it could not be kept
            custom_id.encode()


@given(RECORDS, st.data())
def test_a_line_cut_anywhere_gives_a_line_or_a_bad_line(record: Any, data: st.DataObject) -> None:
    text = json.dumps(record).encode()
    outcome(text[: data.draw(st.integers(0, len(text)))], 1)


# Seeds and shards -----------------------------------------------------------------------------


def test_seeds_and_shards_are_the_same_for_ever() -> None:
    assert [seed_of(0, "a"), seed_of(1, "a"), seed_of(0, "é")] == [550623566, 9039314, 1137142876]
    assert [shard_of(custom_id, 5) for custom_id in "abcd"] == [1, 1, 2, 3]
    assert len(digest_of("a")) == 16


@given(st.integers(), st.text(), st.integers(1, 50))
def test_seeds_and_shards_are_in_range(seed: int, custom_id: str, count: int) -> None:
    assert 0 <= seed_of(seed, custom_id) < 2**32
    assert 0 <= shard_of(custom_id, count) < count


def test_shards_are_even_and_independent_of_seeds() -> None:
    ids = [f"line-{i}" for i in range(8000)]
    both = [(shard_of(i, 4), seed_of(0, i) % 4) for i in ids]
    counts = [both.count((a, b)) for a in range(4) for b in range(4)]
    assert max(abs(count - 500) for count in counts) < 110  # 5 standard deviations
    assert len({seed_of(0, i) for i in ids}) > 7990


# Sources --------------------------------------------------------------------------------------


def write(folder: Path, data: bytes, name: str = "in.jsonl") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def lines_of(path: str, limit: int | None = None) -> list[tuple[int, bytes | TooLong]]:
    with open_source(path) as source:
        first = list(source.lines(limit))
        assert list(source.lines(limit)) == first
        return first


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n \n", []),
        (b"a", [(1, b"a")]),
        (b"a\nb\n", [(1, b"a"), (2, b"b")]),
        (b"a\r\nb\r\n\r\n", [(1, b"a"), (2, b"b")]),
        (b"\n\na\n\n", [(1, b""), (2, b""), (3, b"a")]),
        (b"a\x0b\x1c\xe2\x80\xa8\n", [(1, b"a\x0b\x1c\xe2\x80\xa8")]),
    ],
)
def test_lines_of_a_file(tmp_path: Path, data: bytes, lines: list[tuple[int, bytes]]) -> None:
    assert lines_of(write(tmp_path, data)) == lines
    assert lines_of(write(tmp_path, gzip.compress(data), "any name")) == lines


def test_limit_and_digest(tmp_path: Path) -> None:
    data = b"a\nb\n\n  \nc" * 1000
    path = write(tmp_path, gzip.compress(data[:9]) + gzip.compress(data[9:]))  # two members
    digest = hashlib.sha256()
    with open_source(path) as source:
        assert list(source.lines(2, digest=digest)) == [(1, b"a"), (2, b"b")]
    assert digest.digest() == hashlib.sha256(data).digest()
    assert len(lines_of(path, 2)) == 2


def test_lines_up_to_the_limit_are_held_and_longer_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_LINE", 10)
    monkeypatch.setattr(reading, "_BUFFER", 4)
    for end in (b"", b"\n", b"\r\n", b"\nz"):
        found = lines_of(write(tmp_path, b"x" * 10 + end))
        assert found[0] == (1, b"x" * 10)
        assert lines_of(write(tmp_path, b"x" * 11 + end))[0] == (
            *(1, TooLong(11 + end.startswith(b"\r"))),
        )
    assert lines_of(write(tmp_path, b"x" * 50 + b"\nz")) == [(1, TooLong(50)), (2, b"z")]


def test_a_line_of_40_mb_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with path.open("wb") as file:
        for _ in range(40):
            file.write(b"x" * 1_000_000)
        file.write(b'\n{"prompt": "x"}')
    tracemalloc.start()
    try:
        checked = checked_file(str(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert checked.faults[0].reason == ("40000000 bytes, and a line may have 8388608; shorten it")
    assert checked.to_run == 1
    assert peak < 3 * MAX_LINE


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("pipe", [False, True])
def test_an_input_that_is_none_is_refused_soon(
    packed: bool, pipe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(data: bytes) -> str:
        data = gzip.compress(data) if packed else data
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        name = "-" if pipe else write(tmp_path, data)
        with pytest.raises(PromptError) as refused, open_source(name) as source:
            list(source.lines(1, digest=hashlib.sha256()))  # the others are read for the checksum
        return str(refused.value).partition(": ")[2]

    assert says(b"{}\n" + b"\n" * 30_000) == "lines 2 to 10002 are blank; remove them"
    monkeypatch.setattr(reading, "MAX_LINES", 3)
    many = "it has more than 10000000 lines; split it"
    assert says(b"{}\n" * 4) == many
    monkeypatch.setattr(reading, "MAX_LINE", 1 << 20)
    monkeypatch.setattr(reading, "MAX_SKIPPED", 3 << 20)
    monkeypatch.setattr(reading, "_BUFFER", 1 << 16)
    long, lines = (
        b"\0" * (2 << 20),
        "lines longer than 1 MiB, the last of them line {}, add up to more than 3",
    )
    assert says(long + b"\n" + long + b"\n" + long).startswith(lines.format(2))
    found = says(b"\0" * (9 << 20))
    assert found.startswith("line 1 has over 3 MiB" if pipe and not packed else lines.format(1))


def test_gzip_that_others_made_is_read_or_refused(tmp_path: Path) -> None:
    member, whole = gzip.compress(b'{"prompt": "x"}\n'), gzip.compress(b"a\n" * 1000)
    for data, lines in (
        (member * 3, 3),
        (member + bytes(512), 1),
        (gzip.compress(b"") + member, 1),
    ):
        assert len(lines_of(write(tmp_path, data))) == lines
    for data, says in (
        (member + b"rubbish", "damaged after line 1"),
        (member + member[:-3], "truncated after line 2"),
        (member[:4], "truncated in its first line"),
        (b"\x1f\x8b", "truncated in its first line"),
        (b"\x1f\x8b\xff\xff" * 9, "damaged in its first line"),
        (whole[:-6] + bytes(6), "damaged after line 1000"),  # the checksum
        (whole[:12] + b"\xff" + whole[13:], r"damaged (after|in its first) line"),
    ):
        with (
            open_source(write(tmp_path, data)) as source,
            pytest.raises(PromptError, match=f"the gzip file is {says}"),
        ):
            list(source.lines())


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a device of POSIX")
def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_SKIPPED", 1 << 20)
    with pytest.raises(PromptError, match=r"^/dev/zero: line 1 has over 1 MiB"):
        open_source("/dev/zero")
    assert lines_of("/dev/null") == []


def test_stdin_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"a\nb"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert lines_of("-") == [(1, b"a"), (2, b"b")]
    assert not stdin.closed


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_read_twice(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(b"a\nb"),))
    writer.start()
    assert lines_of(str(pipe)) == [(1, b"a"), (2, b"b")]
    writer.join()


def test_a_pipe_that_the_temporary_folder_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{}")))
    monkeypatch.setattr(reading.tempfile, "TemporaryFile", Full)
    monkeypatch.setattr(reading.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UsageError) as refused:
        open_source("-")
    assert str(refused.value).startswith(f"stdin: {tmp_path}, where a copy of it is kept, is full")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.jsonl: cannot be read: No such file"):
        open_source(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(UsageError, match="cannot be read"):
        open_source(str(tmp_path))


def test_a_torn_gzip_is_told_with_its_place(tmp_path: Path) -> None:
    rows = b"".join(hashlib.sha256(b"%d" % i).hexdigest().encode() + b"\n" for i in range(9000))
    whole = gzip.compress(rows)
    seen = []
    with (
        open_source(write(tmp_path, whole[: len(whole) // 2])) as source,
        pytest.raises(PromptError) as refused,
    ):
        seen.extend(source.lines())
    assert seen == list(enumerate(rows.splitlines(), 1))[: len(seen)]
    assert str(refused.value).endswith(
        f"in.jsonl: the gzip file is truncated after line {len(seen)}; get it again"
    )
    assert 3000 < len(seen) < 6000


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, b"a\n" * 1000)
    with open_source(path) as source:
        found = source.lines()
        next(found)
        write(tmp_path, b"a\n" * 999)
        with pytest.raises(UsageError, match="changed while it was being read; start again"):
            list(found)
        with pytest.raises(UsageError, match="changed while it was being read"):
            next(source.lines())


def test_a_second_pass_ends_the_first(tmp_path: Path) -> None:
    with open_source(write(tmp_path, b"a\nb\nc")) as source:
        first = source.lines()
        next(first)
        assert len(list(source.lines())) == 3
        with pytest.raises(RuntimeError):
            next(first)


# The check ------------------------------------------------------------------------------------


def checked_file(path: str, **options: Any) -> Checked:
    with open_source(path) as source:
        return check(source, DEFAULTS, **options)


def checked_records(folder: Path, *records: Any, **options: Any) -> Checked:
    data = b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in records)
    return checked_file(write(folder, data), **options)


def ask(custom_id: str) -> dict[str, str]:
    return {"custom_id": custom_id, "prompt": "x"}


def test_all_faults_are_told_together(tmp_path: Path) -> None:
    found = checked_records(
        tmp_path, ask("a"), b"", b"no", ask("b"), {"prompt": "x", "tool": 1}, ask("c")
    )
    assert (found.lines, found.to_run, list(found.bad)) == (6, 3, [2, 3, 5])
    assert [str(fault) for fault in found.faults] == [
        "line 2: it is empty; remove it",
        "line 3: not JSON: Expecting value (character 1)",
        "line 5: field 'tool' is not known; did you mean tools?",
    ]


def test_ids_that_are_given_twice_name_both_lines(tmp_path: Path) -> None:
    found = checked_records(tmp_path, ask("a"), ask("b"), ask("a"), {"prompt": "x"}, ask("a"))
    assert [str(fault) for fault in found.faults] == [
        "line 3: its custom_id 'a' is already used by line 1; give each line its own",
        "line 5: its custom_id 'a' is already used by line 1; give each line its own",
    ]
    first = found.faults[0]
    assert (first.custom_id, first.row_id) == ("a", "line-3")
    assert found.to_run == 3


def test_ids_that_are_made_are_compared_too(tmp_path: Path) -> None:
    found = checked_records(tmp_path, ask("line-2"), {"prompt": "x"})
    assert str(found.faults[0]) == (
        "line 2: custom_id 'line-2' is already used by line 1; give each line its own"
    )


def test_no_row_id_of_a_bad_line_is_that_of_another_line(tmp_path: Path) -> None:
    wrong = {"custom_id": "a", "prompt": 5}
    found = checked_records(tmp_path, ask("a"), wrong, ask("a"), {**wrong, "custom_id": "b"})
    assert [fault.row_id for fault in found.faults] == ["line-2", "line-3", "b"]
    assert [fault.row_id for fault in checked_records(tmp_path, wrong, ask("a")).faults] == [
        *("a", "line-2")
    ]


@pytest.mark.parametrize(
    ("bad_line", "row_id"),
    [({"prompt": 5}, "line-3-2"), ({"prompt": "x"}, "line-3-2"), (ask("line-2"), "line-3-2"),
     ({"custom_id": "own", "prompt": 5}, "own")],
)  # fmt: skip
def test_a_bad_line_takes_no_id_of_a_line_before_it(
    bad_line: Any, row_id: str, tmp_path: Path
) -> None:
    found = checked_records(tmp_path, ask("line-3"), ask("line-2"), bad_line)
    assert [fault.row_id for fault in found.faults] == [row_id]
    assert found.to_run == 2


def test_the_limit_leaves_lines_unread_but_in_the_checksum(tmp_path: Path) -> None:
    records = [ask("a"), ask("b"), b"no"]
    limited = checked_records(tmp_path, *records, limit=2)
    assert (limited.lines, limited.faults) == (2, [])
    assert limited.sha256 == checked_records(tmp_path, *records).sha256
    assert limited.sha256 == hashlib.sha256((tmp_path / "in.jsonl").read_bytes()).hexdigest()


def test_shards_share_out_the_lines(tmp_path: Path) -> None:
    records = [ask(f"r{i}") for i in range(50)]
    seen: list[str] = []
    counts = []
    for shard in ((1, 3), (2, 3), (3, 3)):

        def look(read: Line) -> None:
            seen.append(read.custom_id)

        counts.append(checked_records(tmp_path, *records, shard=shard, too_long=look).to_run)
    assert sum(counts) == 50
    assert sorted(seen) == sorted(record["custom_id"] for record in records)


def test_what_takes_models_is_told_like_the_rest(tmp_path: Path) -> None:
    found = checked_records(tmp_path, ask("a"), too_long=lambda _: "far too\nlong")
    assert [(str(f), f.custom_id) for f in found.faults] == [("line 1: far too long", "a")]


def test_nothing_to_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"in.jsonl: no requests in it"):
        checked_records(tmp_path, b"\n\n")


def test_a_file_of_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "MAX_FAULTS", 5)
    with pytest.raises(PromptError) as refused:
        checked_records(tmp_path, *[b"no"] * 9)
    assert str(refused.value).endswith(
        "more than 5 of its first 6 lines are bad; line 1: not JSON: Expecting value (character 1)"
    )


def test_faults_do_not_keep_their_lines(tmp_path: Path) -> None:
    records = [{"prompt": "x" * 100_000, "n": i} for i in range(200, 250)]
    path = write(tmp_path, b"\n".join(json.dumps(r).encode() for r in records))
    tracemalloc.start()
    try:
        checked = checked_file(path)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(checked.faults) == 50
    assert held < 1_000_000  # of 5 MB


# Prompts that fit -----------------------------------------------------------------------------

SHORT = 300


@pytest.fixture(scope="module")
def bound(demo_files: dict[str, Path]) -> Iterator[PromptBound]:
    sources = with_settings(file_sources(demo_files), n_ctx=SHORT)
    with prompt_bound(prepare(sources, trust=True), Recipe.upscale()) as made:
        yield made


def of(prompt: Any, **fields: Any) -> Line:
    return Line(1, "a", Request((prompt,), **fields))


def test_prompts_at_the_edge_of_the_context(bound: PromptBound, demo: Emulator) -> None:
    def tokens(prompt: str, raw: bool) -> int:
        return max(len(ids) for ids in demo.tokenize(prompt, raw=raw).values())

    for raw in (False, True):
        words = 1
        while tokens("word " * (words + 1), raw) < SHORT:
            words += 1
        fits, beyond = "word " * words, "word " * (words + 1)
        assert bound(of(fits, raw=raw)) is None
        assert (bound(of(beyond, raw=raw)) or "").endswith(
            f"has {tokens(beyond, raw)} tokens and its context holds 300, answer included; "
            "shorten the prompt or raise n_ctx"
        )


def test_prompts_that_surely_fit_are_not_tokenized(
    bound: PromptBound, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation: list[Message] = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
    ]
    assert bound(of(conversation)) is None

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a prompt was tokenized")

    monkeypatch.setattr(PromptReader, "ids", never)
    monkeypatch.setattr(Model, "tokenize", never)
    assert bound(of([*conversation[:1], {"role": "user", "content": "Goodbye"}])) is None
    assert bound(of("Once", raw=True)) is None
    with pytest.raises(AssertionError):
        bound(of("x" * 400, raw=True))


def test_the_bound_of_a_role_of_another_vocabulary(cross_files: dict[str, Path]) -> None:
    sources = with_settings(file_sources(cross_files), n_ctx=SHORT)
    prepared = prepare(sources, trust=True)
    with prompt_bound(prepared, Recipe.proxy(1.0)) as made, tokenizers(sources) as models:
        ids = models["base"].tokenize("Toulouse lies in France. " * 20)
        count = len(models["tuned"].tokenize("Toulouse lies in France. " * 20))
        assert len(ids) < SHORT < count  # in its tokens it does not fit
        assert f"tuned has {count + 1} tokens" in str(made(of(tuple(ids), raw=True)))  # and BOS
        assert made(of(tuple(ids[:40]), raw=True)) is None
        assert made(of("x", constraint=Constraint("regex", "Toulouse"))) is None
        beyond = 4095  # of base's vocabulary only
        assert made(of((beyond,), raw=True)) is None


CONTENTS = st.text(max_size=60) | st.lists(
    st.sampled_from(["<|im_start|>", "<|im_end|>", "<", "|>", " ", "\n", "é", "😀", "user"])
).map("".join)


@pytest.mark.parametrize("which", ["demo", "smol"])
def test_the_bound_is_a_bound(which: str, request: pytest.FixtureRequest) -> None:
    emulator: Emulator = request.getfixturevalue(which)
    made = PromptBound(emulator.models, emulator.prompts, dict.fromkeys(emulator.roles, SHORT))
    seen = []

    @given(
        st.lists(
            st.tuples(st.sampled_from(["system", "user", "assistant"]), CONTENTS),
            min_size=1,
            max_size=3,
        )
    )
    def holds(told: list[tuple[Any, str]]) -> None:
        messages: list[Message] = [{"role": role, "content": text} for role, text in told]
        most = max(len(ids) for ids in emulator.tokenize(messages).values())
        limit = made._bound(messages, False)
        assert most <= limit
        seen.append(limit)
        text = told[0][1]
        if text.strip():
            most = max(len(ids) for ids in emulator.tokenize(text, raw=True).values())
            assert most <= made._bound(text, True)

    holds()
    assert min(seen) < SHORT  # it says something


TEMPLATES = {
    "twice": "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
    "escaped": "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
    "upper": "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_templates_that_change_contents_are_run(demo: Emulator, template: str) -> None:
    prompts = dict.fromkeys(demo.roles, RolePrompt(format=template))
    made = PromptBound(demo.models, prompts, dict.fromkeys(demo.roles, SHORT))
    text = '"' * 200
    most = max(
        len(i)
        for i in PromptReader(demo.models, prompts, dict.fromkeys(prompts, 512)).ids(text).values()
    )
    assert (made(of(text)) is None) == (most < SHORT)
    assert made._bound("x", False) == float("inf")


def test_what_a_template_refuses_is_told(demo: Emulator) -> None:
    refusing = "{{ raise_exception('no system here') if messages[0].role == 'system' }}x"
    made = PromptBound(
        demo.models,
        dict.fromkeys(demo.roles, RolePrompt(format=refusing)),
        dict.fromkeys(demo.roles, SHORT),
    )
    message: Message = {"role": "system", "content": "x"}
    assert "rejects the conversation (line 1): no system here" in (made(of((message,))) or "")


def test_grammars_are_compiled(bound: PromptBound) -> None:
    def told(kind: Kind, text: str) -> str | None:
        return bound(of("x", constraint=Constraint(kind, text)))

    assert told("grammar", 'root ::= "a"') is None
    assert told("json_schema", '{"type": "integer"}') is None
    assert (told("grammar", "root ::= nothing") or "").startswith("grammar: line 1: ")
    assert told("grammar", " ") == "grammar: the text is empty"
    assert told("lark", "start: <nothing>") is not None  # no token of that name


def test_a_vocabulary_alone_gives_the_same_tokens(smol: Emulator, smollm2: Path) -> None:
    with Model(smollm2, vocab_only=True) as model:
        reader = PromptReader(
            dict.fromkeys(smol.roles, model), smol.prompts, dict.fromkeys(smol.roles, 512)
        )
        for text in ("Hello there, é 😀", "<|im_start|>user"):
            assert reader.ids(text) == smol.tokenize(text)
            assert reader.ids(text, raw=True) == smol.tokenize(text, raw=True)
        assert (model.n_ctx_train, model.n_layers) == (0, 0)
