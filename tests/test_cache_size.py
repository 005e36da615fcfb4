"""Sizes of KV caches, against sums worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import write_model

from eftlocal.errors import UsageError
from eftlocal.gguf_file.header import kv_cache_bytes, read_header


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_sizes(model: Path) -> None:
    header = read_header(write_model(model))  # 2 layers, 2 heads of 8: 16 values a row
    assert sum(kv_cache_bytes(header, 512)) == 2 * 512 * 16 * 2 * 2
    assert sum(kv_cache_bytes(header, 500, 3)) == 3 * sum(kv_cache_bytes(header, 512))
    assert sum(kv_cache_bytes(header, 512, type_v="f32")) == 2 * 512 * 16 * (2 + 4)


def test_quantized(model: Path) -> None:
    header = read_header(write_model(model, n_embd=64, n_heads_kv=4))  # 64 values a row
    expected = 2 * 256 * 2 * (64 // 32) * 34
    assert sum(kv_cache_bytes(header, 256, type_k="q8_0", type_v="q8_0")) == expected


def test_unknown_type(model: Path) -> None:
    header = read_header(write_model(model))
    with pytest.raises(UsageError, match="'q3_k' is unknown: use one of f32, f16"):
        sum(kv_cache_bytes(header, 256, type_k="q3_k"))


def test_latent_attention_keeps_only_the_compressed_key(model: Path) -> None:
    more = {"deepseek2.attention.key_length": 576, "deepseek2.attention.key_length_mla": 192}
    header = read_header(write_model(model, arch="deepseek2", n_heads_kv=1, more=more))
    assert sum(kv_cache_bytes(header, 256)) == 2 * 256 * 576 * 2


def test_recurrent_state_does_not_grow_with_the_context(model: Path) -> None:
    more = {"mamba.ssm.inner_size": 64, "mamba.ssm.state_size": 16, "mamba.ssm.conv_kernel": 4}
    header = read_header(write_model(model, arch="mamba", more=more))
    assert sum(kv_cache_bytes(header, 256)) == sum(kv_cache_bytes(header, 4096))
    assert sum(kv_cache_bytes(header, 256, 2)) == 2 * 2 * 4 * (64 * 16 + 3 * 64)


def test_layers_may_differ(model: Path) -> None:
    header = read_header(write_model(model, n_layers=3, n_heads_kv=[2, 0, 4]))
    assert kv_cache_bytes(header, 256) == (256 * 2 * 8 * 2 * 2, 0, 256 * 4 * 8 * 2 * 2)
