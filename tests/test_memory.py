"""What models take of memory, as planned, against what llama.cpp says that it takes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench_step import BufferSizes
from processor import not_with_amx
from random_gguf import QUANTIZATIONS, write_random_model

from eftlocal.errors import EngineError
from eftlocal.gguf_file.header import read_header
from eftlocal.llama import Context, Model, Span, repacked_types
from eftlocal.loading.loader import load_roles, prepare
from eftlocal.loading.placement import RoleNeeds, plan
from eftlocal.loading.roles import RoleSource
from eftlocal.settings import MAX_DRAFT


@contextmanager
def told() -> Iterator[Counter[str]]:
    """Bytes of the buffers that llama.cpp makes meanwhile, by purpose and kind."""
    sizes, log = BufferSizes(), logging.getLogger("eftlocal.llama")
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(sizes)
    try:
        yield sizes.found
    finally:
        log.removeHandler(sizes)
        log.setLevel(level)


@pytest.mark.parametrize(
    ("n_ctx", "n_batch", "n_seq", "flash_attention", "cache_type"),
    [
        (1024, 512, 1, "on", "f16"),
        (4096, 512, 1, "auto", "f16"),
        (1024, 256, 16, "auto", "f16"),
        (8192, 512, 1, "auto", "q8_0"),
        (2048, 128, 4, "on", "f16"),
        (512, 1024, 16, "auto", "f16"),
        (512, 100_000, 1, "auto", "f16"),
        (4096, 64, 1, "off", "f16"),
    ],
)
@pytest.mark.parametrize("file", ["demo", "smollm2"])
def test_a_context_takes_what_was_planned(
    file: str,
    n_ctx: int,
    n_batch: int,
    n_seq: int,
    flash_attention: str,
    cache_type: str,
    demo_files: dict[str, Path],
    smollm2: Path,
) -> None:
    path = demo_files["base"] if file == "demo" else smollm2
    source = RoleSource(
        path,
        n_ctx=n_ctx,
        n_batch=n_batch,
        flash_attention=flash_attention,
        cache_type_k=cache_type,
        cache_type_v=cache_type,
    )
    header = read_header(path)
    need = RoleNeeds.of("base", source, header, n_seq)
    prepared = prepare({"base": source}, n_seq_max=n_seq, trust=True)
    with told() as taken:
        load_roles(prepared).resources.close()
    assert taken["KV CPU"] == pytest.approx(sum(need.cache), rel=0.001)  # it rounds
    logits = max(n_seq, MAX_DRAFT + 1) * 4 * header.n_vocab  # of the rows that are asked for
    assert need.on_cpu - logits == pytest.approx(taken["compute CPU"], rel=0.1)
    assert taken["compute CPU"] < 1.03 * need.on_cpu


@not_with_amx
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_weights_take_what_was_planned(quantization: str, tmp_path: Path) -> None:
    """Embeddings that are the output too stand there twice where they are repacked."""
    path = write_random_model(tmp_path / "model.gguf", "tiny", quantization)
    header, source = read_header(path), RoleSource(path, n_ctx=256)
    with told() as taken:
        Model(path, mapped=False).close()
    need = RoleNeeds.of("base", source, header, repacked=repacked_types())
    others = sum(need.cache) + need.on_cpu + need.vocabulary
    weights = plan([need], [], None).host_bytes - others
    assert weights == pytest.approx(taken["model CPU"] + taken["model CPU_REPACK"], rel=0.01)
    copied = any(tensor.type.name in repacked_types() for tensor in header.tensors)
    assert bool(taken["model CPU_REPACK"]) == copied


def test_logits_have_memory_for_the_rows_that_are_wanted_only(smollm2: Path) -> None:
    with Model(smollm2) as model:
        sizes = {}
        for n_rows in (None, 8):
            with told() as taken, Context(model, n_ctx=512, n_rows=n_rows) as context:
                sizes[n_rows] = taken["compute CPU"]
        assert sizes[None] - sizes[8] > 64 << 20
        with Context(model, n_ctx=512, n_rows=8, n_threads=1) as context:
            assert context.decode([Span(0, [5] * 8, 8)]).shape == (8, model.vocab_size)
            with pytest.raises(EngineError, match="gives 8 rows at most"):
                context.decode([Span(0, [5] * 9, 9)])
            assert len(context.tokens(0)) == 8
