"""Files that are torn, forged or no GGUF at all: each refused in one line, in bounded memory."""

from __future__ import annotations

import os
import struct
import sys
import tracemalloc
from pathlib import Path

import pytest
from fuzzing.tiny_models import write_tiny_model
from gguf_files import (
    ARCH,
    ARRAY,
    STRING,
    U8,
    U32,
    U64,
    entry,
    raw,
    tensor,
    text,
    u32,
    u64,
    write,
    write_model,
)
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.errors import ModelFileError
from eftlocal.gguf_file import parser as gguf_parser
from eftlocal.gguf_file.check import checked_model
from eftlocal.gguf_file.header import kv_cache_bytes, read_header


def refusal(path: Path, data: bytes) -> str:
    """The message with which these bytes are refused: one line that names the file."""
    with pytest.raises(ModelFileError) as caught:
        read_header(write(path, data))
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_header_longer_than_the_first_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_header(write_model(model))
    monkeypatch.setattr(gguf_parser, "_FIRST_READ", 64)
    assert read_header(model).tensors == expected.tensors


def test_empty_array(model: Path) -> None:
    empty = [entry("a.s", ARRAY, u32(STRING) + u64(0)), entry("a.n", ARRAY, u32(U8) + u64(0))]
    metadata = read_header(write(model, raw([ARCH, *empty]))).metadata
    assert len(metadata["a.s"]) == len(metadata["a.n"]) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"GG", "cut short after 2 bytes"),
        (b"  <!DOCTYPE html><html>", "saved web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab", "git-lfs pointer"),
        (b"PK\x03\x04abc", "PyTorch checkpoint or zip"),
        (b"\x80\x02}q\x00", "PyTorch checkpoint or zip"),
        (u64(40) + b'{"__metadata__":{"format":"pt"}}' + bytes(40), "safetensors"),
        (b"tjgg" + bytes(40), "old GGML format"),
        (bytes(4096), "unfinished download"),
        (b"Entry not found", "is text"),
        (b"\x7fELF\x01\x02\x03\x00", "not a GGUF file"),
    ],
)
def test_not_a_gguf(model: Path, content: bytes, said: str) -> None:
    assert said in refusal(model, content)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        read_header(tmp_path / "none.gguf")
    places = [tmp_path]
    if sys.platform != "win32":  # a pipe of POSIX, which is not waited for
        os.mkfifo(tmp_path / "model.gguf")
        places.append(tmp_path / "model.gguf")
    for place in places:
        with pytest.raises(ModelFileError, match="is a folder, a pipe or a device"):
            read_header(place)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (raw(version=1), "version 1"),
        (raw(version=4), "version 4"),
        (raw(version=0), "big-end"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    ],
)
def test_versions(model: Path, content: bytes, said: str) -> None:
    assert said in refusal(model, content)
    assert read_header(write(model, raw([ARCH], version=2))).architecture == "llama"


