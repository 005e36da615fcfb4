"""In which types a model's weights are, and would be after llama.cpp has quantized it again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

from eftlocal.errors import ModelFileError
from eftlocal.gguf_file.check import checked_model
from eftlocal.gguf_file.header import Header
from eftlocal.gguf_file.parser import StringArray, TensorInfo, block_of

OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"
_PER_LAYER_EMBEDDING = "per_layer_token_embd.weight"
_WHOLE = ("F32", "BF16", "F16", "Q8_0")  # in these types a file's output matrix is as its layers
# What llama.cpp takes where a row is no whole number of blocks.
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
# How files are named for their type: model-Q4_K_M.gguf, model.i1-IQ4_NL.gguf, model_f16.gguf.
_NAMED = re.compile(r"[-._ ](?:i1-)?(?:i?q\d\w*|b?f16|f32|fp16|mxfp4\w*)\Z", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}\Z")


def bits(type_: str) -> float:
    """Bits of one weight."""
    block, size = block_of(type_)
    return 8.0 * size / block


def weights_by_type(
    header: Header, type_: str | None = None, output: str | None = None
) -> dict[str, float]:
    """How many weights of each type a token is multiplied with.

    Of a mixture of experts, those that are used. An embedding is looked up, unless it is the
    output matrix too.

    Args:
        type_: as if the file were written again in this one.
        output: and its output matrix in this one.
    """
    found: Counter[str] = Counter()
    experts, used = header.number("expert_count"), header.number("expert_used_count")
    last = EMBEDDING if header.has_tied_output else OUTPUT
    for tensor, kind in _tensors(header, type_, output):
        if not _is_matrix(tensor) or not (tensor.name.startswith("blk.") or tensor.name == last):
            continue
        share = used / experts if experts and "_exps" in tensor.name else 1.0
        found[kind] += prod(tensor.shape) * share  # type: ignore[assignment]
    return dict(found)


def main_type(header: Header) -> str:
    """The type of most of the weights in the layers."""
    found: Counter[str] = Counter()
    for tensor in header.tensors:
        if _is_matrix(tensor) and tensor.name.startswith("blk."):
            found[tensor.type.name] += prod(tensor.shape)
    return found.most_common(1)[0][0] if found else "F32"


def precision(header: Header) -> float:
    """Bits of a weight in the layers, on average."""
    layers = [t for t in header.tensors if _is_matrix(t) and t.name.startswith("blk.")]
    count = sum(prod(tensor.shape) for tensor in layers)
    return 8.0 * sum(tensor.nbytes for tensor in layers) / max(1, count)


def is_in(header: Header, type_: str, output: str | None) -> bool:
    """Whether the file is in a type, and its output matrix in what is asked for."""
    if main_type(header) != type_:
        return False
    return not output or weights_by_type(header) == weights_by_type(header, type_, output)


def bytes_as(header: Header, type_: str, output: str | None = None) -> int:
    """Bytes of the file that would be written."""
    weights = sum(prod(t.shape) * bits(kind) / 8.0 for t, kind in _tensors(header, type_, output))
    return int(weights) + sum(header.header_bytes)


def outer_types(header: Header, type_: str, output: str | None = None) -> tuple[str, str]:
    """The types that the output matrix and the embeddings are given in a file of this type.

    As in llama.cpp's own files: the output matrix, of which each token's probabilities come, has
    6 bits; embeddings that serve as one, too. What has fewer stays as it is.

    Args:
        output: asked for instead.
    """
    kinds = {tensor.name: tensor.type.name for tensor in header.tensors}
    widths = {tensor.name: tensor.shape[0] for tensor in header.tensors}

    def fitting(name: str, wanted: str) -> str:
        there = kinds.get(name)
        if there is None:
            return wanted
        return there if bits(there) <= bits(wanted) else _fallback(widths[name], wanted)

    output = fitting(OUTPUT, output or (type_ if type_ in _WHOLE else "Q6_K"))
    embedding = output if header.has_tied_output else type_
    return output, fitting(EMBEDDING, embedding)


def relatives(header: Header) -> list[Header]:
    """The file and what lies beside it of the same model in other types, the most precise first.

    The same model: the name is the same but for its type, and so are vocabulary and tensors.
    """
    found = [header]
    name, named = _parted(header.path)
    if named:
        for path in sorted(header.path.parent.glob("*.gguf")):
            if path.samefile(header.path) or _parted(path) != (name, True):
                continue
            try:
                other = checked_model(path)
            except (ModelFileError, OSError):  # a later part of one that is split, or none of ours
                continue
            if same_model(header, other):
                found.append(other)
    return sorted(found, key=precision, reverse=True)


def same_model(one: Header, other: Header) -> bool:
    """Whether two files may hold the same weights in other types: vocabulary and shapes agree."""

    def of(header: Header) -> object:
        tokens = header.metadata.get("tokenizer.ggml.tokens")
        return (
            {(tensor.name, tensor.shape) for tensor in header.tensors},
            header.architecture,
            tokens.raw if isinstance(tokens, StringArray) else tokens,
        )

    return of(one) == of(other)


def name_without_type(header: Header) -> str:
    """The name of the file without its type and its end."""
    return _parted(header.path)[0]


def _parted(path: Path) -> tuple[str, bool]:
    """The same of a path, and whether it names a type."""
    stem = _PART.sub("", path.stem)
    name = _NAMED.sub("", stem)
    return name, name != stem


def _tensors(
    header: Header, type_: str | None, output: str | None
) -> Iterator[tuple[TensorInfo, str]]:
    """Every tensor and its type, as it is or as it would be."""
    last, embedding = ("", "") if type_ is None else outer_types(header, type_, output)
    for tensor in header.tensors:
        kind = tensor.type.name
        if type_ is not None and _is_matrix(tensor):
            if tensor.name == OUTPUT:
                kind = last
            elif tensor.name in (EMBEDDING, _PER_LAYER_EMBEDDING):
                kind = embedding
            else:
                kind = _fallback(tensor.shape[0], type_)
        yield tensor, kind


def _is_matrix(tensor: TensorInfo) -> bool:
    """Whether llama.cpp quantizes it; of rare architectures it leaves out a few small ones more."""
    name = tensor.name
    several = sum(size > 1 for size in tensor.shape) > 1
    return (
        several
        and name.endswith("weight")
        and not name.endswith(("_norm.weight", "ffn_gate_inp.weight"))
    )


def _fallback(columns: int, type_: str) -> str:
    for kind in (type_, _FALLBACK.get(type_, type_)):
        if columns % block_of(kind)[0] == 0:
            return kind
    return "F16"
