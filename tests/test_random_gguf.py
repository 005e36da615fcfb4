"""The random models that benchmarks time: each quantization loads and computes like a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import LlamaFileType
from random_gguf import LOGITS_STD, QUANTIZATIONS, SHAPES, write_random_model

from eftlocal.gguf_file.header import read_header
from eftlocal.llama import Context, Model, Span

TEXT = "Any text at all, Größe 42 🙂\n"
TINY = SHAPES["tiny"]


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_decodes_as_a_trained_model_would(tmp_path: Path, quantization: str) -> None:
    path = write_random_model(tmp_path / "tiny.gguf", "tiny", quantization)
    with Model(path) as model, Context(model, n_ctx=64, n_threads=1) as context:
        assert model.vocab_size == TINY.n_vocab and model.n_layers == TINY.n_layers
        tokens = model.tokenize(TEXT, add_bos=True)
        assert tokens[0] == model.bos and b"".join(map(model.piece, tokens)) == TEXT.encode()
        logits = context.decode([Span(0, tokens, len(tokens))])
        assert logits.shape == (len(tokens), TINY.n_vocab) and np.isfinite(logits).all()
        # Neither flat nor one-hot, and no ties that greedy decoding would break at random.
        assert 0.5 * LOGITS_STD < logits.std() < 2 * LOGITS_STD
        best = np.sort(logits, axis=1)[:, -2:]
        assert (best[:, 0] < best[:, 1]).all()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_header_tells_the_quantization(tmp_path: Path, quantization: str) -> None:
    header = read_header(write_random_model(tmp_path / "tiny.gguf", "tiny", quantization))
    declared = LlamaFileType(header.metadata["general.file_type"]).name
    assert declared in (f"MOSTLY_{quantization}", f"MOSTLY_{quantization}_M")
    assert {t.type.name for t in header.tensors if len(t.shape) > 1} == {quantization}


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    first, again, other = (
        write_random_model(tmp_path / f"{i}.gguf", "tiny", "Q8_0", seed).read_bytes()
        for i, seed in enumerate((1, 1, 2))
    )
    assert first == again and len(first) == len(other) and first != other


def test_what_it_cannot_write_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown shape 'huge'"):
        write_random_model(tmp_path / "a.gguf", "huge")
    with pytest.raises(ValueError, match="unknown quantization 'Q2_K'"):
        write_random_model(tmp_path / "a.gguf", "tiny", "Q2_K")
    assert not list(tmp_path.iterdir())
