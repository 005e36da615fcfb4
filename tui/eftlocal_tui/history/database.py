"""One SQLite file: its tables and their versions, its failures in one line, its transactions.

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
import errno
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
from eftlocal.errors import EftlocalError
from eftlocal_tui.history.records import column

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENOSPC)


class HistoryError(EftlocalError):
    """The saved conversations cannot be opened, read or written, or do not have what was asked."""

    exit_code = 9


class LockedError(HistoryError):
    """Another process is writing: nothing was changed, and it may be tried again."""


class UnwritableError(HistoryError):
    """Nothing can be written where the file is, or would be."""


def is_locked(error: BaseException) -> bool:
    """Whether SQLite says that another process is in the way."""
    locked = ("locked", "busy")
    return isinstance(error, sqlite3.OperationalError) and any(w in str(error) for w in locked)


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turns a failure of SQLite on this file into one `HistoryError`. Nothing is ever deleted."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.IntegrityError as error:
        raise HistoryError(
            f"{path}: not saved: the conversation or message was deleted meanwhile ({error})"
        ) from error
    except sqlite3.OperationalError as error:
        if is_locked(error):
            raise LockedError(
                f"{path}: locked by another program; close it, or try again"
            ) from error
        kind = UnwritableError if "readonly" in str(error) else HistoryError
        raise kind(f"{path}: {_failure(str(error))}") from error
    except sqlite3.DatabaseError as error:  # the class itself: "malformed", "not a database"
        raise damaged(path, str(error)) from error
    except OverflowError as error:
        raise HistoryError(f"{path}: the number is too large") from error
    except OSError as error:
        kind = UnwritableError if error.errno in _UNWRITABLE else HistoryError
        raise kind(f"{path}: {error.strerror or error}") from error


def damaged(path: Path, why: str) -> HistoryError:
    return HistoryError(
        f"{path}: is damaged ({why}) and was not changed: move it and the files beside it away "
        f'to start a new history; `sqlite3 "{path.name}" .recover` may recover its text'
    )


def _failure(message: str) -> str:
    if "full" in message:
        return "the disk is full; free some space and try again"
    if "unable to open" in message:
        return "cannot be opened; check that it is a file in a writable folder"
    if "readonly" in message:
        return "is read-only; change its permissions, or set EFTLOCAL_DATA to another folder"
    return f"SQLite says: {message}"


APPLICATION_ID = 0x65667463  # "eftc"

# Each brings the file from version i to i + 1. What has been released is never changed.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE conversation (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            title TEXT NOT NULL,
            system TEXT NOT NULL,
            archived INTEGER NOT NULL CHECK (archived IN (0, 1)),
            created REAL NOT NULL,
            updated REAL NOT NULL
        )
        """,
        "CREATE INDEX conversation_newest ON conversation (archived, updated, id)",
        # A parent is in the same conversation. It does not cascade: only whole conversations are
        # deleted, and SQLite cascades no deeper than 1000.
        """
        CREATE TABLE turn (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation INTEGER NOT NULL REFERENCES conversation ON DELETE CASCADE,
            parent INTEGER,
            visited INTEGER NOT NULL,
            role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
            state TEXT NOT NULL CHECK (state IN ('streaming', 'done', 'stopped', 'error')),
            writer TEXT,
            created REAL NOT NULL,
            closed REAL,
            finish_reason TEXT,
            error TEXT,
            settings TEXT,
            figures TEXT,
            marks TEXT,
            text TEXT NOT NULL,
            UNIQUE (conversation, id),
            UNIQUE (conversation, visited),
            FOREIGN KEY (conversation, parent) REFERENCES turn (conversation, id)
                DEFERRABLE INITIALLY DEFERRED,
            CHECK ((state = 'streaming') = (writer IS NOT NULL)),
            CHECK (role = 'assistant' OR state = 'done')
        )
        """,
        "CREATE INDEX turn_children ON turn (conversation, parent)",
        "CREATE INDEX turn_streaming ON turn (writer) WHERE writer IS NOT NULL",
        """
        CREATE TABLE piece (
            turn INTEGER NOT NULL REFERENCES turn ON DELETE CASCADE,
            seq INTEGER NOT NULL,
            text TEXT NOT NULL,
            PRIMARY KEY (turn, seq)
        ) WITHOUT ROWID
        """,
        "CREATE VIEW closed_turn AS SELECT id, text FROM turn WHERE state <> 'streaming'",
    ),
    (
        "ALTER TABLE turn ADD COLUMN begins_at INTEGER",
        "ALTER TABLE turn ADD COLUMN summary INTEGER NOT NULL DEFAULT 0 CHECK (summary IN (0, 1))",
        # NULL is the conversation that has not begun.
        """
        CREATE TABLE draft (
            conversation INTEGER UNIQUE REFERENCES conversation ON DELETE CASCADE,
            text TEXT NOT NULL,
            editing INTEGER,
            edited TEXT NOT NULL
        )
        """,
    ),
)

