"""The search in the saved conversations.

What is typed into a search is words, never a query language. All words must occur in one text, in
any case and inside other words too. Words of three characters or more are looked up in the index
of trigrams where there is one; shorter ones, and all where there is none, are looked for in the
texts, the newest first. The index folds the case letter by letter, and of a few rare letters not
at all: it does not find "straße" by "STRASSE".

An answer is searched as it is read: its thinking is, the marks around that are not.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eftlocal_tui.history.database import Database
from eftlocal_tui.history.failures import HistoryError
from eftlocal_tui.history.records import (
    Conversation,
    Hit,
    Place,
    Turn,
    as_read,
    excerpt,
    loaded,
    stored,
)

LONGEST_QUERY = 200
_TRIGRAM = 3
_BEFORE, _EXCERPT = 40, 160

TITLES = """SELECT id FROM conversation
    WHERE has_words(title, '', NULL, ?) ORDER BY updated DESC, id DESC"""
INDEXED = """SELECT t.id, t.conversation
    FROM turn_text CROSS JOIN turn t ON t.id = turn_text.rowid
    WHERE turn_text MATCH ? AND has_words(t.text, t.role, t.settings, ?)
    ORDER BY turn_text.rowid DESC"""
SCANNED = """SELECT t.id, t.conversation FROM turn t
    WHERE t.state <> 'streaming' AND has_words(t.text, t.role, t.settings, ?) ORDER BY t.id DESC"""
SCANNED_ONE = """SELECT t.id, t.conversation FROM turn t
    WHERE t.conversation = ? AND t.state <> 'streaming' AND has_words(t.text, t.role, t.settings, ?)
    ORDER BY t.id DESC"""


@dataclass
class _Found:
    """A conversation in which the words are: in its title, and in so many turns."""

    titled: bool
    newest: int | None = None
    turns: int = 0

    def place(self, conversation: int) -> Place:
        return Place(conversation, None if self.titled else self.newest, self.turns)


class Search:
    """Searches the conversations of a database, archived ones too. `conversation` and `turn` give
    one by its id."""

    def __init__(
        self, db: Database, conversation: Callable[[int], Conversation], turn: Callable[[int], Turn]
    ) -> None:
        self._db, self._conversation, self._turn = db, conversation, turn
        with db.reading() as connection:
            connection.create_function("has_words", 4, _has_words, deterministic=True)

    def __call__(self, text: str, limit: int = 50, conversation: int | None = None) -> list[Hit]:
        """The first `places`, as a list shows them. Raises HistoryError as `places` does."""
        with self._db.reading():
            return self.hits(text, self.places(text, conversation)[:limit])

    def places(self, text: str, conversation: int | None = None) -> list[Place]:
        """All that has the words: one place per conversation, titles first, then the newest turns;
        or, within one conversation, one per turn, the newest first. No words, no places.

        Raises:
            HistoryError: the text is longer than 200 characters.
        """
        words = _words(text)
        if not words:
            return []
        with self._db.reading() as connection:
            rows = self._turns(connection, words, conversation)
            if conversation is not None:
                return [Place(conversation, row["id"], 1) for row in rows]
            titles = connection.execute(TITLES, (_folded(words),)).fetchall()
            found = {row["id"]: _Found(titled=True) for row in titles}
            for row in rows:
                one = found.setdefault(row["conversation"], _Found(titled=False))
                one.newest = one.newest or row["id"]
                one.turns += 1
        return [one.place(conversation) for conversation, one in found.items()]

    def hits(self, text: str, places: Sequence[Place]) -> list[Hit]:
        """Places as a list shows them. What was deleted since they were found is left out."""
        words = [loaded(word) for word in _words(text)]
        with self._db.reading():
            return [hit for place in places if (hit := self._hit(place, words)) is not None]

    def _turns(
        self, connection: sqlite3.Connection, words: Sequence[str], conversation: int | None
    ) -> list[sqlite3.Row]:
        every = _folded(words)
        if conversation is not None:
            return connection.execute(SCANNED_ONE, (conversation, every)).fetchall()
        long = [word for word in words if len(word) >= _TRIGRAM]
        if self._db.indexed and long:
            return connection.execute(INDEXED, (match_expression(long), every)).fetchall()
        return connection.execute(SCANNED, (every,)).fetchall()

    def _hit(self, place: Place, words: Sequence[str]) -> Hit | None:
        try:
            conversation = self._conversation(place.conversation)
            turn = None if place.turn is None else self._turn(place.turn)
        except HistoryError:
            return None
        text, before = (conversation.title, "") if turn is None else _read(turn, words)
        line, spans = _excerpt(text, words, before)
        return Hit(
            conversation=conversation,
            turn=place.turn,
            role=turn.role if turn else None,
            excerpt=line,
            spans=spans,
            turns=place.turns,
        )


def pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Any of the words, in any case; the longest that is there."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)


def match_expression(words: Sequence[str]) -> str:
    """Words as strings of FTS5's language, all of which must occur."""
    return " AND ".join('"' + word.replace('"', '""') + '"' for word in words)


def _words(text: str) -> list[str]:
    if len(text) > LONGEST_QUERY:
        raise HistoryError(f"a search takes at most {LONGEST_QUERY} characters, not {len(text)}")
    return list(dict.fromkeys(stored(text).split()))


def _folded(words: Sequence[str]) -> str:
    return "\n".join(words).casefold()


def _has_words(text: str, role: str, settings: str | None, words: str) -> bool:
    """For SQLite: `words` are folded, a line each."""
    needed, folded = words.split("\n"), text.casefold()
    if role == "assistant" and all(word in folded for word in needed):
        folded = "\n".join(as_read(text, settings)).casefold()
    return all(word in folded for word in needed)


def _read(turn: Turn, words: Sequence[str]) -> tuple[str, str]:
    """The part of a turn that has any of the words, the answer first; and what is said of it."""
    any_word = pattern(words)
    for part in turn.read:
        if any_word.search(turn.text[part]):
            return turn.text[part], "" if part == turn.parts.answer else "Thinking: "
    return turn.answer, ""


def _excerpt(
    text: str, words: Sequence[str], before: str
) -> tuple[str, tuple[tuple[int, int], ...]]:
    any_word = pattern(words)
    first = any_word.search(text)
    begin = max(0, first.start() - _BEFORE) if first else 0
    line = before + "…" * bool(begin) + excerpt(text[begin:], _EXCERPT)
    return line, tuple(found.span() for found in any_word.finditer(line, len(before)))
