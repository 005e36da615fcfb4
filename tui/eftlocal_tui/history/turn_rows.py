"""From a row of the table of turns to a `Turn`, and from what a turn holds to its columns."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from eftlocal_tui.history.database import Database
from eftlocal_tui.history.errors import damaged
from eftlocal_tui.history.records import Figures, Mark, Record, Settings, Turn
from eftlocal_tui.history.text import loaded, stored

# For `FROM turn t`: with the place of each turn among its siblings.
COLUMNS = """t.*,
    (SELECT count(*) FROM turn s
        WHERE s.conversation = t.conversation AND s.parent IS t.parent) AS branches,
    (SELECT count(*) FROM turn s
        WHERE s.conversation = t.conversation AND s.parent IS t.parent AND s.id <= t.id) AS branch
"""
PIECES = "SELECT text FROM piece WHERE turn = ? ORDER BY seq"


def turn_of(db: Database, row: sqlite3.Row) -> Turn:
    """The turn; one that streams with the text that has come so far."""
    text = str(row["text"])
    if row["state"] == "streaming":
        text += written_pieces(db, row["id"])
    try:
        return Turn(
            id=row["id"],
            conversation=row["conversation"],
            parent=row["parent"],
            role=row["role"],
            text=loaded(text),
            state=row["state"],
            created=row["created"],
            visited=row["visited"],
            closed=row["closed"],
            finish_reason=_loaded(row["finish_reason"]),
            error=_loaded(row["error"]),
            settings=Settings(**json.loads(row["settings"])) if row["settings"] else None,
            figures=Figures(**json.loads(row["figures"])) if row["figures"] else None,
            marks=tuple(Mark(**mark) for mark in json.loads(row["marks"] or "[]")),
            branch=row["branch"],
            branches=row["branches"],
        )
    except (ValueError, TypeError, ValidationError) as error:
        raise damaged(db.path, f"turn {row['id']}: {type(error).__name__}") from error


def written_pieces(db: Database, turn: int) -> str:
    """What has come of an answer that streams, as it is stored."""
    return "".join(row["text"] for row in db.rows(PIECES, turn))


def record_json(record: Record | None) -> str | None:
    return None if record is None else json.dumps(record.model_dump(exclude_defaults=True))


def marks_json(marks: Sequence[Mark]) -> str | None:
    return json.dumps([mark.model_dump() for mark in marks]) if marks else None


def insert_turn(connection: sqlite3.Connection, turn: Turn, writer: str | None = None) -> int:
    """Writes a turn under a new id, which is returned; its own id and branch are not looked at.

    `writer` is who writes it, of an answer that streams.
    """
    columns: dict[str, Any] = {
        "conversation": turn.conversation,
        "parent": turn.parent,
        "visited": turn.visited,
        "role": turn.role,
        "state": turn.state,
        "writer": writer,
        "created": turn.created,
        "closed": turn.closed,
        "finish_reason": _stored(turn.finish_reason),
        "error": _stored(turn.error),
        "settings": record_json(turn.settings),
        "figures": record_json(turn.figures),
        "marks": marks_json(turn.marks),
        "text": stored(turn.text),
    }
    names, places = ", ".join(columns), ", ".join("?" * len(columns))
    sql = f"INSERT INTO turn ({names}) VALUES ({places})"
    return int(connection.execute(sql, tuple(columns.values())).lastrowid or 0)


def insert_tree(connection: sqlite3.Connection, conversation: int, tree: Iterable[Turn]) -> None:
    """Copies turns, parents before their children, into a conversation, with new ids.

    An answer that streams is copied as stopped: nobody writes the copy.
    """
    ids: dict[int, int] = {}
    for turn in tree:
        copy = replace(
            turn,
            conversation=conversation,
            parent=None if turn.parent is None else ids[turn.parent],
            state="stopped" if turn.state == "streaming" else turn.state,
        )
        ids[turn.id] = insert_turn(connection, copy)


def next_visit(connection: sqlite3.Connection, conversation: int) -> int:
    sql = "SELECT coalesce(max(visited), 0) + 1 FROM turn WHERE conversation = ?"
    return int(connection.execute(sql, (conversation,)).fetchone()[0])


def _stored(text: str | None) -> str | None:
    return None if text is None else stored(text)


def _loaded(text: str | None) -> str | None:
    return None if text is None else loaded(text)
