"""The blocks of an answer where they look otherwise than Textual's: lists, code, tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from markdown_it.token import Token
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets._markdown import (  # these have no public names
    MarkdownBullet,
    MarkdownList,
    MarkdownListItem,
    MarkdownTable,
    MarkdownTableCellContents,
    MarkdownTableContent,
)
from textual.widgets.markdown import MarkdownBlock, MarkdownFence

from eftlocal_tui.dialect import MATH, parser

_PROSE = 96  # columns of code that do not make its block wider than prose is


class _List(MarkdownList):
    """A list that grows at its end: Textual (8.2) lays all of its items out again."""

    _shape: tuple[bool, int, int] | None = None

    def _now(self) -> tuple[bool, int, int]:
        """Whether it is loose, its first number, and the letters of the largest one."""
        first = self._blocks[0].bullet if isinstance(self._blocks[0], MarkdownListItem) else ""
        number = int(first) if first.isdecimal() else 1
        return bool(self._token.meta["loose"]), number, len(str(number + len(self._blocks) - 1))

    def compose(self) -> ComposeResult:
        loose, first, width = self._shape = self._now()
        for place, item in enumerate(self._blocks):
            assert isinstance(item, MarkdownListItem)
            bullet = MarkdownBullet()
            numbered = self._token.type == "ordered_list_open"
            bullet.symbol = f" {first + place:>{width}}. " if numbered else f" {item.bullet}"
            spaced = loose or (item._blocks and isinstance(item._blocks[-1], MarkdownFence))
            row = Horizontal(bullet, Vertical(*item._blocks))
            row.set_class(bool(spaced) and place + 1 < len(self._blocks), "-spaced")
            yield row
        self._blocks.clear()

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        there = len(self.children)
        grown = (
            isinstance(block, _List)
            and block._token.type == self._token.type
            and block._now() == self._shape
            and len(block._blocks) >= there > 0
        )
        if not grown:
            await super()._update_from_block(block)
            return
        last = self.children[-1]
        new = [row for row in block.compose() if isinstance(row, Horizontal)]
        await self.mount_all(new[there - 1 :])
        await last.remove()


class _Code(MarkdownFence):
    """Code, or LaTeX that stands by itself."""

    def __init__(self, markdown: Markdown, token: Token, code: str) -> None:
        super().__init__(markdown, token, code)
        self._widen(code)

    def _widen(self, code: str) -> None:
        wide = any(len(line) > _PROSE for line in code.split("\n"))
        self.set_class(wide, "-wide", update=self.is_attached)

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        if isinstance(block, _Code) and (block.lexer == MATH) == (self.lexer == MATH):
            self._widen(block.code)
            await super()._update_from_block(block)
        else:
            await MarkdownBlock._update_from_block(self, block)


class _Cells(MarkdownTableContent):
    """The cells of a table, aligned as its second line says."""

    def __init__(
        self, headers: list[Content], rows: list[list[Content]], align: Sequence[str]
    ) -> None:
        super().__init__(headers, rows)
        self._align = align

    def compose(self) -> ComposeResult:
        yield from self._row(self.headers, "header")
        for number, row in enumerate(self.rows, 1):
            yield from self._row(row, f"row{number} cell")
        self.last_row = len(self.rows)

    def _row(self, row: Sequence[Content], classes: str) -> Iterator[Static]:
        for content, align in zip(row, self._align, strict=False):
            cell = MarkdownTableCellContents(content, classes=classes)
            cell.styles.text_align = align  # type: ignore[assignment]  # a name
            yield cell

    async def _update_rows(self, updated_rows: list[list[Content]]) -> None:
        """The last row anew, and those that came after it."""
        await self.query_children(f".cell.row{self.last_row}").remove()
        new = [
            cell
            for number, row in enumerate(updated_rows, self.last_row)
            for cell in self._row(row, f"row{number} cell")
        ]
        self.last_row += len(updated_rows) - 1
        await self.mount_all(new)


class _Table(MarkdownTable):
    """A table whose last row may turn out to be the beginning of something else, as "`" before
    a fence does: Textual (8.2) fails there."""

    def compose(self) -> ComposeResult:
        self._headers, self._rows = self._get_headers_and_rows()
        yield _Cells(self._headers, self._rows, self._token.meta["align"])

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        if isinstance(block, _Table):
            same = block._token.meta == self._token.meta
            if not same or len(block._get_headers_and_rows()[1]) < len(self._rows):
                await MarkdownBlock._update_from_block(self, block)
                return
        await super()._update_from_block(block)


class AnswerMarkdown(Markdown):
    """Markdown of a model; its links are not opened."""

    BLOCKS = Markdown.BLOCKS | {
        "bullet_list_open": _List,
        "ordered_list_open": _List,
        "fence": _Code,
        "code_block": _Code,
        "table_open": _Table,
    }

    def __init__(self, text: str) -> None:
        super().__init__(text, parser_factory=parser, open_links=False)

    def _parse_markdown(self, tokens: Iterable[Token]) -> Iterable[MarkdownBlock]:
        for block in super()._parse_markdown(tokens):
            _dress(block)
            yield block


def _dress(block: MarkdownBlock) -> None:
    """Gives a block and what is in it the classes by which they are spaced: pseudo-classes such as
    :last-child would be looked at again for all blocks whenever one is added."""
    token = block._token
    looks = {
        "-tight": token.hidden and not token.meta.get("spaced"),
        "-last": token.meta.get("last"),
        "-math": token.info == MATH,
    }
    block.add_class(*(name for name, holds in looks.items() if holds), update=False)
    for inner in block._blocks:
        _dress(inner)