_SEARCH = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS turn_text USING"
    " fts5(text, content='closed_turn', content_rowid='id', tokenize='trigram')",
    """
    CREATE TRIGGER turn_text_insert AFTER INSERT ON turn WHEN new.state <> 'streaming' BEGIN
        INSERT INTO turn_text (rowid, text) VALUES (new.id, new.text);
    END
    """,
    """
    CREATE TRIGGER turn_text_delete AFTER DELETE ON turn WHEN old.state <> 'streaming' BEGIN
        INSERT INTO turn_text (turn_text, rowid, text) VALUES ('delete', old.id, old.text);
    END
    """,
    """
    CREATE TRIGGER turn_text_update AFTER UPDATE OF text, state ON turn BEGIN
        INSERT INTO turn_text (turn_text, rowid, text)
            SELECT 'delete', old.id, old.text WHERE old.state <> 'streaming';
        INSERT INTO turn_text (rowid, text)
            SELECT new.id, new.text WHERE new.state <> 'streaming';
    END
    """,
    "INSERT INTO turn_text (turn_text) VALUES ('rebuild')",
)
_TRIGGERS = ("turn_text_insert", "turn_text_delete", "turn_text_update")


def _versions(connection: sqlite3.Connection) -> tuple[int, int]:
    """Whose file it is, and of which version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def migrate(
    connection: sqlite3.Connection,
    path: Path,
    migrations: Sequence[Sequence[str]],
) -> None:
    """Brings the tables to the version of this program; inside a transaction.

    Raises:
        HistoryError: the file is another program's, or of a version that is not known here.
    """
    application, version = _versions(connection)
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise HistoryError(
            f"{path}: is the database of another program; move it away, "
            "or set EFTLOCAL_DATA to another folder"
        )
    if version > len(migrations):
        raise HistoryError(
            f"{path}: was written by a newer eftlocal (schema {version}, this one knows "
            f"{len(migrations)}); update eftlocal, or set EFTLOCAL_DATA to another folder"
        )
    for statements in migrations[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(migrations)}")


def has_trigrams(connection: sqlite3.Connection) -> bool:
    """Whether this SQLite has FTS5 with its trigram tokenizer (3.34)."""
    try:
        connection.execute("CREATE VIRTUAL TABLE temp.probe USING fts5(x, tokenize='trigram')")
    except sqlite3.OperationalError:
        return False
    connection.execute("DROP TABLE temp.probe")
    return True


def is_indexed(connection: sqlite3.Connection) -> bool:
    """Whether triggers keep the index of texts."""
    names = "', '".join(_TRIGGERS)
    sql = f"SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name IN ('{names}')"
    return bool(connection.execute(sql).fetchone()[0] == len(_TRIGGERS))


def set_index(connection: sqlite3.Connection, wanted: bool) -> None:
    """Makes the index, or stops keeping it; inside a transaction.

    An SQLite without the module could write nothing while the triggers stand. One that has it
    finds them gone and builds the index anew.
    """
    for trigger in _TRIGGERS:
        connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    if wanted:
        for statement in _SEARCH:
            connection.execute(statement)


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
        if _versions(connection) != (APPLICATION_ID, len(migrations)):
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
