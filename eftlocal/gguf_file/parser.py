"""The header of one GGUF file, checked against the file's size; what is wrong is said in one line.

llama.cpp's own parser can be crashed by a torn or hostile file, so every count, length, offset
and tensor extent is checked before anything is allocated, and a header may take at most
HEADER_LIMIT bytes. Format: GGUF versions 2 and 3, little endian
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from eftlocal.errors import ModelFileError
from eftlocal.submodule import submodule

constants = submodule("gguf.constants")

HEADER_LIMIT = 128 << 20  # bytes; the largest vocabulary known (262,144 tokens) takes 16 MiB
MAX_ENTRIES = 1 << 17  # metadata keys, and tensors; the largest mixtures have some 20,000
_FIRST_READ = 16 << 20  # more than most headers have
_FIRST_OF_MANY = 1 << 20  # where their arrays are known, reading takes longer than parsing again
_MAX_KEY = 65535  # bytes, from the format's definition
_MAX_VOCAB = 1 << 24  # tokens
_ALIGNMENT = 32  # bytes: the default, and where ggml wants mapped weights to begin
AGAIN = "download it again"
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
_SCALARS: dict[int, struct.Struct] = {
    number: struct.Struct(f"<{code}")
    for number, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_TYPE_NAMES = {int(kind): kind.name.lower() for kind in constants.GGUFValueType}
_DTYPES = {number: np.dtype("?" if number == 7 else s.format) for number, s in _SCALARS.items()}
_MAX_TENSOR_NAME = 63  # bytes, llama.cpp's own limit
_LONG = 1000  # strings of an array that is worth remembering


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: shape as in the file (fastest dimension first), nbytes, offset in its file."""

    name: str
    shape: tuple[int, ...]
    type: IntEnum
    nbytes: int
    offset: int


@dataclass(frozen=True, eq=False)
class FileHeader:
    """What one file holds; the attributes are those of header.Header."""

    path: Path
    file_size: int
    version: int
    metadata: Mapping[str, Any]
    types: Mapping[str, str]
    tensors: tuple[TensorInfo, ...]
    n_vocab: int
    header_bytes: int


def block_of(type_: str) -> tuple[int, int]:
    """How many numbers of a type of ggml's (Q4_0, in either case) are a block, and its bytes."""
    numbers, size = constants.GGML_QUANT_SIZES[constants.GGMLQuantizationType[type_.upper()]]
    return int(numbers), int(size)


def parse_file(path: Path, known: Arrays | None = None) -> FileHeader:
    """Read and check one file.

    Args:
        known: arrays of other files; those of this one are added.

    Raises ModelFileError for a file that is missing, torn, not a GGUF or not sane.
    """
    wanted, data = _FIRST_OF_MANY if known else _FIRST_READ, b""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise ModelFileError(f"{path}: is a folder, a pipe or a device: name a GGUF file")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            while True:
                file.seek(len(data))
                data += file.read(min(wanted, size) - len(data))
                if len(data) < min(wanted, size):
                    raise ModelFileError(f"{path}: changed while it was read: try again")
                try:
                    return _parse(Cursor(data, path, known), size)
                except Short as short:
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
            f"file has {size:,}: {AGAIN}"
        )
    if end > HEADER_LIMIT:
        raise ModelFileError(
            f"{path}: its header claims {end:,} bytes, more than the {HEADER_LIMIT:,} that any "
            f"model needs: the file is damaged, {AGAIN}"
        )


def _parse(cursor: Cursor, size: int) -> FileHeader:
    path = cursor.path
    if cursor.data[:4] != b"GGUF":
        raise ModelFileError(f"{path}: {_what_is_it(cursor.data, size)}")
    cursor.at = 4
    version = cursor.scalar(U32)
    if version & 0xFFFF == 0:
        raise ModelFileError(f"{path}: is a big-endian GGUF: download a little-endian one")
    if version not in (2, 3):
        raise ModelFileError(
            f"{path}: is GGUF version {version}; versions 2 and 3 can be read: choose another file"
        )
    n_tensors, n_keys = cursor.scalar(U64), cursor.scalar(U64)
    for count, what, smallest in ((n_tensors, "tensors", 32), (n_keys, "metadata keys", 14)):
        if count > MAX_ENTRIES:
            cursor.fail(f"its header claims {count:,} {what}, more than any model has")
        _check_end(path, cursor.at + count * smallest, size)

    metadata: dict[str, Any] = {}
    types: dict[str, str] = {}
    for number in range(n_keys):
        key = cursor.name(f"metadata key {number}", _MAX_KEY)
        if key in metadata:
            cursor.fail(f"the metadata key {key} is there twice")
        types[key], metadata[key] = cursor.value(key)

    tensors = _tensors(cursor, n_tensors, metadata, types, size)
    architecture = metadata.get("general.architecture")
    tokens = metadata.get("tokenizer.ggml.tokens", metadata.get(f"{architecture}.vocab_size", 0))
    n_vocab = len(tokens) if isinstance(tokens, StringArray) else tokens
    if not isinstance(n_vocab, int) or not 0 <= n_vocab <= _MAX_VOCAB:
        cursor.fail("its vocabulary is not an array of strings, or its size is impossible")
    proxies = MappingProxyType(metadata), MappingProxyType(types)
    return FileHeader(path, size, version, *proxies, tensors, n_vocab, cursor.at)


