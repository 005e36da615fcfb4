"""Finds words in titles and turns. What a user types is words, never a query language.

All words must occur in one text, in any case and inside other words too. Words of three
characters or more are looked up in the index of trigrams where there is one; shorter ones, and
all where there is none, are looked for in the texts, the newest first. The index folds the case
letter by letter, and of a few rare letters not at all: it does not find "straße" by "STRASSE".
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence

from eftlocal_tui.history.conversations import Conversations
from eftlocal_tui.history.database import Database
from eftlocal_tui.history.errors import HistoryError
from eftlocal_tui.history.records import Hit
from eftlocal_tui.history.text import excerpt, loaded, stored

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
                f"a search takes at most {LONGEST_QUERY} characters, not {len(text)}: shorten it"
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
