"""The list of conversations: make, find, name, put away, delete."""

from __future__ import annotations

import sqlite3
import time

from eftlocal_tui.history.database import Database
from eftlocal_tui.history.errors import HistoryError
from eftlocal_tui.history.records import Conversation
from eftlocal_tui.history.text import excerpt, loaded, stored
from eftlocal_tui.history.turn_rows import PIECES, insert_tree
from eftlocal_tui.history.turns import TITLE_CHARS, Turns

NAME_CHARS = 200  # of a title given by hand
_SNIPPET_CHARS = 160

COLUMNS = """
    c.id, c.title, c.system, c.archived, c.created, c.updated,
    (SELECT count(*) FROM turn WHERE conversation = c.id) AS turns,
    t.id AS leaf, t.state, substr(t.text, 1, 800) AS head
    FROM conversation c LEFT JOIN turn t ON t.conversation = c.id
        AND t.visited = (SELECT max(visited) FROM turn WHERE conversation = c.id)
"""
ONE = f"SELECT {COLUMNS} WHERE c.id = ?"
PAGE = f"""SELECT {COLUMNS} WHERE c.archived = ? AND (c.updated, c.id) < (?, ?)
    ORDER BY c.updated DESC, c.id DESC LIMIT ?"""
_FIRST_QUESTION = """SELECT substr(text, 1, 800) FROM turn
    WHERE conversation = ? AND parent IS NULL ORDER BY id LIMIT 1"""


class Conversations:
    """The conversations of a database. An id that is not there raises HistoryError."""

    def __init__(self, db: Database, turns: Turns) -> None:
        self._db = db
        self._turns = turns

    def create(self, system: str = "", title: str = "") -> Conversation:
        """An empty conversation. Without a title, the first question's first words become it."""
        now = time.time()
        with self._db.transaction() as connection:
            return self.get(insert(connection, title, system, False, now, now))

    def get(self, conversation: int) -> Conversation:
        rows = self._db.rows(ONE, conversation)
        if not rows:
            raise HistoryError(f"conversation {conversation} is not there; it was deleted")
        return self._of(rows[0])

    def list(
        self, archived: bool = False, limit: int = 50, after: Conversation | None = None
    ) -> list[Conversation]:
        """A page, the last used first. `after` is the last one of the page before."""
        updated, last = (after.updated, after.id) if after else (float("inf"), 0)
        return [self._of(row) for row in self._db.rows(PAGE, archived, updated, last, limit)]

    def rename(self, conversation: int, title: str) -> Conversation:
        """Gives it a title by hand; an empty one goes back to the first question's words."""
        with self._db.transaction() as connection:
            name = excerpt(title, NAME_CHARS)
            if not name:
                question = connection.execute(_FIRST_QUESTION, (conversation,)).fetchone()
                name = excerpt(loaded(question[0]), TITLE_CHARS) if question else ""
            return self._set("title = ?", stored(name), conversation)

    def set_system(self, conversation: int, text: str) -> Conversation:
        """The system prompt, for what is asked from now on."""
        return self._set("system = ?", stored(text), conversation)

    def archive(self, conversation: int, archived: bool = True) -> Conversation:
        return self._set("archived = ?", archived, conversation)

    def delete(self, conversation: int) -> None:
        """Deletes it with all its turns, for good."""
        with self._db.transaction() as connection:
            self.get(conversation)
            connection.execute("DELETE FROM conversation WHERE id = ?", (conversation,))

    def duplicate(self, conversation: int) -> Conversation:
        """A copy of the whole tree, the newest conversation from now on."""
        now = time.time()
        with self._db.transaction() as connection:
            old = self.get(conversation)
            title = excerpt(f"{old.title} (copy)", NAME_CHARS)
            new = insert(connection, title, old.system, False, now, now)
            insert_tree(connection, new, self._turns.all(conversation))
            return self.get(new)

    def _set(self, assignment: str, value: str | bool, conversation: int) -> Conversation:
        with self._db.transaction() as connection:
            sql = f"UPDATE conversation SET {assignment} WHERE id = ?"
            connection.execute(sql, (value, conversation))
            return self.get(conversation)

    def _of(self, row: sqlite3.Row) -> Conversation:
        head = str(row["head"] or "")
        if row["state"] == "streaming":
            pieces = self._db.rows(f"{PIECES} LIMIT 100", row["leaf"])
            head += "".join(piece["text"] for piece in pieces)
        return Conversation(
            id=row["id"],
            title=loaded(row["title"]),
            system=loaded(row["system"]),
            archived=bool(row["archived"]),
            created=row["created"],
            updated=row["updated"],
            turns=row["turns"],
            snippet=excerpt(loaded(head), _SNIPPET_CHARS),
            leaf=row["leaf"],
        )


def insert(
    connection: sqlite3.Connection,
    title: str,
    system: str,
    archived: bool,
    created: float,
    updated: float,
) -> int:
    """Writes an empty conversation and returns its id."""
    sql = """INSERT INTO conversation (title, system, archived, created, updated)
        VALUES (?, ?, ?, ?, ?)"""
    values = (stored(excerpt(title, NAME_CHARS)), stored(system), archived, created, updated)
    return int(connection.execute(sql, values).lastrowid or 0)
