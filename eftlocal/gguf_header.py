"""What a GGUF file says about itself, read before native code sees the file.

llama.cpp's own parser can be crashed by a torn or hostile file, so every count, length, offset
and tensor extent is checked against the file's size before anything is allocated, and a header
may take at most HEADER_LIMIT bytes. Format: GGUF versions 2 and 3, little endian
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, overload

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from eftlocal.errors import ModelFileError, UsageError

HEADER_LIMIT = 128 << 20  # bytes; the largest vocabulary known (262,144 tokens) takes 16 MiB
MAX_ENTRIES = 1 << 17  # metadata keys, and tensors; the largest mixtures have some 20,000
MAX_LAYERS = 512  # llama.cpp's own limit
_FIRST_READ = 16 << 20
_MAX_NAME = 63  # bytes of a tensor's name, llama.cpp's own limit
_MAX_KEY = 65535  # bytes, from the format's definition
_SHORT_ARRAY = 4096  # elements kept under arrays=False: per-layer settings, not vocabularies
_MAX_VOCAB = 1 << 24  # tokens
_STRING, _ARRAY = 8, 9
_AGAIN = "download it again"

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_T = TypeVar("_T")
_SCALARS: dict[int, struct.Struct] = {
    number: struct.Struct(f"<{code}")
    for number, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_DTYPES = {number: np.dtype("?" if number == 7 else s.format) for number, s in _SCALARS.items()}
_SPLIT_NAME = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")

# llama_model_is_recurrent and llama_model_is_hybrid of llama.cpp (November 2026)
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
HYBRID = frozenset(
    {"jamba", "falcon-h1", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "nemotron_h"}
    | {"nemotron_h_moe", "qwen3next", "kimi-linear", "bailingmoe3", "kimi-k3", "glm5-next"}
    | {"qwen35", "qwen35moe", "qwen4exp", "deepseek4", "minimax-01"}
)
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


class StringArray(Sequence[str]):
    """An array of strings kept as in the file, decoded only when asked for.

    Attributes: raw, the entries as stored, each 8 bytes of length and then its text;
    ends (n,) int64, where each entry ends in raw.
    """

    __slots__ = ("ends", "raw")

    def __init__(self, raw: bytes, ends: npt.NDArray[np.int64]) -> None:
        self.raw, self.ends = raw, ends

    def __len__(self) -> int:
        return len(self.ends)

    def to_bytes(self) -> list[bytes]:
        """All the texts as bytes, in one pass."""
        raw, ends = self.raw, self.ends.tolist()
        return [raw[start + 8 : end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def _text(self, i: int) -> str:
        start = int(self.ends[i - 1]) if i else 0
        return self.raw[start + 8 : int(self.ends[i])].decode("utf-8", "replace")

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self._text(j) for j in range(*i.indices(len(self)))]
        return self._text(range(len(self))[i])


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: shape as in the file (fastest dimension first), nbytes, offset in its file."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    nbytes: int
    offset: int


@dataclass(frozen=True, eq=False)
class Header:
    """Metadata and tensors of one model; those of all its shards where the file is split.

    `metadata` maps keys to int, float, bool, str, numpy arrays (n,) or StringArray.
    Properties raise ModelFileError when the file lacks what they need.
    """

    path: Path
    file_size: int  # bytes, all shards together
    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    n_vocab: int  # tokens in the vocabulary, 0 if the file has none
    shards: tuple[Path, ...] = ()

    @property
    def architecture(self) -> str:
        return self._get("general.architecture", str)

    @property
    def name(self) -> str:
        return self._get("general.name", str, self.path.stem)

    @property
    def is_adapter(self) -> bool:
        """A LoRA adapter, to be put on a model, not a model."""
        return self._get("general.type", str, "model") == "adapter"

    @property
    def chat_template(self) -> str | None:
        return self._get("tokenizer.chat_template", str, "") or None

    @property
    def n_layers(self) -> int:
        return self._bounded("block_count", 1, MAX_LAYERS)

    @property
    def n_embd(self) -> int:
        return self._bounded("embedding_length", 1, 1 << 24)

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
        return self._bounded("attention.key_length", 0, 1 << 24, default)

    @property
    def value_length(self) -> int:
        """Width of one head's value."""
        default = self.n_embd // max(1, max(self.n_heads))
        return self._bounded("attention.value_length", 0, 1 << 24, default)

    @property
    def n_ctx_train(self) -> int | None:
        """Context length the model was trained for, in tokens."""
        return self._bounded("context_length", 0, 1 << 32, 0) or None

    @property
    def sliding_window(self) -> int | None:
        """Window of the sliding-window layers in tokens, None where every layer sees all."""
        return self._bounded("attention.sliding_window", 0, 1 << 32, 0) or None

    @property
    def is_recurrent_or_hybrid(self) -> bool:
        """Keeps a recurrent state, so that the last tokens cannot be taken back."""
        arch = self.architecture
        marks = tuple(f"{arch}.{mark}" for mark in ("ssm.", "wkv.", "shortconv.", "kda."))
        return arch in RECURRENT | HYBRID or any(key.startswith(marks) for key in self.metadata)

    @property
    def quantization(self) -> str:
        """The file's declared type, such as Q4_K_M; else that of most of its bytes."""
        try:
            name = str(LlamaFileType(self.metadata["general.file_type"]).name)
            return name.removeprefix("MOSTLY_").removeprefix("ALL_")
        except (KeyError, ValueError, TypeError):
            by_type: dict[str, int] = {}
            for tensor in self.tensors:
                by_type[tensor.type.name] = by_type.get(tensor.type.name, 0) + tensor.nbytes
            return max(by_type, key=by_type.__getitem__, default="unknown")

    @cached_property
    def n_params(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors)

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
        name = "token_embd.weight" if self.has_tied_output else "output.weight"
        return sum(tensor.nbytes for tensor in self.tensors if tensor.name == name)

    def _fail(self, what: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {what}")

    def _get(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        value = self.metadata.get(key, default)
        if value is None:
            self._fail(f"has no {key}, so it is not a usable model: choose another file")
        # bool is an int to Python, never to a model file
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self._fail(f"{key} is not of type {kind.__name__}: the file is damaged, {_AGAIN}")
        return value

    def _bounded(self, key: str, low: int, high: int, default: int | None = None) -> int:
        full = f"{self.architecture}.{key}"
        value = self._get(full, int, default)
        if not low <= value <= high:
            self._fail(f"{full} is {value}, outside {low}..{high}: the file is damaged, {_AGAIN}")
        return value

    def _per_layer(self, key: str, default: int) -> tuple[int, ...]:
        full, n = f"{self.architecture}.{key}", self.n_layers
        value = self.metadata.get(full, default)
        if not isinstance(value, np.ndarray):
            return (self._bounded(key, 0, 1 << 26, default),) * n
        if value.dtype.kind not in "iu" or len(value) < n or value.min() < 0:
            self._fail(f"{full} must be {n} counts, one a layer: the file is damaged, {_AGAIN}")
        return tuple(int(count) for count in value[:n])


class _Short(Exception):  # noqa: N818 - a request for more bytes, not an error
    """The header goes on at least to byte `end`, past what has been read."""

    def __init__(self, end: int) -> None:
        self.end = end


class _Cursor:
    """Reads the parts of a header from the first bytes of its file."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def fail(self, what: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {what}: the file is damaged, {_AGAIN}")

    def require(self, nbytes: int) -> int:
        """Where nbytes from here end; they are all in `data`."""
        end = self.at + nbytes
        if end > len(self.data):
            raise _Short(end)
        return end

    def take(self, nbytes: int) -> bytes:
        start, self.at = self.at, self.require(nbytes)
        return self.data[start : self.at]

    def scalar(self, kind: struct.Struct) -> Any:
        start, self.at = self.at, self.require(kind.size)
        return kind.unpack_from(self.data, start)[0]

    def name(self, what: str, longest: int) -> str:
        nbytes = self.scalar(_U64)
        if not 1 <= nbytes <= longest:
            self.fail(f"{what} has a name of {nbytes} bytes (1 to {longest} allowed)")
        return self.take(nbytes).decode("utf-8", "backslashreplace")

    def strings(self, count: int) -> StringArray:
        self.require(8 * count)
        data, start = self.data, self.at
        at, last, unpack, ends = start, len(data) - 8, _U64.unpack_from, array("q")
        for _ in range(count):
            if at > last:
                raise _Short(at + 8)
            at += 8 + unpack(data, at)[0]
            if at > last + 8:
                raise _Short(at)
            ends.append(at - start)
        self.at = at
        return StringArray(data[start:at], np.frombuffer(ends, np.int64))

    def value(self, key: str) -> Any:
        kind = self.scalar(_U32)
        if kind == _STRING:
            return self.take(self.scalar(_U64)).decode("utf-8", "replace")
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind != _ARRAY:
            self.fail(f"{key} has the unknown value type {kind}")
        kind, count = self.scalar(_U32), self.scalar(_U64)
        if kind == _STRING:
            return self.strings(count)
        if kind in _DTYPES:
            return np.frombuffer(self.take(count * _DTYPES[kind].itemsize), _DTYPES[kind])
        what = "arrays, which no model has" if kind == _ARRAY else f"the unknown value type {kind}"
        return self.fail(f"{key} is an array of {what}")

    def tensor(self, number: int) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int, int]:
        name = self.name(f"tensor {number}", _MAX_NAME)
        n_dims = self.scalar(_U32)
        if not 1 <= n_dims <= 4:
            self.fail(f"tensor {name} has {n_dims} dimensions (1 to 4 allowed)")
        shape = tuple(self.scalar(_U64) for _ in range(n_dims))
        kind, offset = self.scalar(_U32), self.scalar(_U64)
        try:
            type_ = GGMLQuantizationType(kind)
        except ValueError:
            raise ModelFileError(
                f"{self.path}: tensor {name} has type {kind}, which is unknown or no longer in "
                "use: choose another quantization of this model"
            ) from None
        block, block_bytes = GGML_QUANT_SIZES[type_]
        if min(shape) < 1 or shape[0] % block:
            self.fail(f"tensor {name} of type {type_.name} has the impossible shape {shape}")
        return name, shape, type_, prod(shape) // block * block_bytes, offset


def read_header(path: str | Path, *, arrays: bool = True) -> Header:
    """Read and check the header of a GGUF file, and of its shards where it is split.

    arrays=False leaves out arrays of more than 4096 elements (the vocabulary).
    Raises ModelFileError for a file that is missing, torn, not a GGUF or not sane.
    """
    path = Path(path)
    first = _read_one(path, arrays)
    count = first.metadata.get("split.count", 0)
    if not isinstance(count, int) or count < 2:
        return first
    match = _SPLIT_NAME.match(path.name)
    if not match or int(match["count"]) != count:
        raise ModelFileError(
            f"{path}: is one of {count} parts, so its name must end in -00001-of-{count:05d}.gguf:"
            " give the files the names they had where they were downloaded"
        )
    stem = match["stem"]
    shards = [path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]
    if path != shards[0]:
        raise ModelFileError(f"{path}: is a later part of a split model: give {shards[0].name}")
    headers = [first]
    for shard in shards[1:]:
        if not shard.is_file():
            raise ModelFileError(f"{shard}: is missing; {path.name} has {count} parts: download it")
        headers.append(_read_one(shard, arrays=False))
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ModelFileError(f"{path}: its parts hold the same tensor twice: {_AGAIN}")
    size = sum(header.file_size for header in headers)
    return replace(first, file_size=size, tensors=tensors, shards=tuple(shards))


def _read_one(path: Path, arrays: bool) -> Header:
    wanted = _FIRST_READ
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            while True:
                file.seek(0)
                data = file.read(min(wanted, size))
                if len(data) < min(wanted, size):
                    raise ModelFileError(f"{path}: changed while it was read: try again")
                try:
                    return _parse(_Cursor(data, path), size, arrays)
                except _Short as short:
                    _check_end(path, short.end, size)
                    wanted = min(max(2 * wanted, short.end), HEADER_LIMIT)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file: check the path or download it") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}): check it") from None


def _check_end(path: Path, end: int, size: int) -> None:
    if end > size:
        raise ModelFileError(
            f"{path}: is damaged or cut short: its header needs at least {end:,} bytes and the "
            f"file has {size:,}: {_AGAIN}"
        )
    if end > HEADER_LIMIT:
        raise ModelFileError(
            f"{path}: its header claims {end:,} bytes, more than the {HEADER_LIMIT:,} that any "
            f"model needs: the file is damaged, {_AGAIN}"
        )


def _parse(cursor: _Cursor, size: int, arrays: bool) -> Header:
    path = cursor.path
    if cursor.data[:4] != b"GGUF":
        raise ModelFileError(f"{path}: {_what_is_it(cursor.data, size)}")
    cursor.at = 4
    version = cursor.scalar(_U32)
    if version & 0xFFFF == 0:
        raise ModelFileError(f"{path}: is a big-endian GGUF: convert or download the usual one")
    if version not in (2, 3):
        raise ModelFileError(
            f"{path}: is GGUF version {version}; versions 2 and 3 can be read: choose another file"
        )
    n_tensors, n_keys = cursor.scalar(_U64), cursor.scalar(_U64)
    for count, what, smallest in ((n_tensors, "tensors", 32), (n_keys, "metadata keys", 14)):
        if count > MAX_ENTRIES:
            cursor.fail(f"its header claims {count:,} {what}, more than any model has")
        _check_end(path, cursor.at + count * smallest, size)

    metadata: dict[str, Any] = {}
    for number in range(n_keys):
        key = cursor.name(f"metadata key {number}", _MAX_KEY)
        if key in metadata:
            cursor.fail(f"the metadata key {key} is there twice")
        metadata[key] = cursor.value(key)

    tensors = _tensors(cursor, n_tensors, metadata, size)
    architecture = metadata.get("general.architecture")
    tokens = metadata.get("tokenizer.ggml.tokens", metadata.get(f"{architecture}.vocab_size", 0))
    n_vocab = len(tokens) if isinstance(tokens, StringArray) else tokens
    if not isinstance(n_vocab, int) or not 0 <= n_vocab <= _MAX_VOCAB:
        cursor.fail("its vocabulary is not an array of strings, or its size is impossible")
    if not arrays:
        metadata = {key: value for key, value in metadata.items() if not _is_long(value)}
    return Header(path, size, version, MappingProxyType(metadata), tensors, n_vocab)


def _is_long(value: Any) -> bool:
    return isinstance(value, StringArray | np.ndarray) and len(value) > _SHORT_ARRAY


def _tensors(
    cursor: _Cursor, count: int, metadata: Mapping[str, Any], size: int
) -> tuple[TensorInfo, ...]:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        cursor.fail(f"general.alignment is {alignment}, not a power of two")
    infos = [cursor.tensor(number) for number in range(count)]
    data_start = -(-cursor.at // alignment) * alignment
    names: set[str] = set()
    tensors, expected, end = [], 0, 0
    for name, shape, type_, nbytes, offset in infos:
        if name in names:
            cursor.fail(f"the tensor {name} is there twice")
        if offset != expected:  # llama.cpp wants them in order, aligned, without gaps
            cursor.fail(f"the data of tensor {name} is at {offset:,}, expected at {expected:,}")
        names.add(name)
        end = data_start + offset + nbytes
        expected = -(-(offset + nbytes) // alignment) * alignment
        tensors.append(TensorInfo(name, shape, type_, nbytes, data_start + offset))
    if end > size:
        raise ModelFileError(
            f"{cursor.path}: is cut short: {end - size:,} of {end:,} bytes are missing: {_AGAIN}"
        )
    return tuple(tensors)


def _what_is_it(head: bytes, size: int) -> str:
    """Says what a file that is not a GGUF most likely is, and what to do."""
    start = head[:512].lstrip().lower()
    if size == 0:
        return f"is empty: {_AGAIN}"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a saved web page, not a model: download the file itself, not its page"
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the model: run 'git lfs pull' where it was cloned"
    if head[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        return "is in the old GGML format of before August 2023: download a GGUF of this model"
    convert = "not a GGUF: download a GGUF of this model or convert it with llama.cpp"
    if head[:2] == b"PK" or head[:2] in (b"\x80\x02", b"\x80\x04"):
        return f"is a PyTorch checkpoint or zip archive, {convert}"
    if head[8:9] == b"{" and _U64.unpack(head[:8])[0] < size:
        return f"is a safetensors file, {convert}"
    if not any(head[:512]):
        return f"begins with zeros, an unfinished download: {_AGAIN}"
    if head[:4] == b"GGUF"[: len(head)]:
        return f"is cut short after {size} bytes: {_AGAIN}"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head[:512]):
        return "is text, not a model: give the .gguf file"
    return "is not a GGUF file: give the .gguf file of a model"


def kv_cache_bytes(
    header: Header, n_ctx: int, n_seq: int = 1, type_k: str = "f16", type_v: str = "f16"
) -> int:
    """Bytes of the cache for n_seq sequences of n_ctx tokens each, over all layers.

    As llama.cpp lays it out: n_ctx padded to 256, one key and one value row a token and layer,
    only the compressed key row for multi-head latent attention, a float32 state a sequence for
    a recurrent layer. Sliding-window layers are counted in full (swa_full), which taking tokens
    back needs. Raises UsageError for a type that cannot be a cache.
    """
    return sum(kv_cache_bytes_by_layer(header, n_ctx, n_seq, type_k, type_v))


def kv_cache_bytes_by_layer(
    header: Header, n_ctx: int, n_seq: int = 1, type_k: str = "f16", type_v: str = "f16"
) -> tuple[int, ...]:
    """kv_cache_bytes of each layer: (n_layers,)."""
    cells = -(-n_ctx // 256) * 256 * n_seq
    arch, heads = header.architecture, header.n_heads_kv
    latent = f"{arch}.attention.key_length_mla" in header.metadata
    state = 4 * n_seq * _recurrent_elements(header)
    parts = {layer: set[str]() for layer in range(header.n_layers)}
    for tensor in header.tensors:
        pieces = tensor.name.split(".")
        if pieces[0] == "blk" and len(pieces) > 2 and pieces[1].isdecimal():
            parts.get(int(pieces[1]), set()).add(pieces[2])
    interval = header._bounded("full_attention_interval", 0, MAX_LAYERS, 0)
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

    def get(key: str) -> int:
        return header._bounded(key, 0, 1 << 24, 0)

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
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_name.upper()]]
    return int(-(-width // block) * block_bytes)
