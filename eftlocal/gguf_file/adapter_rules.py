"""What llama.cpp wants of a LoRA adapter, by itself and on the model that it is put on."""

from __future__ import annotations

from eftlocal.gguf_file.header import Header
from eftlocal.gguf_file.metadata_rules import NUMBER, TEXT, check_keys
from eftlocal.gguf_file.parser import TensorInfo
from eftlocal.gguf_file.tensor_rules import check_weights

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
