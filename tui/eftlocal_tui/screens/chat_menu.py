"""The menu of commands: what it offers while one is typed, and what its keys do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from eftlocal.errors import EftlocalError
from eftlocal.presets.reading import load_presets
from eftlocal.settings import SETTINGS
from eftlocal.terminal_text import one_line
from eftlocal_tui import completion
from eftlocal_tui.commands import Command
from eftlocal_tui.completion import Choice
from eftlocal_tui.dials import recipe_names
from eftlocal_tui.keys import pressed
from eftlocal_tui.widgets.command_menu import CommandMenu

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

_CONVERSATIONS = 50  # that /load offers
_FILES = {"load": (".json",), "export": (".md", ".json")}


class ChatMenu:
    """Opens while a command is typed, and closes when the text is none, or the person closes it."""

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self._of = ""  # the text that the choices are for
        self._looking = False  # for what may follow
        self._closed = False  # by the person, as long as the text begins with a slash

    @property
    def menu(self) -> CommandMenu:
        return self.screen.query_one(CommandMenu)

    @property
    def open(self) -> bool:
        """Whether it is open, with choices for what is typed by now."""
        self.changed()
        return bool(self.menu.display) and self._of == self.screen.prompt.text

    def changed(self) -> None:
        """The text in the message box may be another one."""
        text = self.screen.prompt.text
        if text == self._of:
            return
        self._closed = self._closed and text.startswith("/")
        if self._closed or completion.begun(text) is None:
            self._show([] if self._closed else completion.names(text), first=True)
        elif not self._looking:
            self._looking = True
            self.screen.start(self._look)

    def _show(self, choices: list[Choice], *, first: bool) -> None:
        self._of = self.screen.prompt.text
        self.menu.show(choices, self.screen.prompt.content_size.width - 2, first=first)

    async def _look(self) -> None:
        """Shows what may follow a command. A folder may take its time, and the box must not."""
        try:
            while (text := self.screen.prompt.text) != self._of:
                begun = completion.begun(text)
                if begun is None or self._closed:
                    return
                found = await asyncio.to_thread(self._choices, *begun)
                if self.screen.prompt.text == text and not self._closed:
                    self._show(found, first=False)
        finally:
            self._looking = False

    def _choices(self, command: Command, rest: str) -> list[Choice]:
        found: list[Choice] = []
        if "conversations" in command.completes and "/" not in rest:
            found += completion.words(command, rest, self._conversations())
        if "files" in command.completes:
            found += completion.files(command, rest, _FILES[command.name])
        if "presets" in command.completes:
            found += completion.words(command, rest, self._presets())
        if "themes" in command.completes:
            themes = ((name, "") for name in sorted(self.screen.app.available_themes))
            found += completion.words(command, rest, themes)
        if "dials" in command.completes:
            found += self._dials(command, rest)
        return found

    def _presets(self) -> Iterable[tuple[str, str]]:
        try:
            return [(name, one_line(preset.title)) for name, preset in load_presets().items()]
        except EftlocalError:  # /preset says what is wrong with the file
            return []

    def _conversations(self) -> Iterable[tuple[str, str]]:
        newest = self.screen.services.history.conversations.list(limit=_CONVERSATIONS)
        return [(str(found.id), found.title) for found in newest]

    def _dials(self, command: Command, rest: str) -> list[Choice]:
        loaded = self.screen.models.loaded
        if loaded is None:
            return []
        dials = self.screen.dials.now
        values = dials.all()
        dial, space, _ = rest.partition(" ")
        if space and command.name == "set":
            recipes = recipe_names(dials.recipe, loaded.roles, loaded.dials.recipe)
            known = [(f"recipe {name}", "") for name in recipes if dial == "recipe"]
        else:
            known = [(name, f"{value} · {_about(name)}") for name, value in values.items()]
        found = completion.words(command, rest, known)
        return [choice._replace(more=not space and command.name == "set") for choice in found]

    # Keys, all of them pressed in the message box ----------------------------------------------

    def key(self, key: str) -> bool:
        """Whether a key was for the menu, which has done what it says."""
        found = pressed("menu", key, self.screen.services.settings.keys) if self.open else None
        if found is None:
            return False
        if found.name == "menu.close":
            self._closed = True
            self._show([], first=False)
        else:
            self.menu.move(1 if found.name == "menu.down" else -1)
        return True

    def complete(self) -> bool:
        """Puts what is chosen, or else the first, into the box; False where nothing is open."""
        if self.open:
            self._take(self.menu.chosen or self.menu.choices[0])
            return True
        return False

    def send(self) -> bool:
        """Puts what is chosen into the box; whether that cannot be sent yet."""
        choice = self.menu.chosen if self.open else None
        if choice is None or choice.text == self.screen.prompt.text.rstrip():
            return False
        self._take(choice)
        return choice.more

    def choose(self, index: int) -> None:
        """Takes the choice that was clicked."""
        self._take(self.menu.choices[index])
        self.screen.set_focus(self.screen.prompt)

    def _take(self, choice: Choice) -> None:
        named = completion.begun(choice.text) is None
        takes = choice.name != choice.text if named else choice.more
        space = " " if takes and not choice.text.endswith("/") else ""
        self.screen.prompt.replace_all(choice.text + space)


def _about(dial: str) -> str:
    setting = SETTINGS.get(dial)
    return setting.help if setting is not None else ""
