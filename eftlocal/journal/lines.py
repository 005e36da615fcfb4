"""Lines of a file of JSON objects that only ever grew, plain or gzip, without a torn last one.

In a gzip file every line is a member of its own (RFC 1952, 2.2: members may be joined), so that
a kill tears the last line at most. `gzip -dc` and every reader of gzip sees one text.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from eftlocal.errors import UsageError

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
