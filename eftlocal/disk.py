"""Files: opened safely, locked, read whole as text, written to the last byte, put in place whole.

Text is UTF-8 and bounded, or one line says why not: a byte order mark is skipped, a pipe is read to
its end, and one that nobody writes into is empty, not waited for.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.json_text import parse_json

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

    from filelock import FileLock


_BLOCK = 1 << 20  # bytes
LARGEST = 64 << 20  # bytes; some devices have no end
_TORN = 3600.0  # seconds after which a part is of a process that was killed
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def beside(path: Path, suffix: str) -> Path:
    """The file of the same name with this at its end, in the same folder."""
    return path.with_name(path.name + suffix)


def open_regular(path: Path, mode: int = os.O_RDONLY, *, follow: bool = False) -> IO[bytes]:
    """Open, unbuffered, what is a regular file; a FIFO or device is refused and not waited for.

    Args:
        mode: flags of os.open.
        follow: go where a symbolic link points; otherwise it is refused.

    Raises:
        OSError: as os.open, or with a text that says what is there instead of a file.
    """
    flags = mode | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
        if path.is_symlink():
            raise OSError(errno.ELOOP, "is a symbolic link; remove it", str(path))
    descriptor = os.open(path, flags, 0o666)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file; remove it", str(path))
    if mode != os.O_RDONLY and found.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "has another name (a hard link); remove it", str(path))
    return os.fdopen(descriptor, "rb" if mode == os.O_RDONLY else "r+b", buffering=0)


def lock_beside(path: Path, in_use: EftlocalError) -> FileLock:
    """The lock of a file, kept beside it, held by this process until it is released.

    Raises:
        in_use: another process has it; it is not waited for.
        OSError: the lock cannot be made, or is a link or a pipe.
    """
    from filelock import FileLock, Timeout

    place = beside(path, ".lock")
    open_regular(place, os.O_RDWR | os.O_CREAT).close()
    lock = FileLock(place)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise in_use from None
    return lock


def read_json(path: Path) -> dict[str, Any]:
    """A small record; empty where there is none or a crash tore it."""
    try:
        with open_regular(path) as file:
            record = parse_json(file.read(_BLOCK))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def hash_rest(file: IO[bytes]) -> Hash:
    """The hash of a file from where it stands to its end, ready to go on."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest


def write_all(file: IO[bytes], chunk: bytes) -> None:
    """Write every byte of `chunk` to an unbuffered file; a nearly full disk takes a part of it."""
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def readable(size: float) -> str:
    """Bytes as people read them: 1.32 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if size < 999.5 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


@contextmanager
def replacing(path: Path, *, private: bool = False, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends; an exception leaves the old.

    Whenever the process or the machine stops, `path` is the old file or the new one, whole. Of
    several that write it at once, the last to end wins.

    Args:
        private: only its user may read it, whoever may read the old one.
        durable: wait until the disk has it. Otherwise it may be torn when the machine stops.
    """
    remove_torn(path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 16}.part"))
    part = beside(path, f".{secrets.token_hex(8)}.part")
    try:
        opener = partial(os.open, mode=0o600 if private else 0o666)
        with open(part, "xb", opener=opener) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if path.exists() and not private:
            shutil.copymode(path, part)
        part.replace(path)
        if durable:
            sync_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_torn(parts: Iterable[Path]) -> None:
    """Removes those of `replacing`'s new files that nobody writes any more."""
    for part in parts:
        with suppress(OSError):
            if time.time() - part.lstat().st_mtime > _TORN:
                part.unlink()


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder outlast a power failure; Windows cannot be asked to."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Puts a small file in place whole, its folder too; several processes may do so at once.

    It is not flushed to the disk itself: for what can be made again.

    Raises:
        OSError: what was there is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_text(
    path: Path,
    where: str = "",
    *,
    not_text: type[EftlocalError] = UsageError,
    largest: int = LARGEST,
) -> str:
    """The text of a file.

    Args:
        where: what its messages begin with (default: the path).
        not_text: what is raised where it is not UTF-8 or has more than `largest` bytes.

    Raises:
        UsageError: it is missing, a folder, or cannot be read.
    """
    where = where or str(path)
    try:
        with _opened(path) as file:
            return decoded(file, where, not_text=not_text, largest=largest)
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error.strerror or error}") from None


def decoded(
    file: IO[bytes],
    where: str,
    *,
    not_text: type[EftlocalError] = UsageError,
    largest: int = LARGEST,
) -> str:
    """The text of an open file, likewise."""
    data = file.read(largest + 1)
    if len(data) > largest:
        raise not_text(f"{where}: more than {largest >> 20} MiB; give a smaller text")
    return utf_8(data, where, not_text)


def utf_8(data: bytes, where: str, not_text: type[EftlocalError] = UsageError) -> str:
    """The text of these bytes, or `not_text`."""
    if data.startswith(_UTF_16):
        raise not_text(f"{where}: not UTF-8 but UTF-16; convert it to UTF-8")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        at = error.start
        raise not_text(
            f"{where}: not valid UTF-8: byte 0x{data[at]:02x} at offset {at}; convert it to UTF-8"
        ) from None


def _opened(path: Path) -> IO[bytes]:
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "no file's name has a NUL")
    # Not blocking: opening a pipe would wait for a writer. Reading it waits for what comes.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def cache_folder() -> Path:
    """Where what can be made again is kept between runs; EFTLOCAL_CACHE overrides it.

    It may not be there yet.
    """
    if folder := os.environ.get("EFTLOCAL_CACHE"):
        return Path(folder)
    import platformdirs

    return platformdirs.user_cache_path("eftlocal")
