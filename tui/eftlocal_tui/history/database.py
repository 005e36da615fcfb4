"""One SQLite file, and its transactions.

A conversation's current leaf is its turn with the largest `visited`; the leaf of a branch that
was left is the largest below it. So every branch remembers where it was left, with no pointer
that could go wrong. The text of an answer that is being written lies in `piece`, one row an
append, because adding to a long text would rewrite it at every token.

A transaction is durable, unless it is said not to be: its end waits until the disk has it (WAL,
synchronous=FULL). One that is not durable survives the death of the process, but the last few
may be lost with the power; the next durable one makes them durable too.

Where another process writes, a transaction waits for it, and meanwhile holds up no other thread.
A thread that runs an event loop has keys to answer, so it is told within a moment.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import platformdirs

from eftlocal.bases import Closing
from eftlocal_tui.history.failures import HistoryError, is_locked, sqlite_errors
from eftlocal_tui.history.records import column
from eftlocal_tui.history.schema import (
    APPLICATION_ID,
    MIGRATIONS,
    has_trigrams,
    is_indexed,
    migrate,
    set_index,
    versions,
)


def data_folder() -> Path:
    """The folder of what users keep. EFTLOCAL_DATA overrides it."""
    folder = os.environ.get("EFTLOCAL_DATA")
    return Path(folder) if folder else platformdirs.user_data_path("eftlocal")


def database_path() -> Path:
    return data_folder() / "chat.db"


def insert(connection: sqlite3.Connection, table: str, **values: Any) -> int:
    """Writes a row and returns its id."""
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    sql = f"INSERT INTO {table} ({names}) VALUES ({marks})"
    return int(connection.execute(sql, [*map(column, values.values())]).lastrowid or 0)


def update(connection: sqlite3.Connection, table: str, row: int, **values: Any) -> bool:
    """Changes a row; whether it is there."""
    names = ", ".join(f"{name} = ?" for name in values)
    sql = f"UPDATE {table} SET {names} WHERE id = ?"
    return connection.execute(sql, [*map(column, values.values()), row]).rowcount == 1


BUSY_SECONDS = 5.0  # that another process is waited for
MOMENT = 0.02  # seconds that an event loop waits for it
_AGAIN = 0.005  # seconds between tries
SYNCHRONOUS = {True: "FULL", False: "NORMAL"}  # durable or not


class Database(Closing):
    """Opens the file, making it and its folder where there is none. Safe from any thread.

    Attributes:
        indexed: whether search can use the index of texts.

    Raises:
        HistoryError: it cannot be opened, is damaged, another program's or of a newer version.
    """

    def __init__(self, path: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
        self.path = path
        self.lock = RLock()
        self._connection: sqlite3.Connection | None = None
        self._durable = True
        self._begin: str | None = None
        with sqlite_errors(path):
            _make_private(path)
            connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._connection = connection
                self.indexed = self._prepare(connection, migrations)
            except BaseException:
                self.close()
                raise

    def _prepare(self, connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> bool:
        connection.row_factory = sqlite3.Row
        _use_wal(connection)
        connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[True]}")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: otherwise the disk may still cache
        connection.execute("PRAGMA foreign_keys = ON")
        if versions(connection) != (APPLICATION_ID, len(migrations)):
            with self.transaction():
                migrate(connection, self.path, migrations)
        wanted = has_trigrams(connection)
        if is_indexed(connection) != wanted:
            with self.transaction():
                if is_indexed(connection) != wanted:
                    set_index(connection, wanted)
        connection.execute("PRAGMA busy_timeout = 0")  # `_take` waits, without the lock
        return wanted

    @property
    def connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise HistoryError(f"{self.path}: the history was closed")
        return self._connection

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self.reading() as connection:
            return connection.execute(sql, values).fetchall()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """All that the block reads is of one moment. Nothing is written in it."""
        with self._begun("BEGIN", None) as connection:
            yield connection

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All of the block is written or, when it raises, nothing. May be nested in another: the
        outer one counts."""
        with self._begun("BEGIN IMMEDIATE", durable) as connection:
            yield connection

    @contextmanager
    def _begun(self, begin: str, durable: bool | None) -> Iterator[sqlite3.Connection]:
        with sqlite_errors(self.path):
            outer = self._take(begin, durable)
            try:
                connection = self.connection
                try:
                    yield connection
                    if outer:
                        connection.execute("COMMIT")
                except BaseException:
                    if outer and connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            finally:
                if outer:
                    self._begin = None
                self.lock.release()

    def _take(self, begin: str, durable: bool | None) -> bool:
        """Takes the lock of the threads and begins; False inside of what has begun already."""
        until = time.monotonic() + _patience()
        while True:
            self.lock.acquire()
            try:
                if self._begin is None:
                    self._try(begin, durable)
                    return True
                if self._begin == "BEGIN" != begin:
                    raise RuntimeError("a transaction cannot begin where only reading was meant")
                return False
            except BaseException as error:
                self.lock.release()
                if not is_locked(error) or time.monotonic() >= until:
                    raise
            time.sleep(_AGAIN)

    def _try(self, begin: str, durable: bool | None) -> None:
        connection = self.connection
        if durable is not None and durable != self._durable:
            connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durable]}")
            self._durable = durable
        connection.execute(begin)
        self._begin = begin

    def close(self) -> None:
        with self.lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


def _patience() -> float:
    """Seconds that this thread may wait for another process."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return BUSY_SECONDS
    return MOMENT


def _make_private(path: Path) -> None:
    """Conversations are for their user's eyes; SQLite gives the files beside it the same mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _use_wal(connection: sqlite3.Connection) -> None:
    """Changing the journal mode does not wait for other processes as all else does."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.01)
