"""Reading GGUF headers: what is read from whole files, what is said of torn and forged ones."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import WORDS, entry, raw, tensor, text, write_model
from hypothesis import given
from hypothesis import strategies as st

from eftlocal import gguf_header
from eftlocal.errors import ModelFileError, UsageError
from eftlocal.gguf_header import StringArray, kv_cache_bytes, kv_cache_bytes_by_layer, read_header

U8, U32, STRING, ARRAY, U64 = 0, 4, 8, 9, 10
ARCH = entry("general.architecture", STRING, text("llama"))


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


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


def test_reads_what_the_gguf_package_reads(model: Path) -> None:
    write_model(model, more={"tokenizer.chat_template": "{{ x }}", "a.list": [1, 2, 3],
                             "a.true": True, "a.half": 0.5, "a.names": ["é", ""]})  # fmt: skip
    header, oracle = read_header(model), gguf.GGUFReader(model)
    own = {field.name for field in oracle.fields.values() if not field.name.startswith("GGUF.")}
    assert set(header.metadata) == own
    for key, value in header.metadata.items():
        expected = oracle.fields[key].contents()
        assert (list(value) if isinstance(value, StringArray | np.ndarray) else value) == expected
    assert [(t.name, list(t.shape), t.type, t.nbytes, t.offset) for t in header.tensors] == [
        (t.name, t.shape.tolist(), t.tensor_type, t.n_bytes, t.data_offset) for t in oracle.tensors
    ]
    assert header.version == 3 and header.file_size == model.stat().st_size


def test_properties(model: Path) -> None:
    write_model(model, n_layers=3, tied=False, more={"tokenizer.chat_template": "{{ x }}"})
    header = read_header(model)
    assert (header.architecture, header.name, header.quantization) == ("llama", "tiny", "F32")
    assert (header.n_layers, header.n_embd, header.n_ctx_train) == (3, 32, 512)
    assert (header.n_heads, header.n_heads_kv) == ((4,) * 3, (2,) * 3)
    assert (header.key_length, header.value_length, header.n_ff) == (8, 8, (64,) * 3)
    assert header.n_vocab == len(WORDS) and header.chat_template == "{{ x }}"
    layer, matrix = 4 * (16 * 32 + 64 * 32), 4 * 32 * len(WORDS)
    assert [header.layer_bytes(i) for i in range(4)] == [layer] * 3 + [0]
    assert header.weight_bytes == 3 * layer + 2 * matrix + 4 * 32
    assert header.other_bytes == header.weight_bytes - 3 * layer
    assert header.n_params == header.weight_bytes // 4
    assert header.output_bytes == matrix and not header.has_tied_output
    assert not header.is_recurrent_or_hybrid and not header.is_adapter
    assert header.sliding_window is None and header.shards == ()


def test_counts_per_layer_may_differ(model: Path) -> None:
    header = read_header(write_model(model, n_layers=3, n_heads_kv=[2, 0, 4]))
    assert header.n_heads_kv == (2, 0, 4)
    assert kv_cache_bytes_by_layer(header, 256) == (256 * 2 * 8 * 2 * 2, 0, 256 * 4 * 8 * 2 * 2)


def test_too_few_counts_for_the_layers(model: Path) -> None:
    header = read_header(write_model(model, n_layers=3, n_heads_kv=[2, 2]))
    with pytest.raises(ModelFileError, match="head_count_kv must be 3 counts"):
        _ = header.n_heads_kv


def test_missing_key_is_named(model: Path) -> None:
    header = read_header(write(model, raw([ARCH])))
    with pytest.raises(ModelFileError, match=r"has no llama\.block_count"):
        _ = header.n_layers
    nothing = read_header(write(model, raw()))
    with pytest.raises(ModelFileError, match=r"has no general\.architecture"):
        _ = nothing.n_layers
    assert nothing.name == "model"


@pytest.mark.parametrize("value", [0, 513, 2**32 - 1])
def test_impossible_layer_count(model: Path, value: int) -> None:
    header = read_header(write(model, raw([ARCH, entry("llama.block_count", U32, u32(value))])))
    with pytest.raises(ModelFileError, match=r"llama\.block_count is"):
        _ = header.n_layers


def test_key_of_the_wrong_type(model: Path) -> None:
    header = read_header(write(model, raw([entry("general.architecture", U32, u32(1))])))
    with pytest.raises(ModelFileError, match=r"general\.architecture is not of type str"):
        _ = header.architecture


def test_without_arrays_the_vocabulary_is_only_counted(model: Path) -> None:
    tokens = [f"t{i}" for i in range(5000)]
    write_model(model, tokens=tokens, n_heads_kv=[1, 2])
    header = read_header(model, arrays=False)
    assert header.n_vocab == 5000
    assert "tokenizer.ggml.tokens" not in header.metadata
    assert header.n_heads_kv == (1, 2)


def test_string_array_is_a_sequence(model: Path) -> None:
    header = read_header(write_model(model, tokens=["a", b"\xff", "", "émile"]))
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert list(tokens) == ["a", "\ufffd", "", "émile"] and tokens[-1] == "émile"
    assert tokens[1:3] == ["\ufffd", ""]
    assert tokens.to_bytes() == [b"a", b"\xff", b"", "émile".encode()]
    with pytest.raises(IndexError):
        tokens[4]


def test_header_longer_than_the_first_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_header(write_model(model))
    monkeypatch.setattr(gguf_header, "_FIRST_READ", 64)
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


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_header(tmp_path)


@pytest.mark.parametrize(("version", "said"), [(1, "version 1"), (4, "version 4"), (0, "big-end")])
def test_versions(model: Path, version: int, said: str) -> None:
    assert said in refusal(model, raw(version=version))


def test_big_endian(model: Path) -> None:
    assert "big-endian" in refusal(model, b"GGUF" + struct.pack(">IQQ", 3, 0, 0))


def test_version_2_is_read(model: Path) -> None:
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
    monkeypatch.setattr(gguf_header, "HEADER_LIMIT", 4096)
    monkeypatch.setattr(gguf_header, "_FIRST_READ", 1024)
    assert "more than the 4,096" in refusal(model, content)


def test_truncated_weights_say_how_much_is_missing(model: Path) -> None:
    content = write_model(model).read_bytes()
    end = max(t.offset + t.nbytes for t in read_header(model).tensors)
    message = refusal(model, content[: end - 100])
    assert f"100 of {end:,} bytes are missing" in message and "download it again" in message


def test_adapter(model: Path) -> None:
    header = read_header(write_model(model, more={"general.type": "adapter"}))
    assert header.is_adapter


@pytest.mark.parametrize(
    ("arch", "more"),
    [("mamba", {}), ("qwen35", {}), ("new", {"new.ssm.state_size": 4}), ("rwkv7", {})],
)
def test_recurrent(model: Path, arch: str, more: dict[str, int]) -> None:
    assert read_header(write_model(model, arch=arch, more=more)).is_recurrent_or_hybrid


def test_quantization_is_guessed_without_a_file_type(model: Path) -> None:
    block = tensor("t", (32,), kind=8)
    assert read_header(write(model, raw([ARCH], [block], data=34))).quantization == "Q8_0"
    assert read_header(write(model, raw([ARCH]))).quantization == "unknown"


class TestShards:
    def parts(self, folder: Path) -> list[Path]:
        """Two files as llama.cpp's splitter writes them."""
        parts = []
        for number in (0, 1):
            count = entry("split.count", 2, struct.pack("<H", 2))
            tensors = [tensor(f"blk.{number}.attn_k.weight", (64,))]
            path = folder / f"big-{number + 1:05d}-of-00002.gguf"
            parts.append(write(path, raw([ARCH, count], tensors, data=256)))
        return parts

    def test_sizes_are_summed(self, tmp_path: Path) -> None:
        parts = self.parts(tmp_path)
        header = read_header(parts[0])
        assert header.shards == tuple(parts) and header.weight_bytes == 512
        assert header.file_size == sum(part.stat().st_size for part in parts)
        assert header.layer_bytes(1) == 256

    def test_missing_part_is_named(self, tmp_path: Path) -> None:
        first, second = self.parts(tmp_path)
        second.unlink()
        with pytest.raises(ModelFileError, match=r"big-00002-of-00002\.gguf: is missing"):
            read_header(first)

    def test_later_part_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match=r"give big-00001-of-00002\.gguf"):
            read_header(self.parts(tmp_path)[1])

    def test_renamed_part(self, tmp_path: Path) -> None:
        renamed = self.parts(tmp_path)[0].rename(tmp_path / "model.gguf")
        with pytest.raises(ModelFileError, match="must end in -00001-of-00002"):
            read_header(renamed)

    def test_truncated_part_is_named(self, tmp_path: Path) -> None:
        first, second = self.parts(tmp_path)
        second.write_bytes(second.read_bytes()[:-1])
        with pytest.raises(ModelFileError, match=r"big-00002.*1 of .* bytes are missing"):
            read_header(first)


