"""An answer laid out token by token, each marked by how far it was moved, with a cursor."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.cache import LRUCache
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from eftlocal.study.inspection import LEVELS, InspectedToken, level
from eftlocal.terminal_text import printable

_SIGNS = (("", ""), ("", ""), ("‹", "›"), ("«", "»"))  # by level; color is never the only sign
_FAR = 2  # the level from which `far` stops at a token
_CLASSES = {f"token--{at}" for at in range(1, len(LEVELS) + 1)}


def shown_text(token: InspectedToken) -> str:
    """A token's text; the label of one that has none."""
    return token.text if token.text and not token.control else token.label


def _styles(widget: Widget) -> list[Style]:
    """By level, of the theme in use."""
    return [Style(), *(widget.get_component_rich_style(name) for name in sorted(_CLASSES))]


class Scale(Static):
    """What the marks mean, after a few words."""

    COMPONENT_CLASSES = _CLASSES

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.words = ("", "")

    def say(self, before: str, after: str) -> None:
        self.words = before, after
        self.refresh()

    def render(self) -> Text:
        before, after = self.words
        text = Text(f"{before} ")
        if before:
            text.append(f"below {LEVELS[0]:g}")
            for at, (step, style) in enumerate(zip(LEVELS, _styles(self)[1:], strict=True), 1):
                left, right = _SIGNS[at]
                text.append("  ").append(f"{left}{step:g}+{right}", style)
            text.append(f"  {after}")
        return text


class TokenText(ScrollView, can_focus=True):
    """Lays tokens out in lines of the widget's width."""

    COMPONENT_CLASSES = _CLASSES | {"token--cursor"}

    class Cursor(Message):
        """The cursor stands on another token."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self) -> None:
        super().__init__()
        self._tokens: Sequence[InspectedToken] = ()
        self._levels: list[int] = []
        self._lines: list[list[tuple[int, str]]] = []
        self._line_of: list[int] = []
        self._at = 0
        self._strips: LRUCache[int, Strip] = LRUCache(500)

    def show(self, tokens: Sequence[InspectedToken], distances: Sequence[float]) -> None:
        """These tokens and how far each was moved, in [0, 1]; the cursor stays where it can."""
        self._tokens, self._levels = tokens, [level(distance) for distance in distances]
        self._at = min(self._at, max(len(tokens) - 1, 0))
        self._lay_out()
        if tokens:
            self._follow()
            self.post_message(self.Cursor(self._at))

    def move(self, by: int) -> None:
        self._go(self._at + by)

    def line(self, by: int) -> None:
        """The token of the line above or below that begins nearest."""
        if not self._tokens:
            return
        now = self._line_of[self._at]
        wanted = min(max(now + by, 0), len(self._lines) - 1)
        step = 1 if by > 0 else -1
        while 0 < wanted < len(self._lines) - 1 and not self._lines[wanted]:
            wanted += step
        row = [index for index, _ in self._lines[wanted]]
        place = next(i for i, (index, _) in enumerate(self._lines[now]) if index == self._at)
        if row:
            self._go(row[min(place, len(row) - 1)])

    def page(self, by: int) -> None:
        """A screen up or down."""
        self.line(by * max(self.size.height - 1, 1))

    def far(self, by: int) -> bool:
        """Goes to the next token that was moved far; whether there is one."""
        index = self._at + by
        while 0 <= index < len(self._tokens):
            if self._levels[index] >= _FAR:
                self._go(index)
                return True
            index += by
        return False

    def _go(self, index: int) -> None:
        index = min(max(index, 0), len(self._tokens) - 1)
        if self._tokens and index != self._at:
            for changed in (self._at, index):
                self._strips.discard(self._line_of[changed])
            self._at = index
            self._follow()
            self.refresh()
            self.post_message(self.Cursor(index))

    def _follow(self) -> None:
        self.scroll_to_region(Region(0, self._line_of[self._at], 1, 1), animate=False)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips.clear()

    def on_resize(self) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        width = max(self.scrollable_content_region.width, 10)
        lines: list[list[tuple[int, str]]] = [[]]
        line_of: list[int] = []
        used = 0
        for index, (token, at) in enumerate(zip(self._tokens, self._levels, strict=True)):
            before, after = _SIGNS[at]
            text = shown_text(token)
            shown = printable(text).replace("\t", "    ").replace("\n", "↵")
            shown = f"{before}{shown}{after}"
            cells = cell_len(shown)
            if used and used + cells > width:
                lines.append([])
                used = 0
            lines[-1].append((index, shown))
            line_of.append(len(lines) - 1)
            used += cells
            for _ in range(text.count("\n")):
                lines.append([])
                used = 0
        self._lines, self._line_of = lines, line_of
        self._strips.clear()
        self.virtual_size = Size(width, len(lines))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        number = y + self.scroll_offset.y
        base = self.rich_style
        if number >= len(self._lines):
            return Strip.blank(self.size.width, base)
        strip = self._strips.get(number)
        if strip is None:
            styles, cursor = _styles(self), self.get_component_rich_style("token--cursor")
            strip = self._strips[number] = Strip(
                Segment(text, base + (cursor if index == self._at else styles[self._levels[index]]))
                for index, text in self._lines[number]
            )
        return strip.adjust_cell_length(self.size.width, base)

    def token_at(self, line: int, cell: int) -> int | None:
        """The token at a place of the laid out text."""
        if not 0 <= line < len(self._lines) or not self._lines[line]:
            return None
        ends, used = [], 0
        for _, text in self._lines[line]:
            used += cell_len(text)
            ends.append(used)
        place = bisect_right(ends, cell)
        return self._lines[line][place][0] if place < len(ends) else None

    def on_click(self, event: events.Click) -> None:
        found = self.token_at(event.y + self.scroll_offset.y, event.x - self.gutter.left)
        if found is not None:
            self._go(found)
