"""The saved conversations: the list of them, the search in them, and what holds it all open.

What is typed into a search is words, never a query language. All words must occur in one text, in
any case and inside other words too. Words of three characters or more are looked up in the index
of trigrams where there is one; shorter ones, and all where there is none, are looked for in the
texts, the newest first. The index folds the case letter by letter, and of a few rare letters not
at all: it does not find "straße" by "STRASSE".
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from eftlocal.bases import Closing
from eftlocal_tui.history.answers import AnswerWriter, Writers
from eftlocal_tui.history.database import (
    Database,
    HistoryError,
    damaged,
    database_path,
    insert,
    update,
)
from eftlocal_tui.history.records import (
    Conversation,
    Hit,
    SavedTurn,
    Settings,
    excerpt,
    loaded,
    stored,
)
from eftlocal_tui.history.turns import PIECES, TITLE_CHARS, Turns, insert_tree

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
            raise HistoryError(f"conversation {conversation} does not exist, or was deleted")
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
        state, head = values.pop("state"), str(values.pop("head") or "")
        if state == "streaming":
            pieces = self._db.rows(f"{PIECES} LIMIT 100", row["leaf"])
            head += "".join(piece["text"] for piece in pieces)
        try:
            values["title"], values["system"] = loaded(row["title"]), loaded(row["system"])
            values["archived"] = bool(row["archived"])
            return Conversation(**values, snippet=excerpt(loaded(head), _SNIPPET_CHARS))
        except (ValueError, TypeError) as error:
            raise damaged(self._db.path, f"conversation {row['id']}") from error


LONGEST_QUERY = 200
_TRIGRAM = 3
_BEFORE, _EXCERPT = 40, 160

TITLES = """SELECT id, title FROM conversation
    WHERE has_words(title, ?) ORDER BY updated DESC, id DESC"""
INDEXED = """SELECT t.id, t.conversation, t.role, t.text
    FROM turn_text CROSS JOIN turn t ON t.id = turn_text.rowid
    WHERE turn_text MATCH ? AND has_words(t.text, ?) ORDER BY turn_text.rowid DESC"""
SCANNED = """SELECT t.id, t.conversation, t.role, t.text FROM turn t
    WHERE t.state <> 'streaming' AND has_words(t.text, ?) ORDER BY t.id DESC"""
SCANNED_ONE = """SELECT t.id, t.conversation, t.role, t.text FROM turn t
    WHERE t.conversation = ? AND t.state <> 'streaming' AND has_words(t.text, ?)
    ORDER BY t.id DESC"""


class Search:
    """Searches the conversations of a database, archived ones too."""

    def __init__(self, db: Database, conversations: Conversations) -> None:
        self._db = db
        self._conversations = conversations
        with db.reading() as connection:
            connection.create_function("has_words", 2, _has_words, deterministic=True)

    def __call__(self, text: str, limit: int = 50, conversation: int | None = None) -> list[Hit]:
        """One hit per conversation, titles first, then the newest turns; or, within one
        conversation, one per turn, the newest first. No words, no hits.

        Raises:
            HistoryError: the text is longer than 200 characters.
        """
        if len(text) > LONGEST_QUERY:
            raise HistoryError(
                f"a search takes at most {LONGEST_QUERY} characters, not {len(text)}"
            )
        words = list(dict.fromkeys(stored(text).split()))
        if not words:
            return []
        hits: list[Hit] = []
        seen: set[int] = set()
        with self._db.reading() as connection:
            if conversation is None:
                for row in connection.execute(TITLES, (_folded(words),)):
                    seen.add(row["id"])
                    hits.append(self._hit(row["id"], None, row["title"], words))
                    if len(hits) == limit:
                        return hits
            for row in self._turns(connection, words, conversation):
                if conversation is None and row["conversation"] in seen:
                    continue
                seen.add(row["conversation"])
                hits.append(self._hit(row["conversation"], row, row["text"], words))
                if len(hits) == limit:
                    break
        return hits

    def _turns(
        self, connection: sqlite3.Connection, words: Sequence[str], conversation: int | None
    ) -> Iterator[sqlite3.Row]:
        every = _folded(words)
        if conversation is not None:
            return connection.execute(SCANNED_ONE, (conversation, every))
        long = [word for word in words if len(word) >= _TRIGRAM]
        if self._db.indexed and long:
            return connection.execute(INDEXED, (match_expression(long), every))
        return connection.execute(SCANNED, (every,))

    def _hit(
        self, conversation: int, turn: sqlite3.Row | None, text: str, words: Sequence[str]
    ) -> Hit:
        excerpt, spans = _excerpt(loaded(text), [loaded(word) for word in words])
        return Hit(
            conversation=self._conversations.get(conversation),
            turn=turn["id"] if turn else None,
            role=turn["role"] if turn else None,
            excerpt=excerpt,
            spans=spans,
        )


def match_expression(words: Sequence[str]) -> str:
    """Words as strings of FTS5's language, all of which must occur."""
    return " AND ".join('"' + word.replace('"', '""') + '"' for word in words)


def _folded(words: Sequence[str]) -> str:
    return "\n".join(words).casefold()


def _has_words(text: str, words: str) -> bool:
    folded = text.casefold()
    return all(word in folded for word in words.split("\n"))


def _excerpt(text: str, words: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    pattern = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))), re.I)
    first = pattern.search(text)
    begin = max(0, first.start() - _BEFORE) if first else 0
    line = excerpt(text[begin:], _EXCERPT)
    line = ("…" if begin else "") + line
    return line, tuple(found.span() for found in pattern.finditer(line))


class History(Closing):
    """All conversations of one database file. Safe from any thread; other processes may have
    the same file open.

    Opening marks the answers that dead processes left unfinished as stopped.

    Args:
        path: of the file, made where there is none; None is `chat.db` in the user's data folder.

    Attributes:
        conversations: the list of them.
        turns: their trees.
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
            self.conversations = Conversations(self.db, self.turns)
            self.search = Search(self.db, self.conversations)
            self.recover()
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