def _tensors(
    cursor: Cursor, count: int, metadata: Mapping[str, Any], types: Mapping[str, str], size: int
) -> tuple[TensorInfo, ...]:
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if types.get("general.alignment", "uint32") != "uint32":
        cursor.fail(f"general.alignment is of type {types['general.alignment']}, not uint32")
    if alignment < 1 or alignment & (alignment - 1):
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
        if (data_start + offset) % _ALIGNMENT:
            cursor.fail(
                f"the data of tensor {name} is at byte {data_start + offset:,} of the file, no "
                f"multiple of {_ALIGNMENT} (general.alignment is {alignment})"
            )
        tensors.append(TensorInfo(name, shape, type_, nbytes, data_start + offset))
    if end > size:
        raise ModelFileError(
            f"{cursor.path}: is cut short: {end - size:,} of {end:,} bytes are missing: {AGAIN}"
        )
    return tuple(tensors)


def _what_is_it(head: bytes, size: int) -> str:
    """Says what a file that is not a GGUF most likely is, and what to do."""
    start = head[:512].lstrip().lower()
    if size == 0:
        return f"is empty: {AGAIN}"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a saved web page, not a model: download the file itself, not its page"
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the model: run 'git lfs pull' where it was cloned"
    if head[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        return "is in the old GGML format of before August 2023: download a GGUF of this model"
    convert = "not a GGUF: download a GGUF of this model or convert it with llama.cpp"
    if head[:2] == b"PK" or head[:2] in (b"\x80\x02", b"\x80\x04"):
        return f"is a PyTorch checkpoint or zip archive, {convert}"
    if head[8:9] == b"{" and U64.unpack(head[:8])[0] < size:
        return f"is a safetensors file, {convert}"
    if not any(head[:512]):
        return f"begins with zeros, an unfinished download: {AGAIN}"
    if head[:4] == b"GGUF"[: len(head)]:
        return f"is cut short after {size} bytes: {AGAIN}"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head[:512]):
        return "is text, not a model: give the .gguf file"
    return "is not a GGUF file: give the .gguf file of a model"


class StringArray:
    """An array of strings, kept as in the file.

    Attributes: raw, the entries as stored, each 8 bytes of length and then its text;
    ends (n,) int64, where each entry ends in raw.
    """

    __slots__ = ("_texts", "ends", "raw")

    def __init__(self, raw: bytes, ends: npt.NDArray[np.int64]) -> None:
        self.raw, self.ends = raw, ends
        self._texts: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def to_bytes(self) -> list[bytes]:
        """All the texts as bytes, taken apart once. Do not modify."""
        if self._texts is None:
            raw, ends = self.raw, self.ends.tolist()
            starts = [0, *ends[:-1]]
            self._texts = [raw[a + 8 : b] for a, b in zip(starts, ends, strict=True)]
        return self._texts

    def has_nul(self) -> bool:
        """Whether a text holds a NUL, where it ends for llama.cpp."""
        lengths = np.diff(self.ends, prepend=0) - 8
        own = np.count_nonzero(lengths.astype("<u8").view(np.uint8) == 0)
        return bool(self.raw.count(0) > own)


Arrays = dict[int, list[StringArray]]
"""Long arrays that were read, by their number of strings. A thousand files have a few vocabularies:
one that begins with the bytes of a known array has that array, and need not be taken apart."""


class Short(Exception):  # noqa: N818 - a request for more bytes, not an error
    """The header goes on at least to byte `end`, past what has been read."""

    def __init__(self, end: int) -> None:
        self.end = end


