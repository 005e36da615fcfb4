"""A LoRA adapter as PEFT and unsloth save it, written as the GGUF that llama.cpp puts on a model.

PEFT computes W x + s B A x with s = lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA, and both
may differ between modules. llama.cpp has one alpha for a file, and s = alpha / r.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from eftlocal.disk import read_text, replacing
from eftlocal.errors import ModelFileError, UsageError
from eftlocal.gguf_file.header import Header
from eftlocal.gguf_file.parser import constants
from eftlocal.json_text import TextError, parse_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ARCHITECTURES: Final = ("llama", "qwen2", "qwen3", "gemma3", "phi3")  # mistral's is llama
TYPES: Final = ("F32", "F16", "BF16")

_PART = re.compile(r"(?P<module>.+)\.lora_(?:(?P<kind>[AB])\.weight|embedding_(?P<rows>[AB]))")
# Prefixes of modules that stand for a text model's own: PEFT's, and those of models with pictures.
_PREFIXES = (
    ("base_model.model.", ""),
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head", "lm_head"),
)
# What a configuration may say that a GGUF adapter cannot
_REFUSED = {
    "use_dora": "is a DoRA",
    "modules_to_save": "holds whole modules",
    "lora_bias": "trains the bias of B",
    "use_qalora": "is a QA-LoRA",
    "layer_replication": "repeats layers of its base",
    "alora_invocation_tokens": "is an activated LoRA (aLoRA)",
    "trainable_token_indices": "trains single tokens' embeddings",
    "target_parameters": "changes parameters that are no modules'",
}
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")
_STORED = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F32"}


@dataclass(frozen=True)
class _Part:
    """A matrix of the file: its values in float32, and the GGUF type that holds them exactly."""

    values: NDArray[np.float32]
    type: str


@dataclass(frozen=True)
class _Pair:
    """What is added to a module's weight: B A, with B (rows, rank) and A (rank, columns).

    strength: s * rank; llama.cpp's alpha, were this the only module.
    embedding: whether the module looks rows up.
    """

    module: str
    a: _Part
    b: _Part
    strength: float
    embedding: bool


def convert(folder: Path, target: Path, base: Header, type_: str | None = None) -> int:
    """Writes the adapter in `folder` as a GGUF file for models like `base`.

    Args:
        folder: has adapter_config.json and adapter_model.safetensors.
        target: what is there is replaced.
        base: the model that it was trained on, in any quantization: says the architecture, and how
            many layers and heads there are.
        type_: one of TYPES, for all matrices; None keeps each as it is stored.

    Returns:
        How many matrices of the base it changes.

    Raises:
        UsageError: a file of the folder is missing.
        ModelFileError: it is no LoRA that llama.cpp can put on this base; the line says why.
        OSError: the target cannot be written.
    """
    check_base(base)
    config = _read_config(folder)
    pairs = {_target(folder, pair, base): pair for pair in _pairs(folder, config)}
    alpha = Counter(pair.strength for pair in pairs.values()).most_common(1)[0][0]
    _write(target, base, pairs, alpha, type_)
    return len(pairs)


def check_base(base: Header) -> None:
    """Raises ModelFileError where no adapter for such a model can be converted."""
    if base.architecture not in ARCHITECTURES:
        raise ModelFileError(
            f"{base.path}: of the architecture {base.architecture}, for which no adapter can be "
            f"converted: only for {', '.join(ARCHITECTURES)}"
        )


def _refuse(file: Path, what: str) -> NoReturn:
    raise ModelFileError(f"{file}: {what}")


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        config = parse_json(read_text(file))
    except TextError as error:
        _refuse(file, str(error))
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        _refuse(file, f"peft_type is {kind!r:.60}; only LORA can be converted")
    for key, what in _REFUSED.items():
        if config.get(key):
            _refuse(file, f"{what} ({key}), which llama.cpp has no adapter for")
    if (bias := config.get("bias", "none")) != "none":
        _refuse(file, f"trains biases (bias is {bias!r:.60}), which llama.cpp has no adapter for")
    begun = str(config.get("init_lora_weights")).lower()
    if begun.startswith(_CHANGES_BASE):
        _refuse(
            file,
            f"init_lora_weights is {begun:.60}, which changed the base's weights too; save it with "
            "path_initial_model_for_weight_conversion",
        )
    return dict(config)


def _read_tensors(folder: Path) -> dict[str, _Part]:
    from gguf import GGMLQuantizationType, dequantize
    from safetensors import SafetensorError, deserialize

    file = folder / WEIGHTS
    try:
        data = file.read_bytes()
    except OSError as error:
        if (folder / "adapter_model.bin").exists():
            _refuse(folder, "has adapter_model.bin only; save it again with safe_serialization")
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None
    try:
        found = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        _refuse(file, f"is no safetensors file: {error}")
    tensors = {}
    for name, tensor in sorted(found, key=lambda pair: str(pair[0])):  # it gives them in any order
        if (type_ := _STORED.get(tensor["dtype"])) is None:
            _refuse(file, f"tensor {name} is of type {tensor['dtype']}; give F32, F16 or BF16")
        raw = np.frombuffer(tensor["data"], np.uint8)
        if tensor["dtype"] == "F64":
            values = raw.view("<f8").astype(np.float32)
        else:
            values = dequantize(raw, GGMLQuantizationType[type_])
        if not np.isfinite(values).all():
            _refuse(file, f"tensor {name} has values that are not finite")
        tensors[name] = _Part(values.reshape(tensor["shape"]), type_)
    return tensors


def _pairs(folder: Path, config: Mapping[str, Any]) -> Iterator[_Pair]:
    """Each module's matrices; the errors are those of `convert`."""
    file = folder / WEIGHTS
    tensors = _read_tensors(folder)
    halves: dict[str, dict[str, _Part]] = {}
    rows = set()
    for name, tensor in tensors.items():
        if name.endswith(".base_layer.weight"):
            continue  # PEFT saves the embeddings beside a LoRA of them, as they were
        found = _PART.fullmatch(name)
        if found is None or tensor.values.ndim != 2:
            _refuse(file, f"tensor {name} is no matrix of a LoRA; llama.cpp takes nothing else")
        module = found["module"]
        for prefix, instead in _PREFIXES:
            if module.startswith(prefix):
                module = instead + module.removeprefix(prefix)
        halves.setdefault(module, {})[found["kind"] or found["rows"]] = tensor
        rows |= {module} if found["rows"] else set()
    if not halves:
        _refuse(file, "has no tensors")
    for module, both in halves.items():
        if len(both) < 2:
            _refuse(file, f"{module} has only one of its two matrices")
        a, b = both["A"], both["B"]
        rank = a.values.shape[0]
        if b.values.shape[1] != rank:
            _refuse(file, f"{module} has matrices of two ranks, {rank} and {b.values.shape[1]}")
        strength = _alpha(folder, config, module) * (
            math.sqrt(rank) if config.get("use_rslora") else 1.0
        )
        yield _Pair(module, a, b, strength, module in rows)


