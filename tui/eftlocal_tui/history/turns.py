"""The tree of turns: asking, editing, walking the branches.

A question follows an answer (or begins the conversation), an answer follows a question. Editing
makes a sibling of a question, regenerating one of an answer: nothing is ever replaced.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from eftlocal.prompt.messages import Message
from eftlocal_tui.history.database import Database, insert, update
from eftlocal_tui.history.failures import HistoryError, damaged
from eftlocal_tui.history.parts import sent_from
from eftlocal_tui.history.records import SavedTurn, State, Turn, excerpt, loaded, stored

TITLE_CHARS = 60  # of a title made from the first question

# For `FROM turn t`: with the place of each turn among its siblings.
COLUMNS = """t.*,
    (SELECT count(*) FROM turn s
        WHERE s.conversation = t.conversation AND s.parent IS t.parent) AS branches,
    (SELECT count(*) FROM turn s
        WHERE s.conversation = t.conversation AND s.parent IS t.parent AND s.id <= t.id) AS branch
"""
PIECES = "SELECT text FROM piece WHERE turn = ? ORDER BY seq"
ONE = f"SELECT {COLUMNS} FROM turn t WHERE t.id = ?"
ALL = f"SELECT {COLUMNS} FROM turn t WHERE t.conversation = ? ORDER BY t.id"
SIBLINGS = f"""SELECT {COLUMNS} FROM turn t
    WHERE t.conversation = ? AND t.parent IS ? ORDER BY t.id"""
LEAVES = """SELECT id FROM turn t WHERE conversation = ? AND NOT EXISTS
        (SELECT 1 FROM turn c WHERE c.conversation = t.conversation AND c.parent = t.id)
    ORDER BY id"""
LEAF = "SELECT id FROM turn WHERE conversation = ? ORDER BY visited DESC LIMIT 1"
PATH = f"""WITH RECURSIVE up (id, parent, height) AS (
        SELECT id, parent, 0 FROM turn WHERE id = ?
        UNION ALL
        SELECT turn.id, turn.parent, height + 1 FROM up JOIN turn ON turn.id = up.parent
        LIMIT ?
    )
    SELECT {COLUMNS} FROM up CROSS JOIN turn t ON t.id = up.id ORDER BY height DESC"""
ASKED = """SELECT text FROM turn
    WHERE conversation {} ? AND role = 'user' AND NOT summary ORDER BY id DESC LIMIT ?"""
LEFT_AT = """WITH RECURSIVE below (id, visited) AS (
        SELECT id, visited FROM turn WHERE id = ?
        UNION ALL
        SELECT t.id, t.visited FROM below CROSS JOIN turn t
            ON t.conversation = ? AND t.parent = below.id
    )
    SELECT id FROM below ORDER BY visited DESC LIMIT 1"""


class Turns:
    """The turns of a database. An id that is not there raises HistoryError."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def ask(
        self,
        conversation: int,
        text: str,
        parent: int | Literal["leaf"] | None = "leaf",
        *,
        begins_at: int | None = None,
        summary: bool = False,
    ) -> Turn:
        """A question under `parent` (None begins the conversation anew); it becomes the leaf.

        The first one gives the conversation its title, unless it has one. For the others see
        `SavedTurn`.
        """
        with self._db.transaction() as connection:
            if parent == "leaf":
                parent = self._leaf(conversation)
            elif parent is not None and self.get(parent).conversation != conversation:
                raise HistoryError(f"turn {parent} is not of conversation {conversation}")
            now = time.time()
            new = begin_turn(
                connection,
                now,
                conversation=conversation,
                parent=parent,
                role="user",
                text=text,
                state="done",
                closed=now,
                begins_at=begins_at,
                summary=summary,
            )
            connection.execute(
                "UPDATE conversation SET title = ? WHERE id = ? AND title = ''",
                (stored(excerpt(text, TITLE_CHARS)), conversation),
            )
            return self.get(new)

    def edit(self, question: int, text: str) -> Turn:
        """The question put another way, beside it; it becomes the leaf and waits for its answer."""
        with self._db.transaction():
            old = self.get(question)
            if old.role != "user":
                raise HistoryError(f"turn {question} is an answer; only questions are edited")
            itself = old.begins_at == old.id
            new = self.ask(
                old.conversation,
                text,
                old.parent,
                begins_at=None if itself else old.begins_at,
                summary=old.summary,
            )
            return self.begin_at(new.id, new.id) if itself else new

    def rewrite(self, answer: int, text: str) -> Turn:
        """A person's own words in place of a summary, beside it; they become the leaf."""
        with self._db.transaction() as connection:
            old = self.get(answer)
            if old.parent is None or old.role != "assistant" or not self.get(old.parent).summary:
                raise HistoryError(f"turn {answer} is no summary; only a summary is rewritten")
            now = time.time()
            new = begin_turn(
                connection,
                now,
                conversation=old.conversation,
                parent=old.parent,
                role="assistant",
                text=text,
                state="done",
                closed=now,
                finish_reason="edited",
                settings=old.settings,
            )
            return self.get(new)

    def get(self, turn: int) -> Turn:
        rows = self._db.rows(ONE, turn)
        if not rows:
            raise HistoryError(f"turn {turn} does not exist; its conversation was deleted")
        return _turn(self._db, rows[0])

    def path(
        self, conversation: int, last: int | None = None, leaf: int | None = None
    ) -> list[Turn]:
        """From the beginning to the current leaf (or another one), or the last few of these."""
        with self._db.reading():
            if leaf is None:
                leaf = self._leaf(conversation)
            return [] if leaf is None else self._up_from(leaf, last)

    def messages(self, turn: int) -> list[Message]:
        """The conversation up to this turn, as an emulator takes it: the system prompt first,
        then what is still sent.

        Answers without text are left out; turns of one role that then meet are joined by a blank
        line, because chat templates want the roles to alternate.
        """
        with self._db.reading():
            path = self._up_from(self.get(turn).id, None)
            sql = "SELECT system FROM conversation WHERE id = ?"
            system = loaded(self._db.rows(sql, path[0].conversation)[0]["system"])
        return sent(system, path[sent_from(path) :])

    def begin_at(self, turn: int, first: int) -> Turn:
        """What follows this turn is sent from `first` on, which is this turn or one above it."""
        with self._db.transaction() as connection:
            self.get(turn)
            update(connection, "turn", turn, begins_at=first)
            return self.get(turn)

    def asked(self, conversation: int | None, limit: int) -> list[str]:
        """What was asked before, each text once, the newest first: in this conversation, then in
        others."""
        own, others = (
            [loaded(row["text"]) for row in self._db.rows(sql, conversation, limit)]
            for sql in (ASKED.format("IS"), ASKED.format("IS NOT"))
        )
        return list(dict.fromkeys([*own, *others]))[:limit]

    def siblings(self, turn: int) -> list[Turn]:
        """The turn and those that stand in its place on other branches, the oldest first."""
        with self._db.reading():
            found = self.get(turn)
            return self._turns(SIBLINGS, found.conversation, found.parent)

    def switch(self, turn: int) -> list[Turn]:
        """Goes to the branch of this turn, down to where it was left; returns the new path."""
        with self._db.transaction() as connection:
            conversation = self.get(turn).conversation
            (leaf,) = connection.execute(LEFT_AT, (turn, conversation)).fetchone()
            update(connection, "turn", leaf, visited=_next_visit(connection, conversation))
            return self._up_from(leaf, None)

    def all(self, conversation: int) -> list[Turn]:
        """The whole tree in the order it was made, parents before their children."""
        return self._turns(ALL, conversation)

    def leaves(self, conversation: int) -> list[int]:
        """The last turn of every branch, in the order they were made."""
        return [row["id"] for row in self._db.rows(LEAVES, conversation)]

    def _leaf(self, conversation: int) -> int | None:
        rows = self._db.rows(LEAF, conversation)
        return rows[0]["id"] if rows else None

    def _up_from(self, turn: int, last: int | None) -> list[Turn]:
        return self._turns(PATH, turn, -1 if last is None else last)

    def _turns(self, sql: str, *values: int | None) -> list[Turn]:
        with self._db.reading():
            return [_turn(self._db, row) for row in self._db.rows(sql, *values)]