class TestCache:
    def test_sizes(self, model: Path) -> None:
        header = read_header(write_model(model))  # 2 layers, 2 heads of 8: 16 values a row
        assert kv_cache_bytes(header, 512) == 2 * 512 * 16 * 2 * 2
        assert kv_cache_bytes(header, 500, 3) == 3 * kv_cache_bytes(header, 512)
        assert kv_cache_bytes(header, 512, type_v="f32") == 2 * 512 * 16 * (2 + 4)

    def test_quantized(self, model: Path) -> None:
        header = read_header(write_model(model, n_embd=64, n_heads_kv=4))  # 64 values a row
        expected = 2 * 256 * 2 * (64 // 32) * 34
        assert kv_cache_bytes(header, 256, type_k="q8_0", type_v="q8_0") == expected

    def test_unknown_type(self, model: Path) -> None:
        header = read_header(write_model(model))
        with pytest.raises(UsageError, match="'q3_k' is unknown: use one of f32, f16"):
            kv_cache_bytes(header, 256, type_k="q3_k")

    def test_latent_attention_keeps_only_the_compressed_key(self, model: Path) -> None:
        more = {"deepseek2.attention.key_length": 576, "deepseek2.attention.key_length_mla": 192}
        header = read_header(write_model(model, arch="deepseek2", n_heads_kv=1, more=more))
        assert kv_cache_bytes(header, 256) == 2 * 256 * 576 * 2

    def test_recurrent_state_does_not_grow_with_the_context(self, model: Path) -> None:
        more = {"mamba.ssm.inner_size": 64, "mamba.ssm.state_size": 16, "mamba.ssm.conv_kernel": 4}
        header = read_header(write_model(model, arch="mamba", more=more))
        assert kv_cache_bytes(header, 256) == kv_cache_bytes(header, 4096)
        assert kv_cache_bytes(header, 256, 2) == 2 * 2 * 4 * (64 * 16 + 3 * 64)


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


@given(
    cut=st.integers(0, len(VALID)),
    changes=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=8)), max_size=4
    ),
)
def test_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, cut: int, changes: list[tuple[int, bytes]]
) -> None:
    content = bytearray(VALID)
    for at, new in changes:
        content[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(content[:cut] if cut % 2 else content)
    tracemalloc.start()
    try:
        header = read_header(path)
        assert len(header.name) + header.n_vocab + header.weight_bytes >= 0
        assert kv_cache_bytes(header, 256) >= 0
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
