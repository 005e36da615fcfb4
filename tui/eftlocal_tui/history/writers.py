"""Who is writing an answer, and whether that process still lives.

A process that writes holds a lock on a small file beside the database, and every answer that
streams names that file. The system frees the lock when the process dies, however it dies: no
process id that another may get, no heartbeat, no clock. What a dead process left streaming
becomes stopped, with the text that had come.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

from eftlocal.bases import Closing
from eftlocal_tui.history.database import Database
from eftlocal_tui.history.errors import HistoryError, sqlite_errors
from eftlocal_tui.history.turn_rows import PIECES

STREAMING = "SELECT id, writer FROM turn WHERE writer IS NOT NULL"


class Writers(Closing):
    """This process as a writer of the database, and the look after dead ones."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._name = uuid.uuid4().hex
        self._lock: FileLock | None = None

    def name(self) -> str:
        """This writer's name, for the column; takes the lock. Inside a transaction only: nobody
        else looks at locks then."""
        if self._lock is None:
            lock = self._lock_of(self._name)
            lock.acquire(timeout=0)
            self._lock = lock
        return self._name

    def recover(self) -> int:
        """Marks the answers that dead processes left streaming as stopped; returns how many."""
        if not self._foreign():
            return 0
        with self._db.transaction() as connection:
            dead = [name for name in sorted(self._foreign()) if self._is_dead(name)]
            streaming = connection.execute(STREAMING).fetchall()
            turns = [row for row in streaming if row["writer"] in dead]
            for row in turns:
                _stop(connection, row["id"], None)
        for name in dead:
            self._remove(name)
        return len(turns)

    def close(self) -> None:
        """Stops what this writer left open, and gives the lock back."""
        if self._lock is None:
            return
        try:
            with self._db.transaction() as connection:
                for row in connection.execute(STREAMING).fetchall():
                    if row["writer"] == self._name:
                        _stop(connection, row["id"], time.time())
        finally:
            self._lock.release()
            self._lock = None
            self._remove(self._name)

    def _foreign(self) -> set[str]:
        """Writers that answers or files name, this one left out."""
        prefix = self._path("").name
        with sqlite_errors(self._db.path):
            files = {
                path.name[len(prefix) :]
                for path in self._db.path.parent.iterdir()
                if path.name.startswith(prefix)
            }
        return (files | {row["writer"] for row in self._db.rows(STREAMING)}) - {self._name}

    def _is_dead(self, name: str) -> bool:
        if not self._path(name).exists():
            return True
        lock = self._lock_of(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        return True

    def _remove(self, name: str) -> None:
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise HistoryError(f"{self._path(name)}: cannot be removed: {error}") from error

    def _path(self, name: str) -> Path:
        return self._db.path.with_name(f"{self._db.path.name}.writer-{name}")

    def _lock_of(self, name: str) -> FileLock:
        return FileLock(self._path(name), thread_local=False)


def _stop(connection: sqlite3.Connection, turn: int, closed: float | None) -> None:
    pieces = "".join(row["text"] for row in connection.execute(PIECES, (turn,)))
    connection.execute(
        """UPDATE turn SET text = text || ?, state = 'stopped', writer = NULL, closed = ?
            WHERE id = ?""",
        (pieces, closed, turn),
    )
    connection.execute("DELETE FROM piece WHERE turn = ?", (turn,))
