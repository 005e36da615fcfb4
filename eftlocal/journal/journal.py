"""Rows on disk: one JSON object a line, appended as they are ready, a manifest beside them.

A kill at any moment loses the last row at most; it is dropped when the run resumes. One process
at a time writes. Rows are never held: whoever opens the file is given them one by one.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from eftlocal.bases import Closing
from eftlocal.disk import lock_beside, replacing
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.journal.file import GrowingFile, WholeLines, encoder
from eftlocal.journal.manifest import (
    Manifest,
    differences,
    in_one_line,
    manifest_path,
    read_manifest,
    write_manifest,
)
from eftlocal.json_text import parse_json
from eftlocal.output_file import cannot_write, check_place
from eftlocal.terminal_text import shown_json

if TYPE_CHECKING:
    from filelock import FileLock

Row = Mapping[str, Any]
T = TypeVar("T")

SYNC_SECONDS = 1.0
"""Between two writings to the disk itself where rows come fast; a stopped machine loses them."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Kind:
    """What a file's rows are, in the words of its messages.

    Attributes:
        name: of a run: "evaluation".
        row: "a result of an evaluation".
        instead: what to do where the file is another's: "give another --out".
    """

    name: str
    row: str
    instead: str


class Journal(Closing):
    """Opens or creates a file of rows; a name ending in .gz is gzip, a member each row.

    Args:
        path: of the rows; the manifest is path + ".manifest.json", the lock path + ".lock".
        manifest: of the run to begin or to resume.
        take: called with each row that is there; it raises ValueError, LookupError, TypeError or
            AttributeError for what is no row of this kind.
        keep: which rows stay; the file is then rewritten as a whole, without the others.
        sync_seconds: least time between two writings to the disk itself, which take long.

    Raises:
        UsageError: the file holds another run (the line says what differs), something else, or
            is in use; or it cannot be written. What it held is as it was.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        kind: Kind,
        take: Callable[[Row], object],
        keep: Callable[[Row], bool] | None = None,
        sync_seconds: float = 0.0,
    ) -> None:
        self.path = path
        self._kind = kind
        self._manifest = manifest
        self._real = check_place(path)
        self._encode = encoder(self._real)
        self._sync_seconds = sync_seconds
        self._synced = time.monotonic()
        self._unsynced = False
        self._manifest_there()  # first: no lock is left beside what is no such file
        self._lock = locked(self._real, f"{path}: another {kind.name} is writing it; wait for it")
        try:
            self._check(manifest)
            end, rows = self._read(take, keep)
            self._file = GrowingFile(path, end=end, rows=rows)
        except OSError as error:
            self._lock.release()
            raise cannot_write(path, error) from None
        except BaseException:
            self._lock.release()
            raise

    def add(self, row: Row) -> None:
        """Appends a row: once this returns, it outlives the process, and after `sync` the machine.

        Raises:
            EftlocalError: the disk refuses. The rows before it are kept, this one is not there,
                and another call tries again.
            EftlocalError: another process removed, renamed, replaced or changed the file; the
                line says what is safe where.
        """
        data = self._encode(as_line(row))
        with self._disk_errors():
            self._file.append(data)
            self._unsynced = True

    def sync(self) -> None:
        """Puts what was added on the disk itself, unless that was done `sync_seconds` ago or less.

        Raises:
            EftlocalError: the disk refuses.
        """
        if self._unsynced and time.monotonic() - self._synced >= self._sync_seconds:
            self._to_disk()

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return self._file.rows

    def close(self) -> None:
        """Raises EftlocalError as `sync` does, and where another process touched the file."""
        if self._file.closed:
            return
        try:
            with self._disk_errors(), self._file:
                self._to_disk()
        finally:
            self._lock.release()

    def _to_disk(self) -> None:
        unsynced, self._unsynced = self._unsynced, False  # told once: the system forgets it too
        with self._disk_errors():
            self._keep_manifest()
            if unsynced:
                self._file.sync()
        self._synced = time.monotonic()

    def _keep_manifest(self) -> None:
        """Writes it again where another process removed or changed it: a resumed run needs it."""
        if self._file.touched:
            return
        try:
            place = manifest_path(self._real)
            there = place.is_file() and read_manifest(self._real) == self._manifest
        except UsageError:
            there = False
        if not there:
            self._file.check()  # its folder may be gone too, and that is to be told
            write_manifest(self._real, self._manifest)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            cure = "make room" if error.errno in _NO_ROOM else "see to the disk"
            raise EftlocalError(
                f"{self.path}: {error.strerror or error}; what is done is kept, so {cure} and "
                "run the same command again"
            ) from None

    def _manifest_there(self) -> dict[str, object] | None:
        """The manifest of the rows that are there already; None where there are none."""
        try:
            if not (self._real.exists() and self._real.stat().st_size):
                return None
        except OSError as error:
            raise cannot_write(self.path, error) from None
        then = read_manifest(self._real)
        if then is None:
            raise UsageError(
                f"{self.path} has no {manifest_path(self._real).name} beside it, so it may not be "
                f"a {self._kind.name}; {self._kind.instead}"
            )
        return then

    def _check(self, manifest: Manifest) -> None:
        then, kind = self._manifest_there(), self._kind
        if then is None:
            write_manifest(self._real, manifest)
            return
        if faults := differences(then, manifest):
            raise UsageError(
                f"{self.path} holds another {kind.name}: {in_one_line(faults)}. "
                f"{kind.instead[:1].upper()}{kind.instead[1:]}"
            )

    def _read(
        self, take: Callable[[Row], object], keep: Callable[[Row], bool] | None
    ) -> tuple[int, int]:
        """Gives every row that stays to `take`. Returns how many bytes hold them, and how many
        they are."""
        if not self._real.exists():
            return 0, 0
        lines, wrong, count = WholeLines(self._real), f"{self._kind.row}; {self._kind.instead}", 0
        if keep is None:
            count = sum(1 for _ in read_rows(lines, take, self.path, wrong))
            return lines.end, count

        def stays(row: Row) -> bool:
            if stay := keep(row):
                take(row)
            return stay

        with replacing(self._real) as file:
            for line, stay in read_rows(lines, stays, self.path, wrong):
                if stay:
                    file.write(self._encode(line))
                    count += 1
            return file.tell(), count


def read_rows(
    lines: WholeLines, take: Callable[[Row], T], name: Path, needed: str
) -> Iterator[tuple[bytes, T]]:
    """Each line with what `take` makes of its row.

    Args:
        name: of the file, for messages.
        needed: what its rows must be, for messages.

    Raises:
        UsageError: a line is no JSON object, or `take` raises ValueError, LookupError, TypeError
            or AttributeError.
    """
    for number, line in enumerate(lines, 1):
        try:
            row = parse_json(line)
            if not isinstance(row, dict):
                raise TypeError
            found = take(row)
        except UsageError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UsageError(f"{name}, line {number}: not {needed}") from None
        yield line, found


def as_line(row: Row) -> bytes:
    """A row as JSON on one line, its newline left out; no character of it drives a terminal.

    Raises:
        ValueError: it holds NaN or an infinity.
    """
    return shown_json(row, separators=(",", ":")).encode()


def locked(real: Path, in_use: str) -> FileLock:
    """The lock of a file of rows, held by this process until it is released.

    Raises:
        UsageError: another process has it (with the text `in_use`), or it cannot be made.
    """
    try:
        return lock_beside(real, UsageError(in_use))
    except OSError as error:
        raise cannot_write(real, error) from None
