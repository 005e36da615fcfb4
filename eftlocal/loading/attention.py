"""How attention is computed where the settings leave it open: by where a role's layers lie.

llama.cpp's flash attention on the CPU takes tiles from 64 rows on. Fewer are computed one by one,
at a cost that grows with what stands before them, so after long texts answers and drafts are up to
several times as fast without it (`scripts/bench_attention.py`). It cannot be changed from call to
call: the V cache is laid out in another way.
"""

from __future__ import annotations

from dataclasses import replace

from eftlocal.gguf_file.header import Header, is_latent
from eftlocal.gguf_file.parser import block_of
from eftlocal.kinds import OFF
from eftlocal.loading.roles import DEFAULT_N_CTX, RoleSource

_SHORT = 512  # tokens of a context in which too few stand before a row to slow it down
_FLASH_ONLY = ("minimax-m3",)  # without it llama.cpp computes another attention
_AT_ONCE = 128  # tokens of a prompt whose scores are kept at once; more are no faster


def with_attention(source: RoleSource, header: Header, *, on_cpu: bool) -> RoleSource:
    """The source with what its context is given of flash_attention and cache_type_v.

    On devices llama.cpp chooses. On the CPU, flash attention is left out of long contexts where
    nothing needs it.

    A reproducible role keeps it: without it a single row has bits of its own. It takes a V cache
    over which any number of rows is computed alike: over a cache of one 16- or 32-bit float type,
    the CPU's kernels divide the attention of a single row among threads, and compute that of 64
    rows and more in tiles. Only f16, which is the default, gives way; what else was chosen stays,
    with fewer numbers of rows.

    Args:
        on_cpu: all layers are on the CPU; the output need not be.
    """
    if not on_cpu or is_latent(header):
        return source
    if source.reproducible:
        even = {source.cache_type_k, source.cache_type_v} != {"f16"}
        return source if even else replace(source, cache_type_v="bf16")
    needed = block_of(source.cache_type_v)[0] > 1 or header.architecture in _FLASH_ONLY
    short = (source.n_ctx or DEFAULT_N_CTX) <= _SHORT
    if source.flash_attention == "auto" and not needed and not short:
        return replace(source, flash_attention=OFF)
    return source


def n_ubatch(source: RoleSource, *, on_cpu: bool) -> int:
    """Tokens that llama.cpp computes at once, of a call of up to n_batch."""
    scores = on_cpu and source.flash_attention == OFF
    return min(source.n_batch, _AT_ONCE) if scores else source.n_batch
