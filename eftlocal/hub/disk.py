"""A download's place on the disk: failures in one line, locks, the notes beside a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eftlocal.disk import beside, open_regular, readable
from eftlocal.errors import DownloadError
from eftlocal.presets.schema import FileRef


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


def part_files(path: Path) -> tuple[Path, Path]:
    """Where a download of this file grows, and where its note is."""
    return beside(path, ".part"), beside(path, ".part.json")
