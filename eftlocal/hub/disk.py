"""The disk: its failures in one line, locks, checksums, small records, readable sizes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from eftlocal.errors import DownloadError
from eftlocal.json_text import parse_json
from eftlocal.presets.file_ref import FileRef

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

_BLOCK = 1 << 20


@contextmanager
def disk_errors(path: Path, total: int = 0) -> Iterator[None]:
    """Turn a failure of the disk into one line; `total` is the size of the file in the making."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            done = path.stat().st_size if path.is_file() else 0
            raise DownloadError(
                f"{path}: the disk is full; the first {readable(done)} are kept, make room for "
                f"{readable(max(0, total - done))} more and run it again"
            ) from error
        if error.errno == errno.EFBIG:
            raise DownloadError(
                f"{path}: this disk's file system keeps no file of {readable(total)}; "
                "set EFTLOCAL_MODELS to a folder on another disk"
            ) from error
        where = path if error.filename is None else error.filename
        raise DownloadError(f"{where}: {error.strerror or error}") from error


@contextmanager
def locked(path: Path, ref: FileRef) -> Iterator[None]:
    """Keep other processes from this file; one that has it is named at once, not waited for."""
    from filelock import FileLock, Timeout

    place = beside(path, ".lock")
    lock = FileLock(place)
    with disk_errors(path):
        try:
            open_regular(place, os.O_RDWR | os.O_CREAT).close()  # neither a link nor a pipe
            lock.acquire(timeout=0)
        except Timeout as error:
            raise DownloadError(f"{ref}: another process is downloading it; wait for it") from error
    try:
        yield
    finally:
        lock.release()


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


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def part_files(path: Path) -> tuple[Path, Path]:
    return beside(path, ".part"), beside(path, ".part.json")


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
