"""A file of caches: what each role holds of one conversation, and what that is bound to.

    prefix    magic, version, which machine's key, length of the header
    header    JSON: by role what it is bound to, how many tokens it holds, bytes of its state
    code      of prefix and header
    by role   its tokens (int32), its state, a code of both

Numbers are little-endian. A code is HMAC-SHA256 under a key that this program keeps for its user
on this machine, because native code reads a state: a plain checksum would only show that a file is
whole, and whoever makes up a hostile one can compute that. A part is checked before it is given
out. A file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eftlocal.bases import Closing
from eftlocal.disk import cache_folder, open_regular, replacing
from eftlocal.errors import UsageError
from eftlocal.json_text import TextError, parse_json

Bound = Mapping[str, str | int | float | bool | None]
"""What a state is bound to, by names that people know: settings, files, the build."""

_MAGIC, _VERSION = b"eftstate", 1
_PREFIX = struct.Struct("<8sI8sI")
_CODE = hashlib.sha256().digest_size
_KEY = 32  # bytes
_LARGEST_HEADER = 1 << 20
_BLOCK = 1 << 20
_TOKEN = np.dtype("<i4")


class Entry(BaseModel):
    """What the header says of a role.

    Attributes:
        bound: what its state is bound to.
        tokens: how many it holds.
        size: bytes of its state; 0 where it holds none.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    bound: dict[str, str | int | float | bool | None]
    tokens: int = Field(ge=0, lt=1 << 31)
    size: int = Field(ge=0, lt=1 << 62)


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    roles: dict[str, Entry] = Field(min_length=1, max_length=64)


class Part(NamedTuple):
    """What one role holds: token ids, and (size,) uint8 of llama.cpp's own."""

    role: str
    tokens: Sequence[int]
    state: NDArray[np.uint8]


def write(
    path: Path,
    entries: Mapping[str, Entry],
    parts: Iterable[Part],
    check: Callable[[], object] = lambda: None,
    *,
    durable: bool = True,
) -> int:
    """Writes a file that only its user can read; whatever goes wrong, the old one stays.

    Args:
        parts: of the entries' roles, in their order; asked for one after the other.
        check: called before each MiB; what it raises ends the writing.
        durable: wait until the disk has it; otherwise a power failure may leave a damaged file.

    Returns:
        its size in bytes.

    Raises:
        UsageError: it or the key cannot be written; or a part is not what its entry says.
    """
    header = _Header(roles=dict(entries)).model_dump_json().encode()
    key = _key()
    prefix = _PREFIX.pack(_MAGIC, _VERSION, _name_of(key), len(header))
    try:
        with replacing(path, private=True, durable=durable) as file:
            begin = _coded(key, prefix, header)
            file.write(prefix + header + begin)
            for (role, entry), part in zip(entries.items(), parts, strict=True):
                if (part.role, len(part.tokens), len(part.state)) != (
                    *(role, entry.tokens, entry.size),
                ):
                    raise UsageError(f"{path}: the caches changed while they were saved; try again")
                code = hmac.new(key, begin + role.encode(), "sha256")
                for data in (np.asarray(part.tokens, _TOKEN).view(np.uint8), part.state):
                    for at in range(0, len(data), _BLOCK):
                        check()
                        block = data[at : at + _BLOCK].data
                        code.update(block)
                        file.write(block)
                file.write(code.digest())
            return file.tell()
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from None


