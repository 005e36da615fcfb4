"""An answer coloured and marked by how far the combination moved each of its tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import message
from textual.app import ComposeResult
from textual.cache import LRUCache
from textual.containers import Vertical
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Footer, Static

from eftlocal.errors import EftlocalError
from eftlocal.prompt.messages import Message
from eftlocal.study.inspection import LEVELS, InspectedToken, level
from eftlocal.terminal_text import one_line, printable
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import Moved, Reading, tasks
from eftlocal_tui.engine.tasks import StoppedError, Task
from eftlocal_tui.keys import bindings, spelled
from eftlocal_tui.screens.base import BaseScreen, Services

# Ink is given with the paper, so that both are readable on dark and light themes.
_STYLES = (
    Style(),
    Style.parse("black on #ffe0b8"),
    Style.parse("underline black on #ffb866"),
    Style.parse("bold underline black on #ff9447"),
)
_MARKS = (("", ""), ("", ""), ("‹", "›"), ("«", "»"))
_KEYS = (
    "{influence.left} {influence.right} token, {influence.up} {influence.down} line, "
    "{influence.next} {influence.last} far moved"
)
_FAR = 2  # the level from which `most` stops at a token


def _legend(keymap: Mapping[str, str]) -> Text:
    text = Text("below ")
    text.append(f"{LEVELS[0]:g}")
    for reached, step in enumerate(LEVELS, 1):
        before, after = _MARKS[reached]
        text.append("  ")
        text.append(f"{before}from {step:g}{after}", _STYLES[reached])
    text.append(f"   {spelled(_KEYS, keymap)}")
    return text


class TokenText(ScrollView, can_focus=True):
    """Lays tokens out in lines of the widget's width."""

    class Cursor(message.Message):
        """The cursor stands on another token."""

        def __init__(self, token: InspectedToken, distance: float, index: int, count: int) -> None:
            super().__init__()
            self.token, self.distance = token, distance
            self.index, self.count = index, count

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[tuple[InspectedToken, float]] = []
        self._lines: list[list[tuple[int, str]]] = []
        self._line_of: list[int] = []
        self._at = 0
        self._strips: LRUCache[int, Strip] = LRUCache(500)

    def show(self, moved: Moved) -> None:
        self._shown = list(zip(moved.tokens, moved.distances, strict=True))
        self._at = 0
        self._lay_out()
        self._tell()
        self.focus()

    def move(self, by: int) -> None:
        self._go(self._at + by)

    def line(self, by: int) -> None:
        """The token of the line above or below that begins nearest."""
        if not self._shown:
            return
        now = self._line_of[self._at]
        wanted = min(max(now + by, 0), len(self._lines) - 1)
        while 0 < wanted < len(self._lines) - 1 and not self._lines[wanted]:
            wanted += by
        row = [index for index, _ in self._lines[wanted]]
        place = next(i for i, (index, _) in enumerate(self._lines[now]) if index == self._at)
        if row:
            self._go(row[min(place, len(row) - 1)])

    def most(self, by: int) -> None:
        """The next token that was moved far."""
        index = self._at + by
        while 0 <= index < len(self._shown):
            if level(self._shown[index][1]) >= _FAR:
                self._go(index)
                return
            index += by

    def _go(self, index: int) -> None:
        if self._shown and index != self._at:
            self._at = min(max(index, 0), len(self._shown) - 1)
            self._strips.clear()
            self.scroll_to_region(Region(0, self._line_of[self._at], 1, 1), animate=False)
            self.refresh()
            self._tell()

    def _tell(self) -> None:
        if self._shown:
            self.post_message(self.Cursor(*self._shown[self._at], self._at, len(self._shown)))

    def on_resize(self) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        width = max(self.scrollable_content_region.width, 10)
        lines: list[list[tuple[int, str]]] = [[]]
        line_of: list[int] = []
        used = 0
        for index, (token, distance) in enumerate(self._shown):
            before, after = _MARKS[level(distance)]
            shown = printable(_text(token)).replace("\t", "    ").replace("\n", "↵")
            text = f"{before}{shown}{after}"
            cells = Text(text).cell_len
            if used and used + cells > width:
                lines.append([])
                used = 0
            lines[-1].append((index, text))
            line_of.append(len(lines) - 1)
            used += cells
            for _ in range(_text(token).count("\n")):
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
            segments = []
            for index, text in self._lines[number]:
                style = base + _STYLES[level(self._shown[index][1])]
                if index == self._at:
                    style += Style(reverse=True, bold=True)
                segments.append(Segment(text, style))
            strip = Strip(segments)
            self._strips[number] = strip
        return strip.adjust_cell_length(self.size.width, base)

    def token_at(self, line: int, cell: int) -> int | None:
        """The token at a place of the laid out text."""
        if not 0 <= line < len(self._lines) or not self._lines[line]:
            return None
        ends, used = [], 0
        for _, text in self._lines[line]:
            used += Text(text).cell_len
            ends.append(used)
        place = bisect_right(ends, cell)
        return self._lines[line][place][0] if place < len(ends) else None

    def on_click(self, event: object) -> None:
        x, y = getattr(event, "x", 0), getattr(event, "y", 0)
        found = self.token_at(y + self.scroll_offset.y, x - self.gutter.left)
        if found is not None:
            self._go(found)