def begin_turn(connection: sqlite3.Connection, now: float, **values: Any) -> int:
    """Writes a new turn, the leaf of its conversation from now on, and returns its id."""
    conversation = values["conversation"]
    visited = _next_visit(connection, conversation)
    new = insert(connection, "turn", created=now, visited=visited, **values)
    touch(connection, conversation, now)
    return new


def insert_tree(
    connection: sqlite3.Connection, conversation: int, turns: Iterable[SavedTurn]
) -> None:
    """Copies turns, parents before their children, into a conversation, with new ids.

    An answer that streams is copied as stopped: nobody writes the copy.
    """
    ids: dict[int, int] = {}
    for turn in turns:
        values = {name: getattr(turn, name) for name in SavedTurn.model_fields if name != "id"}
        values["conversation"] = conversation
        values["parent"] = None if turn.parent is None else ids[turn.parent]
        values["state"] = at_rest(turn.state)
        ids[turn.id] = new = insert(connection, "turn", **values | {"begins_at": None})
        if turn.begins_at is not None:
            update(connection, "turn", new, begins_at=ids[turn.begins_at])


def at_rest(state: State) -> State:
    """The state of a copy: nobody writes it."""
    return "stopped" if state == "streaming" else state


def touch(connection: sqlite3.Connection, conversation: int, now: float) -> None:
    """The conversation was used now."""
    connection.execute(
        "UPDATE conversation SET updated = max(updated, ?) WHERE id = ?", (now, conversation)
    )


