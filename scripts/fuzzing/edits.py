"""What a fuzzer does to a sane file: targeted edits of one kind, and random bytes.

Each edit takes a random generator and changes a GgufFile in place; it returns what it did, in a
few words. What llama.cpp asserts on or trusts is aimed at on purpose.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import gguf
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from fuzzing.gguf_edit import (
    ARRAY,
    BOOL,
    F32,
    I32,
    SCALARS,
    STRING,
    U8,
    U16,
    U32,
    GgufFile,
    Tensor,
    numbers,
    read_numbers,
    read_strings,
    scalar,
    strings,
    text,
)

Edit = Callable[[random.Random, GgufFile], str]

INTEGERS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 24, 31, 32, 33, 63, 64, 65, 96, 127, 128, 255, 256, 257,
            511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097, 65535, 65536, 1 << 20, 1 << 24,
            2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)  # fmt: skip
FLOATS = (0.0, -0.0, 1e-45, 1e-12, 1e-5, 0.1, 1.0, -1.0, -1e-5, 2.0, 1e4, 1e30, 3e38, -3e38,
          float("inf"), float("-inf"), float("nan"))  # fmt: skip
TEXTS = ("", " ", "x", "none", "linear", "yarn", "longrope", "llama", "gpt2", "bert", "t5", "rwkv",
         "plamo2", "no_vocab", "gemma4", "hybriddna", "whitespace", "test", "default", "llama-bpe",
         "qwen2", "phi-3", "adapter", "lora", "a\0b", "\n\x1b[31m", "x" * 5000)  # fmt: skip
TYPES = tuple(GGMLQuantizationType)
NAMES = [
    value
    for group in vars(gguf.constants.Keys).values()
    if isinstance(group, type)
    for value in vars(group).values()
    if isinstance(value, str) and value.startswith(("{arch}.", "general."))
]


def _value(rng: random.Random, kind: int) -> bytes:
    if kind == STRING:
        return text(rng.choice(TEXTS))
    if kind in (F32, 12):
        return scalar(kind, rng.choice(FLOATS))
    return scalar(kind, rng.choice(INTEGERS))


def _any(rng: random.Random) -> tuple[int, bytes]:
    """A value of any type, an array as well."""
    if rng.random() < 0.2:
        kind = rng.choice([*SCALARS, STRING])
        count = rng.choice((0, 1, 2, 3, 4, 5, 512, 513))
        return ARRAY, struct.pack("<IQ", kind, count) + b"".join(
            _value(rng, kind) for _ in range(count)
        )
    kind = rng.choice([*SCALARS, STRING])
    return kind, _value(rng, kind)


def _arch(file: GgufFile) -> str:
    found = file.entry("general.architecture")
    return found.payload[8:].decode("utf-8", "replace") if found and found.kind == STRING else "x"


# Header keys --------------------------------------------------------------------------------


def _hyperparameters(file: GgufFile) -> list[Any]:
    return [e for e in file.entries if not e.key.startswith(b"tokenizer.")] or file.entries


def retype_key(rng: random.Random, file: GgufFile) -> str:
    entry = rng.choice(_hyperparameters(file))
    entry.kind, entry.payload = _any(rng)
    return f"{entry.key!r} becomes type {entry.kind}"


def revalue_key(rng: random.Random, file: GgufFile) -> str:
    """Another value of the same type: the one edit that a type check does not see."""
    entry = rng.choice(_hyperparameters(file))
    if entry.kind == ARRAY:
        return retype_key(rng, file)
    if entry.kind in SCALARS and rng.random() < 0.4 and entry.kind != F32:
        old = struct.unpack("<" + SCALARS[entry.kind], entry.payload)[0]
        new = rng.choice((old + 1, old - 1, 2 * old, old // 2, 3 * old))
        entry.payload = scalar(entry.kind, new)
    else:
        entry.payload = _value(rng, entry.kind)
    return f"{entry.key!r} becomes {entry.payload[:16]!r}"


def remove_key(rng: random.Random, file: GgufFile) -> str:
    entry = rng.choice(file.entries)
    file.entries.remove(entry)
    return f"without {entry.key!r}"


def repeat_key(rng: random.Random, file: GgufFile) -> str:
    entry = rng.choice(file.entries)
    file.entries.append(entry)
    return f"{entry.key!r} twice"


def add_key(rng: random.Random, file: GgufFile) -> str:
    key = rng.choice(NAMES).replace("{arch}", _arch(file))
    kind = rng.choice((U32, U32, F32, BOOL, STRING, None))
    value = _any(rng) if kind is None else (kind, _value(rng, kind))
    file.set(key, *value)
    return f"{key} of type {value[0]}: {value[1][:16]!r}"


_CHOSEN: tuple[tuple[str, int, tuple[Any, ...]], ...] = (
    ("general.alignment", U32, (0, 1, 2, 4, 8, 16, 64, 4096)),
    ("{arch}.attention.layer_norm_rms_epsilon", F32, FLOATS),
    ("{arch}.expert_count", U32, (1, 2, 4, 1024, 1025)),
    ("{arch}.expert_used_count", U32, (0, 1, 3, 8, 1025)),
    ("{arch}.expert_group_count", U32, (1, 2, 3, 4, 8)),
    ("{arch}.expert_group_used_count", U32, (0, 1, 2, 9)),
    ("{arch}.rope.scaling.type", STRING, TEXTS),
    ("{arch}.rope.scaling.factor", F32, FLOATS),
    ("{arch}.rope.freq_base", F32, FLOATS),
    ("{arch}.rope.scaling.attn_factor", F32, FLOATS),
    ("{arch}.rope.dimension_count", U32, INTEGERS),
    ("{arch}.attention.head_count", U32, INTEGERS),
    ("{arch}.attention.head_count_kv", U32, INTEGERS),
    ("{arch}.attention.key_length", U32, INTEGERS),
    ("{arch}.attention.value_length", U32, INTEGERS),
    ("{arch}.attention.sliding_window", U32, INTEGERS),
    ("{arch}.attention.max_alibi_bias", F32, FLOATS),
    ("{arch}.attention.causal", BOOL, (0, 1, 2)),
    ("{arch}.pooling_type", U32, INTEGERS),
    ("{arch}.context_length", U32, INTEGERS),
    ("{arch}.vocab_size", U32, INTEGERS),
    ("{arch}.nextn_predict_layers", U32, INTEGERS),
    ("{arch}.embedding_length_out", U32, INTEGERS),
    ("general.architecture", STRING, tuple(gguf.MODEL_ARCH_NAMES.values())),
)


def aim_at_key(rng: random.Random, file: GgufFile) -> str:
    key, kind, values = rng.choice(_CHOSEN)
    key = key.replace("{arch}", _arch(file))
    value = rng.choice(values)
    file.set(key, kind, scalar(kind, value))
    if key == "general.alignment" and value:
        file.alignment = value  # a file that keeps its word
    return f"{key} = {value!r}"


def forge_counts(rng: random.Random, file: GgufFile) -> str:
    what = rng.choice(("entries", "tensors"))
    count = len(file.entries if what == "entries" else file.tensors)
    file.counts[what] = max(0, count + rng.choice((-1, 1, 1000, 1 << 30)))
    return f"{file.counts[what]} {what} of {count}"


# Tensors ------------------------------------------------------------------------------------


def retype_tensor(rng: random.Random, file: GgufFile) -> str:
    tensor, kind = rng.choice(file.tensors), rng.choice(TYPES)
    if tensor.shape[0] % GGML_QUANT_SIZES[kind][0]:
        kind = rng.choice([t for t in TYPES if GGML_QUANT_SIZES[t][0] == 1])
    tensor.retype(kind)
    return f"{tensor.name!r} becomes {kind.name}"


def reshape_tensor(rng: random.Random, file: GgufFile) -> str:
    tensor = rng.choice(file.tensors)
    shape = list(tensor.shape)
    i = rng.randrange(len(shape))
    how = rng.randrange(5)
    if how == 0:
        shape[i] = rng.choice((0, 1, shape[i] + 1, max(1, shape[i] - 1), 2 * shape[i], 2**62))
    elif how == 1:
        shape.reverse()
    elif how == 2:
        shape.append(rng.choice((1, 2)))
    elif how == 3:
        shape = [shape[0] * shape[-1]] if len(shape) > 1 else [1, *shape]
    else:
        shape[i] *= rng.choice((2, 4))
    tensor.reshape(shape[:4])
    return f"{tensor.name!r} becomes {shape}"


def rename_tensor(rng: random.Random, file: GgufFile) -> str:
    tensor = rng.choice(file.tensors)
    old, other = tensor.name, rng.choice(file.tensors).name
    tensor.name = rng.choice(
        (other, old + b"x", old[:-1], b"x" * 63, b"x" * 64, b"", b"\xff\0",
         old.replace(b"blk.1", b"blk.0"), old.replace(b"blk.0", b"blk.999"),
         old.replace(b".weight", b".bias"), old.replace(b".weight", b".scale"))
    )  # fmt: skip
    return f"{old!r} becomes {tensor.name!r}"


def remove_tensor(rng: random.Random, file: GgufFile) -> str:
    tensor = rng.choice(file.tensors)
    file.tensors.remove(tensor)
    return f"without {tensor.name!r}"


_NEW = (
    "rope_freqs.weight", "output.weight", "blk.0.attn_q.bias", "blk.0.attn_output.bias",
    "blk.1.attn_q_norm.weight", "blk.0.ffn_gate.bias", "blk.0.attn_q.scale",
    "blk.0.attn_sinks.weight", "rope_factors_long.weight", "blk.0.attn_qkv.weight", "cls.weight",
    "blk.0.ffn_gate_exps.weight", "blk.0.attn_q.input_scale", "blk.1.ffn_down.bias",
    "output_norm.bias",
)  # fmt: skip


def add_tensor(rng: random.Random, file: GgufFile) -> str:
    name = rng.choice(_NEW)
    model = rng.choice(file.tensors)
    shape = rng.choice(([1], [model.shape[0]], [model.shape[-1]], list(model.shape), [8], [32]))
    kind = rng.choice([t for t in TYPES if shape[0] % GGML_QUANT_SIZES[t][0] == 0])
    new = Tensor(name.encode(), shape, kind, rng.randbytes(64))
    new.fit()
    file.tensors.append(new)
    return f"new {name} {shape} {kind.name}"


def move_tensor(rng: random.Random, file: GgufFile) -> str:
    tensor = rng.choice(file.tensors)
    tensor.offset = rng.choice((0, 1, 4, 16, 32, 1 << 20, 1 << 40, 2**63, 2**64 - 32))
    return f"{tensor.name!r} at {tensor.offset}"


def poison_tensor(rng: random.Random, file: GgufFile) -> str:
    """NaN, infinity or noise where weights were."""
    tensor = rng.choice(file.tensors)
    word = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\xff\xff", b"\xff\xff\x7f\x7f",
                       b"\0\x7e\0\x7e", b"\0\x7c\0\x7c"))  # fmt: skip
    size = len(tensor.data)
    if rng.random() < 0.5:
        tensor.data = (word * (size // 4 + 1))[:size]
    else:
        at = rng.randrange(max(1, size))
        tensor.data = tensor.data[:at] + word + tensor.data[at + 4 :]
        tensor.data = tensor.data[:size]
    return f"{tensor.name!r} poisoned with {word!r}"


# Tokenizers ---------------------------------------------------------------------------------


def _list(file: GgufFile, key: str) -> list[bytes] | None:
    entry = file.entry(f"tokenizer.ggml.{key}")
    return (
        read_strings(entry.payload)
        if entry and entry.kind == ARRAY and entry.payload[0] == 8
        else None
    )


def _put(file: GgufFile, key: str, payload: bytes) -> None:
    file.set(f"tokenizer.ggml.{key}", ARRAY, payload)


def change_tokenizer(rng: random.Random, file: GgufFile) -> str:
    key = rng.choice(("model", "pre"))
    value = rng.choice(TEXTS)
    file.set(f"tokenizer.ggml.{key}", STRING, text(value))
    return f"tokenizer {key} {value[:20]!r}"


def change_tokens(rng: random.Random, file: GgufFile) -> str:
    tokens = _list(file, "tokens")
    if not tokens:
        return change_tokenizer(rng, file)
    i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
    how = rng.randrange(9)
    if how == 0:
        tokens[i] = tokens[j]
    elif how == 1:
        tokens[i] = tokens[j] + b"\0" + b"x"
    elif how == 2:
        tokens[i] = rng.choice((b"", b"\0", b"\xff\xfe", b"[EMPTY_%d]" % j, b"x" * 70000))
    elif how == 3:
        tokens = tokens[: rng.choice((0, 1, 2, 3, len(tokens) // 2, len(tokens) - 1))]
    elif how == 4:
        tokens += [b"new%d" % n for n in range(rng.choice((1, 32)))]
    elif how == 5:
        tokens = [t for t in tokens if not t.startswith((b"<0x", b"\\x"))]
    elif how == 6:
        for n in range(rng.choice((1, 8))):
            tokens[rng.randrange(len(tokens))] = b"\\x%d" % n
    elif how == 7:
        del tokens[i]
    else:
        tokens[i] = rng.randbytes(rng.randrange(1, 9))
    _put(file, "tokens", strings(tokens))
    return f"tokens edited ({how}), {len(tokens)}"


def change_numbers(rng: random.Random, file: GgufFile) -> str:
    """Token types or scores: their values, their number, their element type."""
    key = rng.choice(("token_type", "scores"))
    entry = file.entry(f"tokenizer.ggml.{key}")
    tokens = _list(file, "tokens") or [b""]
    if entry is None or entry.kind != ARRAY or entry.payload[0] == STRING:
        kind = F32 if key == "scores" else I32
        _put(file, key, numbers(kind, [rng.choice((0, 1, 2, 6))] * len(tokens)))
        return f"new {key}"
    kind, values = read_numbers(entry.payload)
    how = rng.randrange(4)
    if how == 0:
        values = values[: rng.choice((0, 1, len(values) // 2, max(0, len(values) - 1)))]
    elif how == 1:
        kind = rng.choice(list(SCALARS))
        values = [0 if v != v else v for v in values]
    elif how == 2:
        for _ in range(rng.choice((1, 8))):
            pool = FLOATS if kind in (F32, 12) else (0, 1, 2, 3, 4, 5, 6, 7, 100)
            if values:
                values[rng.randrange(len(values))] = rng.choice(pool)
    else:
        pool = FLOATS if kind in (F32, 12) else (1, 2, 3, 4, 5, 6)
        values = [rng.choice(pool)] * len(values)
    _put(file, key, numbers(kind, values))
    return f"{key} edited ({how})"


def change_merges(rng: random.Random, file: GgufFile) -> str:
    merges = _list(file, "merges")
    if not merges:
        _put(file, "merges", strings([b"a b"]))
        return "new merges"
    how = rng.randrange(5)
    if how == 0:
        file.remove("tokenizer.ggml.merges")
    elif how == 1:
        for _ in range(8):
            merges[rng.randrange(len(merges))] = rng.choice(
                (b"", b" ", b"ab", b"a b c", b"\0 \0", b" a")
            )
    elif how == 2:
        merges = [merges[0]] * len(merges)
    elif how == 3:
        merges = []
    else:
        _put(file, "merges", numbers(U8, [1, 2, 3]))
        return "merges of numbers"
    if how != 0:
        _put(file, "merges", strings(merges))
    return f"merges edited ({how})"


_SPECIAL = (
    "bos",
    "eos",
    "eot",
    "eom",
    "unknown",
    "seperator",
    "padding",
    "mask",
    "fim_pad",
    "fim_sep",
)


def change_special(rng: random.Random, file: GgufFile) -> str:
    if rng.random() < 0.4:
        key = "tokenizer.ggml." + rng.choice(
            ("add_bos_token", "add_eos_token", "add_space_prefix", "add_sep_token",
             "remove_extra_whitespaces")
        )  # fmt: skip
        kind, value = (BOOL, scalar(BOOL, rng.choice((0, 1)))) if rng.random() < 0.7 else _any(rng)
    else:
        key = f"tokenizer.ggml.{rng.choice(_SPECIAL)}_token_id"
        kind, value = (U32, scalar(U32, rng.choice(INTEGERS))) if rng.random() < 0.7 else _any(rng)
    file.set(key, kind, value)
    return f"{key} of type {kind}: {value[:8]!r}"


def retype_tokenizer_key(rng: random.Random, file: GgufFile) -> str:
    keys = [e for e in file.entries if e.key.startswith(b"tokenizer.")]
    if not keys:
        return add_key(rng, file)
    entry = rng.choice(keys)
    if rng.random() < 0.3:
        file.entries.remove(entry)
        return f"without {entry.key!r}"
    entry.kind, entry.payload = _any(rng)
    return f"{entry.key!r} becomes type {entry.kind}"


def add_charsmap(rng: random.Random, file: GgufFile) -> str:
    data = rng.choice((b"", b"\1", struct.pack("<I", 4) + rng.randbytes(12),
                       struct.pack("<I", 2**32 - 1) + bytes(9),
                       struct.pack("<I", 1024) + rng.randbytes(1200)))  # fmt: skip
    kind = rng.choice((U8, 1, U16))
    _put(file, "precompiled_charsmap", numbers(kind, list(data)))
    return f"charsmap of {len(data)}"


# Adapters -----------------------------------------------------------------------------------


def change_adapter(rng: random.Random, file: GgufFile) -> str:
    how = rng.randrange(7)
    if how == 0:
        file.set("adapter.lora.alpha", *_any(rng))
    elif how == 1:
        file.set("adapter.lora.alpha", F32, scalar(F32, rng.choice(FLOATS)))
    elif how == 2:
        file.set("adapter.type", STRING, text(rng.choice(TEXTS)))
    elif how == 3:
        file.set(rng.choice(("adapter.type", "general.type", "general.architecture")), *_any(rng))
    elif how == 4:
        file.set("adapter.alora.invocation_tokens", *_any(rng))
    elif how == 5:
        file.set("general.architecture", STRING, text(rng.choice(("qwen2", "x", "", "llama"))))
    else:
        key = rng.choice(file.entries).key.decode()
        file.remove(key)
        return f"adapter without {key}"
    return f"adapter key edited ({how})"


def change_lora_tensor(rng: random.Random, file: GgufFile) -> str:
    tensor = rng.choice(file.tensors)
    how = rng.randrange(5)
    if how == 0:
        tensor.name = rng.choice((
            tensor.name.replace(b"lora_a", b"lora_b"), tensor.name[: -len(b".lora_a")],
            b"token_embd.weight.lora_a", b"blk.0.attn_norm.weight.lora_a", b"output_norm.weight",
            b"rope_freqs.weight.lora_b", tensor.name + b"x", b".lora_a", b"output.weight.lora_b",
        ))  # fmt: skip
    elif how == 1:
        names = {t.name for t in file.tensors}
        stem = rng.choice((b"token_embd.weight", b"output_norm.weight", b"blk.0.attn_norm.weight",
                           b"blk.1.ffn_up.weight", b"rope_freqs.weight"))  # fmt: skip
        for suffix, shape in ((b".lora_a", [64, 4]), (b".lora_b", [4, rng.choice((64, 1, 96))])):
            if stem + suffix not in names:
                new = Tensor(stem + suffix, shape, 0, bytes(4))
                new.fit()
                file.tensors.append(new)
        return f"adapter of {stem!r}"
    elif how == 2 and len(tensor.shape) == 2:
        stem = tensor.name[: -len(b".lora_a")]
        rank = rng.choice((1, 2, 3, 8, 64, 1000))
        for other in (t for t in file.tensors if len(t.shape) == 2):
            if other.name == stem + b".lora_a":
                other.reshape([other.shape[0], rank])
            elif other.name == stem + b".lora_b":
                other.reshape([rank, other.shape[1]])
        return f"rank {rank} of {stem!r}"
    elif how == 3:
        kind = rng.choice([t for t in TYPES if tensor.shape[0] % GGML_QUANT_SIZES[t][0] == 0])
        for other in file.tensors:
            if other.shape[0] % GGML_QUANT_SIZES[kind][0] == 0:
                other.retype(kind)
        return f"all of {kind.name}"
    else:
        tensor.reshape([*tensor.shape, 2])
    return f"adapter tensor {tensor.name!r} edited ({how})"


# Splits -------------------------------------------------------------------------------------


def change_split(rng: random.Random, file: GgufFile) -> str:
    key, own = rng.choice((("split.no", U16), ("split.count", U16), ("split.tensors.count", I32)))
    how = rng.randrange(3)
    if how == 0:
        file.remove(key)
        return f"without {key}"
    kind, value = _any(rng) if how == 1 else (own, scalar(own, rng.choice((0, 1, 2, 3, 9, 65535))))
    file.set(key, kind, value)
    return f"{key} of type {kind}: {value[:8]!r}"


EDITS: dict[str, tuple[Edit, ...]] = {
    "header": (retype_key, revalue_key, revalue_key, remove_key, repeat_key, add_key, add_key,
               aim_at_key, aim_at_key, aim_at_key, forge_counts),
    "tensors": (retype_tensor, retype_tensor, reshape_tensor, rename_tensor, remove_tensor,
                add_tensor, move_tensor, poison_tensor),
    "tokenizer": (change_tokenizer, change_tokens, change_tokens, change_numbers, change_numbers,
                  change_merges, change_special, retype_tokenizer_key, add_charsmap),
    "adapters": (change_adapter, change_adapter, change_lora_tensor, change_lora_tensor,
                 change_lora_tensor, retype_tensor, reshape_tensor, rename_tensor, poison_tensor,
                 move_tensor),
    "splits": (change_split, change_split, change_split, retype_tensor, reshape_tensor,
               rename_tensor, remove_tensor, retype_key, repeat_key, move_tensor),
}  # fmt: skip


def random_bytes(rng: random.Random, data: bytes, header: int) -> tuple[bytes, str]:
    """A few bytes changed, mostly in the header; or the end cut off."""
    out = bytearray(data)
    if rng.random() < 0.05:
        cut = rng.randrange(len(out))
        return bytes(out[:cut]), f"cut at {cut}"
    places = []
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(min(len(out), header if rng.random() < 0.9 else len(out)))
        out[at] = rng.choice((0, 1, 255, 0x7F, out[at] ^ 1 << rng.randrange(8), rng.randrange(256)))
        places.append(at)
    return bytes(out), f"bytes at {places}"
