"""What llama.cpp wants of a model's metadata: the type of each key, its range, and what agrees.

llama.cpp ends the process over some of these and computes nonsense with others. Keys that only
some architectures read are not here: llama.cpp refuses those in a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf.constants import GGMLQuantizationType as Type

from eftlocal.errors import ModelFileError
from eftlocal.gguf_file.header import MAX_LAYERS, Header, read_header
from eftlocal.gguf_file.parser import TensorInfo
from eftlocal.gguf_file.tokenizer import check_tokenizer

MAX_EXPERTS = 1024  # llama.cpp's own limit
_INT32 = 2**31 - 1
_TINY = 1e-30  # a frequency that may not be zero
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_ENCODERS = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert"}
    | {"modern-bert", "eurobert", "gemma-embedding", "t5", "t5encoder", "clip"}
)
_DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})


class _Rule(NamedTuple):
    """A value's type, its least and greatest, and whether it may be one for each layer."""

    type: str
    least: float = -inf
    most: float = inf
    per_layer: bool = False


_COUNT = _Rule("uint32", 0, _INT32)
_COUNTS = _Rule("uint32", 0, 1 << 26, per_layer=True)
NUMBER = _Rule("float32")
TEXT = _Rule("string")
_SWITCH = _Rule("bool")
_EPSILON = _Rule("float32", 0)

_GENERAL = {
    "general.architecture": TEXT,
    "general.type": TEXT,
    "general.name": TEXT,
    "general.file_type": _Rule("uint32"),
}
_REQUIRED = ("context_length", "embedding_length", "block_count")
_OF_ARCHITECTURE = {
    "context_length": _COUNT,
    "embedding_length": _Rule("uint32", 1, 1 << 24),
    "embedding_length_out": _Rule("uint32", 0, 1 << 24),
    "block_count": _Rule("uint32", 1, MAX_LAYERS),
    "nextn_predict_layers": _Rule("uint32", 0, MAX_LAYERS),
    "feed_forward_length": _COUNTS,
    "expert_count": _Rule("uint32", 0, MAX_EXPERTS),
    "expert_used_count": _COUNTS,
    "expert_group_count": _COUNT,
    "expert_group_used_count": _COUNT,
    "vocab_size": _COUNT,
    "pooling_type": _COUNT,
    "attention.causal": _SWITCH,
    "attention.head_count": _COUNTS,
    "attention.head_count_kv": _COUNTS,
    "attention.key_length": _COUNT,
    "attention.value_length": _COUNT,
    "attention.key_length_swa": _COUNT,
    "attention.value_length_swa": _COUNT,
    "attention.layer_norm_epsilon": _EPSILON,
    "attention.layer_norm_rms_epsilon": _EPSILON,
    "attention.group_norm_epsilon": _EPSILON,
    "attention.max_alibi_bias": _Rule("float32", 0),
    "attention.clamp_kqv": NUMBER,
    "attention.scale": NUMBER,
    "attn_logit_softcapping": NUMBER,
    "final_logit_softcapping": NUMBER,
    "logit_scale": NUMBER,
    "embedding_scale": NUMBER,
    "residual_scale": NUMBER,
    "rope.dimension_count": _COUNT,
    "rope.dimension_count_swa": _COUNT,
    "rope.freq_base": _Rule("float32", _TINY),
    "rope.freq_base_swa": _Rule("float32", _TINY),
    "rope.scale_linear": _Rule("float32", 0),
    "rope.scaling.type": TEXT,
    "rope.scaling.factor": _Rule("float32", 0),
    "rope.scaling.attn_factor": NUMBER,
    "rope.scaling.alpha": NUMBER,
    "rope.scaling.original_context_length": _COUNT,
    "rope.scaling.finetuned": _SWITCH,
    "ssm.conv_kernel": _COUNT,
    "ssm.inner_size": _COUNT,
    "ssm.state_size": _COUNT,
    "ssm.time_step_rank": _COUNT,
    "ssm.group_count": _COUNT,
}


