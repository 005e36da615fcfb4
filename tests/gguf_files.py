"""Tiny GGUF files for tests: whole ones by the gguf package, forged ones byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

U8, U16, U32, I32, STRING, ARRAY, U64 = 0, 2, 4, 5, 8, 9, 10  # types of metadata values
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
WORDS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", *(f"word{i}" for i in range(60))]
TYPES = [CONTROL] * 4 + [NORMAL] * 60


def write_model(
    path: Path,
    *,
    arch: str = "llama",
    n_layers: int = 2,
    n_embd: int = 32,
    n_heads: int = 4,
    n_heads_kv: int | Sequence[int] = 2,
    n_ff: int = 64,
    tokens: Sequence[str | bytes] | None = None,
    types: Sequence[int] | None = None,
    tokenizer: str = "gpt2",
    pre: str | None = "default",
    merges: Sequence[str] | None = None,
    tied: bool = True,
    tensors: bool = True,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """A model with zero weights; `more` adds metadata (int, float, bool, str or lists)."""
    tokens = WORDS if tokens is None else tokens
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("tiny")
    writer.add_block_count(n_layers)
    writer.add_context_length(512)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_heads_kv)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model(tokenizer)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(TYPES if types is None and tokens is WORDS else
                           types or [NORMAL] * len(tokens))  # fmt: skip
    if merges is not None:
        writer.add_token_merges(merges)
    for key, value in (more or {}).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
               str: writer.add_string, list: writer.add_array}[type(value)]  # fmt: skip
        add(key, value)
    if tensors:
        for name, shape in _shapes(n_layers, n_embd, n_ff, len(tokens), tied).items():
            writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(
    n_layers: int, n_embd: int, n_ff: int, n_vocab: int, tied: bool
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_vocab, n_embd)}
    for i in range(n_layers):
        shapes[f"blk.{i}.attn_k.weight"] = (n_embd // 2, n_embd)
        shapes[f"blk.{i}.ffn_up.weight"] = (n_ff, n_embd)
    shapes["output_norm.weight"] = (n_embd,)
    if not tied:
        shapes["output.weight"] = (n_vocab, n_embd)
    return shapes


def text(value: str | bytes) -> bytes:
    """A string as GGUF stores it."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    """One metadata entry."""
    return text(key) + struct.pack("<I", kind) + value


def tensor(
    name: str, shape: Sequence[int] = (32,), kind: int = 0, offset: int = 0, dims: int | None = None
) -> bytes:
    """One tensor info; `dims` forges the number of dimensions."""
    head = text(name) + struct.pack("<I", len(shape) if dims is None else dims)
    return head + struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)


def raw(
    entries: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    *,
    data: int = 0,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_entries: int | None = None,
) -> bytes:
    """A file put together byte by byte, with `data` bytes of weights; counts can be forged."""
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    n_entries = len(entries) if n_entries is None else n_entries
    head = magic + struct.pack("<IQQ", version, n_tensors, n_entries)
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


ARCH = entry("general.architecture", STRING, text("llama"))


def edited(source: Path, target: Path, changes: Mapping[str, Any]) -> Path:
    """A copy of a model with other metadata (bool, int, str or a list; None takes a key away)."""
    reader = gguf.GGUFReader(source)
    kept = [f for name, f in reader.fields.items() if not name.startswith("GGUF.")]
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for field in kept:
        if field.name not in changes and field.name != "general.architecture":
            kind, *inner = field.types
            writer.add_key_value(field.name, field.contents(), kind, *inner[-1:])
    for key, value in changes.items():
        add = {bool: writer.add_bool, int: writer.add_uint32,
               str: writer.add_string, list: writer.add_array}  # fmt: skip
        if value is not None:
            add[type(value)](key, value)
    for one in reader.tensors:
        writer.add_tensor(one.name, one.data, raw_dtype=one.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


SENTENCEPIECE = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")


def sentencepiece(source: Path, target: Path, **flags: bool) -> Path:
    """A copy of a model with a SentencePiece vocabulary of as many tokens: special ones, all
    bytes, letters and pieces of words. Flags are keys of tokenizer.ggml."""
    size = len(gguf.GGUFReader(source).fields["tokenizer.ggml.tokens"].data)
    letters = "▁etaoinsrhldcumfpgwybvkxjqzTAPFI.,!?<>|_\n"
    words = ["▁The", "The", "▁Paris", "Paris", "▁is", "▁of", "▁capital", "▁France", "▁▁", "im",
             "start", "end", "user", "▁user", "Assistant", "Par", "▁Par", "is",
             "<s", "</s", "<|im_end|"]  # fmt: skip
    parts = {w[:i] for w in words for i in range(2, len(w) + 1)}
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    known = [*SENTENCEPIECE, *bytes_, *letters, *sorted(parts, key=lambda p: (len(p), p))]
    tokens = [*known, *(f"[PAD{i}]" for i in range(size - len(known)))]
    types = [UNKNOWN, *[CONTROL] * 4, *[BYTE] * 256]
    types += [NORMAL] * (len(known) - len(types)) + [UNUSED] * (size - len(known))
    scores = [float(len(t) - 100) for t in tokens]  # longer pieces are merged first
    changes = {"model": "llama", "pre": "default", "tokens": tokens, "token_type": types,
               "scores": scores, "merges": None, "bos_token_id": 1, "eos_token_id": 2,
               "add_bos_token": True, **flags}  # fmt: skip
    return edited(source, target, {f"tokenizer.ggml.{k}": v for k, v in changes.items()})