_WON = {
    "agreed": "every model's first choice",
    "shared": "the first choice of several models, not all",
    "combination": "no model's first choice, only the combination's",
    "nobody": "nobody's first choice: it was sampled",
}


class InfluenceScreen(BaseScreen[None]):
    BINDINGS = bindings("influence")
    PLACE = "influence"

    def __init__(
        self,
        services: Services,
        messages: Sequence[Message],
        answer: str | Sequence[int],
        dials: Dials,
        *,
        marked: bool = False,
    ) -> None:
        super().__init__()
        self._services = services
        self._messages, self._answer, self._dials = messages, answer, dials
        self._marked = marked
        self._job: Task[Reading, Moved] | None = None

    def compose(self) -> ComposeResult:
        yield Static("Which model moved each token", id="head", markup=False)
        yield Static("Every model reads the answer again …", id="legend")
        with Vertical():
            yield TokenText()
        yield Static("", id="token")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.start(self._read())

    async def _read(self) -> None:
        services = self._services
        self._job = task = tasks.inspect(
            services.thread, services.engine, self._messages, self._answer, self._dials
        )
        try:
            moved = await task.result()
        except StoppedError:
            return
        except EftlocalError as error:
            self.query_one("#legend", Static).update(Text(f"Error: {one_line(str(error), 400)}"))
            return
        legend = Text.assemble(one_line(moved.measure), "\n", _legend(services.settings.keys))
        if self._marked:
            legend.append("\nThe dials changed during this answer; these are the first ones.")
        self.query_one("#legend", Static).update(legend)
        self.query_one(TokenText).show(moved)

    def on_token_text_cursor(self, event: TokenText.Cursor) -> None:
        self.query_one("#token", Static).update(_detail(event))

    def action_move(self, by: int) -> None:
        self.query_one(TokenText).move(by)

    def action_line(self, by: int) -> None:
        self.query_one(TokenText).line(by)

    def action_most(self, by: int) -> None:
        self.query_one(TokenText).most(by)

    def action_back(self) -> None:
        if self._job is not None:
            self._job.stop()
        self.leave(None)


def _text(token: InspectedToken) -> str:
    return token.text if token.text and not token.control else token.label


def _detail(at: TokenText.Cursor) -> Text:
    token = at.token
    won = _WON.get(token.won, f"the first choice of {token.won} alone")
    text = Text(f"{at.index + 1}/{at.count} {_quoted(_text(token))}", style="bold")
    text.append(f"  moved {at.distance:.2f} · {won}", style="not bold")
    for name, probability in token.probabilities.items():
        row = Text(f"\n{name:<12} {probability:>6.1%} │ ", style="not bold")
        for candidate in token.candidates.get(name, ()):
            row.append(_quoted(candidate.label), style="bold")
            row.append(f" {candidate.probability:.0%}  ")
        text.append_text(row)
    return text


def _quoted(text: str) -> str:
    return "“" + one_line(text.replace("\n", "↵").replace(" ", "·"), 24) + "”"