def check_metadata(header: Header) -> None:
    """Raises ModelFileError for a key that is missing, of another type, or out of its range."""
    check_keys(header, _GENERAL)
    arch = header.architecture
    if arch in _ENCODERS | _DIFFUSION | {"wavtokenizer-dec"}:
        raise ModelFileError(
            f"{header.path}: a {arch} model does not generate text token by token, so it cannot "
            "play a role: choose another model"
        )
    for key in _REQUIRED:
        if f"{arch}.{key}" not in header.metadata:
            header.refuse(f"has no {arch}.{key}")
    check_keys(header, {f"{arch}.{key}": rule for key, rule in _OF_ARCHITECTURE.items()})
    _check_layers(header)
    _check_experts(header)
    _check_heads(header)
    scaling = header.metadata.get(f"{arch}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        known = ", ".join(_ROPE_SCALINGS)
        header.refuse(f"{arch}.rope.scaling.type is {scaling!r:.60}, none of {known}")


def check_keys(header: Header, rules: dict[str, _Rule]) -> None:
    """Each key that is there has its rule's type and range."""
    for key in rules.keys() & header.types.keys():
        rule, type_ = rules[key], header.types[key]
        if key not in header.metadata:
            continue  # a long array that was left out
        if type_ == rule.type:
            _check_range(header, key, (header.metadata[key],), rule)
        elif rule.per_layer and type_ in ("array of uint32", "array of int32"):
            _check_range(header, key, header.metadata[key].tolist(), rule)
        else:
            header.refuse(f"{key} is of type {type_}, and llama.cpp reads {rule.type}")


def _check_range(header: Header, key: str, values: Iterable[Any], rule: _Rule) -> None:
    if rule.type in ("string", "bool"):
        return
    for value in values:
        if not isfinite(value):
            header.refuse(f"{key} is {value}, not a finite number")
        if value < rule.least:
            header.refuse(f"{key} is {value}, and must be {rule.least:g} or more")
        if value > rule.most:
            header.refuse(f"{key} is {value}, and must be {rule.most:g} or less")


def _check_layers(header: Header) -> None:
    """One value a layer, where a key has several."""
    arch, n_layers = header.architecture, header.n_layers
    for name, rule in _OF_ARCHITECTURE.items():
        value = header.metadata.get(f"{arch}.{name}") if rule.per_layer else None
        if isinstance(value, np.ndarray) and len(value) != n_layers:
            header.refuse(f"{arch}.{name} has {len(value)} values for {n_layers} layers")
    ahead = header.metadata.get(f"{arch}.nextn_predict_layers", 0)
    if ahead > n_layers:
        header.refuse(f"{arch}.nextn_predict_layers is {ahead}, of {n_layers} layers")


def _check_experts(header: Header) -> None:
    arch, n_layers = header.architecture, header.n_layers
    experts = header.count("expert_count", 0, MAX_EXPERTS, 0)
    groups = header.metadata.get(f"{arch}.expert_group_count", 0)
    used_groups = header.metadata.get(f"{arch}.expert_group_used_count", 0)
    used = max(np.atleast_1d(header.metadata.get(f"{arch}.expert_used_count", 0))[:n_layers])
    if arch.startswith("hunyuan") and experts <= 1:
        return  # written for dense models too, and then not used
    if used > experts or (experts and not used):
        header.refuse(f"uses {used} of {experts} experts ({arch}.expert_used_count)")
    if groups and groups >= experts:
        header.refuse(f"has {groups} groups of {experts} experts ({arch}.expert_group_count)")
    if groups > 1 and (experts % groups or not 0 < used_groups < groups):
        header.refuse(
            f"uses {used_groups} of {groups} groups of {experts} experts "
            f"({arch}.expert_group_used_count)"
        )


def _check_heads(header: Header) -> None:
    arch = header.architecture
    heads, heads_kv = header.n_heads, header.n_heads_kv
    for layer, (queries, keys) in enumerate(zip(heads, heads_kv, strict=True)):
        if keys and queries % keys:
            header.refuse(
                f"layer {layer} has {queries} heads and {keys} key-value heads, which does not "
                f"divide ({arch}.attention.head_count_kv)"
            )
    latent = f"{arch}.attention.kv_lora_rank" in header.metadata  # heads have other widths there
    if not heads[0] or latent:
        return
    rotated = header.metadata.get(f"{arch}.rope.dimension_count", 0)
    if rotated % 2 or rotated > header.key_length:
        header.refuse(
            f"{arch}.rope.dimension_count is {rotated}; heads are {header.key_length} wide, and "
            "it must be even and no more"
        )


# Types that no kernel multiplies by or takes rows of: Q8_1 and Q8_K are for activations only.
_NOT_WEIGHTS = frozenset({Type.I8, Type.I16, Type.I32, Type.I64, Type.F64, Type.Q8_1, Type.Q8_K})

# Tables of indices: the only tensors of integers.
_INDICES = frozenset({"ffn_gate_tid2eid", "d2t", "masked_embd_ordering"})
# Beside norms, biases and all that is no ".weight": ggml asserts that these are float32.
_FLOAT32 = frozenset(
    {"rope_freqs", "rope_factors_long", "rope_factors_short", "attn_sinks"}
    | {"ssm_a", "ssm_d", "ssm_conv1d", "shortconv.conv"}
)
_NAME = re.compile(r"(?:blk\.\d+\.)?(?P<stem>.*?)(?:\.(?P<suffix>weight|lora_a|lora_b))?")

# Dimensions as in the file, fastest first: E embeddings, V tokens, X experts; None is any.
_SHAPES: dict[str, tuple[str | None, ...]] = {
    "token_embd.weight": ("E", "V"),
    "output.weight": ("E", "V"),
    "output_norm.weight": ("E",),
    "output_norm.bias": ("E",),
    "attn_norm.weight": ("E",),
    "attn_norm.bias": ("E",),
    "post_attention_norm.weight": ("E",),
    "ffn_norm.weight": ("E",),
    "ffn_norm.bias": ("E",),
    "post_ffw_norm.weight": ("E",),
    "attn_output.weight": (None, "E"),
    "attn_output.bias": ("E",),
    "attn_q.weight": ("E", None),
    "attn_k.weight": ("E", None),
    "attn_v.weight": ("E", None),
    "attn_qkv.weight": ("E", None),
    "ffn_gate.weight": ("E", None),
    "ffn_up.weight": ("E", None),
    "ffn_down.weight": (None, "E"),
    "ffn_down.bias": ("E",),
    "ffn_gate_inp.weight": ("E", "X"),
}
# Drafting heads, speech and vision models have widths and vocabularies beside these.
_OTHER_SHAPES = ("dflash", "eagle3", "qwen3vl", "pockettts")


def check_tensors(header: Header) -> None:
    """Raises ModelFileError for a tensor of a type or shape that llama.cpp cannot use."""
    arch = header.architecture
    sizes = {"E": header.n_embd, "V": header.n_vocab}
    sizes["X"] = header.metadata.get(f"{arch}.expert_count", 0)
    names = {tensor.name for tensor in header.tensors}
    if "token_embd.weight" not in names:
        header.refuse("has no tensor token_embd.weight")
    for tensor in header.tensors:
        _check_type(header, tensor)
        if not arch.startswith(_OTHER_SHAPES):
            _check_shape(header, tensor, sizes)


def check_weights(header: Header, tensor: TensorInfo) -> None:
    """Raises ModelFileError for a tensor of a type that no kernel multiplies by."""
    if tensor.type in _NOT_WEIGHTS:
        header.refuse(f"tensor {tensor.name} is of type {tensor.type.name}, which no weights are")


def _check_type(header: Header, tensor: TensorInfo) -> None:
    match = _NAME.fullmatch(tensor.name)
    stem, suffix = (match["stem"], match["suffix"]) if match else (tensor.name, None)
    if stem in _INDICES:
        return
    check_weights(header, tensor)
    plain = suffix is None or stem in _FLOAT32 or stem.endswith("_norm")
    if plain and tensor.type != Type.F32:
        header.refuse(f"tensor {tensor.name} is of type {tensor.type.name}, and must be F32")


def _check_shape(header: Header, tensor: TensorInfo, sizes: dict[str, int]) -> None:
    rule = _SHAPES.get(re.sub(r"^blk\.\d+\.", "", tensor.name))
    if rule is None:
        return
    expected = tuple(None if size is None else sizes[size] for size in rule)
    shape = tensor.shape
    while len(shape) > len(expected) and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != len(expected) or any(
        wanted is not None and wanted != size for wanted, size in zip(expected, shape, strict=True)
    ):
        wanted = " x ".join("any" if size is None else str(size) for size in expected)
        header.refuse(
            f"tensor {tensor.name} is {' x '.join(map(str, tensor.shape))}, and the header says "
            f"{wanted}"
        )


_KEYS = {
    "general.architecture": TEXT,
    "general.type": TEXT,
    "adapter.type": TEXT,
    "adapter.lora.alpha": NUMBER,
}
_A, _B = ".lora_a", ".lora_b"


def check_adapter(adapter: Header, model: Header) -> None:
    """Raises ModelFileError for an adapter that llama.cpp cannot put on this model."""
    check_keys(adapter, _KEYS)
    kind = adapter.metadata.get("adapter.type")
    if kind != "lora":
        adapter.refuse(f"its adapter.type is {kind!r:.60}, and only lora can be used")
    if "adapter.alora.invocation_tokens" in adapter.types:
        adapter.refuse("is an activated LoRA (aLoRA), which is not supported")
    if adapter.architecture != model.architecture:
        adapter.refuse(
            f"is an adapter for {adapter.architecture}, and {model.path.name} is of the "
            f"architecture {model.architecture}"
        )
    tensors = {tensor.name: tensor for tensor in adapter.tensors}
    targets = {tensor.name: tensor for tensor in model.tensors}
    for name, tensor in tensors.items():
        check_weights(adapter, tensor)
        if name.endswith((_A, _B)):
            _check_pair(adapter, name[: -len(_A)], tensors, targets, model)
        elif not name.endswith("_norm.weight"):
            adapter.refuse(f"tensor {name} is no part of a LoRA adapter")


def _check_pair(
    adapter: Header,
    name: str,
    tensors: dict[str, TensorInfo],
    targets: dict[str, TensorInfo],
    model: Header,
) -> None:
    if name not in targets:
        adapter.refuse(f"changes the tensor {name}, which {model.path.name} does not have")
    for suffix in (_A, _B):
        if name + suffix not in tensors:
            adapter.refuse(f"has no tensor {name + suffix}")
    a, b, target = (
        _padded(t.shape) for t in (tensors[name + _A], tensors[name + _B], targets[name])
    )
    # rows of the embeddings are looked up, so there A is stored the other way round
    fits = (
        (b[1] == target[0] and a[1] == target[1])
        if name == "token_embd.weight"
        else (a[0] == target[0] and b[1] == target[1])
    )
    rank = a[0] if name == "token_embd.weight" else a[1]
    if not fits or b[0] != rank or not a[2:] == b[2:] == target[2:]:
        adapter.refuse(
            f"its matrices {_shown(a)} and {_shown(b)} do not fit the tensor {name} of "
            f"{model.path.name}, {_shown(target)}: is it an adapter for another model?"
        )


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1, 1, 1)[:4]


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[:2] if shape[2:] == (1, 1) else shape))


def checked_model(path: str | Path) -> Header:
    """The header of a file that can play a role.

    A check of the header cannot know everything: what passes may still fail in llama.cpp.

    Raises:
        ModelFileError: a line that names the tensor or the key.
    """
    header = read_header(path)
    if not header.is_adapter:
        check_metadata(header)
        check_tokenizer(header)
        check_tensors(header)
    return header
