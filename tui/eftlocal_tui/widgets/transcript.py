"""The conversation as it is read: its messages, what stands between them, and notes of the program
itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.geometry import Region
from textual.widget import Widget
from textual.widgets import Button, Static

from eftlocal.terminal_text import one_line, printable
from eftlocal_tui.history import Turn
from eftlocal_tui.history.parts import left_out, sent_from, systems
from eftlocal_tui.widgets.turn_view import AnswerView, QuestionView, TurnView


class Note(Static):
    def __init__(self, text: str, *, error: bool = False) -> None:
        said = printable(text)
        super().__init__(f"Error: {said}" if error else said, markup=False)
        self.set_class(error, "-error")
        self.said = said


class SystemView(Static):
    """What the models are told before the messages below.

    Args:
        text: empty where nothing is told any more.
        more: what is said of how to change it.
    """

    def __init__(self, text: str, more: str) -> None:
        said = f"System prompt: {one_line(text, _SYSTEM)}" if text else "No system prompt from here"
        super().__init__(f"{said} · {more}" if more else said, markup=False)


class Gap(Button):
    """So many turns between those that are laid out; pressed, the next ones are.

    Attributes:
        turns: in their order.
    """

    def __init__(self, turns: Sequence[Turn], *, first: bool) -> None:
        self.turns = list(turns)
        self._first = first  # nothing stands above it
        super().__init__(self._said, classes="gap", compact=True)

    @property
    def _said(self) -> str:
        return f"Show {len(self.turns):,} {'earlier' if self._first else 'more'}"

    @property
    def first(self) -> bool:
        return self._first

    def index(self, turn_id: int) -> int | None:
        """Where a turn is in it."""
        return next((i for i, turn in enumerate(self.turns) if turn.id == turn_id), None)

    def keep(self, turns: Sequence[Turn]) -> None:
        """It stands for these only."""
        self.turns = list(turns)
        self.label = self._said


_SYSTEM = 120  # characters
_AT_ONCE = 30  # turns that are laid out; more on demand
_AROUND = 4  # turns on each side of one that was far away

WELCOME = """\
Three models answer together: a large base, a small tuned model, and the one it was tuned from.

{chat.dials} goes to the dials. Turn them at any time, also during an answer.
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
