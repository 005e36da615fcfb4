"""A conversation's current path as Markdown: a heading a turn, texts that stay within it.

A text must not end its turn or begin another one: an unclosed code fence, an HTML block, a
heading of its own. Whether it does is asked of a CommonMark parser, so texts that are harmless
stay as they are. Others get their headings lowered, their fence closed and their HTML escaped,
and what still does not stay within is put whole into a fence of its own.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

from markdown_it import MarkdownIt

from eftlocal.terminal_text import one_line
from eftlocal_tui.history.records import Mark, Turn
from eftlocal_tui.history.store import History

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


def to_markdown(history: History, conversation: int) -> str:
    """The text of a Markdown file. Control characters and lone surrogates become U+FFFD."""
    with history.db.reading():
        found = history.conversations.get(conversation)
        path = history.turns.path(conversation)
    begun = datetime.fromtimestamp(found.created, timezone.utc)
    blocks = [f"# {_inline(found.title or 'Conversation')}", f"*{begun:%Y-%m-%d %H:%M} UTC*"]
    if found.system:
        blocks += ["## System", contained(found.system)]
    for turn in path:
        blocks.append(f"## {_HEADINGS[turn.role]}{_branch(turn)}")
        if turn.text:
            blocks.append(contained(turn.text))
        blocks += _notes(turn)
    return "\n\n".join(block.strip("\n") for block in blocks) + "\n"


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
    words: list[str] = []
    if turn.state == "stopped":
        words.append("stopped")
    if turn.state == "streaming":
        words.append("still being written")
    if turn.state == "error":
        words.append(f"broke off: {turn.error or 'error'}")
    if turn.finish_reason not in (None, "stop"):
        words.append(f"ended by {turn.finish_reason}")
    if turn.figures:
        figures = turn.figures
        words += [f"{figures.tokens} tokens", f"{figures.seconds:.1f} s"]
        words.append(f"{figures.tokens_per_second:.1f} tok/s")
        if figures.acceptance is not None:
            words.append(f"{figures.acceptance:.0%} of drafts accepted")
    if turn.settings and turn.settings.preset:
        words.append(f"preset {turn.settings.preset}")
    if turn.settings and turn.settings.seed is not None:
        words.append(f"seed {turn.settings.seed}")
    if words:
        notes.append(f"*{_inline(' · '.join(words))}*")
    return notes


def _mark(mark: Mark, text: str) -> str:
    before = one_line(text[max(0, mark.char - 40) : mark.char], 40)
    where = f' ("…{_inline(before)}")' if before else ""
    return f"*After token {mark.token}{where}: {_inline(mark.what)}*"


def _branch(turn: Turn) -> str:
    return f" ({turn.branch} of {turn.branches})" if turn.branches > 1 else ""


def _inline(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", one_line(text, 1000))
