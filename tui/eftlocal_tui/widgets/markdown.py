"""Markdown of a model, which may grow and may be hostile."""

from __future__ import annotations

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Markdown, Static
from textual.widgets._markdown import MarkdownTable  # it has no public name
from textual.widgets.markdown import MarkdownBlock, MarkdownStream

from eftlocal.terminal_text import printable

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


class _Table(MarkdownTable):
    """A table whose last row may turn out to be the beginning of something else, as "`" before
    a fence does: Textual (8.2) fails there."""

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        if isinstance(block, MarkdownTable):
            rows = block._get_headers_and_rows()[1]
            if len(rows) < len(self._rows):
                await MarkdownBlock._update_from_block(self, block)
                return
        await super()._update_from_block(block)


class _Markdown(Markdown):
    BLOCKS = Markdown.BLOCKS | {"table_open": _Table}


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
        self._stream: MarkdownStream | None = None

    @property
    def _shown(self) -> str:
        return self._fence + printable(self.raw)

    def compose(self) -> ComposeResult:
        if self._plain:
            yield Static(self._shown, markup=False)
        else:
            yield _Markdown(self._shown, parser_factory=parser, open_links=False)

    async def append(self, text: str) -> None:
        self.raw += text
        if not self._plain and is_bomb(self.raw):
            await self._to_plain()
        elif self._plain:
            self.query_one(Static).update(self._shown)
        else:
            if self._stream is None:
                self._stream = Markdown.get_stream(self.query_one(Markdown))
            await self._stream.write(printable(text))

    async def finish(self) -> None:
        """Lays the whole text out once more: what streamed in pieces may have lost a fence."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()
            await self.query_one(Markdown).update(self._shown)

    async def _to_plain(self) -> None:
        self._plain = True
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()
        with self.app.batch_update():
            await self.query(Markdown).remove()
            await self.mount(Static(self._shown, markup=False))

    async def on_unmount(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()
