"""The conversation as it is read: questions, answers, and notes of the program itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol, runtime_checkable

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.geometry import Region
from textual.widget import Widget
from textual.widgets import Button, Static

from eftlocal.terminal_text import one_line, printable
from eftlocal.thinking import Parts, parts
from eftlocal_tui.history import Figures, Turn
from eftlocal_tui.history.parts import left_out, sent_from
from eftlocal_tui.history.systems import systems
from eftlocal_tui.keys import bindings
from eftlocal_tui.text import outcome
from eftlocal_tui.widgets.gap import Gap
from eftlocal_tui.widgets.markdown import Streamed, code_blocks, open_fence
from eftlocal_tui.widgets.system_view import SystemView
from eftlocal_tui.widgets.thinking import ThinkingFold


class Note(Static):
    def __init__(self, text: str, *, error: bool = False) -> None:
        said = printable(text)
        super().__init__(f"Error: {said}" if error else said, markup=False)
        self.set_class(error, "-error")
        self.said = said


class MarkLine(Static):
    def __init__(self, what: str) -> None:
        super().__init__(markup=False)
        self.say(what)

    def say(self, what: str) -> None:
        self.update(f"╌╌ from here: {one_line(what)} ╌╌")


_FOLDED_LINES, _FOLDED_CHARACTERS = 30, 3_000


class Asked(NamedTuple):
    """Something is to be done with a turn."""

    what: str
    turn: Turn
    by: int = 0


@runtime_checkable
class ObeysTurns(Protocol):
    """A screen of turns."""

    async def obey_turn(self, asked: Asked) -> None:
        """Does what is asked."""


class TurnView(Vertical, can_focus=True):
    """A turn that can have the focus; what is done to it goes to the chat screen."""

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

    async def action_ask(self, what: str, by: int = 0) -> None:
        """What the screen does, until it is done: keys wait for it, and the next one finds the
        focus where this one has put it."""
        assert isinstance(self.screen, ObeysTurns)
        await self.screen.obey_turn(Asked(what, self.turn, by))

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


_AT_ONCE = 30  # turns that are laid out; more on demand
_AROUND = 4  # turns on each side of one that was far away

WELCOME = """\
Three models answer together: a large base, a small tuned model, and the one it was tuned from.

