"""How many bytes a model's KV cache takes, from its header alone."""

from __future__ import annotations

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from eftlocal.errors import UsageError
from eftlocal.gguf_file.header import MAX_LAYERS, RECURRENT, Header

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def kv_cache_bytes(
    header: Header, n_ctx: int, n_seq: int = 1, type_k: str = "f16", type_v: str = "f16"
) -> int:
    """Bytes of the cache for n_seq sequences of n_ctx tokens each, over all layers.

    As llama.cpp lays it out: n_ctx padded to 256, one key and one value row a token and layer,
    only the compressed key row for multi-head latent attention, a float32 state a sequence for
    a recurrent layer. Sliding-window layers are counted in full (swa_full), which taking tokens
    back needs. Raises UsageError for a type that cannot be a cache.
    """
    return sum(kv_cache_bytes_by_layer(header, n_ctx, n_seq, type_k, type_v))


def kv_cache_bytes_by_layer(
    header: Header, n_ctx: int, n_seq: int = 1, type_k: str = "f16", type_v: str = "f16"
) -> tuple[int, ...]:
    """kv_cache_bytes of each layer: (n_layers,)."""
    cells = -(-n_ctx // 256) * 256 * n_seq
    arch, heads = header.architecture, header.n_heads_kv
    latent = f"{arch}.attention.key_length_mla" in header.metadata
    state = 4 * n_seq * _recurrent_elements(header)
    parts = {layer: set[str]() for layer in range(header.n_layers)}
    for tensor in header.tensors:
        pieces = tensor.name.split(".")
        if pieces[0] == "blk" and len(pieces) > 2 and pieces[1].isdecimal():
            parts.get(int(pieces[1]), set()).add(pieces[2])
    interval = header.count("full_attention_interval", 0, MAX_LAYERS, 0)
    sizes = []
    for layer, names in parts.items():
        recurrent = arch in RECURRENT or any(
            name.startswith(("ssm_", "time_mix_", "shortconv")) for name in names
        )
        attends = arch not in RECURRENT and not (interval and (layer + 1) % interval)
        if recurrent and not any(name.startswith(("attn_k", "attn_qkv")) for name in names):
            attends = False
        key = _row_bytes(header.key_length * heads[layer], type_k)
        value = 0 if latent else _row_bytes(header.value_length * heads[layer], type_v)
        sizes.append((cells * (key + value) if attends else 0) + (state if recurrent else 0))
    return tuple(sizes)


def _recurrent_elements(header: Header) -> int:
    """State elements a sequence and recurrent layer: Mamba's, or RWKV's; others are near."""

    def get(key: str) -> int:
        return header.count(key, 0, 1 << 24, 0)

    if head := get("wkv.head_size"):
        return header.n_embd * (head + (get("token_shift_count") or 2))
    inner, state = get("ssm.inner_size"), get("ssm.state_size")
    convolved = inner + 2 * get("ssm.group_count") * state or header.n_embd
    kernel = get("ssm.conv_kernel") or get("shortconv.l_cache")
    return max(0, kernel - 1) * convolved + state * inner


def _row_bytes(width: int, type_name: str) -> int:
    if type_name not in CACHE_TYPES:
        raise UsageError(
            f"KV-cache type {type_name!r} is unknown: use one of {', '.join(CACHE_TYPES)}"
        )
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_name.upper()]]
    return int(-(-width // block) * block_bytes)
