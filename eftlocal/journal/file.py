"""A file of rows: read without a torn last line, plain or gzip, and grown at its end."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from eftlocal.bases import Closing
from eftlocal.disk import write_all
from eftlocal.errors import EftlocalError, UsageError

if TYPE_CHECKING:
    from zlib import _Decompress as Inflating

LONGEST = 64 << 20  # bytes of a line; a longer one is no row
_BLOCK = 16 << 10  # bytes of gzip at once: what follows a member in it is copied for each member
_MAGIC = b"\x1f\x8b\x08"
_HEADER = _MAGIC + bytes(5)  # of our members: no flags, no time


def encoder(path: Path) -> Callable[[bytes], bytes]:
    """What makes of a line, its newline left out, the bytes to append to this file."""
    return _member if is_packed(path) else _with_newline


def is_packed(path: Path) -> bool:
    return path.name.endswith(".gz")


class WholeLines(Iterable[bytes]):
    """Reads a file once, line by line; one line is in memory at a time.

    A last line without its end, or with zeros in it (what a crash of the machine can leave), is
    not given.

    Attributes:
        end: bytes of the file up to the last line that was given.
        torn: whether more follows; known at the end.

    Raises:
        UsageError: while iterating: it is damaged elsewhere than at its end, or is no gzip.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = 0
        self.torn = False
        self._given = 0

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            for line in (self._packed if is_packed(self.path) else self._plain)(file):
                self._given += 1
                yield line

    def _plain(self, file: BufferedReader) -> Iterator[bytes]:
        while line := file.readline(LONGEST + 1):
            if len(line) > LONGEST:
                raise self._damaged("a line is too long to be a row")
            if not line.endswith(b"\n") or (b"\0" in line and not file.peek(1)):
                if line.strip(b"\0\n") and not line.startswith(b"{"):
                    raise self._damaged("its end is no part of a row")
                self.torn = True
                return
            self.end += len(line)
            yield line[:-1]

    def _packed(self, file: BufferedReader) -> Iterator[bytes]:
        pending = b""
        while pending or (pending := file.read(_BLOCK)):
            member = zlib.decompressobj(wbits=31)
            held: bytes | None = None  # the last line: whole only when its member is
            text, size, given = b"", 0, self._given
            while not member.eof:
                pending = pending or file.read(_BLOCK)
                new = _inflated(member, pending)
                if new is None or not (new or pending):
                    self._pass_torn(file, alone=self._given == given)
                    return
                left = member.unused_data if member.eof else member.unconsumed_tail
                size += len(pending) - len(left)
                pending = left
                *lines, text = (text + new).split(b"\n")
                for line in lines:
                    if held is not None:
                        yield held
                    held = line
                if len(text) > LONGEST:
                    raise self._damaged("a line is too long to be a row")
            if text:
                raise self._damaged("a gzip member does not end with a line")
            self.end += size
            if held is not None:
                yield held

    def _pass_torn(self, file: BufferedReader, *, alone: bool) -> None:
        """Refuses a broken member unless a crash tore it: one line, begun as gzip, the last."""
        file.seek(self.end)
        rest = file.read(LONGEST + 1)
        if not (rest.startswith(_MAGIC) or _MAGIC.startswith(rest.rstrip(b"\0"))):
            raise self._damaged("what follows is no gzip")
        if not alone or len(rest) > LONGEST or _HEADER in rest[1:]:
            raise self._damaged("a gzip member is broken, and not the last row alone")
        self.torn = True

    def _damaged(self, why: str) -> UsageError:
        place = f"after line {self._given}" if self._given else "from its beginning"
        return UsageError(f"{self.path} is damaged {place}: {why}")


def _inflated(member: Inflating, packed: bytes) -> bytes | None:
    """The next at most 1 MiB of a member's text; None where it is broken."""
    try:
        return member.decompress(packed, 1 << 20)
    except zlib.error:
        return None


def _with_newline(line: bytes) -> bytes:
    return line + b"\n"


