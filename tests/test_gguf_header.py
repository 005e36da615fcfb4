"""What a header says of a model: against the gguf package, and where a file lacks it; shards."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import ARCH, I32, U16, U32, WORDS, entry, raw, tensor, u32, write, write_model

from eftlocal.errors import ModelFileError, UsageError
from eftlocal.gguf_file.check import checked_model
from eftlocal.gguf_file.header import kv_cache_bytes, read_header
from eftlocal.gguf_file.parser import StringArray


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
        if isinstance(value, StringArray):
            value = [text.decode() for text in value.to_bytes()]
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected
    assert [(t.name, list(t.shape), t.type, t.nbytes, t.offset) for t in header.tensors] == [
        (t.name, t.shape.tolist(), t.tensor_type, t.n_bytes, t.data_offset) for t in oracle.tensors
    ]
    assert header.version == 3 and header.file_size == model.stat().st_size


def test_properties(model: Path) -> None:
    write_model(model, n_layers=3, tied=False, more={"tokenizer.chat_template": "{{ x }}"})
    header = read_header(model)
    assert (header.architecture, header.metadata["general.name"]) == ("llama", "tiny")
    assert (header.n_layers, header.n_embd, header.n_ctx_train) == (3, 32, 512)
    assert (header.n_heads, header.n_heads_kv) == ((4,) * 3, (2,) * 3)
    assert (header.key_length, header.value_length, header.n_ff) == (8, 8, (64,) * 3)
    assert header.n_vocab == len(WORDS) and header.chat_template == "{{ x }}"
    layer, matrix = 4 * (16 * 32 + 64 * 32), 4 * 32 * len(WORDS)
    assert [header.layer_bytes(i) for i in range(4)] == [layer] * 3 + [0]
    assert header.weight_bytes == 3 * layer + 2 * matrix + 4 * 32
    assert header.other_bytes == header.weight_bytes - 3 * layer
    assert header.output_bytes == matrix and not header.has_tied_output
    assert not header.is_adapter
    assert header.shards == ()


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([ARCH], r"has no llama\.context_length"),
        ([], r"has no general\.architecture"),
        ([entry("general.architecture", U32, u32(1))], "is of type uint32, and llama.cpp reads"),
        ([entry("general.type", U32, u32(1))], "general.type is of type uint32"),
    ],
)
def test_a_wrong_key_is_named(model: Path, entries: list[bytes], says: str) -> None:
    with pytest.raises(ModelFileError, match=says):
        checked_model(write(model, raw(entries)))


@pytest.mark.parametrize(
    "more",
    [
        {"block_count": 0},
        {"block_count": 513},
        {"block_count": 2**32 - 1},
        {"full_attention_interval": 2**25},
        {"wkv.head_size": 2**25},
        {"ssm.state_size": 2**25},
        {"shortconv.l_cache": 2**31},
        {"attention.key_length": 2**25},
    ],
)
def test_impossible_numbers_are_refused_at_the_door(model: Path, more: dict[str, int]) -> None:
    more = {f"llama.{key}": value for key, value in more.items()}
    with pytest.raises(ModelFileError, match=re.escape(next(iter(more)))):
        checked_model(write_model(model, more=more))


def test_counts_per_layer_may_differ(model: Path) -> None:
    header = read_header(write_model(model, n_layers=3, n_heads_kv=[2, 0, 4]))
    assert header.n_heads_kv == (2, 0, 4)
    assert kv_cache_bytes(header, 256) == (256 * 2 * 8 * 2 * 2, 0, 256 * 4 * 8 * 2 * 2)
    with pytest.raises(UsageError, match="'q3_k' is unknown: use one of f32, f16"):
        kv_cache_bytes(header, 256, type_k="q3_k")
    with pytest.raises(ModelFileError, match="head_count_kv has 2 values for 3 layers"):
        checked_model(write_model(model, n_layers=3, n_heads_kv=[2, 2]))


def test_texts_of_an_array_are_bytes(model: Path) -> None:
    header = read_header(write_model(model, tokens=["a", b"\xff", "", "émile"]))
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 4 and tokens.to_bytes() == [b"a", b"\xff", b"", "émile".encode()]
    assert not tokens.has_nul()


def test_shards(tmp_path: Path) -> None:
    """Two files as llama.cpp's splitter writes them; what is wrong with one is told of it."""
    parts = []
    for number in (0, 1):
        split = [
            entry("split.no", U16, struct.pack("<H", number)),
            entry("split.count", U16, struct.pack("<H", 2)),
            entry("split.tensors.count", I32, struct.pack("<i", 2)),
        ]
        tensors = [tensor(f"blk.{number}.attn_k.weight", (64,))]
        path = tmp_path / f"big-{number + 1:05d}-of-00002.gguf"
        parts.append(write(path, raw([ARCH, *split], tensors, data=256)))
    header = read_header(parts[0])
    assert header.shards == tuple(parts) and header.weight_bytes == 512
    assert header.file_size == sum(part.stat().st_size for part in parts)
    assert header.layer_bytes(1) == 256

    def refused(path: Path, says: str) -> None:
        with pytest.raises(ModelFileError, match=says):
            read_header(path)

    refused(parts[1], r"give big-00001-of-00002\.gguf")
    parts[1].write_bytes(parts[1].read_bytes()[:-1])
    refused(parts[0], r"big-00002.*1 of .* bytes are missing")
    parts[1].unlink()
    refused(parts[0], r"big-00002-of-00002\.gguf: is missing")
    refused(parts[0].rename(tmp_path / "model.gguf"), "must end in -00001-of-00002")


def test_sizes(model: Path) -> None:
    header = read_header(write_model(model))  # 2 layers, 2 heads of 8: 16 values a row
    assert sum(kv_cache_bytes(header, 512)) == 2 * 512 * 16 * 2 * 2
    assert sum(kv_cache_bytes(header, 500, 3)) == 3 * sum(kv_cache_bytes(header, 512))
    assert sum(kv_cache_bytes(header, 512, type_v="f32")) == 2 * 512 * 16 * (2 + 4)
    header = read_header(write_model(model, n_embd=64, n_heads_kv=4))  # 64 values a row
    expected = 2 * 256 * 2 * (64 // 32) * 34
    assert sum(kv_cache_bytes(header, 256, type_k="q8_0", type_v="q8_0")) == expected


def test_latent_attention_keeps_only_the_compressed_key(model: Path) -> None:
    more = {"deepseek2.attention.key_length": 576, "deepseek2.attention.key_length_mla": 192}
    header = read_header(write_model(model, arch="deepseek2", n_heads_kv=1, more=more))
    assert sum(kv_cache_bytes(header, 256)) == 2 * 256 * 576 * 2


def test_recurrent_state_does_not_grow_with_the_context(model: Path) -> None:
    more = {"mamba.ssm.inner_size": 64, "mamba.ssm.state_size": 16, "mamba.ssm.conv_kernel": 4}
    header = read_header(write_model(model, arch="mamba", more=more))
    assert sum(kv_cache_bytes(header, 256)) == sum(kv_cache_bytes(header, 4096))
    assert sum(kv_cache_bytes(header, 256, 2)) == 2 * 2 * 4 * (64 * 16 + 3 * 64)
