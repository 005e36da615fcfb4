"""Text that is read whole: files that options name, and stdin. UTF-8, bounded, or one line why not.

A byte order mark is skipped. A pipe is read to its end; one that nobody writes into is empty, not
waited for.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

from eftlocal.errors import EftlocalError, UsageError

LARGEST = 64 << 20  # bytes; some devices have no end
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


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