def _member(line: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(line + b"\n") + packer.flush()


_AGAIN = "run the same command again"
_TAIL = 4096  # bytes that are looked at again: another file of the same length is noticed
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


class GrowingFile(Closing):
    """Opens a file, or makes it.

    Args:
        path: its name, which may be a link to it.
        end: bytes of it that are rows; what follows is torn and is cut off.
        rows: how many they are.

    Attributes:
        touched: whether another process was found to have taken it away or changed it.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, *, end: int, rows: int) -> None:
        self.path = path
        self.end = end
        self.rows = rows
        self._real = path.absolute()
        self._file = os.fdopen(os.open(self._real, _FLAGS, 0o666), "r+b", buffering=0)
        self._unfinished = 0  # bytes of a write that was begun and not seen to end
        self.touched = False
        opened = os.fstat(self._file.fileno())
        # A file system may number files anew at each look, or count no names.
        self._has_number = os.path.samestat(opened, self._real.stat())
        self._counts_names = opened.st_nlink > 0
        if opened.st_size > end:
            self._file.truncate(end)
        self._tail = self._last_bytes(_TAIL)

    def append(self, data: bytes) -> None:
        """Writes a row at the end.

        Raises:
            OSError: the disk refuses; nothing of the row is left.
            EftlocalError: another process took the file away, or changed it.
        """
        self._drop_unfinished()
        self.check()
        self._unfinished = len(data)
        try:
            write_all(self._file, data)
        except OSError:
            self._drop_unfinished()
            raise
        self.end, self.rows, self._unfinished = self.end + len(data), self.rows + 1, 0
        self._tail = data[-_TAIL:]
        self.check()

    def check(self) -> None:
        """Raises EftlocalError: another process took the file away, or changed it."""
        ours = os.fstat(self._file.fileno())
        try:
            named = self._real.stat()
        except PermissionError:
            return  # nobody can tell
        except OSError:
            what = "was removed" if self._is_gone(ours) else "was moved away"
            self._tell(what, self._elsewhere(ours, f"lost; {_AGAIN} to start over"))
        else:
            if self._has_number and not os.path.samestat(named, ours):
                lost = f"lost, unless that file holds them; {_AGAIN}, or move it away first"
                self._tell("was replaced by another file", self._elsewhere(ours, lost))
        if ours.st_size < self.end:
            what = f"was cut from {self.end} to {ours.st_size} bytes"
            self._tell(what, f"the remaining rows are safe; {_AGAIN} to answer the others")
        if ours.st_size > self.end:
            what = f"grew by {ours.st_size - self.end} bytes that this run did not write"
            self._tell(what, f"{self._counted()} safe before them; see what else writes to it")
        if self._last_bytes(len(self._tail)) != self._tail:
            self._tell("was overwritten", "its rows are lost; give another output file")

    def sync(self) -> None:
        """Puts it on the disk itself; raises OSError."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Raises OSError or, unless that was said already, what `check` raises."""
        if self._file.closed:
            return
        with self._file:
            self._drop_unfinished()
            if not self.touched:
                self.check()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def _last_bytes(self, count: int) -> bytes:
        """Of the rows; where the file stands does not matter to what is appended."""
        start = self._file.seek(max(0, self.end - count))
        return self._file.read(self.end - start) or b""

    def _drop_unfinished(self) -> None:
        """Cuts off what a failed or interrupted write left."""
        if self._unfinished:
            size = os.fstat(self._file.fileno()).st_size
            if self.end < size <= self.end + self._unfinished:
                self._file.truncate(self.end)
            self._unfinished = 0

    def _tell(self, what: str, and_now: str) -> NoReturn:
        self.touched = True
        raise EftlocalError(f"{self.path} {what} while the run wrote it: {and_now}")

    def _elsewhere(self, ours: os.stat_result, lost: str) -> str:
        """What became of the rows where the name leads to them no more."""
        rows = self._counted() if ours.st_size >= self.end else "what is left of its rows"
        if self._is_gone(ours):
            return f"{rows} {lost}"
        if found := self._found(ours):
            return f"{rows} safe in {found}; put it back and {_AGAIN} to resume"
        return f"{rows} may be there under another name; put it back and {_AGAIN} to resume"

    def _is_gone(self, ours: os.stat_result) -> bool:
        return self._counts_names and ours.st_nlink == 0

    def _counted(self) -> str:
        return f"{self.rows} row{'' if self.rows == 1 else 's'}"

    def _found(self, ours: os.stat_result) -> Path | None:
        """Where the open file is now, if the system or its old folder tells."""
        return next((path for path in self._candidates(ours) if _leads_to(path, ours)), None)

    def _candidates(self, ours: os.stat_result) -> Iterator[Path]:
        descriptor = self._file.fileno()
        if sys.platform == "linux":
            yield Path(f"/proc/self/fd/{descriptor}").readlink()
        elif sys.platform == "darwin":
            import fcntl

            yield Path(
                os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
            )
        try:
            with os.scandir(self._real.parent) as entries:
                yield from [Path(e.path) for e in entries if e.inode() == ours.st_ino]
        except OSError:
            return


def _leads_to(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), file)
    except OSError:
        return False
