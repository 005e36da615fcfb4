"""The program: its screens, its keys, its commands and its colours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from textual import events
from textual.app import App, SystemCommand
from textual.command import CommandPalette
from textual.css.query import NoMatches
from textual.driver import Driver
from textual.markup import escape
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, OptionList
from textual.worker import Worker

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.presets.reading import load_presets
from eftlocal.terminal_text import one_line, printable
from eftlocal_tui.commands import COMMANDS, parse
from eftlocal_tui.engine.local import LocalEngine
from eftlocal_tui.engine.wanted import Start
from eftlocal_tui.history import Conversation, History, HistoryError
from eftlocal_tui.history.unsaved import opened
from eftlocal_tui.keys import bindings, of_place, spelled
from eftlocal_tui.screens.base import Services, Unasked, tell
from eftlocal_tui.screens.chat import ChatScreen
from eftlocal_tui.screens.dialogs import AskText, Confirm, HelpScreen
from eftlocal_tui.screens.palette import command_palette, theme_palette
from eftlocal_tui.settings import Settings, read_view, save_view
from eftlocal_tui.terminal import clipboard
from eftlocal_tui.terminal.driver import title_sequence, with_keyboard
from eftlocal_tui.terminal.in_order import InOrder
from eftlocal_tui.terminal.room import RoomyApp
from eftlocal_tui.terminal.signals import on_signals
from eftlocal_tui.text import pasted
from eftlocal_tui.widgets.late_clicks import drop_late_clicks

_LONGEST_LINE = 1_000
_DARK, _LIGHT = "textual-dark", "textual-light"


class Left(NamedTuple):
    """The conversation that the chat was left in, and whether a preset that it names answers it."""

    conversation: int
    by_preset: bool


class ChatApp(RoomyApp[None], inherit_bindings=False):
    """`eftlocal chat`. Close the services after it has run."""

    TITLE = "eftlocal"
    BINDINGS = bindings("app")
    ENABLE_COMMAND_PALETTE = True
    CSS_PATH = "chat.tcss"

    def __init__(
        self, services: Services, *, resume: Conversation | None = None, load: bool = True
    ) -> None:
        super().__init__()
        drop_late_clicks()
        self.services = services
        self._chat = ChatScreen(services, resume=resume, load=load)
        self._keys = dict(services.settings.keys)
        self._typed = InOrder(self, self._obey)
        self._themed = False  # whether a theme that is set from now on was chosen
        self._other = ""  # the theme that light_or_dark left

    def on_mount(self) -> None:
        left = read_view(self.services.view_file).theme
        known = left if left in self.available_themes else None
        self.theme = self.services.settings.theme or known or _DARK
        self._themed = True
        self.set_keymap(self._keys)
        self.push_screen(self._chat)
        if not self.is_headless:
            on_signals(self._told_to_end, self._terminal_gone)

    def watch_theme(self, theme: str) -> None:
        if not self._themed:
            return
        try:
            save_view(self.services.view_file, theme=theme)
        except EftlocalError as error:
            tell(self, error)
            return
        mine = self.services.settings.theme
        if mine not in (None, theme):
            self.notify(f"The next start uses {mine} again: the settings file sets it")

    def get_driver_class(self) -> type[Driver]:
        return with_keyboard(super().get_driver_class())

    def copy_to_clipboard(self, text: str) -> None:
        self.copy(text, "")

    def copy(self, text: str, what: str) -> None:
        """Puts a text on the clipboard, and says what became of it where it is given a name."""
        super().copy_to_clipboard(text)  # by the terminal
        _: Worker[None] = self.run_worker(partial(self._copy, text, what))

    async def _copy(self, text: str, what: str) -> None:
        taken_by = None if self.is_headless else await asyncio.to_thread(clipboard.put, text)
        if what:
            self.notify(clipboard.outcome(what, taken_by))

    def watch_title(self, title: str) -> None:
        if self._driver is not None and not self.is_headless:
            self._driver.write(title_sequence(title))

    @property
    def failure(self) -> Exception | None:
        """The bug that ended the program."""
        return self._exception

    def _fatal_error(self) -> None:
        """Ends the program without Textual's page, which shows what was written."""
        self.panic()

    @property
    def chat(self) -> ChatScreen:
        """The chat screen, which is always there."""
        return self._chat

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, (events.Key, events.Paste)) and not event.is_forwarded:
            await self._typed.take(event)
        else:
            await self._obey(event)

    async def _obey(self, event: events.Event) -> None:
        outside = (events.InputEvent, events.AppFocus, events.AppBlur)
        if isinstance(event, outside) and not (self.screen_stack and self.is_running):
            return  # it came before the program was left
        if isinstance(event, events.InputEvent) and not event.is_forwarded:
            await self.screen._mounted_event.wait()  # what the last key opened
            front: Screen[Any] = self.screen
            if isinstance(front, Unasked) and front.passes_on(event):
                return
        if isinstance(event, events.Paste):  # into whatever box has the focus
            event.text = pasted(event.text)
            if isinstance(box := self.focused, Input) and len(event.text) > (most := _room(box)):
                event.text = event.text[:most]
                self.notify(f"Only the first {most:,} characters were pasted")
        await super().on_event(event)

    async def run_action(self, action: Any, default_namespace: Any = None, *more: Any) -> bool:
        """Every key and every command of the palette comes through here."""
        where = default_namespace
        if isinstance(where, Widget) and not where.is_attached:
            return True  # it was taken away while the key was on its way
        if isinstance(where, OptionList) and not where.size:
            return True  # it is not laid out yet, and Textual (8.2) would fail in it
        try:
            return await super().run_action(action, where, *more)
        except EftlocalError as error:
            tell(self, error)
            return True
        except NoMatches:  # a key came while the program was being left
            if self.is_running and self.return_code is None:
                raise
            return True

    def notify(self, message: str, **options: Any) -> None:
        """A toast; what it says may come from a file or the hub, and is no markup."""
        said = spelled(printable(message), self._keys)
        super().notify(said, **{**options, "markup": False})

    @contextmanager
    def suspend(self) -> Iterator[None]:
        """Hands the terminal over. Textual (8.2) takes it back only where nothing was raised."""
        failed: EftlocalError | None = None
        with super().suspend():
            try:
                yield
            except EftlocalError as error:
                failed = error
        if failed is not None:
            raise failed

    async def action_quit(self) -> None:
        front = self.screen
        if isinstance(front, AskText) and front.unaccepted:
            front.ask(Confirm("Quit, and lose what is typed here?", "Quit"), self._quit)
        else:
            await self._quit(True)

    async def _quit(self, yes: bool | None) -> None:
        if yes:
            self.chat.answers.box.save()
            await super().action_quit()

    def _told_to_end(self, code: int) -> None:
        self._terminal_gone()
        self.exit(return_code=code)

    def _terminal_gone(self) -> None:
        """Keeps what is typed; a dialog's text is in the message box then."""
        box = self.chat.answers.box
        for screen in self.screen_stack:
            if isinstance(screen, AskText) and screen.unaccepted:
                box.add(screen.text)
        box.save()

    def action_help(self) -> None:
        if isinstance(self.screen, HelpScreen):
            self.screen.action_back()
        else:
            self.push_screen(HelpScreen(getattr(self.screen, "PLACE", ""), self._keys))

    def action_light_or_dark(self) -> None:
        """The light theme beside the one in use, or the other way round."""
        dark = self.available_themes[self.theme].dark
        other = self.available_themes.get(self._other)
        found = other if other is not None and other.dark is not dark else None
        self._other = self.theme
        self.theme = found.name if found is not None else _LIGHT if dark else _DARK

    def action_command_palette(self) -> None:
        if not isinstance(self.screen, CommandPalette):
            self.push_screen(command_palette())

    def search_themes(self) -> None:
        self.push_screen(theme_palette())

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        place = getattr(screen, "PLACE", "")
        for of, keys in ((screen, of_place(place)), (self, of_place("app"))):
            for key in keys:
                if key.listed:
                    about = spelled(key.about, self._keys)
                    yield SystemCommand(key.what, about, partial(self._act, of, key.action))
        yield SystemCommand("Theme", "Choose a theme", self.action_change_theme)
        if isinstance(screen, ChatScreen):
            yield from self._chat_commands(screen)

    def _chat_commands(self, chat: ChatScreen) -> Iterable[SystemCommand]:
        for command in COMMANDS:
            run = f"/{command.name}"
            if not command.action and command.takes[:1] in ("", "["):
                yield SystemCommand(run, command.about, partial(self.run_later, chat, run))
            if command.asks:
                ask = partial(self._ask_and_obey, chat, command.asks, run)
                yield SystemCommand(command.asks, run, ask)
        try:
            presets = load_presets()
        except EftlocalError:
            presets = {}  # /preset says what is wrong with the file
        for name, preset in presets.items():
            yield SystemCommand(
                f"Load {name}",
                escape(one_line(preset.title or name)),
                partial(self.run_later, chat, f"/preset {name}"),
            )

    def _ask_and_obey(self, chat: ChatScreen, question: str, command: str) -> None:
        async def obey(text: str | None) -> None:
            if text and text.strip():
                self.run_later(chat, f"{command} {text.strip()}")

        chat.ask(AskText(question), obey)

    def run_later(self, chat: ChatScreen, text: str) -> None:
        """A slash command that was chosen, not typed."""
        parsed = parse(text)
        if parsed is not None:
            chat.start(partial(chat.commands.obey, *parsed))

    async def _act(self, where: Screen[object] | App[None], action: str) -> None:
        await self.run_action(action, where)


