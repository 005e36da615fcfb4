"""All conversations: found, resumed, named, put away, exported."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from eftlocal.terminal_text import one_line
from eftlocal_tui.history import Conversation, Hit, export_file, free_name
from eftlocal_tui.keys import bindings
from eftlocal_tui.screens.base import BaseScreen, Services
from eftlocal_tui.screens.dialogs import AskText, Confirm
from eftlocal_tui.text import fitted

_PAGE = 100


class HistoryScreen(BaseScreen[int | None]):
    """Gives the conversation that was chosen, or None."""

    BINDINGS = bindings("history")
    PLACE = "history"
    AUTO_FOCUS = "#found"

    def __init__(self, services: Services, *, words: str = "", now: int | None = None) -> None:
        super().__init__()
        self._history = services.history
        self._words = words
        self._now = now
        self._archived = False
        self._last: Conversation | None = None
        self._more = False

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        yield Input(self._words, placeholder="Search titles and messages", id="words")
        yield OptionList(id="found", markup=False)
        yield Footer(compact=True)

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
        self._more = False
        if words:
            hits = self._history.search(words, limit=_PAGE)
            found.add_options(_hit(hit) for hit in hits)
            what = f"{len(hits)} found"
        else:
            self._last = None
            await self._add_page()
            what = "archived" if self._archived else "newest first"
        self.query_one("#head", Static).update(f"Conversations · {what}")
        ids = [option.id for option in found.options]
        if ids:
            wanted = str(keep if keep is not None else self._now)
            found.highlighted = ids.index(wanted) if wanted in ids else 0

    async def _add_page(self) -> None:
        page = self._history.conversations.list(self._archived, _PAGE, self._last)
        self._more = len(page) == _PAGE
        if page:
            self._last = page[-1]
            width = max(40, self.app.size.width - 6)
            shown = {option.id for option in self._list.options}
            self._list.add_options(
                _listed(found, time.time(), width) for found in page if str(found.id) not in shown
            )

    async def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if self._more and event.option_index >= self._list.option_count - 10:
            await self.doing(self._add_page())

    async def on_option_list_option_selected(self) -> None:
        await self.doing(self.action_resume())

    async def on_input_changed(self) -> None:
        await self.doing(self._show())

    def on_input_submitted(self) -> None:
        self._list.focus()

    def action_search(self) -> None:
        self.query_one(Input).focus()

    async def action_resume(self) -> None:
        chosen = self._chosen
        if chosen is None:
            return
        words = self.query_one(Input).value.strip()
        if words:  # walk to the branch in which the words are
            hits = self._history.search(words, limit=1, conversation=chosen)
            if hits and hits[0].turn is not None:
                self._history.turns.switch(hits[0].turn)
        self.leave(chosen)

    def action_rename(self) -> None:
        if self._chosen is not None:
            self.start(self._rename(self._history.conversations.get(self._chosen)))

    async def _rename(self, found: Conversation) -> None:
        question = AskText("Name (empty: the first words of the conversation)", found.title)
        title = await self.app.push_screen_wait(question)
        if title is not None:
            self._history.conversations.rename(found.id, title)
            await self._show(found.id)

    async def action_archive(self) -> None:
        if self._chosen is not None:
            conversations = self._history.conversations
            archived = not conversations.get(self._chosen).archived
            conversations.archive(self._chosen, archived)
            put_away = "Archived; {history.archived} shows the archive"
            self.notify(put_away if archived else "Taken out of the archive")
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
            self.start(self._delete(self._history.conversations.get(self._chosen)))

    async def _delete(self, found: Conversation) -> None:
        question = f"Delete “{one_line(found.title, 50)}” with all its branches?"
        if await self.app.push_screen_wait(Confirm(question, "Delete")):
            self._history.conversations.delete(found.id)
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
            self._list.focus()
        else:
            self.leave(None)


def _listed(found: Conversation, now: float, width: int) -> Option:
    figures = f"  {_when(found.updated, now)} · {found.turns} turns"
    text = Text(fitted(found.title, width - len(figures)), style="bold")
    text.append(figures, style="not bold dim")
    text.append(f"\n{fitted(found.snippet, width)}", style="not bold dim")
    return Option(text, id=str(found.id))


def _hit(hit: Hit) -> Option:
    excerpt = Text(one_line(hit.excerpt, 300))
    for start, end in hit.spans:
        excerpt.stylize("reverse", start, end)
    title = Text(one_line(hit.conversation.title, 60), "bold")
    title.append("  archived" * hit.conversation.archived, "not bold dim")
    return Option(Text.assemble(title, "\n", excerpt), id=str(hit.conversation.id))


def _when(then: float, now: float) -> str:
    seconds = max(0, now - then)
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit} ago"
    return datetime.fromtimestamp(then).strftime("%d %b %Y")