def _next_visit(connection: sqlite3.Connection, conversation: int) -> int:
    sql = "SELECT coalesce(max(visited), 0) + 1 FROM turn WHERE conversation = ?"
    return int(connection.execute(sql, (conversation,)).fetchone()[0])


def sent(system: str, path: Sequence[Turn]) -> list[Message]:
    """Turns as an emulator takes them: the system prompt first, where there is one."""
    messages = _alternating(path)
    return [Message(role="system", content=system), *messages] if system else messages


def followed(messages: Sequence[Message], text: str) -> list[Message]:
    """Messages with one more of the user; it joins a question that has no answer yet."""
    if messages and messages[-1]["role"] == "user":
        text = f"{messages[-1]['content']}\n\n{text}"
        messages = messages[:-1]
    return [*messages, Message(role="user", content=text)]


def _alternating(path: Sequence[Turn]) -> list[Message]:
    messages: list[Message] = []
    for turn in path:
        if turn.role == "assistant" and not turn.answer:
            continue
        if messages and messages[-1]["role"] == turn.role:
            messages[-1]["content"] += "\n\n" + turn.text
        else:
            messages.append(_message(turn))
    return messages


def _message(turn: Turn) -> Message:
    """A turn as later prompts are given it: an answer with its thinking apart."""
    found = turn.parts
    message = Message(role=turn.role, content=_with_space(turn.text, found.answer))
    if found.thinking is not None:
        message["reasoning_content"] = _with_space(turn.text, found.thinking)
    return message


def _with_space(text: str, part: slice) -> str:
    """A part with the white space before it, so that it can be put together as it was."""
    return text[len(text[: part.start].rstrip()) : part.stop]


def _turn(db: Database, row: sqlite3.Row) -> Turn:
    """A row as a turn; one that streams with the text that has come so far."""
    values = dict(row)
    del values["writer"]
    if row["state"] == "streaming":
        values["text"] += "".join(piece["text"] for piece in db.rows(PIECES, row["id"]))
    try:
        for name in ("text", "finish_reason", "error"):
            values[name] = values[name] and loaded(values[name])
        for name in ("settings", "figures", "marks"):
            values[name] = values[name] and json.loads(values[name])
        values["summary"] = bool(values["summary"])
        return Turn(**values | {"marks": values["marks"] or ()})
    except (ValueError, TypeError) as error:
        raise damaged(db.path, f"turn {row['id']}: {type(error).__name__}") from error
