"""Finding words in the conversation that the chat shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from eftlocal_tui.history.search import pattern
from eftlocal_tui.widgets.find_bar import FindBar
from eftlocal_tui.widgets.marks import Marks
from eftlocal_tui.widgets.turn_view import TurnView

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen


class _At(NamedTuple):
    """Words that were found in a turn: where they begin in its text, and how many come after."""

    turn: int
    begin: int
    later: int


class ChatFind:
    """Looks in the whole branch, also where it is folded or not laid out.

    What is typed is looked for as it stands. Words that a search in all conversations found are
    looked for each on its own, in the messages that have all of them.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self._marks = Marks()
        self._apart = ""  # words that are looked for each on its own, as long as they stand there
        self._at: _At | None = None
        self._top: int | None = None  # the turn from which on new words are looked for first

    @property
    def bar(self) -> FindBar:
        return self.screen.query_one(FindBar)

    @property
    def view(self) -> TurnView | None:
        """The turn of what is meant now."""
        return self.screen.transcript.view_of(self._at.turn) if self._at else None

    def open(self, words: str = "") -> None:
        """Shows the bar, to be typed in."""
        bar = self.bar
        if not bar.display:
            self._top = next((view.turn.id for view in self._in_view()), None)
        bar.display = True
        if words:
            bar.box.value = words
        self.screen.set_focus(bar.box)
        bar.box.select_all()

    async def open_at(self, turn: int, words: str) -> None:
        """Shows the bar with words of a search, and goes to the turn that it found."""
        self._apart = words
        with self.bar.prevent(FindBar.Changed):
            self.open(words)
        found = self._found()
        self._at = next((at for at in found if at.turn == turn), _At(turn, 0, 0))
        await self._show()

    async def changed(self) -> None:
        """Other words: goes to the first of them from where the person was, or to the last."""
        words = self.bar.box.value
        if words != self._apart:
            self._apart = ""
        elif self._at is not None:  # the words of `open_at`
            return
        found = self._found()
        turns = [turn.id for turn in self.screen.transcript.turns]
        after = set(turns[turns.index(self._top) if self._top in turns else 0 :])
        self._at = next((at for at in found if at.turn in after), found[-1] if found else None)
        await self._show()

    async def step(self, by: int) -> None:
        """On to the next, or back to the last; around at the ends."""
        found = self._found()
        if found:
            at = found.index(self._at) + by if self._at in found else 0
            self._at = found[at % len(found)]
            self._top = self._at.turn
        await self._show()

    def close(self) -> None:
        """Takes bar and marks away; the view stays where it is."""
        self._apart, self._at = "", None
        self._clear()
        self.bar.display = False
        if self.screen.focused is self.bar.box or self.screen.focused is None:
            self.screen.set_focus(self.screen.prompt)

    @property
    def _words(self) -> re.Pattern[str] | None:
        words = self.bar.box.value
        if not words.strip():
            return None
        return pattern(words.split() if self._apart else [words])

    def _found(self) -> list[_At]:
        words = self._words
        if words is None:
            return []
        every = [word.casefold() for word in self._apart.split()]
        found: list[_At] = []
        for turn in self.screen.transcript.turns:
            read = [range(*part.indices(len(turn.text))) for part in turn.read]
            begins = [
                match.start()
                for match in words.finditer(turn.text)
                if any(match.start() in part and match.end() <= part.stop for part in read)
            ]
            if all(word in turn.text.casefold() for word in every):
                found += [_At(turn.id, at, len(begins) - n) for n, at in enumerate(begins, 1)]
        return found

    async def _show(self) -> None:
        """Marks what was found, and brings what is meant into view."""
        self._clear()
        found, words, at = self._found(), self._words, self._at
        if words is None or at is None:
            self.bar.say("" if words is None else "not found")
            return
        where = found.index(at) + 1 if at in found else 0
        self.bar.say(f"{where:,}/{len(found):,}")
        view = await self.screen.transcript.reveal(at.turn)
        if view is None:
            self.bar.say("further up than what is shown")
            return
        view.add_class("-found")
        view.show_at(at.begin)
        turns = {one.turn for one in found}
        for other in self.screen.transcript.views:
            if other is not view and other.turn.id in turns and not other.comes:
                self._marks.put(other, words)
        meant = None if view.comes else self._marks.put(view, words, at.later)
        self.screen.transcript.bring(view, lambda: meant.region if meant else view.region)

    def _clear(self) -> None:
        self._marks.clear()
        for view in self.screen.transcript.views:
            view.remove_class("-found")

    def _in_view(self) -> list[TurnView]:
        transcript = self.screen.transcript
        seen = transcript.content_region
        return [view for view in transcript.views if view.region.overlaps(seen)]
