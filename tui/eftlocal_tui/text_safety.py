"""Text from models, files and pastes, made safe to show. Everything on the screen passes here."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from rich.text import Text

from eftlocal.terminal_text import one_line, printable

_LONGEST = 60_000  # characters that are laid out as Markdown
_MOST_LINES = 2_000
_SURROGATES = re.compile("[\ud800-\udfff]")
_DEEPEST = 24  # markers of quotes and lists at the beginning of one line


def encodable(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which a file to import may hold."""
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def fitted(text: str, cells: int) -> str:
    """The text as one safe line that takes no more than so many cells of the terminal."""
    line = Text(one_line(text))
    line.truncate(max(cells, 1), overflow="ellipsis")
    return line.plain


def pasted(text: str) -> str:
    """What a person pasted: line ends of any system become one kind."""
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


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


def parser() -> MarkdownIt:
    """Markdown for model text: HTML is shown as it stands, since nothing here could render it."""
    return MarkdownIt("gfm-like", {"html": False, "maxNesting": 20})


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