class Cursor:
    """Reads the parts of a header from the first bytes of its file."""

    def __init__(self, data: bytes, path: Path, known: Arrays | None = None) -> None:
        self.data, self.path, self.at = data, path, 0
        self.known = {} if known is None else known

    def fail(self, what: str) -> NoReturn:
        raise ModelFileError(f"{self.path}: {what}: the file is damaged, {AGAIN}")

    def require(self, nbytes: int) -> int:
        """Where nbytes from here end; they are all in `data`."""
        end = self.at + nbytes
        if end > len(self.data):
            raise Short(end)
        return end

    def take(self, nbytes: int) -> bytes:
        start, self.at = self.at, self.require(nbytes)
        return self.data[start : self.at]

    def scalar(self, kind: struct.Struct) -> Any:
        start, self.at = self.at, self.require(kind.size)
        return kind.unpack_from(self.data, start)[0]

    def name(self, what: str, longest: int) -> str:
        nbytes = self.scalar(U64)
        if not 1 <= nbytes <= longest:
            self.fail(f"{what} has a name of {nbytes} bytes (1 to {longest} allowed)")
        name = self.take(nbytes)
        if b"\0" in name:  # llama.cpp would read another name: the part before it
            self.fail(f"{what} has a NUL in its name")
        return name.decode("utf-8", "backslashreplace")

    def strings(self, count: int) -> StringArray:
        self.require(8 * count)
        for array_ in self.known.get(count, ()):
            if self.data.startswith(array_.raw, self.at):
                self.at += len(array_.raw)
                return array_
            if array_.raw.startswith(self.data[self.at :]):  # as far as it has been read
                raise Short(len(self.data) + 1)
        data, start, at, unpack = self.data, self.at, self.at, U64.unpack_from
        ends = array("q", bytes(8 * count))
        try:
            for i in range(count):
                at += 8 + unpack(data, at)[0]
                ends[i] = at - start
        except (struct.error, OverflowError):
            raise Short(at + 8) from None
        if at > len(data):
            raise Short(at)
        self.at = at
        found = StringArray(data[start:at], np.frombuffer(ends, np.int64))
        if count >= _LONG:
            self.known.setdefault(count, []).append(found)
        return found

    def value(self, key: str) -> tuple[str, Any]:
        """The type of a value, such as "uint32" or "array of string", and the value.

        A string ends at its first NUL, as it does for llama.cpp.
        """
        kind = self.scalar(U32)
        if kind == _STRING:
            text = self.take(self.scalar(U64)).partition(b"\0")[0]
            return _TYPE_NAMES[kind], text.decode("utf-8", "replace")
        if kind in _SCALARS:
            return _TYPE_NAMES[kind], self.scalar(_SCALARS[kind])
        if kind != _ARRAY:
            self.fail(f"{key} has the unknown value type {kind}")
        kind, count = self.scalar(U32), self.scalar(U64)
        type_ = f"array of {_TYPE_NAMES.get(kind)}"
        if kind == _STRING:
            return type_, self.strings(count)
        if kind in _DTYPES:
            data = self.take(count * _DTYPES[kind].itemsize)
            return type_, np.frombuffer(data, _DTYPES[kind])
        what = "arrays, which no model has" if kind == _ARRAY else f"the unknown value type {kind}"
        return self.fail(f"{key} is an array of {what}")

    def tensor(self, number: int) -> tuple[str, tuple[int, ...], IntEnum, int, int]:
        name = self.name(f"tensor {number}", _MAX_TENSOR_NAME)
        n_dims = self.scalar(U32)
        if not 1 <= n_dims <= 4:
            self.fail(f"tensor {name} has {n_dims} dimensions (1 to 4 allowed)")
        shape = tuple(self.scalar(U64) for _ in range(n_dims))
        kind, offset = self.scalar(U32), self.scalar(U64)
        try:
            type_ = constants.GGMLQuantizationType(kind)
        except ValueError:
            raise ModelFileError(
                f"{self.path}: tensor {name} has type {kind}, which is unknown or no longer in "
                "use: choose another quantization of this model"
            ) from None
        block, block_bytes = constants.GGML_QUANT_SIZES[type_]
        if min(shape) < 1 or shape[0] % block:
            self.fail(f"tensor {name} of type {type_.name} has the impossible shape {shape}")
        return name, shape, type_, prod(shape) // block * block_bytes, offset
