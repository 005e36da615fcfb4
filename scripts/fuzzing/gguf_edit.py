"""A GGUF file as parts that can be changed and written again, sane or not.

The gguf package refuses to write what a fuzzer wants to: a key twice, a value of another type, a
tensor whose offset lies.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

STRING, ARRAY = 8, 9
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
U8, U16, U32, I32, F32, BOOL, U64, F64 = 0, 2, 4, 5, 6, 7, 10, 12


@dataclass
class Entry:
    """One metadata entry; `payload` is its value as in the file, an array's type included."""

    key: bytes
    kind: int
    payload: bytes


@dataclass
class Tensor:
    """One tensor: shape as in the file (fastest dimension first); an offset of its own lies."""

    name: bytes
    shape: list[int]
    kind: int
    data: bytes
    offset: int | None = None

    def retype(self, kind: int) -> None:
        """Gives it another type and as many bytes as that takes, so that the file stays whole."""
        self.kind = kind
        self.fit()

    def reshape(self, shape: list[int]) -> None:
        self.shape = shape
        self.fit()

    def fit(self) -> None:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self.kind)]
        nbytes = prod(self.shape) // block * size
        if 0 < nbytes <= 1 << 24:
            self.data = (self.data * (nbytes // max(1, len(self.data)) + 1))[:nbytes]


@dataclass
class GgufFile:
    """A whole file."""

    entries: list[Entry]
    tensors: list[Tensor]
    version: int = 3
    alignment: int = 32
    counts: dict[str, int] = field(default_factory=dict)  # forged ones, by "entries", "tensors"

    def entry(self, key: str) -> Entry | None:
        return next((e for e in self.entries if e.key == key.encode()), None)

    def set(self, key: str, kind: int, payload: bytes) -> None:
        found = self.entry(key)
        if found:
            found.kind, found.payload = kind, payload
        else:
            self.entries.append(Entry(key.encode(), kind, payload))

    def remove(self, key: str) -> None:
        self.entries = [e for e in self.entries if e.key != key.encode()]

    def tensor(self, name: str) -> Tensor:
        return next(t for t in self.tensors if t.name == name.encode())

    def to_bytes(self) -> bytes:
        n_tensors = self.counts.get("tensors", len(self.tensors))
        n_entries = self.counts.get("entries", len(self.entries))
        parts = [b"GGUF" + struct.pack("<IQQ", self.version, n_tensors, n_entries)]
        parts += [text(e.key) + struct.pack("<I", e.kind) + e.payload for e in self.entries]
        at = 0
        for t in self.tensors:
            offset = at if t.offset is None else t.offset
            shape = struct.pack(f"<I{len(t.shape)}Q", len(t.shape), *t.shape)
            parts.append(text(t.name) + shape + struct.pack("<IQ", t.kind, offset & (2**64 - 1)))
            at += len(t.data) + -len(t.data) % self.alignment
        head = b"".join(parts)
        out = [head, bytes(-len(head) % self.alignment)]
        for t in self.tensors:
            out += [t.data, bytes(-len(t.data) % self.alignment)]
        return b"".join(out)


def text(value: str | bytes) -> bytes:
    """A string as GGUF stores it."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def scalar(kind: int, value: Any) -> bytes:
    """A number as GGUF stores it; what its type cannot hold is cut to its low bits."""
    if kind == STRING:
        return text(str(value))
    code = SCALARS[kind]
    if code == "f":
        try:
            return struct.pack("<f", value)
        except OverflowError:
            return struct.pack("<f", float("inf"))
    if code == "d":
        return struct.pack("<d", value)
    size = struct.calcsize(code)
    if isinstance(value, float):
        value = int(value) if abs(value) < 2**62 else 0
    return (int(value) & (1 << 8 * size) - 1).to_bytes(size, "little")


def strings(values: list[bytes]) -> bytes:
    """The payload of an array of strings."""
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def numbers(kind: int, values: list[Any]) -> bytes:
    """The payload of an array of numbers."""
    return struct.pack("<IQ", kind, len(values)) + b"".join(scalar(kind, v) for v in values)


def read_strings(payload: bytes) -> list[bytes]:
    """The texts of an array of strings."""
    _, count = struct.unpack_from("<IQ", payload)
    values, at = [], 12
    for _ in range(count):
        (size,) = struct.unpack_from("<Q", payload, at)
        values.append(payload[at + 8 : at + 8 + size])
        at += 8 + size
    return values


def read_numbers(payload: bytes) -> tuple[int, list[Any]]:
    """Type and values of an array of numbers."""
    kind, count = struct.unpack_from("<IQ", payload)
    return kind, list(struct.unpack_from(f"<{count}{SCALARS[kind]}", payload, 12))


def read_file(path: Path) -> GgufFile:
    """Takes a sane file apart."""
    data = path.read_bytes()
    version, n_tensors, n_entries = struct.unpack_from("<IQQ", data, 4)
    at = 24

    def string() -> bytes:
        nonlocal at
        (size,) = struct.unpack_from("<Q", data, at)
        at += 8 + size
        return data[at - size : at]

    def size_of(kind: int, start: int) -> int:
        """Bytes of a value that starts there."""
        if kind == STRING:
            return 8 + int(struct.unpack_from("<Q", data, start)[0])
        if kind != ARRAY:
            return struct.calcsize(SCALARS[kind])
        inner, count = struct.unpack_from("<IQ", data, start)
        if inner != STRING:
            return 12 + count * struct.calcsize(SCALARS[inner])
        end = start + 12
        for _ in range(count):
            end += size_of(STRING, end)
        return end - start

    entries, infos = [], []
    for _ in range(n_entries):
        key = string()
        (kind,) = struct.unpack_from("<I", data, at)
        size = size_of(kind, at + 4)
        entries.append(Entry(key, kind, data[at + 4 : at + 4 + size]))
        at += 4 + size
    for _ in range(n_tensors):
        name = string()
        (n_dims,) = struct.unpack_from("<I", data, at)
        *shape, kind, offset = struct.unpack_from(f"<{n_dims}QIQ", data, at + 4)
        at += 4 + 8 * n_dims + 12
        infos.append((name, list(shape), kind, offset))
    start = at + -at % 32
    tensors = []
    for name, shape, kind, offset in infos:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        nbytes = prod(shape) // block * size
        tensors.append(Tensor(name, shape, kind, data[start + offset : start + offset + nbytes]))
    return GgufFile(entries, tensors, version)
