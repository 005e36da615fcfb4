"""Markdown of a model, which may grow and may be hostile."""

from __future__ import annotations

import re

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from eftlocal.terminal_text import printable
from eftlocal_tui.dialect import parser
from eftlocal_tui.widgets.blocks import AnswerMarkdown

_LONGEST = 60_000  # characters that are laid out as Markdown
_MOST_LINES = 2_000
_DEEPEST = 24  # markers of quotes and lists at the beginning of one line


def is_bomb(text: str) -> bool:
    """Whether laying the text out as Markdown could take the interface with it."""
    if len(text) > _LONGEST or text.count("\n") > _MOST_LINES or text.count("|") > 4_000:
        return True
    return any(_depth(line) > _DEEPEST for line in text.split("\n"))


def _depth(line: str) -> int:
    head = line[: 8 * _DEEPEST]
    body = head.lstrip(" >-*+\t")
    return sum(c in ">-*+" for c in head[: len(head) - len(body)]) if _is_nested(head) else 0


def _is_nested(head: str) -> bool:
    # A ruled line (----, ****) nests nothing: markers of lists are apart from each other.
    stripped = head.strip()
    return ">" in head or not (stripped and len(set(stripped)) == 1)


def open_fence(text: str) -> str:
    """The line that opened a code fence which `text` leaves open; empty if none is."""
    opened = ""
    for line in text.split("\n"):
        body = line.lstrip(" ")
        if len(line) - len(body) > 3:
            continue
        if not opened:
            if body.startswith(("```", "~~~")) and not (body[0] == "`" and "`" in body.lstrip("`")):
                opened = body
        else:
            mark = opened[: len(opened) - len(opened.lstrip(opened[0]))]
            if body.startswith(mark) and not body.strip().strip(opened[0]):
                opened = ""
    return opened


def code_blocks(text: str) -> list[str]:
    """The code of every fence of a Markdown text, in order."""
    if is_bomb(text):
        return []
    return [token.content for token in parser().parse(text) if token.type == "fence"]


# What may yet become an item of the list above it ("2" before "2. "), or the end of a line.
_UNDECIDED = re.compile(r"(?:(?<=\n)[ >]*[0-9]{1,9}[.)]?)?\r?\Z")


class Streamed(Vertical):
    """Shows text as Markdown while it comes; as plain text where its Markdown would be a bomb.

    Args:
        text: what is there already.
        fence: the line of a code fence that an earlier stretch left open; it is shown opened
            again, and is no part of the text.
    """

    def __init__(self, text: str = "", *, fence: str = "") -> None:
        super().__init__()
        self.raw = text
        self._fence = f"{printable(fence)}\n" if fence else ""
        self._plain = is_bomb(text)
        self._grew = False
        self._drawn = 0  # characters of what is shown that are laid out

    @property
    def _shown(self) -> str:
        return self._fence + printable(self.raw)

    def on_mount(self) -> None:
        self.display = bool(self.raw)

    def compose(self) -> ComposeResult:
        if self._plain:
            yield Static(self._shown, markup=False)
        else:
            self._drawn = len(self._shown)
            yield AnswerMarkdown(self._shown)

    async def append(self, text: str) -> None:
        if not text:  # Textual (8.2) ends whoever stops a stream into which nothing was written
            return
        self.raw += text
        self.display = bool(self.raw)
        if not self._plain and is_bomb(self.raw):
            self._plain = True
            with self.app.batch_update():
                await self.query(AnswerMarkdown).remove()
                await self.mount(Static(self._shown, markup=False))
        elif self._plain:
            self.query_one(Static).update(self._shown)
        else:
            await self._grow(self._fence + printable(_UNDECIDED.sub("", self.raw)))

    async def _grow(self, decided: str) -> None:
        markdown = self.query_one(AnswerMarkdown)
        new, begun = decided[self._drawn :], self._grew
        if not new:
            return
        self._grew, self._drawn = True, len(decided)
        if begun:
            await markdown.append(new)
            return
        # After an update, Textual (8.2) takes the last line for the last block.
        with self.app.batch_update():
            await markdown.update("")
            await markdown.append(decided)

    async def finish(self) -> None:
        """Lays the whole text out once more, as it is when it is opened again."""
        if not self._plain and (self._grew or self._drawn < len(self._shown)):
            self._grew, self._drawn = False, len(self._shown)
            await self.query_one(AnswerMarkdown).update(self._shown)
