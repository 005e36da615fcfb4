"""A message of the conversation as it is read: a question, or an answer that may still grow."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from eftlocal.terminal_text import one_line, printable
from eftlocal.thinking import Parts, parts
from eftlocal_tui.history import Figures, Turn
from eftlocal_tui.keys import bindings
from eftlocal_tui.text import outcome
from eftlocal_tui.widgets.markdown import Streamed, code_blocks, open_fence
from eftlocal_tui.widgets.thinking import ThinkingFold


class MarkLine(Static):
    def __init__(self, what: str) -> None:
        super().__init__(markup=False)
        self.say(what)

    def say(self, what: str) -> None:
        self.update(f"╌╌ from here: {one_line(what)} ╌╌")


_FOLDED_LINES, _FOLDED_CHARACTERS = 30, 3_000


class TurnView(Vertical, can_focus=True):
    """A turn that can have the focus; what its keys do to it is the chat screen's."""

    BINDINGS = bindings("turn")

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.turn = turn
        self._copied = 0

    @property
    def text(self) -> str:
        return self.turn.text

    @property
    def answer(self) -> str:
        """The text without any thinking."""
        return self.text

    @property
    def comes(self) -> bool:
        """Whether its text is being written."""
        return False

    def code(self) -> str | None:
        """The next code block of the answer, the last one first; None if it has none."""
        blocks = code_blocks(self.answer)
        if not blocks:
            return None
        self._copied += 1
        return blocks[-1 - (self._copied - 1) % len(blocks)]

    def head(self, name: str) -> Text:
        found = Text(name)
        if self.turn.branches > 1:
            found.append(f"  ◂ {self.turn.branch}/{self.turn.branches} ▸")
        return found

    def action_unfold(self) -> None:
        """Nothing is folded here."""

    def show_at(self, at: int) -> None:
        """Unfolds what is folded, if that place in the text is in it."""


class QuestionView(TurnView):
    """What a person asked: plain text, folded when it is long."""

    def __init__(self, turn: Turn, unfolds: str = "") -> None:
        super().__init__(turn)
        self._unfolds = unfolds
        self._shown = printable(turn.text)
        lines = self._shown.split("\n")
        self._short = "\n".join(lines[:_FOLDED_LINES])[:_FOLDED_CHARACTERS]
        self._folded = len(self._short) < len(self._shown)

    def compose(self) -> ComposeResult:
        yield Static(self.head("You"), classes="head")
        yield Static(self._text(), classes="text", markup=False)

    def _text(self) -> str:
        if not self._folded:
            return self._shown
        more = len(self._shown) - len(self._short)
        return f"{self._short}\n… {more:,} more characters{self._unfolds}"

    def action_unfold(self) -> None:
        if len(self._short) < len(self._shown):
            self._folded = not self._folded
            self.query_one(".text", Static).update(self._text())

    def show_at(self, at: int) -> None:
        if self._folded and at >= len(self._short):
            self.action_unfold()


class AnswerView(TurnView):
    """An answer as it comes (live), or as it was kept. `if_stopped` is said of one that was."""

    def __init__(self, turn: Turn, if_stopped: str = "", *, live: bool = False) -> None:
        super().__init__(turn)
        self._live, self._hint = live, if_stopped
        self._said = ""  # in the place of figures
        self._text = turn.text
        self._upto = 0  # characters of the text that are shown, or are no part of the answer
        self._fold = ThinkingFold()
        self._part = Streamed()

    @property
    def text(self) -> str:
        return self._text

    @property
    def answer(self) -> str:
        return self._text[self._parts().answer]

    @property
    def comes(self) -> bool:
        return self._live

    def show_at(self, at: int) -> None:
        thinking = self._parts().thinking
        if thinking is not None and thinking.start <= at < thinking.stop:
            self._fold.unfold()

    def _parts(self) -> Parts:
        return parts(self._text, self.turn.marks_of_thinking, ended=not self._live)

    def compose(self) -> ComposeResult:
        yield Static(self._head(), classes="head")
        yield self._fold
        yield from self._stretches()
        yield Static(self._foot(), classes="foot", markup=False)
        self._show_thinking(self._parts())

    def _stretches(self) -> list[Streamed | MarkLine]:
        """The answer, parted where dials were turned; of those that were while it thought it is
        told before it."""
        found: list[Streamed | MarkLine] = []
        answer = self._parts().answer
        begin = answer.start
        for mark in self.turn.marks:
            if mark.char > begin:
                found.append(self._stretch(begin, mark.char))
                begin = mark.char
            found.append(MarkLine(mark.what))
        self._part = self._stretch(begin, answer.stop)
        self._upto = answer.stop if begin < answer.stop else 0
        return [*found, self._part]

    def _stretch(self, begin: int, end: int) -> Streamed:
        return Streamed(self._text[begin:end], fence=self._fence(begin))

    def _fence(self, at: int) -> str:
        """The code fence that the answer has open there."""
        return open_fence(self._text[self._parts().answer.start : at])

    def _head(self) -> Text:
        settings = self.turn.settings
        name = one_line((settings.preset if settings else None) or "Answer", 40)
        return self.head(name)

    def _foot(self) -> str:
        if self._live:
            return "…"
        return self._said or printable(outcome(self.turn, self._hint, short=not self.has_focus))

    def watch_has_focus(self, has_focus: bool) -> None:
        super().watch_has_focus(has_focus)
        self._show_foot()

    def _show_foot(self) -> None:
        if self.is_mounted:
            self.query_one(".foot", Static).update(self._foot())
            self.set_class(self.turn.state == "error", "-failed")

    def _show_thinking(self, found: Parts) -> None:
        if found.thinking is not None:
            self._fold.show(self._text[found.thinking], going=found.open and self._live)

    def tell(self, figures: Figures | None) -> None:
        """What it took so far."""
        if figures is not None:
            self._fold.tell(figures.thinking)

    def on_mount(self) -> None:
        self.set_class(self.turn.state == "error", "-failed")
        self.tell(self.turn.figures)

    def action_unfold(self) -> None:
        self._fold.toggle()

    async def append(self, text: str) -> None:
        self._text += text
        await self._show()

    async def _show(self) -> None:
        found = self._parts()
        self._show_thinking(found)
        begin = max(self._upto, found.answer.start)
        if begin < found.answer.stop:
            self._upto = found.answer.stop
            await self._part.append(self._text[begin : self._upto])

    async def mark(self, what: str, *, again: bool = False) -> None:
        """From here on the answer follows other dials; again: so says the last mark."""
        if again:
            self.query(MarkLine).last().say(what)
            return
        await self._part.finish()
        self._part = Streamed(fence=self._fence(self._upto))
        await self.mount(MarkLine(what), self._part, before=self.query_one(".foot"))

    async def finish(self, turn: Turn, said: str = "") -> None:
        """The answer has ended: `turn` is what was kept of it; `said` stands in the place of its
        figures."""
        self._live, self.turn, self._said = False, turn, said
        self.tell(turn.figures)
        await self._show()
        await self._part.finish()
        self._show_foot()
        if self.is_mounted:
            self.query_one(".head", Static).update(self._head())
