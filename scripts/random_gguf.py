"""Writes GGUF models of real shapes with random weights, for benchmarks of speed and memory.

Usage: python scripts/random_gguf.py --shape 1b --quantization Q4_0 out.gguf

Blocks of the quantization are written directly, with scales that keep activations and logits near
one, so an 8B takes seconds and no more memory than a few buffers. All shapes of one vocabulary size
share their vocabulary: byte-level BPE that can tokenize any text.

A quantization is a type, for every matrix (Q4_0); two, the second for the output matrix, which may
be the embeddings too (Q4_0+Q6_K: what llama.cpp itself makes of Q4_0); or one of llama.cpp's
mixtures, which people download most (Q4_K_M: a third of it is Q6_K).
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray
from random_blocks import TYPES, random_blocks

SPECIAL = ("<|begin|>", "<|end|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "<|begin|>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_MIXTURES = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K"}  # and what most of them is
QUANTIZATIONS = (*TYPES, *_MIXTURES)
LOGITS_STD = 3.0  # about what a trained model shows: neither flat nor one-hot
RANK, ALPHA = 4, 8.0  # of adapters
_BUFFER = 32 << 20  # bytes of random blocks, written again and again
_F32 = GGMLQuantizationType.F32


@dataclass(frozen=True)
class Shape:
    """The sizes of a llama-architecture model."""

    n_layers: int
    n_embd: int
    n_heads: int
    n_heads_kv: int
    n_ff: int
    n_vocab: int
    tied: bool = False
    n_ctx: int = 131072


SHAPES = {
    "tiny": Shape(2, 256, 4, 2, 512, 1024, tied=True),
    "small": Shape(8, 512, 8, 4, 1536, 8192, tied=True),
    "0.1b": Shape(8, 512, 8, 4, 1536, 128256, tied=True),  # mostly vocabulary, as small ones are
    "1b": Shape(16, 2048, 32, 8, 8192, 128256, tied=True),  # Llama 3.2 1B
    "3b": Shape(28, 3072, 24, 8, 8192, 128256, tied=True),  # Llama 3.2 3B
    "7b": Shape(32, 4096, 32, 32, 11008, 32000, n_ctx=4096),  # Llama 2 7B
    "8b": Shape(32, 4096, 32, 8, 14336, 128256),  # Llama 3.1 8B
    "70b-32k": Shape(80, 8192, 64, 8, 28672, 32000, n_ctx=4096),  # Llama 2 70B, beside 7b
    "70b": Shape(80, 8192, 64, 8, 28672, 128256),  # Llama 3.1 70B
}


def is_quantization(name: str) -> bool:
    """Whether files of it can be written."""
    weights, plus, output = name.partition("+")
    return name in QUANTIZATIONS or (bool(plus) and {weights, output} <= set(TYPES))


def tensor_type(name: str, quantization: str, sizes: Shape) -> GGMLQuantizationType:
    """What llama.cpp's quantizer makes of a matrix of the llama architecture."""
    weights, _, output = quantization.partition("+")
    whole = _MIXTURES.get(weights, weights)
    if name == ("token_embd.weight" if sizes.tied else "output.weight"):
        return GGMLQuantizationType[output or ("Q6_K" if weights in _MIXTURES else weights)]
    if weights in _MIXTURES and ("attn_v" in name or "ffn_down" in name):
        layer, eighth = int(name.split(".")[1]), sizes.n_layers // 8
        more = layer < eighth or layer >= 7 * sizes.n_layers // 8 or (layer - eighth) % 3 == 2
        if more:
            return GGMLQuantizationType.Q6_K
        if "attn_v" in name and sizes.n_layers == 80 and whole == "Q4_K":
            return GGMLQuantizationType.Q5_K
    return GGMLQuantizationType[whole]