{chat.panel} shows the dials. Turn them at any time, also during an answer.
{chat.compare} compares the models. {chat.influence} shows which model moved each token.
{app.help} is help. {app.palette} lists all commands."""
_TRY = "Questions to try ({prompt.complete} puts one into the empty box):"


class Transcript(VerticalScroll, can_focus=False):
    """The turns. `spelled` puts the keys into a text of the program; `system` is the system prompt
    of the next answer."""

    def __init__(
        self, spelled: Callable[[str], str], system: Callable[[], str], *, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._spelled, self._system = spelled, system
        self._systems: dict[int | None, str] = {}  # by the turn that they begin to hold at
        self._part: tuple[int | None, str] = None, ""  # the first turn that is sent, and its line
        self._laying_out = asyncio.Lock()  # keys, buttons and messages may each begin to
        self._greeting = ""

    def compose(self) -> ComposeResult:
        self._systems = systems([], self._system())
        yield from self._told(None)
        yield self._welcome()

    def _told(self, turn_id: int | None) -> list[SystemView]:
        """The system prompt that begins to hold at a turn, or (None) after the last."""
        if turn_id not in self._systems:
            return []
        now = turn_id is None or self._system() == self._systems[turn_id]
        return [SystemView(self._systems[turn_id], "/system changes it" if now else "")]

    def _rows(self, turns: Sequence[Turn], live: int | None = None) -> list[Widget]:
        """Turns as they are shown, after the system prompts that begin to hold there, and the line
        before the first one that is still sent."""
        found: list[Widget] = []
        for turn in turns:
            found += self._told(turn.id)
            if turn.id == self._part[0]:
                found.append(self._part_line())
            found.append(self._view(turn, live=turn.id == live))
        return found

    def _part_line(self) -> Static:
        return Static(f"─ {self._part[1]} ─", classes="part", markup=False)

    def _welcome(self) -> Static:
        return Static(self._spelled(WELCOME) + self._greeting, id="welcome", markup=False)

    @property
    def greets(self) -> bool:
        """Whether nothing has been asked yet."""
        return bool(self.query("#welcome"))

    def greet(self, about: str, questions: Sequence[str]) -> None:
        """What the welcome says of the models, and questions to try."""
        lines = ["", one_line(about, 400)] if about else []
        if questions:
            lines += ["", self._spelled(_TRY), *(f"  {one_line(text)}" for text in questions)]
        self._greeting = "\n".join(["", *lines]) if lines else ""
        for welcome in self.query("#welcome").results(Static):
            welcome.update(self._spelled(WELCOME) + self._greeting)

    def _view(self, turn: Turn, *, live: bool = False) -> TurnView:
        if turn.role == "user":
            return QuestionView(turn, self._spelled(" ({turn.unfold} on this message unfolds it)"))
        return AnswerView(turn, self._spelled("{chat.continue} continues"), live=live)

    def on_mount(self) -> None:
        self.anchor()

    @property
    def views(self) -> list[TurnView]:
        return list(self.query(TurnView))

    @property
    def leaf(self) -> int | None:
        """The last turn that is shown; what is asked next follows it."""
        views = self.views
        return views[-1].turn.id if views else None

    async def show(self, turns: Sequence[Turn], *, live: int | None = None) -> None:
        """These turns and nothing else, from the end; the first ones wait for a button.

        Args:
            live: the answer that is being written.
        """
        hidden = max(0, len(turns) - _AT_ONCE)
        async with self._at_once():
            await self.remove_children()
            self._systems = systems(turns, self._system())
            first = turns[0].id if turns else None
            rows: list[Widget] = [*self._told(first)]
            self._systems.pop(first, None)  # it stands at the top, also above a gap
            if hidden:
                rows.append(Gap(turns[:hidden], first=True))
            begin = sent_from(turns)
            self._part = None, left_out(turns, begin) if begin else ""
            if 0 < begin < len(turns):
                self._part = turns[begin].id, self._part[1]
            rows += self._rows(turns[hidden:], live)
            if begin and begin == len(turns):
                rows.append(self._part_line())
            rows += self._told(None) if turns else [self._welcome()]
            await self.mount_all(rows)
        self.follow()

    async def show_system(self) -> None:
        """The system prompt of the next answer is another one."""
        async with self._at_once():
            turns, last = self.turns, self.views[-1] if self.views else None
            below = self.children.index(last) + 1 if last is not None else 0
            rows = list(self.children)
            for row in {*rows[:1], *rows[below:]}:
                if isinstance(row, SystemView):
                    await row.remove()
            self._systems = systems(turns, self._system())
            if last is not None:
                await self.mount_all(self._told(None), after=last)
            first = turns[0].id if turns else None
            await self.mount_all(self._told(first), before=0)
            self._systems.pop(first, None)

    @asynccontextmanager
    async def _at_once(self) -> AsyncIterator[None]:
        """What lays turns out waits for others that do, and shows all of it together."""
        async with self._laying_out:
            with self.app.batch_update():
                yield

    @property
    def turns(self) -> list[Turn]:
        """All turns of the branch, laid out or not; an answer that comes with what it has."""
        found: list[Turn] = []
        for child in self.children:
            if isinstance(child, TurnView):
                found.append(child.turn.model_copy(update={"text": child.text}))
            elif isinstance(child, Gap):
                found += child.turns
        return found

    async def reveal(self, turn_id: int) -> TurnView | None:
        """Lays a turn out, with those around it; None where it is not of this branch."""
        for gap in self.query(Gap):
            at = gap.index(turn_id)
            if at is not None:
                await self._open(gap, at - _AROUND, at + _AROUND + 1)
        return self.view_of(turn_id)

    def bring(self, view: TurnView, line: Callable[[], Region]) -> None:
        """Scrolls to a line in a turn once all is laid out; a third of the view is above it."""

        def scroll() -> None:
            if view.is_attached:
                above = self.scrollable_content_region.height // 3
                within = line().y - view.region.y
                top = view.virtual_region.y + within - above
                self.scroll_to(y=top, animate=False, immediate=True)

        self.release_anchor()
        self.call_after_refresh(scroll)

    async def beside(self, view: TurnView, by: int) -> TurnView | None:
        """The turn above (-1) or below (1); None at the ends."""
        views = [child for child in self.children if isinstance(child, (TurnView, Gap))]
        at = views.index(view) + by if view in views else -1
        if not 0 <= at < len(views):
            return None
        found = views[at]
        if isinstance(found, Gap):
            turn = found.turns[-1 if by < 0 else 0]
            await self._open_end(found, last=by < 0)
            return self.view_of(turn.id)
        return found

    async def _open_end(self, gap: Gap, *, last: bool) -> None:
        begin = len(gap.turns) - _AT_ONCE if last else 0
        await self._open(gap, begin, begin + _AT_ONCE)

    async def _open(self, gap: Gap, begin: int, end: int) -> None:
        """Lays out some of the turns that a gap stands for; others stay in gaps around them."""
        begin = begin if begin > _AROUND else 0  # no gap is left for a few
        end = end if len(gap.turns) - end > _AROUND else len(gap.turns)
        above, shown, below = gap.turns[:begin], gap.turns[begin:end], gap.turns[end:]
        async with self._at_once():
            if gap not in self.children or gap.turns != [*above, *shown, *below]:
                return  # others were shown meanwhile
            gap.keep(above)
            self.release_anchor()
            new = self._rows(shown)
            if below:
                new.append(Gap(below, first=False))
            await self.mount_all(new, after=gap)
            if not above:
                await gap.remove()

    async def add(self, turn: Turn) -> TurnView:
        """A turn at the end; an answer comes from now on."""
        await self.query("#welcome").remove()
        view = self._view(turn, live=True)
        await self.mount(view)
        return view

    async def say(self, text: str, *, error: bool = False) -> None:
        """A line of the program itself."""
        await self.query("#welcome").remove()
        await self.mount(Note(text, error=error))
        self.follow()

    def has_said(self, text: str) -> bool:
        """Whether a line of the program itself says this."""
        return any(note.said == printable(text) for note in self.query(Note))

    def follow(self) -> None:
        """Follow the end from here on."""
        self.anchor()

    def view_of(self, turn_id: int) -> TurnView | None:
        return next((view for view in self.views if view.turn.id == turn_id), None)

    async def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        if isinstance(event.button, Gap):
            await self._open_end(event.button, last=event.button.first)
