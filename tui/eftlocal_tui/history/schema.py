"""The tables of the history's file, their versions, and the index of texts."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from eftlocal_tui.history.failures import HistoryError

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
    # The process whose draft of a new conversation it is.
    ("ALTER TABLE draft ADD COLUMN writer TEXT",),
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


def versions(connection: sqlite3.Connection) -> tuple[int, int]:
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
    application, version = versions(connection)
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
