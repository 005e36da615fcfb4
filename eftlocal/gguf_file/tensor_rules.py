"""What llama.cpp wants of a model's tensors: an element type for each use, and the widths.

Only what holds for every architecture is here. A wrong type ends the process: ggml looks for a
kernel and finds none.
"""

from __future__ import annotations

import re

from gguf.constants import GGMLQuantizationType as Type

from eftlocal.gguf_file.header import Header
from eftlocal.gguf_file.parser import TensorInfo

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
