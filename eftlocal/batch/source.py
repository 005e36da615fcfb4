"""Lines of a file or of stdin, plain or gzip, one at a time and as often as needed.

A line longer than MAX_LINE is never held in memory, and neither is the file.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from eftlocal.bases import Closing
from eftlocal.errors import PromptError, UsageError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

MAX_LINE = 8 << 20  # bytes of a line
# An input beyond these is not what it was taken for, and would take minutes or days to read.
MAX_LINES = 10_000_000
MAX_BLANK = 10_000  # blank lines in a row
MAX_SKIPPED = 256 << 20  # bytes in lines that are longer than MAX_LINE
_TOO_MANY = f"it has more than {MAX_LINES} lines; split it"
_BUFFER = 1 << 20  # bytes read in one go
_LOOK = 256  # lines after which the file is looked at: was it changed?
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class TooLong:
    """A line that was not held: its size in bytes."""

    size: int


class Source(Closing):
    """An input that is open. Close it, or use it in a `with` block; one thread at a time.

    Attributes:
        name: for messages.
        path: None for stdin.
        total: lines of the whole input, once all of it was read.
    """

    total = 0

    def __init__(self, name: str, path: Path | None, file: IO[bytes], resources: ExitStack) -> None:
        self.name = name
        self.path = path
        self._file = file
        self._resources = resources
        self._passes = 0
        self._state = self._look()
        self._gzip = self._file.read(2) == _GZIP

    def lines(
        self, limit: int | None = None, *, digest: Hash | None = None
    ) -> Iterator[tuple[int, bytes | TooLong]]:
        """The lines with their numbers, from 1, without what ends them.

        Blank lines at the end are left out. A second call begins again, and ends the first.

        Args:
            limit: most lines given.
            digest: is given every byte of the input, uncompressed, those beyond the limit too.

        Raises:
            PromptError: the gzip is torn or damaged; after which line. It has more lines, blank
                lines in a row, or bytes in lines that are too long, than any input.
            UsageError: the file cannot be read, or was changed since it was opened.
        """
        self._passes += 1
        this, number, blank, skipped = self._passes, 0, 0, 0
        try:
            self._unchanged()
            self._file.seek(0)
            reader = gzip.GzipFile(fileobj=self._file) if self._gzip else self._file
            while (data := _line(reader, digest, MAX_SKIPPED - skipped)) is not None:
                number += 1
                if number > MAX_LINES:
                    raise self._refused(_TOO_MANY)
                if isinstance(data, TooLong) and (skipped := skipped + data.size) > MAX_SKIPPED:
                    raise self._refused(
                        f"lines longer than {MAX_LINE >> 20} MiB, the last of them line {number}, "
                        f"add up to more than {MAX_SKIPPED >> 20} MiB; no request is that long"
                    )
                if number % _LOOK == 0:
                    self._unchanged()
                beyond = limit is not None and number > limit
                if beyond and digest is None:
                    return
                if isinstance(data, bytes) and not data.strip():
                    blank += 1
                    if blank > MAX_BLANK:
                        raise self._refused(
                            f"lines {number - blank + 1} to {number} are blank; remove them"
                        )
                    continue
                first, blank = number - blank, 0
                if beyond:
                    continue
                for i in range(first, number):
                    yield i, b""
                yield number, data
                if this != self._passes:
                    raise RuntimeError("the lines of a source were read again meanwhile")
            self._unchanged()
            self.total = number - blank
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            what = "truncated" if isinstance(error, EOFError) else "damaged"
            where = f"after line {number}" if number else "in its first line"
            raise PromptError(
                f"{self.name}: the gzip file is {what} {where}; get it again"
            ) from None
        except OSError as error:
            raise UsageError(f"{self.name}: cannot be read: {error.strerror or error}") from None

    def _refused(self, why: str) -> PromptError:
        return PromptError(f"{self.name}: {why}")

    def close(self) -> None:
        """A second call does nothing."""
        self._resources.close()

    def _look(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns

    def _unchanged(self) -> None:
        if self._look() != self._state:
            raise UsageError(f"{self.name}: changed while it was being read; start again")


def open_source(path: str) -> Source:
    """An input by its path; "-" is stdin. What cannot be read twice is copied to a temporary file.

    Raises:
        UsageError: it cannot be read, or is a folder.
    """
    name = "stdin" if path == "-" else path
    file = None if path == "-" else Path(path)
    try:
        with ExitStack() as undone:
            given: IO[bytes] = sys.stdin.buffer
            if file is not None:
                given = undone.enter_context(file.open("rb", buffering=_BUFFER))
                if stat.S_ISREG(os.fstat(given.fileno()).st_mode):
                    return Source(name, file, given, undone.pop_all())
            kept = undone.enter_context(tempfile.TemporaryFile())
            _keep(given, kept, name)
            return Source(name, file, kept, undone.pop_all())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UsageError(
                f"{name}: {tempfile.gettempdir()}, where a copy of it is kept, is full; make room, "
                "set TMPDIR to another folder, or give a file"
            ) from None
        raise UsageError(f"{name}: cannot be read: {error.strerror or error}") from None


def _keep(given: IO[bytes], kept: IO[bytes], name: str) -> None:
    """Copies a pipe or a device to a file, unless it is plainly without end."""
    lines = since = 0  # and bytes since the last line's end
    while block := given.read(_BUFFER):
        kept.write(block)
        lines += block.count(b"\n")
        end = block.rfind(b"\n")
        since = since + len(block) if end < 0 else len(block) - end
        if lines > MAX_LINES:
            raise PromptError(f"{name}: {_TOO_MANY}")
        if since > MAX_LINE + MAX_SKIPPED:
            raise PromptError(f"{name}: line {lines + 1} has over {MAX_SKIPPED >> 20} MiB")
    kept.seek(0)


def _line(
    reader: IO[bytes] | gzip.GzipFile, digest: Hash | None, most: int
) -> bytes | TooLong | None:
    """The next line without its end; None after the last. No more than `most` bytes beyond
    MAX_LINE are read of it."""
    data = piece = reader.readline(MAX_LINE + 2)
    if digest is not None:
        digest.update(piece)
    if not data:
        return None
    size = len(data)
    while piece and not piece.endswith(b"\n") and size <= MAX_LINE + most:
        piece = reader.readline(_BUFFER)
        if digest is not None:
            digest.update(piece)
        size += len(piece)
    if size > len(data):
        return TooLong(size - piece.endswith(b"\n"))
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    return TooLong(len(data)) if len(data) > MAX_LINE else data
