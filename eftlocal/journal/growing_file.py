"""A file that grows at its end, by this process alone. What others do to it meanwhile is noticed.

Writes go to the end whatever it has become (O_APPEND), so a file that another process cut is never
filled up with zeros. Before and after each write the name must still lead to the open file, and
the file must be as long as what was written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from eftlocal.bases import Closing
from eftlocal.disk import write_all
from eftlocal.errors import EftlocalError

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
            self._tell(what, self._elsewhere(ours, f"lost; {_AGAIN} to begin anew"))
        else:
            if self._has_number and not os.path.samestat(named, ours):
                lost = f"lost, unless that file holds them; {_AGAIN}, or take it away first"
                self._tell("was replaced by another file", self._elsewhere(ours, lost))
        if ours.st_size < self.end:
            what = f"was cut from {self.end} to {ours.st_size} bytes"
            self._tell(what, f"the rows that are left are safe; {_AGAIN} to answer the others anew")
        if ours.st_size > self.end:
            what = f"grew by {ours.st_size - self.end} bytes that this run did not write"
            self._tell(what, f"{self._counted()} safe before them; see what else writes to it")
        if self._last_bytes(len(self._tail)) != self._tail:
            self._tell("was written over", "its rows are lost; give another output file")

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
            return f"{rows} safe in {found}; put it back and {_AGAIN} to go on"
        return f"{rows} may be there under another name; put it back and {_AGAIN} to go on"

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
