"""What llama.cpp wants of a model's metadata: the type of each key, its range, and what agrees.

llama.cpp ends the process over some of these and computes nonsense with others. Keys that only
some architectures read are not here: llama.cpp refuses those in a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite
from typing import Any, NamedTuple

import numpy as np

from eftlocal.errors import ModelFileError
from eftlocal.gguf_file.header import MAX_LAYERS, Header

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