def write_random_model(
    path: str | Path, shape: str | Shape, quantization: str = "Q4_0", seed: int = 0
) -> Path:
    """Write a random model; the same arguments give the same bytes.

    shape: a key of SHAPES or a Shape; quantization: see above.
    The file appears under its name only when it is whole. Raises ValueError for other names.
    """
    sizes = SHAPES.get(shape) if isinstance(shape, str) else shape
    if sizes is None:
        raise ValueError(f"unknown shape {shape!r}: use one of {', '.join(SHAPES)}")
    if not is_quantization(quantization):
        raise ValueError(
            f"unknown quantization {quantization!r}: use {', '.join(QUANTIZATIONS)}, or two types "
            "as in Q4_0+Q6_K"
        )
    path = Path(path)
    part = path.with_name(path.name + ".part")
    writer = _begin(part, sizes, quantization)
    tensors = list(_typed(sizes, quantization))
    rng, out = np.random.default_rng(seed), writer.fout[0]
    buffers: dict[tuple[GGMLQuantizationType, float], memoryview] = {}
    largest = max(_nbytes(dims, kind) for _, dims, _, kind in tensors)
    for _, dims, std, kind in tensors:
        nbytes = _nbytes(dims, kind)
        if kind == _F32:
            out.write(np.full(dims, std, np.float32).tobytes())
        else:
            if (kind, std) not in buffers:
                blocks = random_blocks(kind, std, min(largest, _BUFFER), rng)
                buffers[kind, std] = memoryview(blocks.tobytes())
            for piece in _pieces(buffers[kind, std], nbytes, dims[-1], kind):
                out.write(piece)
        writer.write_padding(out, nbytes)
    writer.close()
    part.replace(path)
    return path


def write_hollow_model(path: Path, sizes: Shape, quantization: str = "Q4_0") -> Path:
    """Write a model's header; its weights are a hole in the file, which takes no room."""
    writer = _begin(path, sizes, quantization)
    start = writer.fout[0].tell()
    writer.close()
    os.truncate(path, start + weight_bytes(sizes, quantization))
    return path


def _begin(path: Path, sizes: Shape, quantization: str) -> gguf.GGUFWriter:
    """A writer that has written the header."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer, sizes, quantization)
    for name, dims, _, kind in _typed(sizes, quantization):
        writer.add_tensor_info(name, dims, np.dtype(np.float32), _nbytes(dims, kind), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_padding(writer.fout[0], writer.fout[0].tell())
    return writer


def weight_bytes(sizes: Shape, quantization: str) -> int:
    """Bytes of all tensors of a model."""
    return sum(_nbytes(dims, kind) for _, dims, _, kind in _typed(sizes, quantization))


def random_deltas(
    shape: str, seed: int = 0, size: float = 0.3, width: int | None = None
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """A (rank, width) and B (width, rank) of an adapter for each layer's query matrix, float32."""
    rng, width = np.random.default_rng(seed), width or SHAPES[shape].n_embd
    return [
        (
            rng.standard_normal((RANK, width), np.float32) * width**-0.5,
            rng.standard_normal((width, RANK), np.float32) * size,
        )
        for _ in range(SHAPES[shape].n_layers)
    ]


