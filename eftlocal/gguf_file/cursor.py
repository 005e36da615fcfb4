"""The values of a GGUF header, taken one after another from the first bytes of its file.

Counts and lengths are forged in hostile files: nothing is allocated for a value before all its
bytes are known to be there.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NoReturn, overload

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from eftlocal.errors import ModelFileError

AGAIN = "download it again"
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
_SCALARS: dict[int, struct.Struct] = {
    number: struct.Struct(f"<{code}")
    for number, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_TYPE_NAMES = {int(kind): kind.name.lower() for kind in GGUFValueType}
_DTYPES = {number: np.dtype("?" if number == 7 else s.format) for number, s in _SCALARS.items()}
_MAX_TENSOR_NAME = 63  # bytes, llama.cpp's own limit


class StringArray(Sequence[str]):
    """An array of strings kept as in the file, decoded only when asked for.

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


class Short(Exception):  # noqa: N818 - a request for more bytes, not an error
    """The header goes on at least to byte `end`, past what has been read."""

    def __init__(self, end: int) -> None:
        self.end = end


class Cursor:
    """Reads the parts of a header from the first bytes of its file."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

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
        data, start = self.data, self.at
        at, last, unpack, ends = start, len(data) - 8, U64.unpack_from, array("q")
        for _ in range(count):
            if at > last:
                raise Short(at + 8)
            at += 8 + unpack(data, at)[0]
            if at > last + 8:
                raise Short(at)
            ends.append(at - start)
        self.at = at
        return StringArray(data[start:at], np.frombuffer(ends, np.int64))

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

    def tensor(self, number: int) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int, int]:
        name = self.name(f"tensor {number}", _MAX_TENSOR_NAME)
        n_dims = self.scalar(U32)
        if not 1 <= n_dims <= 4:
            self.fail(f"tensor {name} has {n_dims} dimensions (1 to 4 allowed)")
        shape = tuple(self.scalar(U64) for _ in range(n_dims))
        kind, offset = self.scalar(U32), self.scalar(U64)
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
