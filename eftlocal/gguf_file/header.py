"""What a GGUF model says about itself, read before native code sees its files.

A split model is one model: its parts are read and checked together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from eftlocal.errors import ModelFileError, UsageError
from eftlocal.gguf_file.parser import AGAIN, Arrays, FileHeader, TensorInfo, block_of, parse_file
from eftlocal.settings import CACHE_TYPES

MAX_LAYERS = 512  # llama.cpp's own limit
_SPLIT_NAME = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")

# llama_model_is_recurrent of llama.cpp (November 2026)
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})


class Rule(NamedTuple):
    """What a key's value must be.

    type: as in `Header.types`, or several, as in "array of float32 or array of int32". least, most:
    of a number. per_layer: it may also be an array of as many numbers as there are layers.
    """

    type: str
    least: float = -inf
    most: float = inf
    per_layer: bool = False


def rules(prefix: str, table: Mapping[Rule, str]) -> dict[str, Rule]:
    """The rule of each key, from a table of rules and the keys (words of a text) of each."""
    return {f"{prefix}{key}": rule for rule, keys in table.items() for key in keys.split()}


@dataclass(frozen=True, eq=False)
class Header:
    """Metadata and tensors of one model; those of all its shards where the file is split.

    `metadata` maps keys to int, float, bool, str, numpy arrays (n,) or StringArray, `types` to the
    type in the file, such as "uint32" or "array of string".
    Properties trust what they read: `check.checked_model` has looked at it.
    """

    path: Path
    file_size: int  # bytes, all shards together
    version: int
    metadata: Mapping[str, Any]
    types: Mapping[str, str]
    tensors: tuple[TensorInfo, ...]
    n_vocab: int  # tokens in the vocabulary, 0 if the file has none
    shards: tuple[Path, ...] = ()
    header_bytes: tuple[int, ...] = ()  # length of each file's header: metadata and tensor infos

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the model."""
        return self.shards or (self.path,)

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def is_adapter(self) -> bool:
        """A LoRA adapter, to be put on a model, not a model."""
        return bool(self.metadata.get("general.type") == "adapter")

    @property
    def chat_template(self) -> str | None:
        return self.metadata.get("tokenizer.chat_template") or None

    @property
    def n_layers(self) -> int:
        return self.number("block_count")

    @property
    def n_embd(self) -> int:
        return self.number("embedding_length")

    @property
    def n_heads(self) -> tuple[int, ...]:
        """Attention heads of each layer."""
        return self._per_layer("attention.head_count", 0)

    @property
    def n_heads_kv(self) -> tuple[int, ...]:
        """Key-value heads of each layer; 0 where a layer has no attention."""
        if f"{self.architecture}.attention.head_count_kv" not in self.metadata:
            return self.n_heads
        return self._per_layer("attention.head_count_kv", 0)

    @property
    def n_ff(self) -> tuple[int, ...]:
        """Width of each layer's feed-forward part; four times the model's where not stated."""
        return self._per_layer("feed_forward_length", 4 * self.n_embd)

    @property
    def key_length(self) -> int:
        """Width of one head's key."""
        default = self.n_embd // max(1, max(self.n_heads))
        return self.number("attention.key_length", default)

    @property
    def value_length(self) -> int:
        """Width of one head's value."""
        default = self.n_embd // max(1, max(self.n_heads))
        return self.number("attention.value_length", default)

    @property
    def n_ctx_train(self) -> int | None:
        """Context length the model was trained for, in tokens."""
        return self.number("context_length") or None

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @cached_property
    def _bytes_by_layer(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            if tensor.name.startswith("blk."):
                layer = tensor.name.split(".", 2)[1]
                sizes[layer] = sizes.get(layer, 0) + tensor.nbytes
        return sizes

    def layer_bytes(self, i: int) -> int:
        """Bytes of the tensors of layer i."""
        return self._bytes_by_layer.get(str(i), 0)

    @property
    def other_bytes(self) -> int:
        """Bytes outside the layers: embeddings, output, norms."""
        return self.weight_bytes - sum(self._bytes_by_layer.values())

    @property
    def has_tied_output(self) -> bool:
        """The embeddings serve as the output matrix too."""
        return all(tensor.name != "output.weight" for tensor in self.tensors)

    @property
    def output_bytes(self) -> int:
        """Bytes of the output matrix, which goes where the last layer goes.

        Where it is tied to the embeddings llama.cpp makes a copy on the device.
        """
        return sum(tensor.nbytes for tensor in self._output)

    @property
    def output_type(self) -> str:
        """The element type of the output matrix, such as Q6_K; empty where there is none."""
        return next((tensor.type.name for tensor in self._output), "")

    @property
    def _output(self) -> list[TensorInfo]:
        name = "token_embd.weight" if self.has_tied_output else "output.weight"
        return [tensor for tensor in self.tensors if tensor.name == name]

    def number(self, key: str, default: int = 0) -> int:
        """The whole number under the architecture's key."""
        return int(self.metadata.get(f"{self.architecture}.{key}", default))

    def check(self, rules: Mapping[str, Rule]) -> None:
        """ModelFileError unless each key that is there has its rule's type and range."""
        for key, type_ in self.types.items():
            if (rule := rules.get(key)) is None:
                continue
            several = rule.per_layer and type_ in ("array of uint32", "array of int32")
            if not several and type_ not in rule.type.split(" or "):
                self.refuse(f"{key} is of type {type_}, and llama.cpp reads {rule.type}")
            value = self.metadata[key]
            for number in value.tolist() if several else [value]:
                if not isinstance(number, int | float):
                    continue
                if not isfinite(number):
                    self.refuse(f"{key} is {number}, not a finite number")
                if number < rule.least:
                    self.refuse(f"{key} is {number}, and must be {rule.least:g} or more")
                if number > rule.most:
                    self.refuse(f"{key} is {number}, and must be {rule.most:g} or less")

    def refuse(self, what: str) -> NoReturn:
        """ModelFileError: llama.cpp cannot use this file."""
        raise ModelFileError(
            f"{self.path}: {what}: the file is damaged or badly converted, try another copy"
        )

    def _per_layer(self, key: str, default: int) -> tuple[int, ...]:
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        return tuple(np.broadcast_to(value, self.n_layers).tolist())


def read_header(path: str | Path, known: Arrays | None = None) -> Header:
    """Read and check the header of a GGUF file, and of its shards where it is split.

    Args:
        known: as `parse_file` takes it.

    Raises ModelFileError for a file that is missing, torn, not a GGUF or not sane.
    """
    path = Path(path)
    first = parse_file(path, known)
    shards = _shards(path, first.metadata.get("split.count", 0))
    parts = [first]
    for shard in shards[1:]:
        if not shard.is_file():
            raise ModelFileError(
                f"{shard}: is missing; {path.name} has {len(shards)} parts: download it"
            )
        parts.append(parse_file(shard))
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ModelFileError(f"{path}: its parts hold the same tensor twice: {AGAIN}")
    if shards:
        _check_parts(parts, len(tensors))
    size = sum(part.file_size for part in parts)
    lengths = tuple(part.header_bytes for part in parts)
    metadata, types = first.metadata, first.types
    return Header(
        path, size, first.version, metadata, types, tensors, first.n_vocab, shards, lengths
    )


def _check_parts(parts: list[FileHeader], n_tensors: int) -> None:
    """Every part says which it is, and the first of how many parts and tensors."""
    for number, part in enumerate(parts):
        wanted = {"split.no": ("uint16", number)}
        if number == 0:
            wanted["split.count"] = ("uint16", len(parts))
            wanted["split.tensors.count"] = ("int32", n_tensors)
        for key, (type_, value) in wanted.items():
            if part.types.get(key) != type_ or part.metadata[key] != value:
                found = part.metadata.get(key, "missing")
                raise ModelFileError(
                    f"{part.path}: {key} is {found!r:.60} ({part.types.get(key, 'no value')}), and "
                    f"must be {value} ({type_}): the parts are not of one model, download them "
                    "again"
                )


def _shards(path: Path, count: Any) -> tuple[Path, ...]:
    """All files of a model of `count` parts, of which path must be the first; none if not split."""
    if not isinstance(count, int) or count < 2:
        return ()
    match = _SPLIT_NAME.match(path.name)
    if not match or int(match["count"]) != count:
        raise ModelFileError(
            f"{path}: is one of {count} parts, so its name must end in -00001-of-{count:05d}.gguf:"
            " restore the names that the files were downloaded with"
        )
    stem = match["stem"]
    shards = [path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]
    if path != shards[0]:
        raise ModelFileError(f"{path}: is a later part of a split model: give {shards[0].name}")
    return tuple(shards)


def is_latent(header: Header) -> bool:
    """Whether its attention is multi-head latent: one compressed row is key and value."""
    return f"{header.architecture}.attention.key_length_mla" in header.metadata


def kv_cache_bytes(
    header: Header, n_ctx: int, n_seq: int = 1, type_k: str = "f16", type_v: str = "f16"
) -> tuple[int, ...]:
    """Bytes of the cache of each layer, for n_seq sequences of n_ctx tokens each: (n_layers,).

    As llama.cpp lays it out: n_ctx padded to 256, one key and one value row a token and layer,
    only the compressed key row for multi-head latent attention, a float32 state a sequence for
    a recurrent layer. Sliding-window layers are counted in full (swa_full), which taking tokens
    back needs. Raises UsageError for a type that cannot be a cache.
    """
    cells = -(-n_ctx // 256) * 256 * n_seq
    arch, heads = header.architecture, header.n_heads_kv
    latent = is_latent(header)
    state = 4 * n_seq * _recurrent_elements(header)
    parts = {layer: set[str]() for layer in range(header.n_layers)}
    for tensor in header.tensors:
        pieces = tensor.name.split(".")
        if pieces[0] == "blk" and len(pieces) > 2 and pieces[1].isdecimal():
            parts.get(int(pieces[1]), set()).add(pieces[2])
    interval = header.number("full_attention_interval")
    sizes = []
    for layer, names in parts.items():
        recurrent = arch in RECURRENT or any(
            name.startswith(("ssm_", "time_mix_", "shortconv")) for name in names
        )
        attends = arch not in RECURRENT and not (interval and (layer + 1) % interval)
        if recurrent and not any(name.startswith(("attn_k", "attn_qkv")) for name in names):
            attends = False
        key = _row_bytes(header.key_length * heads[layer], type_k)
        value = 0 if latent else _row_bytes(header.value_length * heads[layer], type_v)
        sizes.append((cells * (key + value) if attends else 0) + (state if recurrent else 0))
    return tuple(sizes)


def _recurrent_elements(header: Header) -> int:
    """State elements a sequence and recurrent layer: Mamba's, or RWKV's; others are near."""
    get = header.number
    if head := get("wkv.head_size"):
        return header.n_embd * (head + (get("token_shift_count") or 2))
    inner, state = get("ssm.inner_size"), get("ssm.state_size")
    convolved = inner + 2 * get("ssm.group_count") * state or header.n_embd
    kernel = get("ssm.conv_kernel") or get("shortconv.l_cache")
    return max(0, kernel - 1) * convolved + state * inner


def _row_bytes(width: int, type_name: str) -> int:
    if type_name not in CACHE_TYPES:
        raise UsageError(
            f"KV-cache type {type_name!r} is unknown: use one of {', '.join(CACHE_TYPES)}"
        )
    block, block_bytes = block_of(type_name)
    return -(-width // block) * block_bytes