def write_adapter(
    path: Path, layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> Path:
    """Write a LoRA adapter of these matrices, as `random_deltas` gives them."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for i, (a, b) in enumerate(layers):
        writer.add_tensor(f"blk.{i}.attn_q.weight.lora_a", a)
        writer.add_tensor(f"blk.{i}.attn_q.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: gguf.GGUFWriter, sizes: Shape, quantization: str) -> None:
    writer.add_name(f"random {sizes.n_layers}x{sizes.n_embd}")
    writer.add_block_count(sizes.n_layers)
    writer.add_context_length(sizes.n_ctx)
    writer.add_embedding_length(sizes.n_embd)
    writer.add_feed_forward_length(sizes.n_ff)
    writer.add_head_count(sizes.n_heads)
    writer.add_head_count_kv(sizes.n_heads_kv)
    writer.add_rope_dimension_count(sizes.n_embd // sizes.n_heads)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(sizes.n_vocab)
    weights = quantization.partition("+")[0]
    others = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{others.get(weights, weights)}"])
    tokens, merges = vocabulary(sizes.n_vocab)
    n_words = sizes.n_vocab - len(SPECIAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.NORMAL] * n_words + [gguf.TokenType.CONTROL] * len(SPECIAL)
    )
    writer.add_token_merges(merges)
    writer.add_bos_token_id(n_words)
    writer.add_eos_token_id(n_words + 1)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def vocabulary(n_vocab: int) -> tuple[list[str], list[str]]:
    """Tokens (n_vocab) and merges: the bytes, then pairs and triples of printable characters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    # GPT-2's visible stand-ins: byte-level BPE writes each byte as one character
    stand_ins = {byte: chr(byte) for byte in printable}
    stand_ins |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    tokens = [stand_ins[byte] for byte in range(256)]
    letters = [stand_ins[ord(c)] for c in " etaoinsrhldcumfpgwybvk.,xjqz0123456789TAISWMC'-"]
    extra = n_vocab - 256 - len(SPECIAL)
    pairs = [f"{a} {b}" for a, b in itertools.product(letters, repeat=2)]
    triples = (f"{a}{b} {c}" for a, b, c in itertools.product(letters, repeat=3))
    fours = (f"{a}{b} {c}{d}" for a, b, c, d in itertools.product(letters, repeat=4))
    merges = list(itertools.islice(itertools.chain(pairs, triples, fours), extra))
    return [*tokens, *(merge.replace(" ", "") for merge in merges), *SPECIAL], merges


def _tensors(sizes: Shape) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Name, shape (rows, columns) and standard deviation of each tensor; norms are constant."""
    embd, ff, vocab = sizes.n_embd, sizes.n_ff, sizes.n_vocab
    kv = embd // sizes.n_heads * sizes.n_heads_kv
    into, down = embd**-0.5, ff**-0.5
    residual = (2 * sizes.n_layers) ** -0.5  # so that the sum over layers stays near one
    yield "token_embd.weight", (vocab, embd), into
    for i in range(sizes.n_layers):
        yield f"blk.{i}.attn_norm.weight", (embd,), 1.0
        yield f"blk.{i}.attn_q.weight", (embd, embd), into
        yield f"blk.{i}.attn_k.weight", (kv, embd), into
        yield f"blk.{i}.attn_v.weight", (kv, embd), into
        yield f"blk.{i}.attn_output.weight", (embd, embd), into * residual
        yield f"blk.{i}.ffn_norm.weight", (embd,), 1.0
        yield f"blk.{i}.ffn_gate.weight", (ff, embd), into
        yield f"blk.{i}.ffn_up.weight", (ff, embd), into
        yield f"blk.{i}.ffn_down.weight", (embd, ff), down * residual
    yield "output_norm.weight", (embd,), LOGITS_STD
    if not sizes.tied:
        yield "output.weight", (vocab, embd), into


def _typed(
    sizes: Shape, quantization: str
) -> Iterator[tuple[str, tuple[int, ...], float, GGMLQuantizationType]]:
    """The same, and the type of each."""
    for name, dims, std in _tensors(sizes):
        yield name, dims, std, tensor_type(name, quantization, sizes) if len(dims) > 1 else _F32


def _nbytes(dims: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if dims[-1] % block:
        raise ValueError(f"rows of {dims[-1]} do not divide into {kind.name} blocks of {block}")
    return int(np.prod(dims, dtype=np.int64)) // block * block_bytes


def _pieces(
    buffer: memoryview, nbytes: int, columns: int, kind: GGMLQuantizationType
) -> Iterator[memoryview]:
    """nbytes from the buffer, again and again, its rows shifted by one block more each time.

    Equal rows would give equal logits, and greedy decoding must not meet ties.
    """
    block, block_bytes = GGML_QUANT_SIZES[kind]
    row_blocks, written, shift = columns // block, 0, 0
    while written < nbytes:
        start = (written // block_bytes + shift) % row_blocks * block_bytes
        piece = buffer[start : start + nbytes - written]
        written, shift = written + len(piece), shift + 1
        yield piece


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the file to write")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument(
        "--quantization", default="Q4_0", help=f"{', '.join(QUANTIZATIONS)}, or two"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not is_quantization(options.quantization):
        parser.error(f"--quantization {options.quantization}: use {', '.join(QUANTIZATIONS)}")
    began = time.perf_counter()
    path = write_random_model(options.path, options.shape, options.quantization, options.seed)
    seconds = time.perf_counter() - began
    print(f"{path}: {path.stat().st_size / 2**20:,.0f} MiB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
