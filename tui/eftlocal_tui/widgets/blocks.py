"""The blocks of an answer where they look otherwise than Textual's: lists, code, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markdown_it.token import Token
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets._markdown import (  # these have no public names
    MarkdownBulletList,
    MarkdownOrderedList,
    MarkdownParagraph,
    MarkdownTable,
    MarkdownTableCellContents,
    MarkdownTableContent,
)
from textual.widgets.markdown import MarkdownBlock, MarkdownFence

from eftlocal_tui.dialect import MATH, parser

_PROSE = 96  # columns of code that do not make its block wider than prose is


class _Paragraph(MarkdownParagraph):
    """One of a tight list has no blank line after it."""

    def __init__(self, markdown: Markdown, token: Token) -> None:
        super().__init__(markdown, token)
        self.set_class(token.hidden, "-tight")


class _BulletList(MarkdownBulletList):
    def __init__(self, markdown: Markdown, token: Token) -> None:
        super().__init__(markdown, token)
        self.set_class(bool(token.meta.get("loose")), "-loose")


class _OrderedList(MarkdownOrderedList):
    def __init__(self, markdown: Markdown, token: Token) -> None:
        super().__init__(markdown, token)
        self.set_class(bool(token.meta.get("loose")), "-loose")


class _Code(MarkdownFence):
    """Code, or LaTeX that stands by itself."""

    def __init__(self, markdown: Markdown, token: Token, code: str) -> None:
        super().__init__(markdown, token, code)
        self.set_class(token.info == MATH, "-math")
        self._widen(code)

    def _widen(self, code: str) -> None:
        self.set_class(any(len(line) > _PROSE for line in code.split("\n")), "-wide")

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        if isinstance(block, _Code) and block.has_class("-math") == self.has_class("-math"):
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
        "paragraph_open": _Paragraph,
        "bullet_list_open": _BulletList,
        "ordered_list_open": _OrderedList,
        "fence": _Code,
        "code_block": _Code,
        "table_open": _Table,
    }

    def __init__(self, text: str) -> None:
        super().__init__(text, parser_factory=parser, open_links=False)