def _alpha(folder: Path, config: Mapping[str, Any], module: str) -> float:
    """lora_alpha of a module. As in PEFT, the first pattern that its name ends with decides."""
    file = folder / CONFIG
    found = config.get("lora_alpha")
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        try:
            fits = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            _refuse(file, f"alpha_pattern {pattern!r:.60} is no regular expression: {error}")
        if fits:
            found = alpha
            break
    if isinstance(found, bool) or not isinstance(found, int | float) or not found:
        _refuse(file, f"lora_alpha of {module} is {found!r:.60}; it must be a number, not 0")
    return float(found)


def _target(folder: Path, pair: _Pair, base: Header) -> str:
    """The name of the base's tensor that a pair changes, whose shape it fits."""
    from gguf import get_tensor_name_map

    file, module = folder / WEIGHTS, pair.module
    architecture = constants.MODEL_ARCH[base.architecture.upper()]
    name = get_tensor_name_map(architecture, base.n_layers).get_name(module)
    layer = re.match(r"model\.layers\.(\d+)\.", module)
    if name is None and layer and int(layer[1]) >= base.n_layers:
        _refuse(file, f"changes {module}, and {base.path.name} has {base.n_layers} layers")
    if name is None:
        _refuse(file, f"changes {module}, which no tensor of a {base.architecture} GGUF is")
    name = f"{name}.weight"
    if name in ("token_embd.weight", "output.weight") and base.has_tied_output:
        _refuse(
            file,
            f"changes {module}, and in {base.path.name} the embeddings and the output are one "
            "matrix: llama.cpp cannot change one of the two; train without it",
        )
    shape = next((t.shape[::-1] for t in base.tensors if t.name == name), None)
    if shape is None:
        _refuse(file, f"changes {module}, and {base.path.name} has no tensor {name}")
    rows, columns = pair.b.values.shape[0], pair.a.values.shape[1]
    mine = (columns, rows) if pair.embedding else (rows, columns)
    if mine != shape:
        _refuse(
            file,
            f"changes {module}, {' x '.join(map(str, mine))}, and in {base.path.name} it is "
            f"{' x '.join(map(str, shape))}: is it an adapter for another model?",
        )
    return name


def _write(
    target: Path, base: Header, pairs: Mapping[str, _Pair], alpha: float, type_: str | None
) -> None:
    import gguf

    with replacing(target) as file:  # which the writer opens by its name
        writer = gguf.GGUFWriter(file.name, base.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for name, pair in pairs.items():
            for suffix, part in zip("ab", _as_llama_cpp_has(name, pair, base, alpha), strict=True):
                kind = gguf.GGMLQuantizationType[type_ or part.type]
                stored = gguf.quantize(part.values, kind)
                writer.add_tensor(f"{name}.lora_{suffix}", stored, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _as_llama_cpp_has(name: str, pair: _Pair, base: Header, alpha: float) -> tuple[_Part, _Part]:
    """A and B as the file holds them."""
    a, b = pair.a, pair.b
    if pair.embedding:  # columns are looked up there, and rows here
        a = _Part(np.ascontiguousarray(a.values.T), a.type)
    if base.architecture == "llama":
        layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
        if name.endswith("attn_q.weight"):
            b = _Part(_by_pairs(b.values, base.n_heads[layer]), b.type)
        elif name.endswith("attn_k.weight"):
            b = _Part(_by_pairs(b.values, base.n_heads_kv[layer]), b.type)
    if pair.strength != alpha:
        b = _Part(b.values * np.float32(pair.strength / alpha), "F32")
    return a, b


def _by_pairs(b: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of queries or keys, (rows, rank), in the order of llama.cpp's llama.

    Its RoPE turns neighbouring rows of a head together; in transformers one lies in each half.
    """
    halves = b.reshape(heads, 2, -1, b.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(b.shape))