def _room(box: Input) -> int:
    """How many characters a box of one line takes at once. With many more, each key would take as
    long as it takes to lay all of the line out."""
    if not box.max_length:
        return _LONGEST_LINE
    return box.max_length - len(box.value) + len(box.selected_text)


def run_chat(
    start: Start | None,
    settings: Settings,
    *,
    default: Start,
    resume: int | None = None,
    continue_: bool = False,
) -> Left | None:
    """Runs the terminal chat until the person leaves it.

    Returns:
        The conversation that it was left in; None where nothing of it is kept.

    Args:
        start: the models that the command line named; None takes those of the conversation that
            is resumed, or else those of `default`.
        resume: the id of a conversation to go on with.
        continue_: go on with the newest one.

    Raises:
        EftlocalError: there is no such conversation, or the history cannot be opened.
        SystemExit: a signal ended it.
    """
    with opened(needed=resume is not None or continue_) as (history, unsaved):
        conversation = _resumed(history, resume, continue_)
        chosen = start or _of_conversation(history, conversation, default)
        services = Services(history, LocalEngine(chosen), settings, unsaved=unsaved)
        app = ChatApp(services, resume=conversation)
        try:
            app.run()
            if app.failure is not None:
                raise app.failure
            if app.return_code:
                raise SystemExit(app.return_code)
            return None if unsaved else _left(history, app.chat.turns.conversation)
        finally:
            services.close()


def _resumed(history: History, resume: int | None, continue_: bool) -> Conversation | None:
    if resume is not None:
        return history.conversations.get(resume)
    if continue_:
        newest = history.conversations.list(limit=1)
        if not newest:
            raise UsageError("--continue: there is no conversation yet; start without it")
        return newest[0]
    return None


def _left(history: History, conversation: Conversation | None) -> Left | None:
    """How to go on with a conversation; None where it is gone."""
    if conversation is None:
        return None
    try:
        return Left(conversation.id, _preset(history, conversation) is not None)
    except HistoryError:
        return None


def _of_conversation(history: History, conversation: Conversation | None, default: Start) -> Start:
    name = _preset(history, conversation) if conversation is not None else None
    return default if name is None else replace(default, models=name)


def _preset(history: History, conversation: Conversation) -> str | None:
    """The preset of the conversation's last answer, where there still is one of that name."""
    path = history.turns.path(conversation.id, last=2)
    names = [turn.settings.preset for turn in path if turn.settings and turn.settings.preset]
    return names[-1] if names and names[-1] in load_presets() else None
