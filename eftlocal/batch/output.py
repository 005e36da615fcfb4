"""The rows of a batch: a file that is gone on with, or stdout. It holds digests of ids, no rows."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from eftlocal.bases import Closing
from eftlocal.batch.formats import Format, custom_id_of, is_error
from eftlocal.batch.seeds import digest_of
from eftlocal.disk import beside, write_all
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.journal.journal import Journal, Kind, Row, as_line
from eftlocal.journal.manifest import Manifest, manifest_path
from eftlocal.output_file import STDOUT, check_place

_BATCH = Kind("batch", "a row of a batch in this format", "give another output file")
_SYNC_SECONDS = 1.0


def check_output(output: str, source: str) -> None:
    """Refuses an output before anything is read or loaded. Nothing is written.

    Args:
        source: the input's path, or "-".

    Raises:
        UsageError: it is the input under this or another name, or cannot be written.
    """
    given = None if source == STDOUT or not Path(source).exists() else Path(source)
    if output == STDOUT:
        if sys.stdout is None or getattr(sys.stdout, "name", "") == os.devnull:  # see cli.streams
            raise UsageError("stdout is closed, so no row would be kept; name an output file")
        if given is not None and _goes_to(given):
            raise UsageError(f"stdout goes into the input {source}; name an output file")
        return
    real = check_place(Path(output))
    if given is None:
        return
    for mine in (real, manifest_path(real), beside(real, ".lock"), beside(real, ".part")):
        if mine.exists() and mine.samefile(given):
            raise UsageError(
                f"{output} would be written over the input {source}: they are one file; "
                "name another output"
            )


def _goes_to(file: Path) -> bool:
    """Whether stdout does."""
    try:
        shown = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # no file of the system's
        return False
    return stat.S_ISREG(shown.st_mode) and os.path.samestat(shown, file.stat())


class Output(Closing):
    """Opens or begins the output of a batch.

    Args:
        path: of the file; a name ending in .gz is gzip. "-" is stdout, which remembers nothing.
        manifest: of the batch.
        retry_errors: error rows that are there are taken out first, so that their lines are
            answered again.

    Attributes:
        finished: 16-byte digests of the ids that have a row.
        failed: how many of these rows are errors.

    Raises:
        UsageError: the file holds another batch (the line says what differs), something else or
            an id twice, or is in use; it cannot be written; or stdout's errors are to be retried.
    """

    def __init__(
        self,
        path: str | Path,
        manifest: Manifest,
        *,
        format: Format,
        retry_errors: bool = False,
    ) -> None:
        self.path = str(path)
        self.finished: set[bytes] = set()
        self.failed = 0
        self._format = format
        self._rows: Journal | _Stdout
        if self.path == STDOUT:
            if retry_errors:
                raise UsageError("--retry-errors needs an output file: stdout has no earlier rows")
            self._rows = _Stdout()
        else:
            self._rows = Journal(
                Path(path),
                manifest,
                kind=_BATCH,
                take=self._take,
                keep=self._is_answer if retry_errors else None,
                sync_seconds=_SYNC_SECONDS,
            )

    def __contains__(self, custom_id: str) -> bool:
        return digest_of(custom_id) in self.finished

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row; once this returns, it outlives the process (the machine: a second later).

        Raises:
            EftlocalError: the disk refuses; the rows before it are kept.
            UsageError: its id has a row.
        """
        custom_id = custom_id_of(row, self._format)
        if custom_id in self:
            raise UsageError(f"{self.path}: id {custom_id!r} has a row already")
        self._rows.add(row)
        self._count(custom_id, row)  # it is in the file, even if the disk refuses next
        self._rows.sync()

    def sync(self) -> None:
        """Puts rows on the disk that have waited for a second; call it now and then."""
        self._rows.sync()

    def close(self) -> None:
        self._rows.close()

    def _take(self, row: Row) -> None:
        custom_id = custom_id_of(row, self._format)
        if custom_id in self:
            raise UsageError(
                f"{self.path}: id {custom_id!r} is in it twice; take one of its rows out, or give "
                "another output file"
            )
        self._count(custom_id, row)

    def _count(self, custom_id: str, row: Row) -> None:
        self.finished.add(digest_of(custom_id))
        self.failed += is_error(row, self._format)

    def _is_answer(self, row: Row) -> bool:
        custom_id_of(row, self._format)
        return not is_error(row, self._format)


class _Stdout:
    """Rows for a pipe. Unbuffered, so that a reader who goes away is noticed at the row."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._file: BinaryIO = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)

    def add(self, row: Row) -> None:
        try:
            write_all(self._file, as_line(row) + b"\n")
            self._file.flush()
        except OSError as error:
            raise EftlocalError(
                f"stdout: {error.strerror or error}; the rows before this one were written"
            ) from None

    def sync(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """It is not ours to close."""