HUGE = 2**62
FORGED = {
    "number of keys": (raw(n_entries=2**63), "metadata keys"),
    "number of tensors": (raw(n_tensors=2**40), "tensors"),
    "plausible number of keys": (raw(n_entries=5000), "cut short"),
    "plausible number of tensors": (raw(n_tensors=5000), "cut short"),
    "string length": (raw([entry("a", STRING, u64(HUGE))]), "cut short"),
    "string array": (raw([entry("a", ARRAY, u32(STRING) + u64(HUGE))]), "cut short"),
    "string in an array": (
        raw([entry("a", ARRAY, u32(STRING) + u64(2) + u64(HUGE))], data=64),
        "cut short",
    ),
    "last string in an array": (
        raw([entry("a", ARRAY, u32(STRING) + u64(1) + u64(2**63))], data=64),
        "cut short",
    ),
    "number array": (raw([entry("a", ARRAY, u32(U64) + u64(HUGE))]), "cut short"),
    "key length": (raw([u64(HUGE)], data=64), "has a name of"),
    "empty key": (raw([entry("", U32, u32(1))]), "has a name of 0"),
    "value type": (raw([entry("a", 13, u32(1))]), "unknown value type 13"),
    "array of arrays": (raw([entry("a", ARRAY, u32(ARRAY) + u64(1))]), "array of arrays"),
    "array type": (raw([entry("a", ARRAY, u32(99) + u64(1))]), "unknown value type 99"),
    "key twice": (raw([entry("a", U32, u32(1))] * 2), "is there twice"),
    "alignment 0": (raw([entry("general.alignment", U32, u32(0))]), "general.alignment is 0"),
    "alignment 24": (raw([entry("general.alignment", U32, u32(24))]), "general.alignment is 24"),
    "alignment text": (raw([entry("general.alignment", STRING, text("x"))]), "general.alignment"),
    "no dimensions": (raw([], [tensor("t", ())], data=128), "0 dimensions"),
    "dimensions": (raw([], [tensor("t", (1,) * 5)], data=128), "5 dimensions"),
    "forged dimensions": (raw([], [tensor("t", dims=2**31)], data=128), "dimensions"),
    "dimension 0": (raw([], [tensor("t", (32, 0))], data=128), "impossible shape"),
    "negative dimension": (raw([], [tensor("t", (2**64 - 1,))], data=128), "bytes are missing"),
    "product past 64 bits": (raw([], [tensor("t", (2**40, 2**40))], data=128), "are missing"),
    "product that wraps to 32": (raw([], [tensor("t", (2**32 + 32, 2**32))]), "are missing"),
    "not whole blocks": (raw([], [tensor("t", (33,), kind=2)], data=128), "impossible shape"),
    "tensor type": (raw([], [tensor("t", kind=99)], data=128), "type 99"),
    "retired tensor type": (raw([], [tensor("t", kind=4)], data=128), "type 4"),
    "misaligned offset": (raw([], [tensor("t", offset=4)], data=256), "data of tensor t is at 4"),
    "offset past the end": (raw([], [tensor("t", offset=2**60)], data=128), "data of tensor t"),
    "overlap": (raw([], [tensor("t"), tensor("u", offset=0)], data=256), "data of tensor u"),
    "tensor twice": (raw([], [tensor("t"), tensor("t", offset=128)], data=256), "there twice"),
    "long tensor name": (raw([], [tensor("t" * 64)], data=128), "name of 64 bytes"),
    "vocabulary size": (
        raw([ARCH, entry("llama.vocab_size", U64, u64(2**60))]), "its vocabulary"
    ),
    "tokens that are numbers": (
        raw([ARCH, entry("tokenizer.ggml.tokens", ARRAY, u32(U32) + u64(1) + u32(7))]),
        "its vocabulary",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_forged(model: Path, case: str) -> None:
    content, said = FORGED[case]
    tracemalloc.start()
    message = refusal(model, content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said in message
    assert peak < 1 << 20


def test_header_limit(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = raw([entry("a", STRING, text("x" * 5000))])
    monkeypatch.setattr(gguf_parser, "HEADER_LIMIT", 4096)
    monkeypatch.setattr(gguf_parser, "_FIRST_READ", 1024)
    assert "more than the 4,096" in refusal(model, content)


def test_truncated_weights_say_how_much_is_missing(model: Path) -> None:
    content = write_model(model).read_bytes()
    end = max(t.offset + t.nbytes for t in read_header(model).tensors)
    message = refusal(model, content[: end - 100])
    assert f"100 of {end:,} bytes are missing" in message and "download it again" in message


VALID = raw(
    [
        ARCH,
        entry("llama.block_count", U32, u32(2)),
        entry("llama.embedding_length", U32, u32(32)),
        entry("llama.attention.head_count", U32, u32(4)),
        entry("tokenizer.ggml.tokens", ARRAY, u32(STRING) + u64(3) + text("a") + text("b") * 2),
        entry("tokenizer.ggml.token_type", ARRAY, u32(5) + u64(3) + bytes(12)),
    ],
    [tensor("token_embd.weight", (32, 3)), tensor("blk.0.attn_k.weight", (32,), 8, 384)],
    data=384 + 34,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole model, which is let in."""
    path = write_tiny_model(tmp_path_factory.mktemp("sound") / "model.gguf")
    checked_model(path)
    return path.read_bytes()


@given(
    cut=st.integers(0, len(VALID)),
    changes=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=8)), max_size=4
    ),
    whole=st.booleans(),
)
def test_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory,
    sound: bytes,
    cut: int,
    changes: list[tuple[int, bytes]],
    whole: bool,
) -> None:
    content = bytearray(sound if whole else VALID)
    for at, new in changes:
        content[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content[:cut] if cut % 2 else content)
    tracemalloc.start()
    try:
        header = read_header(path)
        assert header.n_vocab + header.weight_bytes >= 0
        assert min(kv_cache_bytes(checked_model(path), 256)) >= 0
    except ModelFileError as error:
        assert str(error).startswith(str(path))
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4 << 20


def test_every_truncation_is_refused(model: Path) -> None:
    end = max(t.offset + t.nbytes for t in read_header(write(model, VALID)).tensors)
    for cut in [*range(0, end - 418, 2), *range(end - 418, end, 32)]:
        with pytest.raises(ModelFileError):
            read_header(write(model, VALID[:cut]))
