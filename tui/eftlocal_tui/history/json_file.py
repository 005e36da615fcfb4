"""Conversations as JSON: whole trees, with everything that the history knows of them.

The format has a name and a version. Ids in a file only tie its turns together: what is read gets
fresh ones. A file is checked whole before anything of it is written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from eftlocal.json_text import TextError, parse_json
from eftlocal.terminal_text import one_line
from eftlocal_tui.history.conversations import insert
from eftlocal_tui.history.errors import HistoryError
from eftlocal_tui.history.records import (
    Conversation,
    Count,
    Figures,
    Mark,
    Record,
    Settings,
    Text,
    Turn,
)
from eftlocal_tui.history.store import History
from eftlocal_tui.history.turn_rows import insert_tree

FORMAT: Literal["eftlocal-conversations"] = "eftlocal-conversations"
VERSION: Literal[1] = 1
Time = Annotated[float, Field(ge=0, le=253402300799)]  # to the end of the year 9999


class SavedTurn(Record):
    """A turn. `parent` is the id of an earlier one, `visited` is as in `Turn`."""

    id: Count
    parent: Count | None
    role: Literal["user", "assistant"]
    text: Text
    state: Literal["done", "stopped", "error"]
    created: Time
    visited: Annotated[int, Field(ge=1, lt=2**62)]
    closed: Time | None = None
    finish_reason: Text | None = None
    error: Text | None = None
    settings: Settings | None = None
    figures: Figures | None = None
    marks: list[Mark] = Field(default_factory=list)

    @model_validator(mode="after")
    def _question(self) -> SavedTurn:
        answers = (self.finish_reason, self.error, self.settings, self.figures, *self.marks)
        if self.role == "user" and (self.state != "done" or any(a is not None for a in answers)):
            raise ValueError("a question is done, and only answers have settings or figures")
        return self


class SavedConversation(Record):
    title: Text
    system: Text
    archived: bool
    created: Time
    updated: Time
    turns: list[SavedTurn]


class SavedFile(Record):
    format: Literal["eftlocal-conversations"]
    version: Literal[1]
    conversations: list[SavedConversation]


def to_json(history: History, conversations: Sequence[int]) -> str:
    """The text of a file with these conversations. It is ASCII: nothing can be lost on its way."""
    with history.db.reading():
        saved = [_saved(history, conversation) for conversation in conversations]
    file = SavedFile(format=FORMAT, version=VERSION, conversations=saved)
    return json.dumps(file.model_dump(), indent=1) + "\n"


def from_json(history: History, text: str, source: str) -> list[Conversation]:
    """Adds the conversations of a file to the history, all or none; twice makes two of each.

    Raises:
        HistoryError: one line with the source, the place in it and what is wrong there.
    """
    file = _checked(text, source)
    with history.db.transaction() as connection:
        added: list[Conversation] = []
        for saved in file.conversations:
            conversation = insert(
                connection, saved.title, saved.system, saved.archived, saved.created, saved.updated
            )
            insert_tree(connection, conversation, [_turn(turn) for turn in saved.turns])
            added.append(history.conversations.get(conversation))
    return added


def _saved(history: History, conversation: int) -> SavedConversation:
    found = history.conversations.get(conversation)
    turns = history.turns.all(conversation)
    ids = {turn.id: index for index, turn in enumerate(turns, start=1)}
    ranks = {v: rank for rank, v in enumerate(sorted(turn.visited for turn in turns), start=1)}
    return SavedConversation(
        title=found.title,
        system=found.system,
        archived=found.archived,
        created=found.created,
        updated=found.updated,
        turns=[
            SavedTurn(
                id=ids[turn.id],
                parent=None if turn.parent is None else ids[turn.parent],
                role=turn.role,
                text=turn.text,
                state="stopped" if turn.state == "streaming" else turn.state,
                created=turn.created,
                visited=ranks[turn.visited],
                closed=turn.closed,
                finish_reason=turn.finish_reason,
                error=turn.error,
                settings=turn.settings,
                figures=turn.figures,
                marks=list(turn.marks),
            )
            for turn in turns
        ],
    )


def _turn(saved: SavedTurn) -> Turn:
    return Turn(
        conversation=0,
        marks=tuple(saved.marks),
        **{name: getattr(saved, name) for name in SavedTurn.model_fields if name != "marks"},
    )


def _checked(text: str, source: str) -> SavedFile:
    try:
        document = parse_json(text)
    except TextError as error:
        raise HistoryError(f"{source}: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise HistoryError(f'{source}: is not an export of eftlocal: no "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        raise HistoryError(
            f"{source}: version {one_line(str(document.get('version')), 20)} of the format is not "
            f"known here, only {VERSION}: update eftlocal"
        )
    try:
        file = SavedFile.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        what = one_line(str(first["msg"]), 200)
        raise HistoryError(f"{source}: {_place(first['loc'])}: {what}") from error
    for index, conversation in enumerate(file.conversations):
        _check_tree(conversation.turns, f"{source}: conversations[{index}]")
    return file


def _check_tree(turns: Sequence[SavedTurn], where: str) -> None:
    """Parents stand before their children, roles fit, and `visited` says one leaf."""
    known: dict[int, SavedTurn] = {}
    visits: set[int] = set()
    for index, turn in enumerate(turns):
        place = f"{where}.turns[{index}]"
        parent = None if turn.parent is None else known.get(turn.parent)
        if turn.id in known:
            raise HistoryError(f"{place}.id: {turn.id} is an earlier turn's")
        if turn.parent is not None and parent is None:
            raise HistoryError(f"{place}.parent: {turn.parent} is not an earlier turn")
        if turn.role == "assistant" and (parent is None or parent.role != "user"):
            raise HistoryError(f"{place}.parent: an answer needs a question before it")
        if turn.visited in visits or (parent is not None and turn.visited <= parent.visited):
            raise HistoryError(
                f"{place}.visited: {turn.visited} is another turn's, or not more than its parent's"
            )
        known[turn.id] = turn
        visits.add(turn.visited)


def _place(location: tuple[int | str, ...]) -> str:
    """Where in the document: conversations[0].turns[3].role."""
    steps = (f"[{s}]" if isinstance(s, int) else "." + one_line(s, 60) for s in location)
    return "".join(steps).lstrip(".")
