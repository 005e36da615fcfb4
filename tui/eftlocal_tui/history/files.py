"""Conversations to files and back: whole trees as JSON, one branch as Markdown.

The JSON format has a name and a version. Ids in a file only tie its turns together: what is read
gets fresh ones. A file is checked whole before anything of it is written.

In Markdown, a text must not end its turn or begin another one: an unclosed code fence, an HTML
block, a heading of its own. Whether it does is asked of a CommonMark parser, so texts that are
harmless stay as they are. Others get their headings lowered, their fence closed and their HTML
escaped, and what still does not stay within is put whole into a fence of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from markdown_it import MarkdownIt
from pydantic import ValidationError

from eftlocal.disk import read_text, replacing
from eftlocal.errors import UsageError
from eftlocal.json_text import TextError, parse_json
from eftlocal.terminal_text import one_line
from eftlocal_tui.history.failures import HistoryError, sqlite_errors
from eftlocal_tui.history.parts import left_out, sent_from, systems
from eftlocal_tui.history.records import Conversation, Mark, Record, SavedTurn, Text, Time, Turn
from eftlocal_tui.history.store import History
from eftlocal_tui.history.turns import at_rest
from eftlocal_tui.text import outcome, thought_line

FORMAT: Literal["eftlocal-conversations"] = "eftlocal-conversations"
VERSIONS = (1, 2)  # the second: from where on one is sent, under which prompt, what thinking took


_PARTS = {"begins_at", "summary"}  # left out of turns that say nothing of the kind


class SavedConversation(Record):
    title: Text
    system: Text
    archived: bool
    created: Time
    updated: Time
    turns: list[SavedTurn]


class SavedFile(Record):
    format: Literal["eftlocal-conversations"]
    version: Literal[1, 2]
    conversations: list[SavedConversation]


def to_json(history: History, conversations: Sequence[int], leaf: int | None = None) -> str:
    """The text of a file with these conversations. It is ASCII: nothing can be lost on its way.

    `leaf` is a turn of the branch that the one conversation is left at in the file; None for
    where it was left.
    """
    with history.db.reading():
        saved = [_saved(history, conversation, leaf) for conversation in conversations]
    turns = [turn for one in saved for turn in one["turns"]]
    newer = any(_PARTS & turn.keys() or _says_more(turn) for turn in turns)
    file = {"format": FORMAT, "version": VERSIONS[newer], "conversations": saved}
    return json.dumps(file, indent=1) + "\n"


def _says_more(turn: Mapping[str, Any]) -> bool:
    said = {*(turn["settings"] or ()), *(turn["figures"] or ())}
    return bool(said & {"thinking", "system"})


def _saved(history: History, conversation: int, leaf: int | None) -> dict[str, Any]:
    found = history.conversations.get(conversation)
    turns = history.turns.all(conversation)
    ids = {turn.id: index for index, turn in enumerate(turns, start=1)}
    visits = sorted(turns, key=lambda turn: turn.visited)
    if leaf is not None:
        below = {leaf}
        below.update(turn.id for turn in turns if turn.parent in below)
        left_at = next(turn for turn in reversed(visits) if turn.id in below)
        visits.append(visits.pop(visits.index(left_at)))
    ranks = {turn.id: rank for rank, turn in enumerate(visits, start=1)}
    saved = found.model_dump(include={"title", "system", "archived", "created", "updated"})
    saved["turns"] = [
        turn.model_dump(include=set(SavedTurn.model_fields) - _PARTS)
        | {"id": ids[turn.id], "parent": turn.parent and ids[turn.parent]}
        | {"state": at_rest(turn.state), "visited": ranks[turn.id]}
        | ({"begins_at": ids[turn.begins_at]} if turn.begins_at is not None else {})
        | ({"summary": True} if turn.summary else {})
        for turn in turns
    ]
    return saved


def from_json(history: History, text: str, source: str) -> list[Conversation]:
    """Adds the conversations of a file to the history, all or none; twice makes two of each.

    Raises:
        HistoryError: one line with the source, the place in it and what is wrong there.
    """
    file = _checked(text, source)
    with history.db.transaction():
        return [history.conversations.create(**dict(saved)) for saved in file.conversations]


def _checked(text: str, source: str) -> SavedFile:
    try:
        document = parse_json(text)
    except TextError as error:
        raise HistoryError(f"{source}: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise HistoryError(f'{source}: not an export of eftlocal: no "format": "{FORMAT}"')
    if document.get("version") not in VERSIONS:
        raise HistoryError(
            f"{source}: version {one_line(str(document.get('version')), 20)} of the format is not "
            f"supported, only {' and '.join(map(str, VERSIONS))}; update eftlocal"
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
        if turn.begins_at is not None and turn.begins_at not in known:
            raise HistoryError(f"{place}.begins_at: {turn.begins_at} is not an earlier turn")
        visits.add(turn.visited)


def _place(location: tuple[int | str, ...]) -> str:
    """Where in the document: conversations[0].turns[3].role."""
    steps = (f"[{s}]" if isinstance(s, int) else "." + one_line(s, 60) for s in location)
    return "".join(steps).lstrip(".")


_HEADINGS = {"user": "User", "assistant": "Assistant"}
_TOP = 2  # level of the headings of turns; texts have only lower ones
_BLOCKS = MarkdownIt("commonmark").disable("inline")
_END = "end of the text"
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~&])")
_FENCE = re.compile(r"( {0,3})(`{3,}(?=[^`]*$)|~{3,})")
_HEADING = re.compile(r"( {0,3})(#{1,6})(?=[ \t]|$)")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)[ \t]*$")
_HTML = re.compile(r"( {0,3})<(?=[A-Za-z/!?])")


def to_markdown(history: History, conversation: int, leaf: int | None = None) -> str:
    """The text of a Markdown file: the branch down to a turn, or where it was left.

    Control characters and lone surrogates become U+FFFD.
    """
    with history.db.reading():
        found = history.conversations.get(conversation)
        path = history.turns.path(conversation, leaf=leaf)
        leaves = history.turns.leaves(conversation)
    begun = datetime.fromtimestamp(found.created, timezone.utc)
    about = f"Conversation {found.id} · {begun:%Y-%m-%d %H:%M} UTC"
    if len(leaves) > 1:
        which = leaves.index(path[-1].id) + 1 if path[-1].id in leaves else "one"
        about += f" · branch {which} of {len(leaves)}; the .json export has them all"
    blocks = [f"# {_inline(found.title or 'Conversation')}", f"*{about}*"]
    prompts = systems(path, found.system)
    begin = sent_from(path)
    for place, turn in enumerate(path):
        if place == begin > 0:
            blocks.append(f"*{left_out(path, begin)}*")
        if turn.id in prompts:
            blocks += _system(prompts[turn.id])
        blocks.append(f"## {_HEADINGS[turn.role]}{_branch(turn)}")
        blocks += _thinking(turn)
        if turn.answer:
            blocks.append(contained(turn.answer))
        blocks += _notes(turn)
    if path and begin == len(path):
        blocks.append(f"*{left_out(path, begin)}*")
    if None in prompts:
        blocks += _system(prompts[None])
    return "\n\n".join(block.strip("\n") for block in blocks) + "\n"


def _system(text: str) -> list[str]:
    return ["## System", contained(text)] if text else ["*No system prompt from here*"]


def _thinking(turn: Turn) -> list[str]:
    """Quoted, under what it took."""
    found = turn.parts.thinking
    if found is None or not turn.text[found].strip():
        return []
    took = thought_line(turn.figures.thinking if turn.figures else None)
    lines = f"*{took}*\n\n{contained(turn.text[found])}".split("\n")
    return ["\n".join(f"> {line}".rstrip() for line in lines)]


def contained(text: str) -> str:
    """The text, changed as little as it takes to keep it within its turn."""
    text = _CONTROL.sub("�", text.replace("\r\n", "\n").replace("\r", "\n")).strip("\n")
    if _stays(text):
        return text
    tamed = _tamed(text)
    if _stays(tamed):
        return tamed
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _stays(text: str) -> bool:
    """Whether what follows the text is outside it, and nothing in it looks like a turn."""
    tokens = _BLOCKS.parse(f"{text}\n\n{_END}")
    *inner, begin, last, end = tokens if len(tokens) >= 3 else [None] * 3
    if begin is None or last is None or end is None:
        return False
    alone = begin.type == "paragraph_open" and begin.level == 0 and last.content == _END
    loud = any(
        token is not None
        and (
            token.type == "html_block"
            or (token.type == "heading_open" and int(token.tag[1:]) <= _TOP)
        )
        for token in inner
    )
    return alone and not loud


def _tamed(text: str) -> str:
    lines: list[str] = []
    fence: re.Match[str] | None = None
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if fence is None:
            fence = found
            lines.append(line if found else _quiet(line, lines[-1] if lines else ""))
            continue
        lines.append(line)
        if found and found[2].startswith(fence[2]) and not line[found.end() :].strip():
            fence = None
    if fence is not None:
        lines.append(fence[1] + fence[2])
    return "\n".join(lines)


def _quiet(line: str, before: str) -> str:
    """A line outside fences: headings two levels lower, no underlines, no HTML blocks."""
    heading = _HEADING.match(line)
    if heading:
        level = min(6, len(heading[2]) + _TOP)
        return heading[1] + "#" * level + line[heading.end() :]
    if before.strip() and _UNDERLINE.match(line):
        stripped = line.lstrip(" ")
        return line[: len(line) - len(stripped)] + "\\" + stripped
    return _HTML.sub(r"\1\\<", line, count=1) if _HTML.match(line) else line


def _notes(turn: Turn) -> list[str]:
    """Below an answer: where dials were changed, how it ended and what it took."""
    if turn.role == "user":
        return []
    notes = [_mark(mark, turn.text) for mark in turn.marks]
    words = [outcome(turn)]
    if turn.settings and turn.settings.preset:
        words.append(f"preset {turn.settings.preset}")
    if persona := turn.settings and turn.settings.recipe.get("persona"):
        words.append(f"persona “{persona}”")
    if any(words):
        notes.append(f"*{_inline(' · '.join(filter(None, words)))}*")
    return notes


def _mark(mark: Mark, text: str) -> str:
    before = one_line(text[max(0, mark.char - 40) : mark.char], 40)
    where = f' ("…{_inline(before)}")' if before else ""
    return f"*After token {mark.token}{where}: {_inline(mark.what)}*"


def _branch(turn: Turn) -> str:
    return f" ({turn.branch} of {turn.branches})" if turn.branches > 1 else ""


def _inline(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", one_line(text, 1000))


_LARGEST = 1 << 30  # bytes of an export that is read again


def export_file(
    history: History, conversations: Sequence[int], path: Path, leaf: int | None = None
) -> Path:
    """Writes `.md`, one branch of one conversation, or `.json`, whole trees of any number.

    The file appears whole or not at all. `leaf` is as for `to_json` and `to_markdown`.

    Raises:
        HistoryError: another suffix, the file is there already, or the disk refuses.
    """
    if path.suffix == ".json":
        text = to_json(history, conversations, leaf)
    elif path.suffix == ".md" and len(conversations) == 1:
        text = to_markdown(history, conversations[0], leaf)
    elif path.suffix == ".md":
        raise HistoryError(f"{path}: a .md file takes one conversation; use .json for several")
    else:
        raise HistoryError(f"{path}: unknown file type; use a name that ends in .md or .json")
    with sqlite_errors(path):
        if path.exists():
            raise HistoryError(f"{path}: already exists; choose another name")
        with replacing(path) as file:
            file.write(text.encode())
    return path


def import_file(history: History, path: Path) -> list[Conversation]:
    """Adds the conversations of a `.json` export; all get fresh ids.

    Raises:
        HistoryError: it cannot be read, or holds something that is refused; nothing was added.
    """
    try:
        text = read_text(path, largest=_LARGEST)
    except UsageError as error:
        raise HistoryError(str(error)) from error
    return from_json(history, text, str(path))


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """A file that is not there yet: `chat-3.md`, then `chat-3-2.md`."""
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{suffix}"
    return path
