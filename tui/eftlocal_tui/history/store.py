"""The saved conversations: the list of them, and what holds it all open."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from eftlocal.bases import Closing
from eftlocal_tui.history.answers import AnswerWriter, Writers
from eftlocal_tui.history.database import Database, database_path, insert, update
from eftlocal_tui.history.drafts import Drafts
from eftlocal_tui.history.failures import HistoryError, damaged
from eftlocal_tui.history.records import Conversation, SavedTurn, Settings, as_read, excerpt, loaded
from eftlocal_tui.history.search import Search
from eftlocal_tui.history.turns import PIECES, TITLE_CHARS, Turns, insert_tree

NAME_CHARS = 200  # of a title given by hand
_SNIPPET_CHARS, _HEAD = 160, 800

COLUMNS = """
    c.id, c.title, c.system, c.archived, c.created, c.updated,
    (SELECT count(*) FROM turn WHERE conversation = c.id) AS turns,
    t.id AS leaf, t.state, t.role, t.settings,
    CASE t.role WHEN 'user' THEN substr(t.text, 1, 800) ELSE t.text END AS head
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

    def create(
        self,
        system: str = "",
        title: str = "",
        *,
        archived: bool = False,
        created: float | None = None,
        updated: float | None = None,
        turns: Iterable[SavedTurn] = (),
    ) -> Conversation:
        """A conversation, empty or with copies of turns, parents before their children.

        Without a title, the first question's first words become it.
        """
        now = time.time()
        with self._db.transaction() as connection:
            new = insert(
                connection,
                "conversation",
                title=excerpt(title, NAME_CHARS),
                system=system,
                archived=archived,
                created=now if created is None else created,
                updated=now if updated is None else updated,
            )
            insert_tree(connection, new, turns)
            return self.get(new)

    def get(self, conversation: int) -> Conversation:
        rows = self._db.rows(ONE, conversation)
        if not rows:
            raise HistoryError(f"there is no conversation {conversation}; was it deleted?")
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
            return self._set(conversation, title=name)

    def set_system(self, conversation: int, text: str) -> Conversation:
        """The system prompt, for what is asked from now on."""
        return self._set(conversation, system=text)

    def archive(self, conversation: int, archived: bool = True) -> Conversation:
        return self._set(conversation, archived=archived)

    def delete(self, conversation: int) -> None:
        """Deletes it with all its turns, for good."""
        with self._db.transaction() as connection:
            self.get(conversation)
            connection.execute("DELETE FROM conversation WHERE id = ?", (conversation,))

    def duplicate(self, conversation: int) -> Conversation:
        """A copy of the whole tree, the newest conversation from now on."""
        with self._db.transaction():
            old = self.get(conversation)
            return self.create(
                old.system, f"{old.title} (copy)", turns=self._turns.all(conversation)
            )

    def _set(self, conversation: int, **values: str | bool) -> Conversation:
        with self._db.transaction() as connection:
            update(connection, "conversation", conversation, **values)
            return self.get(conversation)

    def _of(self, row: sqlite3.Row) -> Conversation:
        values = dict(row)
        state, role, settings = (values.pop(name) for name in ("state", "role", "settings"))
        head = str(values.pop("head") or "")
        if state == "streaming":
            pieces = self._db.rows(f"{PIECES} LIMIT 100", row["leaf"])
            head += "".join(piece["text"] for piece in pieces)
        try:
            if role == "assistant":
                answer, thinking = as_read(head, settings)
                head = answer or (thinking and f"Thinking: {thinking}")
            values["title"], values["system"] = loaded(row["title"]), loaded(row["system"])
            values["archived"] = bool(row["archived"])
            return Conversation(**values, snippet=excerpt(loaded(head[:_HEAD]), _SNIPPET_CHARS))
        except (ValueError, TypeError) as error:
            raise damaged(self._db.path, f"conversation {row['id']}") from error


class History(Closing):
    """All conversations of one database file. Safe from any thread; other processes may have
    the same file open.

    Opening marks the answers that dead processes left unfinished as stopped, and takes over a
    draft that one left.

    Args:
        path: of the file, made where there is none; None is `chat.db` in the user's data folder.

    Attributes:
        conversations: the list of them.
        turns: their trees.
        drafts: what was typed and not sent.
        search: finds words in them.

    Raises:
        HistoryError: the file cannot be opened, is damaged, another program's or of a newer
            version. It and what lies beside it is left as it is.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = database_path() if path is None else path
        self.db = Database(self.path)
        try:
            self._writers = Writers(self.db)
            self.turns = Turns(self.db)
            self.drafts = Drafts(self.db, self._writers)
            self.conversations = Conversations(self.db, self.turns)
            self.search = Search(self.db, self.conversations.get, self.turns.get)
            self.recover()
            self.drafts.recover()
        except BaseException:
            self.db.close()
            raise

    def answer(
        self, question: int, settings: Settings | None = None, prefix: str = ""
    ) -> AnswerWriter:
        """Begins an answer to a question, beside those that it has; it becomes the leaf.

        `prefix` is text that it begins with, for going on where another answer stopped.
        """
        asked = self.turns.get(question)
        return AnswerWriter(self.db, self._writers, asked, settings or Settings(), prefix)

    def recover(self) -> int:
        """Marks answers of processes that died since as stopped; returns how many there were."""
        return self._writers.recover()

    def close(self) -> None:
        """Stops the answers that are still open here, and closes the file."""
        with self.db.lock:
            try:
                self._writers.close()
            finally:
                self.db.close()
