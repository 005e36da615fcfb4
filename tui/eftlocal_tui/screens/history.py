"""All conversations: found, resumed, named, put away, exported."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from eftlocal.terminal_text import one_line
from eftlocal_tui.history import Conversation, Hit, Place, export_file, free_name
from eftlocal_tui.history.search import LONGEST_QUERY
from eftlocal_tui.keys import bindings
from eftlocal_tui.screens.base import BaseScreen, Services
from eftlocal_tui.screens.dialogs import AskText, Confirm
from eftlocal_tui.text import fitted
from eftlocal_tui.widgets.key_bar import KeyBar

_PAGE = 100
_NARROWEST = 40  # columns that a line is cut to at least
_SEARCH = "Search titles and messages"


class Chosen(NamedTuple):
    """A conversation to open, and the turn in it that a search for these words found."""

    conversation: int
    turn: int | None = None
    words: str = ""


class SearchBox(Input):
    """The words to search for; the list is one key away."""

    BINDINGS = bindings("search")

    def action_list(self) -> None:
        self.screen.set_focus(self.screen.query_one(OptionList))


class HistoryScreen(BaseScreen[Chosen | None]):
    """Gives what was chosen, or None."""

    BINDINGS = bindings("history")
    PLACE = "history"
    AUTO_FOCUS = "#found"

    def __init__(self, services: Services, *, words: str = "", now: int | None = None) -> None:
        super().__init__()
        self._history = services.history
        self._kept = services.kept
        self._words = words
        self._now = now
        self._archived = False
        self._last: Conversation | None = None
        self._more = False  # of the list
        self._places: list[Place] = []  # that a search found

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        yield SearchBox(
            self._words, placeholder=_SEARCH, id="words", compact=True, max_length=LONGEST_QUERY
        )
        yield OptionList(id="found", markup=False)
        yield KeyBar()

    async def on_mount(self) -> None:
        await self.doing(self._show())

    @property
    def _list(self) -> OptionList:
        return self.query_one(OptionList)

    @property
    def _chosen(self) -> int | None:
        option = self._list.highlighted_option
        return int(option.id) if option is not None and option.id is not None else None

    async def _show(self, keep: int | None = None) -> None:
        words = self.query_one(Input).value.strip()
        found = self._list
        found.clear_options()
        self._last, self._more, self._places = None, not words, []
        if words:
            self._places = self._history.search.places(words)
        self._add_page()
        ids = [option.id for option in found.options]
        if ids:
            wanted = str(keep if keep is not None else self._now)
            found.highlighted = ids.index(wanted) if wanted in ids else 0

    def _add_page(self) -> None:
        words = self.query_one(Input).value.strip()
        width = max(_NARROWEST, self.app.size.width - 6)
        what = "archived" if self._archived else "newest first"
        if words:
            begin = self._list.option_count
            hits = self._history.search.hits(words, self._places[begin : begin + _PAGE])
            self._list.add_options(_hit(hit, width) for hit in hits)
            shown, total = self._list.option_count, len(self._places)
            what = f"{total:,} found"
            if shown < total:
                what = f"{shown:,} of {total:,} shown; type more words, or scroll down"
        elif self._more:
            page = self._history.conversations.list(self._archived, _PAGE, self._last)
            self._more = len(page) == _PAGE
            self._last = page[-1] if page else self._last
            there = {option.id for option in self._list.options}
            self._list.add_options(
                _listed(found, time.time(), width) for found in page if str(found.id) not in there
            )
        self.query_one("#head", Static).update(f"Conversations · {what}")

    async def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        more = self._more or self._list.option_count < len(self._places)
        if more and event.option_index >= self._list.option_count - 10:
            self._add_page()

    async def on_option_list_option_selected(self) -> None:
        await self.doing(self.action_resume())

    async def on_input_changed(self) -> None:
        await self.doing(self._show())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """While words are typed, letters are letters."""
        return action == "back" or not isinstance(self.focused, SearchBox)

    def action_search(self) -> None:
        self.set_focus(self.query_one(Input))

    async def action_resume(self) -> None:
        chosen = self._chosen
        if chosen is None:
            return
        words, turn = self.query_one(Input).value.strip(), None
        places = self._history.search.places(words, chosen)
        if places:
            turn = places[0].turn
            assert turn is not None
            self._history.turns.switch(turn)  # to its branch
        self.leave(Chosen(chosen, turn, words))

    def action_rename(self) -> None:
        if self._chosen is not None:
            found = self._history.conversations.get(self._chosen)
            question = AskText("Name (empty: the first words of the conversation)", found.title)
            self.ask(question, partial(self._rename, found))

    async def _rename(self, found: Conversation, title: str | None) -> None:
        if title is not None:
            self._history.conversations.rename(found.id, title)
            await self._show(found.id)

    async def action_archive(self) -> None:
        if self._chosen is not None:
            conversations = self._history.conversations
            archived = not conversations.get(self._chosen).archived
            conversations.archive(self._chosen, archived)
            self.notify(
                "Archived; {history.archived} shows the archive" if archived else "Unarchived"
            )
            await self._show()

    async def action_archived(self) -> None:
        self._archived = not self._archived
        box = self.query_one(Input)
        if box.value:  # a search is in both
            self._archived, box.value = True, ""  # shows it
        else:
            await self._show()

    async def action_duplicate(self) -> None:
        if self._chosen is not None:
            self._history.conversations.duplicate(self._chosen)
            await self._show()

    def action_delete(self) -> None:
        if self._chosen is not None:
            found = self._history.conversations.get(self._chosen)
            question = f"Delete “{one_line(found.title, 40)}”, all branches?"
            self.ask(Confirm(question, "Delete"), partial(self._delete, found))

    async def _delete(self, found: Conversation, yes: bool | None) -> None:
        if yes:
            self._history.conversations.delete(found.id)
            self._kept.deleted(found.id)
            self.notify("Deleted")
            await self._show()

    def action_export(self) -> None:
        chosen = self._chosen
        if chosen is not None:
            names = []
            for suffix in (".md", ".json"):
                path = free_name(Path.cwd(), f"chat-{chosen}", suffix)
                names.append(export_file(self._history, [chosen], path).name)
            self.notify(f"Exported to {' and '.join(names)}")

    def action_back(self) -> None:
        if self.focused is not self._list and self._list.option_count:
            self.set_focus(self._list)
        else:
            self.leave(None)


def _listed(found: Conversation, now: float, width: int) -> Option:
    count = f"{found.turns} message{'s' * (found.turns != 1)}"
    figures = f"  #{found.id} · {_when(found.updated, now)} · {count}"
    text = Text(fitted(found.title, width - len(figures)), style="bold")
    text.append(figures, style="not bold dim")
    text.append(f"\n{fitted(found.snippet, width)}", style="not bold dim")
    return Option(text, id=str(found.id))


def _hit(hit: Hit, width: int) -> Option:
    found = hit.conversation
    figures = f"  #{found.id}"
    if hit.turns:
        figures += f" · in {hit.turns} message{'s' * (hit.turns != 1)}"
    figures += " · archived" * found.archived
    excerpt = Text(one_line(hit.excerpt, 300))
    for start, end in hit.spans:
        excerpt.stylize("reverse", start, end)
    title = Text(fitted(found.title, width - len(figures)), "bold")
    title.append(figures, "not bold dim")
    return Option(Text.assemble(title, "\n", excerpt), id=str(found.id))


def _when(then: float, now: float) -> str:
    seconds = max(0, now - then)
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit} ago"
    return datetime.fromtimestamp(then).strftime("%d %b %Y")
