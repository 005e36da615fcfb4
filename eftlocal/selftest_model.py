"""A miniature model file with random quantized weights, for trying a build of llama.cpp out.

One layer for each of the quantizations that people download, so that each one's kernels are run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Quantization

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOCABULARY = 512
_EMBEDDING = 256  # one block of the K-quants
_FEED_FORWARD = 512
_HEADS, _KV_HEADS = 4, 2
_CONTEXT = 128
LAYERS = (Quantization.Q4_0, Quantization.Q8_0, Quantization.Q4_K, Quantization.Q6_K)


def write_random_model(path: Path, seed: int = 1) -> None:
    """Write a llama-architecture GGUF of a few megabytes; the same bytes for the same seed."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("self-test, random weights")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_EMBEDDING)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_block_count(len(LAYERS))
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_EMBEDDING // _HEADS)
    _add_vocabulary(writer)
    head = _EMBEDDING // _HEADS
    shapes = {
        "attn_q": (_EMBEDDING, _EMBEDDING),
        "attn_k": (_KV_HEADS * head, _EMBEDDING),
        "attn_v": (_KV_HEADS * head, _EMBEDDING),
        "attn_output": (_EMBEDDING, _EMBEDDING),
        "ffn_gate": (_FEED_FORWARD, _EMBEDDING),
        "ffn_up": (_FEED_FORWARD, _EMBEDDING),
        "ffn_down": (_EMBEDDING, _FEED_FORWARD),
    }
    _add_matrix(writer, "token_embd.weight", (VOCABULARY, _EMBEDDING), Quantization.Q8_0, rng)
    for layer, quantization in enumerate(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(_EMBEDDING, np.float32))
        for name, shape in shapes.items():
            _add_matrix(writer, f"blk.{layer}.{name}.weight", shape, quantization, rng)
    writer.add_tensor("output_norm.weight", np.ones(_EMBEDDING, np.float32))
    _add_matrix(writer, "output.weight", (VOCABULARY, _EMBEDDING), Quantization.Q6_K, rng)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """A SentencePiece vocabulary: three special tokens, all bytes, and words to fill it up."""
    kind = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * 256
    tokens += [f"\u2581w{n}" for n in range(VOCABULARY - len(tokens))]
    types += [kind.NORMAL] * (VOCABULARY - len(types))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(n) for n in range(VOCABULARY)])
    writer.add_token_types([int(value) for value in types])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _add_matrix(
    writer: gguf.GGUFWriter,
    name: str,
    shape: tuple[int, int],
    quantization: Quantization,
    rng: np.random.Generator,
) -> None:
    """Random weights with mean 0 and a standard deviation of about 1 / sqrt(columns)."""
    if quantization is Quantization.Q4_K:
        blocks = _random_q4_k(shape, rng)
    elif quantization is Quantization.Q6_K:
        blocks = _random_q6_k(shape, rng)
    else:
        weights = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))
        blocks = gguf.quants.quantize(weights, quantization)
    writer.add_tensor(name, blocks, raw_dtype=quantization)


# The gguf package reads K-quants but does not write them. Random bits under fixed scales are as
# good as random weights, and the blocks' layouts are ggml's block_q4_K and block_q6_K.


def _random_q4_k(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(rows, bytes a row) uint8: float16 d and dmin, 12 bytes of scales, 128 bytes of weights."""
    blocks = rng.integers(0, 256, (shape[0], shape[1] // 256, 144), dtype=np.uint8)
    # weight = d * scale * q - dmin * min, scale and min in 0..63, q in 0..15.
    d = 1.0 / (270.0 * np.sqrt(shape[1]))
    blocks[..., 0:4] = np.array([d, 7.5 * d], np.float16).view(np.uint8)
    return blocks.reshape(shape[0], -1)


def _random_q6_k(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(rows, bytes a row) uint8: 192 bytes of weights, 16 int8 scales, float16 d."""
    blocks = rng.integers(0, 256, (shape[0], shape[1] // 256, 210), dtype=np.uint8)
    # weight = d * scale * (q - 32), q in 0..63; scales of 16 values around 0.
    blocks[..., 192:208] = rng.integers(-32, 32, (*blocks.shape[:2], 16), dtype=np.int8).view(
        np.uint8
    )
    d = 1.0 / (340.0 * np.sqrt(shape[1]))
    blocks[..., 208:210] = np.array([d], np.float16).view(np.uint8)
    return blocks.reshape(shape[0], -1)
