"""Tiny random models that llama.cpp loads: several architectures, every kind of tokenizer.

What they say means nothing. They are the sane files that a fuzzer damages, and the proof that the
header check refuses none of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from random_gguf import vocabulary

EMBD, HEADS, KV, FF, LAYERS, CTX, EXPERTS, USED = 64, 4, 2, 96, 2, 128, 4, 2
HEAD = EMBD // HEADS
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
LETTERS = "etaoinsrhldcumfpgwybvkxjqzETAOINSRHLDC"

Shapes = dict[str, tuple[int, ...]]  # as numpy has them: rows first


def _attention(i: int, *, bias: bool = False, norm: bool = False) -> Shapes:
    shapes: Shapes = {
        f"blk.{i}.attn_norm.weight": (EMBD,),
        f"blk.{i}.attn_q.weight": (EMBD, EMBD),
        f"blk.{i}.attn_k.weight": (KV * HEAD, EMBD),
        f"blk.{i}.attn_v.weight": (KV * HEAD, EMBD),
        f"blk.{i}.attn_output.weight": (EMBD, EMBD),
        f"blk.{i}.ffn_norm.weight": (EMBD,),
    }
    if bias:
        shapes |= {f"blk.{i}.attn_q.bias": (EMBD,), f"blk.{i}.attn_k.bias": (KV * HEAD,)}
        shapes |= {f"blk.{i}.attn_v.bias": (KV * HEAD,)}
    if norm:
        shapes |= {f"blk.{i}.attn_{x}_norm.weight": (HEAD,) for x in "qk"}
    return shapes


def _dense(i: int) -> Shapes:
    return {
        f"blk.{i}.ffn_gate.weight": (FF, EMBD),
        f"blk.{i}.ffn_up.weight": (FF, EMBD),
        f"blk.{i}.ffn_down.weight": (EMBD, FF),
    }


def _experts(i: int) -> Shapes:
    return {
        f"blk.{i}.ffn_gate_inp.weight": (EXPERTS, EMBD),
        f"blk.{i}.ffn_gate_exps.weight": (EXPERTS, FF, EMBD),
        f"blk.{i}.ffn_up_exps.weight": (EXPERTS, FF, EMBD),
        f"blk.{i}.ffn_down_exps.weight": (EXPERTS, EMBD, FF),
    }


def _gemma(i: int) -> Shapes:
    post = {f"blk.{i}.post_{x}_norm.weight": (EMBD,) for x in ("attention", "ffw")}
    return _attention(i, norm=True) | _dense(i) | post


def _phi3(i: int) -> Shapes:
    return {
        f"blk.{i}.attn_norm.weight": (EMBD,),
        f"blk.{i}.attn_qkv.weight": (EMBD + 2 * KV * HEAD, EMBD),
        f"blk.{i}.attn_output.weight": (EMBD, EMBD),
        f"blk.{i}.ffn_norm.weight": (EMBD,),
        f"blk.{i}.ffn_up.weight": (2 * FF, EMBD),
        f"blk.{i}.ffn_down.weight": (EMBD, FF),
    }


def _gpt2(i: int) -> Shapes:
    names = {"attn_norm": (EMBD,), "ffn_norm": (EMBD,), "attn_qkv": (3 * EMBD, EMBD)}
    names |= {"attn_output": (EMBD, EMBD), "ffn_up": (FF, EMBD), "ffn_down": (EMBD, FF)}
    weights = {f"blk.{i}.{name}.weight": shape for name, shape in names.items()}
    return weights | {f"blk.{i}.{name}.bias": shape[:1] for name, shape in names.items()}


def _gpt_oss(i: int) -> Shapes:
    shapes = _attention(i, bias=True) | _experts(i)
    del shapes[f"blk.{i}.ffn_norm.weight"]
    return shapes | {
        f"blk.{i}.post_attention_norm.weight": (EMBD,),
        f"blk.{i}.attn_sinks.weight": (HEADS,),
        f"blk.{i}.attn_output.bias": (EMBD,),
        f"blk.{i}.ffn_gate_inp.bias": (EXPERTS,),
        f"blk.{i}.ffn_gate_exps.bias": (EXPERTS, FF),
        f"blk.{i}.ffn_up_exps.bias": (EXPERTS, FF),
        f"blk.{i}.ffn_down_exps.bias": (EXPERTS, EMBD),
    }


def _mamba(i: int) -> Shapes:
    inner, state, rank, conv = 2 * EMBD, 8, 4, 4
    return {
        f"blk.{i}.attn_norm.weight": (EMBD,),
        f"blk.{i}.ssm_in.weight": (2 * inner, EMBD),
        f"blk.{i}.ssm_conv1d.weight": (inner, conv),
        f"blk.{i}.ssm_conv1d.bias": (inner,),
        f"blk.{i}.ssm_x.weight": (rank + 2 * state, inner),
        f"blk.{i}.ssm_dt.weight": (inner, rank),
        f"blk.{i}.ssm_dt.bias": (inner,),
        f"blk.{i}.ssm_a": (inner, state),
        f"blk.{i}.ssm_d": (inner,),
        f"blk.{i}.ssm_out.weight": (EMBD, inner),
    }


def _lfm2(i: int) -> Shapes:
    """One layer of short convolution, then one of attention."""
    if i:
        return _attention(i, norm=True) | _dense(i)
    return {
        f"blk.{i}.attn_norm.weight": (EMBD,),
        f"blk.{i}.ffn_norm.weight": (EMBD,),
        f"blk.{i}.shortconv.conv.weight": (EMBD, 3),
        f"blk.{i}.shortconv.in_proj.weight": (3 * EMBD, EMBD),
        f"blk.{i}.shortconv.out_proj.weight": (EMBD, EMBD),
    } | _dense(i)


_ROPE = {"rope.dimension_count": HEAD, "rope.freq_base": 10000.0}
_RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
_MOE = {"expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": FF}

# architecture: its layers, its own metadata, tensors outside the layers
ARCHITECTURES: Mapping[str, tuple[Callable[[int], Shapes], Mapping[str, Any], Shapes]] = {
    "llama": (
        lambda i: _attention(i) | _dense(i),
        _RMS | _ROPE,
        {"rope_freqs.weight": (HEAD // 2,)},
    ),
    "llama-moe": (lambda i: _attention(i) | _experts(i), _RMS | _ROPE | _MOE, {}),
    "qwen2": (lambda i: _attention(i, bias=True) | _dense(i), _RMS | _ROPE, {}),
    "qwen3": (lambda i: _attention(i, norm=True) | _dense(i), _RMS | _ROPE, {}),
    "qwen3moe": (lambda i: _attention(i, norm=True) | _experts(i), _RMS | _ROPE | _MOE, {}),
    "gemma3": (
        _gemma,
        _RMS | _ROPE | {"attention.sliding_window": 16, "final_logit_softcapping": 30.0},
        {},
    ),
    "phi3": (
        _phi3,
        _RMS | _ROPE | {"rope.scaling.original_context_length": 64},
        {f"rope_factors_{x}.weight": (HEAD // 2,) for x in ("long", "short")},
    ),
    "gpt2": (
        _gpt2,
        {"attention.layer_norm_epsilon": 1e-5, "attention.head_count_kv": HEADS},
        {"position_embd.weight": (CTX, EMBD), "output_norm.bias": (EMBD,)},
    ),
    "gpt-oss": (
        _gpt_oss,
        _RMS | _ROPE | _MOE | {"attention.sliding_window": 16},
        {"output.weight": (0, EMBD)},
    ),
    "mamba": (
        _mamba,
        _RMS
        | {"ssm.conv_kernel": 4, "ssm.inner_size": 2 * EMBD, "ssm.state_size": 8}
        | {"ssm.time_step_rank": 4, "attention.head_count": 0, "attention.head_count_kv": 0},
        {},
    ),
    "lfm2": (
        _lfm2,
        _RMS | _ROPE | {"shortconv.l_cache": 3, "attention.head_count_kv": [0, KV]},
        {},
    ),
}  # fmt: skip


def _byte_tokens() -> list[str | bytes]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _gpt2_vocabulary() -> dict[str, Any]:
    tokens, merges = vocabulary(320)
    return {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "merges": merges,
            "types": [NORMAL] * 316 + [CONTROL] * 4, "bos": 316, "eos": 317}  # fmt: skip


def _scored(model: str, letters: list[str]) -> dict[str, Any]:
    tokens: list[str | bytes] = ["<unk>", "<s>", "</s>", *_byte_tokens(), *letters]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(letters)]
    scores = [0.0] * 259 + [-1.0 - i for i in range(len(letters))]
    return {"model": model, "tokens": tokens, "types": types, "scores": scores,
            "bos": 1, "eos": 2, "unknown": 0}  # fmt: skip


def _words() -> list[str]:
    return ["▁", *LETTERS, *(a + b for a, b in itertools.product("eta", LETTERS[:12]))]


def _rwkv_vocabulary() -> dict[str, Any]:
    tokens = ["<s>", *(f"\\x{byte:02x}" for byte in range(256)), "the", "and", " t"]
    return {"model": "rwkv", "tokens": tokens, "types": [CONTROL, *[NORMAL] * 259],
            "bos": 0, "eos": 0, "unknown": 0}  # fmt: skip


def _bert_vocabulary() -> dict[str, Any]:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"▁{c}" for c in LETTERS), *LETTERS]
    types = [CONTROL] * 4 + [NORMAL] * (len(tokens) - 4)
    return {"model": "bert", "tokens": tokens, "types": types, "bos": 2, "eos": 3,
            "seperator": 3, "unknown": 1}  # fmt: skip


TOKENIZERS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "gpt2": _gpt2_vocabulary,
    "llama": lambda: _scored("llama", _words()),
    "t5": lambda: _scored("t5", _words()),
    "plamo2": lambda: _scored("plamo2", _words()),
    "rwkv": _rwkv_vocabulary,
    "bert": _bert_vocabulary,
}


def write_tiny_model(
    path: Path, arch: str = "llama", tokenizer: str = "gpt2", *, kind: str = "F32", seed: int = 0
) -> Path:
    """Writes one. arch: of ARCHITECTURES; tokenizer: of TOKENIZERS; kind: type of the matrices.

    A matrix whose rows do not divide into the type's blocks stays F32, as llama.cpp's own
    quantizer leaves those that must not be quantized.
    """
    layers, own, others = ARCHITECTURES[arch]
    vocab = TOKENIZERS[tokenizer]()
    n_vocab = len(vocab["tokens"])
    writer = gguf.GGUFWriter(path, arch.removesuffix("-moe"))
    writer.add_name("tiny")
    metadata = {
        "block_count": LAYERS,
        "context_length": CTX,
        "embedding_length": EMBD,
        "feed_forward_length": FF,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV,
    }
    for key, value in (metadata | dict(own)).items():
        add = {int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
        add[type(value)](f"{writer.arch}.{key}", value)
    _add_tokenizer(writer, vocab)
    shapes: Shapes = {"token_embd.weight": (n_vocab, EMBD), "output_norm.weight": (EMBD,)}
    if arch == "lfm2":
        shapes["token_embd_norm.weight"] = shapes.pop("output_norm.weight")
    for name, shape in others.items():
        shapes[name] = tuple(size or n_vocab for size in shape)
    for i in range(LAYERS):
        shapes |= layers(i)
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        _add_tensor(writer, name, shape, GGMLQuantizationType[kind], rng)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, vocab: Mapping[str, Any]) -> None:
    writer.add_tokenizer_model(vocab["model"])
    writer.add_token_list(vocab["tokens"])
    writer.add_token_types(vocab["types"])
    if "pre" in vocab:
        writer.add_tokenizer_pre(vocab["pre"])
        writer.add_token_merges(vocab["merges"])
    if "scores" in vocab:
        writer.add_token_scores(vocab["scores"])
    for name in ("bos", "eos", "unknown", "seperator"):
        if name in vocab:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", vocab[name])


_ALWAYS_F32 = ("norm", "bias", "ssm_conv1d", "ssm_a", "ssm_d", "shortconv.conv", "ffn_gate_inp")


def _add_tensor(
    writer: gguf.GGUFWriter,
    name: str,
    shape: tuple[int, ...],
    kind: GGMLQuantizationType,
    rng: np.random.Generator,
) -> None:
    block, size = GGML_QUANT_SIZES[kind]
    if len(shape) == 1 or any(part in name for part in _ALWAYS_F32) or shape[-1] % block:
        kind = GGMLQuantizationType.F32
    if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        values = rng.standard_normal(shape, np.float32) * shape[-1] ** -0.5
        if len(shape) == 1:
            values = np.abs(values) + 1
        if name.endswith("ssm_a"):
            values = -np.abs(values)  # a state that decays
        writer.add_tensor(name, values.astype(np.float16 if kind else np.float32))
    else:
        blocks = np.zeros((*shape[:-1], shape[-1] // block * size), np.uint8)
        writer.add_tensor(name, blocks, raw_dtype=kind)


def write_adapter(
    path: Path, arch: str, layers: Mapping[str, tuple[int, int]], rank: int = 4
) -> Path:
    """A LoRA adapter for matrices by name, each of the shape (rows, columns)."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for name, (rows, columns) in layers.items():
        writer.add_tensor(f"{name}.lora_a", rng.standard_normal((rank, columns), np.float32) * 0.1)
        writer.add_tensor(f"{name}.lora_b", rng.standard_normal((rows, rank), np.float32) * 0.1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
