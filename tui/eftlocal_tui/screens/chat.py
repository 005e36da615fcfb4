"""The chat: one screen, and what it holds. Its parts are objects; its widgets talk by messages.

`models` loads and has the dials, `turns` is the conversation, `answers` has its messages answered,
`commands` obeys what is typed after a slash, `find` finds words in the conversation, `comparing`
holds the last comparison, `message` does what is done with a single message.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult, SuspendNotSupported
from textual.containers import Horizontal, Vertical
from textual.widgets import Markdown, Static

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.presets.reading import load_presets
from eftlocal.prompt.messages import validate_prompt
from eftlocal.terminal_text import one_line
from eftlocal_tui import commands, completion
from eftlocal_tui.editor import edit_text
from eftlocal_tui.history import Conversation, HistoryError, Turn
from eftlocal_tui.keys import bindings, spelled
from eftlocal_tui.screens.base import BaseScreen, Services
from eftlocal_tui.screens.chat_answers import ChatAnswers
from eftlocal_tui.screens.chat_commands import ChatCommands
from eftlocal_tui.screens.chat_compare import ChatCompare
from eftlocal_tui.screens.chat_dials import ChatDials
from eftlocal_tui.screens.chat_find import ChatFind
from eftlocal_tui.screens.chat_menu import ChatMenu
from eftlocal_tui.screens.chat_message import ChatMessage
from eftlocal_tui.screens.chat_models import ChatModels
from eftlocal_tui.screens.chat_turns import ChatTurns
from eftlocal_tui.screens.history import Chosen, HistoryScreen
from eftlocal_tui.screens.models import ModelsScreen
from eftlocal_tui.settings import read_view, save_view
from eftlocal_tui.text import fitted
from eftlocal_tui.widgets.command_menu import CommandMenu
from eftlocal_tui.widgets.find_bar import FindBar
from eftlocal_tui.widgets.key_bar import KeyBar
from eftlocal_tui.widgets.loading_bars import LoadingBars
from eftlocal_tui.widgets.markdown import code_blocks
from eftlocal_tui.widgets.prompt import PLACEHOLDER, PromptArea
from eftlocal_tui.widgets.side_panel import DialTurned, SidePanel
from eftlocal_tui.widgets.transcript import Transcript
from eftlocal_tui.widgets.turn_view import TurnView

_PANEL_FITS = 100  # columns from which the panel stands at the side, and is open unless told
_SHORTEST_TITLE = 16  # cells


class ChatScreen(BaseScreen[None]):
    BINDINGS = bindings("chat")
    _prompt: PromptArea
    PLACE = "chat"
    AUTO_FOCUS = "#prompt"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (_PANEL_FITS, "-wide")]  # noqa: RUF012 - as in Screen

    def __init__(
        self, services: Services, *, resume: Conversation | None = None, load: bool = True
    ) -> None:
        super().__init__()
        self.services = services
        self.models = ChatModels(self)
        self.dials = ChatDials(self)
        self.turns = ChatTurns(self)
        self.answers = ChatAnswers(self)
        self.commands = ChatCommands(self)
        self.find = ChatFind(self)
        self.menu = ChatMenu(self)
        self._loads_first, self._resume = load, resume
        self.comparing = ChatCompare(self)
        self.message = ChatMessage(self)
        self.said = ""  # in the line above the message box

    def compose(self) -> ComposeResult:
        # Known before its widgets are: a class that comes later styles all of them once more.
        panel = self.services.settings.panel
        if panel is None:
            panel = read_view(self.services.view_file).panel
        self.set_class(self._panel_fits if panel is None else panel, "-panel")
        self.add_class("-wide" if self._panel_fits else "-narrow")
        yield Static("", id="head", markup=False)
        with Horizontal():
            with Vertical():
                yield Transcript(self.spelled, lambda: self.turns.system, id="transcript")
                yield FindBar()
                yield LoadingBars(id="loading")
                yield Static("", id="queued", markup=False)
                yield CommandMenu()
                yield Static("", id="status", markup=False)
                self._prompt = PromptArea(
                    self.spelled(PLACEHOLDER),
                    self.menu,
                    recall=self.answers.box.recall,
                    suggestions=self._suggestions,
                    id="prompt",
                )
                yield self._prompt
            yield SidePanel(self.spelled, id="side")
        yield KeyBar()

    async def on_mount(self) -> None:
        self.show_head()
        if self.services.unsaved:
            await self.say(f"This chat is not saved: {self.services.unsaved}")
        if self._loads_first:
            self.models.load(None)
        if self._resume is not None:
            await self._after_history(Chosen(self._resume.id))
        else:
            self.answers.box.restore()

    # What it shows -----------------------------------------------------------------------------

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)

    @property
    def prompt(self) -> PromptArea:
        """The message box; its text is there also when its widget is not any more."""
        return self._prompt

    @property
    def side(self) -> SidePanel:
        return self.query_one(SidePanel)

    @property
    def uses_models(self) -> bool:
        """Whether something needs the models as they are."""
        front = any(getattr(screen, "USES_MODELS", False) for screen in self.app.screen_stack)
        return front or self.answers.now is not None

    @property
    def alive(self) -> bool:
        """Whether there is a screen to show things on; the engine's thread outlives it."""
        return self.app.is_running and self.is_attached

    def _suggestions(self) -> Sequence[str]:
        """Questions to try, until something was asked."""
        loaded = self.models.loaded
        return loaded.questions if loaded is not None and self.transcript.greets else ()

    def on_unmount(self) -> None:
        self.answers.box.save()

    def on_resize(self) -> None:
        self.show_head()

    def show_head(self) -> None:
        parts: list[str] = []
        if self.models.loaded is not None:
            shown = self.dials.now.shown()
            parts += [one_line(self.models.loaded.name, 40), f"{shown.pop('recipe')}"]
            first = next(iter(shown))
            if first != "temperature":
                parts[-1] += f" {first} {shown[first]}"
        conversation = self.turns.conversation
        title = conversation.title if conversation else "New conversation"
        if self.services.unsaved:
            parts.append("not saved")
        room = self.app.size.width - 2 - sum(len(part) + 3 for part in parts)
        head = " · ".join([fitted(title, max(room, _SHORTEST_TITLE)), *parts])
        self.query_one("#head", Static).update(head)
        self.app.title = f"{title} · {self.app.TITLE}" if conversation else str(self.app.TITLE)

    def status(self, text: str) -> None:
        """What is going on, in the line above the message box."""
        self.said = text
        self.show_status()

    def on_text_area_changed(self) -> None:
        self.answers.box.changed()
        self.menu.changed()
        self.show_status()

    def show_status(self) -> None:
        text = self.said or self.models.doing
        if (begun := completion.begun(self.prompt.text)) is not None:
            text = f"/{begun[0].name} {begun[0].takes}  {begun[0].about}"
        elif not text and self.answers.box.editing is not None:
            text = "Editing: {prompt.send} sends it as a branch, {chat.stop} cancels"
        self.query_one("#status", Static).update(self.spelled(text))

    def spelled(self, text: str) -> str:
        """A text of the program with the keys in it as they are set."""
        return spelled(text, self.services.settings.keys)

    async def say(self, text: str, *, error: bool = False, once: bool = False) -> None:
        """A line of the program itself, in the transcript; `once` unless it is there."""
        said = self.spelled(text)
        if not (once and self.transcript.has_said(said)):
            await self.transcript.say(said, error=error)

    # Keys: the layout --------------------------------------------------------------------------

    @property
    def _panel_fits(self) -> bool:
        return self.app.size.width >= _PANEL_FITS

    def action_panel(self) -> None:
        self.toggle_class("-panel")
        if not self.has_class("-panel"):
            self.set_focus(self.prompt)
        self._remember_panel()

    def _remember_panel(self) -> None:
        """What is as it would be by itself is left to the size of the next terminal."""
        panel = self.has_class("-panel")
        chosen = None if panel == self._panel_fits else panel
        save_view(self.services.view_file, panel=chosen)

    def action_dials(self) -> None:
        if self.has_class("-panel") and self.focused is not self.prompt:
            self.set_focus(self.prompt)
            return
        hidden = not self.has_class("-panel")
        self.add_class("-panel")
        self.call_after_refresh(self.side.focus_dials)
        if hidden:
            self._remember_panel()

    def action_page(self, by: int) -> None:
        scroll = self.transcript.scroll_page_up if by < 0 else self.transcript.scroll_page_down
        scroll(animate=False)

    def action_end(self) -> None:
        self.transcript.follow()

    def action_turns(self) -> None:
        if views := self.transcript.views:
            self.set_focus(self.find.view or views[-1])

    async def action_turn(self, what: str, *by: int) -> None:
        """Obeys a key of the message that has the focus. Other keys wait until that is done, and
        find the focus where it was put."""
        if isinstance(self.focused, TurnView):
            await self.message.obey(self.focused, what, *by)

    def action_find(self) -> None:
        self.find.open()

    def action_branches(self) -> None:
        path = self.turns.path()
        if not path:
            raise UsageError("there is no conversation yet, and so no branches")
        self.message.map(path[-1])

    # Keys: answers -----------------------------------------------------------------------------

    def action_stop(self) -> None:
        if not self.answers.stop() and not self.models.stop():
            self.find.close()
        self.set_focus(self.prompt)

    async def action_new(self) -> None:
        await self.turns.new()

    async def action_regenerate(self) -> None:
        path = self.turns.path()
        if not path:
            raise UsageError("there is nothing to regenerate yet")
        await self.answers.regenerate(path[-1])

    async def action_continue(self) -> None:
        await self.answers.go_on()

    def action_edit(self) -> None:
        self.answers.edit(self.turns.last("user", "there is no message of yours to edit yet"))

    async def action_sibling(self, by: int) -> None:
        turn = next((turn for turn in reversed(self.turns.path()) if turn.branches > 1), None)
        if turn is None:
            self.notify("There is only one branch; {chat.edit} and {chat.regenerate} make more")
        else:
            await self.turns.sibling(turn, by)

    # Keys: what is opened beside ---------------------------------------------------------------

    def action_copy(self) -> None:
        self.copy(self._last_answer("copy").answer, "message")

    def action_copy_all(self) -> None:
        self.copy(self._last_answer("copy").text, "whole message")

    def action_copy_code(self) -> None:
        blocks = code_blocks(self._last_answer("copy").answer)
        self.copy(blocks[-1] if blocks else None, "code block")

    def _last_answer(self, to: str) -> Turn:
        return self.turns.last("assistant", f"there is no answer to {to} yet")

    def action_compare(self) -> None:
        self.comparing.open()

    def action_influence(self) -> None:
        self.message.influence(self._last_answer("inspect"))

    def action_editor(self) -> None:
        self.answers.box.save()
        try:
            with self.app.suspend():
                text = edit_text(self.prompt.text, self.services.settings.editor)
        except SuspendNotSupported:
            raise UsageError("this terminal cannot run an editor") from None
        self.prompt.replace_all(text)
        self.set_focus(self.prompt)

    def action_history(self, words: str = "") -> None:
        """The list of conversations; the one chosen is opened."""
        now = self.turns.conversation
        screen = HistoryScreen(self.services, words=words, now=now.id if now else None)
        self.ask(screen, self._after_history)

    def action_models(self) -> None:
        """The list of presets; the one chosen is loaded."""
        loaded = self.models.loaded
        screen = ModelsScreen(self.services, load_presets(), loaded.name if loaded else "")
        self.ask(screen, self._after_models)

    async def _after_models(self, chosen: str | None) -> None:
        loaded = self.models.loaded
        if chosen is not None and loaded is not None and chosen == loaded.name:
            name = one_line(chosen, 60)
            self.notify(f"{name} is loaded; /preset {name} loads it again")
        elif chosen is not None:
            self.models.choose(chosen)

    async def _after_history(self, chosen: Chosen | None) -> None:
        try:
            if chosen is None:
                self.turns.refresh()
                return
            await self.turns.open(chosen.conversation)
            if chosen.turn is not None:
                await self.find.open_at(chosen.turn, chosen.words)
        except HistoryError:  # it is gone, but not what was typed in it
            await self.turns.new(carry=True)

    async def on_find_bar_changed(self) -> None:
        await self.doing(self.find.changed())

    async def on_find_bar_step(self, event: FindBar.Step) -> None:
        await self.doing(self.find.step(event.by))

    def on_find_bar_closed(self) -> None:
        self.find.close()

    def on_option_list_option_selected(self, event: CommandMenu.OptionSelected) -> None:
        self.menu.choose(event.option_index)

    # What its widgets say ----------------------------------------------------------------------

    async def on_prompt_area_sent(self, event: PromptArea.Sent) -> None:
        try:
            command = commands.parse(event.text)
            message = commands.message(event.text)
            text = validate_prompt(message) if command is None and message.strip() else ""
        except EftlocalError as error:
            self.prompt.give_back(event.text)
            self.trouble(error)
            return
        if command is not None:
            await self.doing(self.commands.obey(*command))
        elif text:
            self.answers.ask(text)

    def typed(self, event: events.Key | events.Paste) -> None:
        """What was meant for the message box."""
        self.prompt._forward_event(event)

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        self.set_focus(self.prompt)
        self.typed(event)

    def on_prompt_area_interrupted(self) -> None:
        if self.answers.busy:
            self.action_stop()
        else:
            self.notify("{app.quit} quits; Ctrl+C copies what is selected")

    async def on_dial_turned(self, event: DialTurned) -> None:
        await self.doing(self.dials.turn(event.dial, event.to))

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        # Never opened: the model wrote it.
        event.stop()
        self.copy(event.href, f"link {one_line(event.href, 80)}")
