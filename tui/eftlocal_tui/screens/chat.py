"""The chat: one screen, and what it holds. Its parts are objects; its widgets talk by messages.

`models` loads and has the dials, `answers` keeps the turns of the conversation, `commands` obeys
what is typed after a slash.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from textual.app import ComposeResult, SuspendNotSupported
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Footer, Markdown, Static

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.prompt.messages import validate_prompt
from eftlocal.terminal_text import one_line
from eftlocal_tui import commands
from eftlocal_tui.dials import Dials
from eftlocal_tui.editor import edit_text
from eftlocal_tui.engine import Loaded
from eftlocal_tui.history import Conversation, LockedError, Turn, export_file
from eftlocal_tui.history.database import BUSY_SECONDS
from eftlocal_tui.keys import bindings
from eftlocal_tui.screens.base import Services, tell, until_left
from eftlocal_tui.screens.chat_answers import ChatAnswers
from eftlocal_tui.screens.chat_commands import ChatCommands
from eftlocal_tui.screens.chat_models import ChatModels, LoadingBars
from eftlocal_tui.screens.compare import CompareScreen
from eftlocal_tui.screens.history import HistoryScreen
from eftlocal_tui.screens.influence import InfluenceScreen
from eftlocal_tui.settings import read_remembered, remember
from eftlocal_tui.text import encodable, fitted
from eftlocal_tui.widgets.markdown import code_blocks
from eftlocal_tui.widgets.prompt import PromptArea
from eftlocal_tui.widgets.side_panel import SidePanel
from eftlocal_tui.widgets.transcript import Transcript, TurnView

_PANEL_FITS = 100  # columns from which the side panel is open unless told
_SHORTEST_TITLE = 16  # cells
_BUSY = "an answer is being written; Esc stops it and keeps what came"
_SENDING = "a message is on its way; Esc takes it back"
_WAITING = "Another program keeps the history locked; waiting · Esc gives up"
_AGAIN = 0.05  # seconds between tries at a history that is locked

T = TypeVar("T")


class ChatScreen(Screen[None]):
    BINDINGS = bindings("chat")
    PLACE = "chat"
    AUTO_FOCUS = "#prompt"
    DEFAULT_CSS = """
    ChatScreen #head {
        height: 1; padding: 0 1; background: $panel; text-style: bold;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    ChatScreen #status { height: 1; padding: 0 1; color: $text-muted; }
    ChatScreen #side { display: none; }
    ChatScreen.-panel #side { display: block; }
    """

    def __init__(
        self, services: Services, *, resume: Conversation | None = None, load: bool = True
    ) -> None:
        super().__init__()
        self.services = services
        self.models = ChatModels(self)
        self.answers = ChatAnswers(self, resume)
        self.commands = ChatCommands(self)
        self._loads_first = load
        self._given_up = False  # nobody waits any more for a locked history
        self._status = ""

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        with Horizontal():
            with Vertical():
                yield Transcript(id="transcript")
                yield LoadingBars(id="loading")
                yield Static("", id="status", markup=False)
                yield PromptArea(id="prompt")
            yield SidePanel(id="side")
        yield Footer(compact=True)

    async def on_mount(self) -> None:
        panel = self.services.settings.panel
        if panel is None:
            panel = read_remembered(self.services.remembered).panel
        self.set_class(self._panel_fits if panel is None else panel, "-panel")
        self.show_head()
        if self._loads_first:
            self.models.load(None)
        if self.conversation is not None:
            await self._after_history(self.conversation.id)

    # What it shows -----------------------------------------------------------------------------

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)

    @property
    def prompt(self) -> PromptArea:
        return self.query_one(PromptArea)

    @property
    def side(self) -> SidePanel:
        return self.query_one(SidePanel)

    @property
    def conversation(self) -> Conversation | None:
        return self.answers.conversation

    @property
    def loaded(self) -> Loaded | None:
        return self.models.loaded

    @property
    def dials(self) -> Dials | None:
        return self.models.dials

    @property
    def alive(self) -> bool:
        """Whether there is a screen to show things on; the engine's thread outlives it."""
        return self.app.is_running and self.is_attached

    @property
    def busy(self) -> bool:
        return self.answers.busy

    def on_resize(self) -> None:
        self.show_head()

    def show_head(self) -> None:
        parts: list[str] = []
        if self.loaded is not None and self.dials is not None:
            shown = self.dials.shown()
            parts += [one_line(self.loaded.name, 40), f"{shown.pop('recipe')}"]
            first = next(iter(shown))
            if first != "temperature":
                parts[-1] += f" {first} {shown[first]}"
        title = self.conversation.title if self.conversation else "New conversation"
        room = self.app.size.width - 2 - sum(len(part) + 3 for part in parts)
        head = " · ".join([fitted(title, max(room, _SHORTEST_TITLE)), *parts])
        self.query_one("#head", Static).update(head)

    def status(self, text: str = "") -> None:
        """What is going on, in the line above the message box."""
        self._status = text
        self._show_status()

    def on_text_area_changed(self) -> None:
        self._show_status()

    def _show_status(self) -> None:
        text = self._status
        if found := commands.matching(self.prompt.text):  # while a command is typed
            text = "  ".join(f"/{command.name}" for command in found)
            if len(found) == 1:
                text = f"/{found[0].name} {found[0].takes}  {found[0].about}"
        elif not text and self.answers.editing is not None:
            text = "Editing: Enter sends it as a branch, Esc cancels"
        self.query_one("#status", Static).update(text)

    def trouble(self, error: EftlocalError | str) -> None:
        """One clear line where it is seen."""
        tell(self, error)

    def refused(self) -> bool:
        """Whether something is on its way that must end first; then it says so."""
        if self.busy:
            self.trouble(_SENDING if self.answers.sending else _BUSY)
        return self.busy

    # What it does beside keys ------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that no key waits for."""
        self.run_worker(self.doing(work))

    async def doing(self, work: Coroutine[Any, Any, None]) -> None:
        """Work whose failure is one line, and whose end is that of the screen at the latest."""
        try:
            await until_left(self, work)
        except EftlocalError as error:
            self.trouble(error)

    async def when_free(self, work: Callable[[], T]) -> T:
        """Writes to the history; where another program does, again and again until that lets it.
        Keys are answered meanwhile: nothing that holds one up may wait for this.

        Raises:
            LockedError: it did not for long, or the person gave up.
        """
        before, until = self._status, time.monotonic() + BUSY_SECONDS
        self._given_up = False
        try:
            while True:
                try:
                    return work()
                except LockedError:
                    if self._given_up or time.monotonic() >= until:
                        raise
                self.status(_WAITING)
                await asyncio.sleep(_AGAIN)
        finally:
            if self._status == _WAITING:
                self.status(before)

    # Keys: the layout --------------------------------------------------------------------------

    @property
    def _panel_fits(self) -> bool:
        return self.app.size.width >= _PANEL_FITS

    def action_panel(self) -> None:
        self.toggle_class("-panel")
        if not self.has_class("-panel"):
            self.prompt.focus()
        self._remember_panel()

    def _remember_panel(self) -> None:
        """What is as it would be by itself is left to the size of the next terminal."""
        panel = self.has_class("-panel")
        chosen = None if panel == self._panel_fits else panel
        remember(self.services.remembered, panel=chosen)

    def action_dials(self) -> None:
        if self.has_class("-panel") and self.focused is not self.prompt:
            self.prompt.focus()
            return
        folded = not self.has_class("-panel")
        self.add_class("-panel")
        self.call_after_refresh(self.side.focus_dials)
        if folded:
            self._remember_panel()

    def action_page(self, by: int) -> None:
        scroll = self.transcript.scroll_page_up if by < 0 else self.transcript.scroll_page_down
        scroll(animate=False)

    def action_end(self) -> None:
        self.transcript.follow()

    def action_turns(self) -> None:
        if views := self.transcript.views:
            views[-1].focus()

    # Keys: answers -----------------------------------------------------------------------------

    def action_stop(self) -> None:
        if not self.answers.stop() and self.models.stop():
            self.status("Stopping …")
        self.prompt.focus()

    def give_up(self) -> None:
        """Nobody waits any more for a history that another program keeps locked."""
        self._given_up = True

    async def action_new(self) -> None:
        await self.answers.new()

    async def action_regenerate(self) -> None:
        target = self.answers.last("assistant") or self.answers.last("user")
        if target is None:
            self.trouble("there is nothing to answer yet")
        else:
            await self.answers.regenerate(target)

    async def action_continue(self) -> None:
        await self.answers.go_on()

    def action_edit(self) -> None:
        question = self.answers.last("user")
        if question is None:
            self.trouble("there is no message of yours to edit yet")
        else:
            self.answers.edit(question)

    async def action_sibling(self, by: int) -> None:
        turn = next((turn for turn in reversed(self.answers.path()) if turn.branches > 1), None)
        if turn is None:
            self.notify("There is one branch only; F4 and Ctrl+R make others", markup=False)
        else:
            await self.answers.sibling(turn, by)

    # Keys: what is opened beside ---------------------------------------------------------------

    def copy(self, text: str | None, what: str, absent: str = "nothing") -> None:
        """Puts a text on the clipboard: `what` it is, or what is `absent`."""
        if not text:
            self.trouble(f"there is {absent} to copy")
            return
        self.app.copy_to_clipboard(encodable(text))
        self.notify(f"Copied {what}: {len(text):,} characters", markup=False)

    def action_copy(self) -> None:
        answer = self.answers.last("assistant")
        self.copy(answer.text if answer else None, "the message")

    def action_copy_code(self) -> None:
        answer = self.answers.last("assistant")
        blocks = code_blocks(answer.text) if answer else []
        self.copy(blocks[-1] if blocks else None, "a code block", "no code block")

    def action_compare(self) -> None:
        if self.refused():
            return
        if self.loaded is None or self.dials is None:
            self.trouble("the models are not loaded yet")
            return
        messages = self.answers.to_compare(self.prompt.text)
        if messages is None:
            self.trouble("write the message to compare, or ask something first")
        else:
            self.app.push_screen(CompareScreen(self.services, self.loaded, self.dials, messages))

    def action_influence(self) -> None:
        answer = self.answers.last("assistant")
        if answer is None:
            self.trouble("there is no answer to look into yet")
        else:
            self.influence(answer)

    def influence(self, turn: Turn) -> None:
        """Opens the influence view of an answer."""
        if self.refused():
            return
        if turn.role != "assistant" or not turn.text or turn.parent is None:
            self.trouble("the influence view is of an answer, and this is none")
            return
        dials = self.models.dials_of(turn)
        if dials is None:
            self.trouble("the models are not loaded yet")
            return
        messages = self.services.history.turns.messages(turn.parent)
        text = self.answers.tokens.get(turn.id) or turn.text
        marked = bool(turn.marks)
        self.app.push_screen(InfluenceScreen(self.services, messages, text, dials, marked=marked))

    def export_to(self, path: Path) -> None:
        """Writes the conversation to a file, Markdown or JSON by its name."""
        if self.conversation is None:
            self.trouble("there is no conversation to export yet")
            return
        try:
            written = export_file(self.services.history, [self.conversation.id], path)
        except EftlocalError as error:
            self.trouble(error)
        else:
            self.notify(f"Written: {one_line(str(written))}", markup=False)

    def action_editor(self) -> None:
        try:
            with self.app.suspend():
                text = edit_text(self.prompt.text, self.services.settings.editor)
        except SuspendNotSupported:
            self.trouble("this terminal cannot hand over to an editor")
        except UsageError as error:
            self.trouble(error)
        else:
            self.prompt.replace_all(text)
        self.prompt.focus()

    def action_history(self, words: str = "") -> None:
        """The list of conversations; the one chosen is opened."""
        if self.refused():
            return

        async def chosen(conversation_id: int | None) -> None:
            await until_left(self, self._after_history(conversation_id))

        now = self.conversation.id if self.conversation else None
        self.app.push_screen(HistoryScreen(self.services, words=words, now=now), chosen)

    async def _after_history(self, conversation_id: int | None) -> None:
        try:
            if conversation_id is not None:
                await self.answers.open(conversation_id)
            elif self.conversation is not None:  # it may have another name now, or be gone
                self.answers.refresh()
                self.show_head()
        except EftlocalError:
            await self.answers.new()

    # What its widgets say ----------------------------------------------------------------------

    async def on_prompt_area_sent(self, event: PromptArea.Sent) -> None:
        try:
            command = commands.parse(event.text)
            if command is not None:
                await self.commands.obey(*command)
                return
            if not event.text.strip():
                return
            text = validate_prompt(commands.message(event.text))
        except EftlocalError as error:
            self.prompt.give_back(event.text)
            self.trouble(error)
            return
        self.start(self.answers.ask(text))  # it may have to wait, and the screen must not

    def on_prompt_area_interrupted(self) -> None:
        if self.busy:
            self.action_stop()
        else:
            self.notify("Ctrl+Q leaves; Ctrl+C copies what is selected", markup=False)

    async def on_side_panel_turned(self, event: SidePanel.Turned) -> None:
        await self.models.turn(event.dial, event.text)

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        # Never opened: the model wrote it.
        event.stop()
        self.app.copy_to_clipboard(event.href)
        self.notify(f"Copied the link: {one_line(event.href)}", markup=False)

    async def on_turn_view_asked(self, event: TurnView.Asked) -> None:
        event.stop()
        await self.doing(self._obey_turn(event))

    async def _obey_turn(self, event: TurnView.Asked) -> None:
        turn, view = event.turn, self.transcript.view_of(event.turn.id)
        if event.what == "copy":
            self.copy(view.text if view else turn.text, "the message")
        elif event.what == "copy_code":
            self.copy(view.code() if view else None, "a code block", "no code block")
        elif event.what == "edit":
            self.answers.edit(turn)
        elif event.what == "regenerate":
            await self.answers.regenerate(turn)
        elif event.what == "influence":
            self.influence(turn)
        elif event.what == "sibling":
            await self.answers.sibling(turn, event.by)
        elif event.what == "walk":
            self._walk(turn, event.by)
        else:
            self.prompt.focus()

    def _walk(self, turn: Turn, by: int) -> None:
        views = self.transcript.views
        at = next((i for i, view in enumerate(views) if view.turn.id == turn.id), 0) + by
        if at >= len(views):
            self.prompt.focus()
        elif at >= 0:
            views[at].focus()