class StateFile(Closing):
    """A file of caches, open; whatever it says is checked first.

    Args:
        path: of a file, not of a pipe or device.

    Raises:
        UsageError: it cannot be read, is none of ours, damaged, or of another version or machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open_regular(path, follow=True)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"{path}: cannot be read: {why}") from None
        try:
            self.entries = self._header()
        except BaseException:
            self.close()
            raise

    def _header(self) -> dict[str, Entry]:
        self.size = os.fstat(self._file.fileno()).st_size
        prefix = _read(self._file, min(_PREFIX.size, self.size)).tobytes()
        if len(prefix) < _PREFIX.size or not prefix.startswith(_MAGIC):
            raise UsageError(f"{self.path}: is no file of saved caches; nothing was loaded")
        _, version, name, length = _PREFIX.unpack(prefix)
        if version != _VERSION:
            raise UsageError(
                f"{self.path}: is of version {version}, and this program reads {_VERSION}; save it "
                "again"
            )
        self._key = _key()
        if name != _name_of(self._key):
            raise UsageError(
                f"{self.path}: was written on another machine, by another user or under a key "
                f"({_key_path()}) that was deleted, so nothing says that it is safe; save it again"
            )
        if length > min(_LARGEST_HEADER, self.size - _PREFIX.size - _CODE):
            raise self.damaged
        header = _read(self._file, length).tobytes()
        self._begin = _coded(self._key, prefix, header)
        if not hmac.compare_digest(self._begin, _read(self._file, _CODE).tobytes()):
            raise self.damaged
        try:
            entries = _Header.model_validate(parse_json(header)).roles
        except (TextError, ValidationError):
            raise self.damaged from None
        parts = sum(e.tokens * _TOKEN.itemsize + e.size + _CODE for e in entries.values())
        if _PREFIX.size + length + _CODE + parts != self.size:
            raise self.damaged
        return entries

    @property
    def damaged(self) -> UsageError:
        return UsageError(f"{self.path}: is damaged or cut off; delete it, and save it again")

    def _unfit(self, why: str) -> UsageError:
        return UsageError(f"{self.path}: {why}; use what it was saved with, or another file")

    def require(self, bound: Mapping[str, Bound]) -> None:
        """Raises UsageError, naming what differs, unless it is bound to just this, role by role."""
        for role in self.entries.keys() ^ bound.keys():
            was, now = ("with", "has none") if role in self.entries else ("without", "has one")
            raise self._unfit(f"was saved {was} a role {role}; what is loaded {now}")
        for role, now_bound in bound.items():
            was_bound = self.entries[role].bound
            for name in dict.fromkeys((*now_bound, *was_bound)):
                old, new = was_bound.get(name), now_bound.get(name)
                if old != new or type(old) is not type(new):
                    raise self._unfit(_differs(role, name, old, new))

    def parts(self) -> Iterator[Part]:
        """What each role holds, checked, in memory one after the other.

        Raises:
            UsageError: it is damaged, or cannot be read.
        """
        for role, entry in self.entries.items():
            length = entry.tokens * _TOKEN.itemsize
            try:
                data = _read(self._file, length + entry.size)
                code = hmac.new(self._key, self._begin + role.encode(), "sha256")
                code.update(data.data)
                told = _read(self._file, _CODE).tobytes()
            except OSError as error:
                raise UsageError(f"{self.path}: cannot be read: {error.strerror}") from None
            if not hmac.compare_digest(code.digest(), told):
                raise self.damaged
            yield Part(role, data[:length].view(_TOKEN).tolist(), data[length:])

    def close(self) -> None:
        self._file.close()


def _differs(role: str, name: str, old: object, new: object) -> str:
    """What is not as it was; a name that ends in a colon tells nothing but that it is another."""
    if name.endswith(":"):
        return f"was saved with another {name[:-1]} of {role}"
    return f"was saved with {name} {_told(old)} of {role}; now it is {_told(new)}"


def _told(value: object) -> str:
    words: dict[object, str] = {None: "unset", True: "on", False: "off"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _coded(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(parts), "sha256")


def _read(file: IO[bytes], size: int) -> NDArray[np.uint8]:
    """The next `size` bytes; zeros where the file has become shorter, which no code fits."""
    data = np.zeros(size, np.uint8)
    view: Any = data.data
    while view and (count := file.readinto(view)):  # type: ignore[attr-defined]
        view = view[count:]
    return data


def _key_path() -> Path:
    return cache_folder() / "state.key"


def _key() -> bytes:
    """The key of this user on this machine, made when it is first needed.

    Raises:
        UsageError: it is neither there nor can it be made.
    """
    path = _key_path()
    try:
        for _ in range(2):
            with suppress(FileNotFoundError):
                with open_regular(path) as file:
                    _refuse_foreign(file)
                    if len(key := file.read(_KEY + 1)) == _KEY:
                        return key
                path.unlink()  # torn
            _make_key(path)
        raise OSError("another program changes it")
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"{path}: the key of saved caches cannot be read or made: {why}") from None


def _refuse_foreign(file: IO[bytes]) -> None:
    if os.name == "posix" and os.fstat(file.fileno()).st_uid != os.geteuid():
        raise OSError("it is another user's; set EFTLOCAL_CACHE to a folder of your own")


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY))
            file.flush()
            os.fsync(descriptor)  # what is durable is worth nothing without it
        try:
            os.link(new, path)  # unlike a replacement, it leaves another process's key
        except FileExistsError:
            return
        except OSError:  # a file system without links
            new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _name_of(key: bytes) -> bytes:
    return hashlib.sha256(b"eftlocal state" + key).digest()[:8]
