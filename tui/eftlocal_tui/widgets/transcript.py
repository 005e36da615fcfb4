"""The conversation as it is read: follows the end until the reader scrolls away from it."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Button, Static

from eftlocal_tui.history import Turn
from eftlocal_tui.widgets.note import Note
from eftlocal_tui.widgets.turns import AnswerView, QuestionView, TurnView

_AT_ONCE = 30  # turns that are laid out; more on demand

WELCOME = """\
Three models answer together here: a large base, a small tuned model and what that was before.

Write a message and press Enter.     Ctrl+B shows the dials: they turn while it speaks.
F1 helps.  Ctrl+P lists everything.  F5 compares the models.  F6 shows what moved each word."""


class Transcript(VerticalScroll, can_focus=False):
    DEFAULT_CSS = """
    Transcript { scrollbar-size-vertical: 1; }
    Transcript > #welcome { color: $text-muted; margin: 1 2; height: auto; }
    Transcript > #earlier { margin: 0 1 1 1; width: 1fr; }
    """

    def compose(self) -> ComposeResult:
        yield Static(WELCOME, id="welcome", markup=False)

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

    async def show(self, turns: Sequence[Turn], *, earlier: int = 0) -> None:
        """These turns and nothing else, from the end; the first ones wait for a button."""
        hidden = max(0, len(turns) - _AT_ONCE)
        with self.app.batch_update():
            await self.remove_children()
            if not turns:
                await self.mount(Static(WELCOME, id="welcome", markup=False))
            if hidden:
                await self.mount(Button(f"Show {hidden} earlier", id="earlier", compact=True))
            self._hidden = list(turns[:hidden])
            await self.mount_all(_view(turn) for turn in turns[hidden:])
        self.follow()

    async def show_earlier(self) -> None:
        """The next turns before those that are shown."""
        shown, self._hidden = self._hidden[-_AT_ONCE:], self._hidden[:-_AT_ONCE]
        button = self.query_one("#earlier", Button)
        self.anchor(False)
        await self.mount_all([_view(turn) for turn in shown], after=button)
        if self._hidden:
            button.label = f"Show {len(self._hidden)} earlier"
        else:
            await button.remove()

    async def add(self, turn: Turn) -> TurnView:
        """A turn at the end; an answer comes from now on."""
        await self.query("#welcome").remove()
        view = _view(turn, live=True)
        await self.mount(view)
        return view

    async def say(self, text: str, *, error: bool = False) -> None:
        """A line of the program itself."""
        await self.query("#welcome").remove()
        await self.mount(Note(text, error=error))
        self.follow()

    def follow(self) -> None:
        """Follow the end from here on."""
        self.anchor()

    def view_of(self, turn_id: int) -> TurnView | None:
        return next((view for view in self.views if view.turn.id == turn_id), None)

    async def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        await self.show_earlier()


def _view(turn: Turn, *, live: bool = False) -> TurnView:
    return QuestionView(turn) if turn.role == "user" else AnswerView(turn, live=live)
