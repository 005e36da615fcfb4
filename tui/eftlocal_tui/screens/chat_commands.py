"""What the slash commands do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from textual.app import SuspendNotSupported

from eftlocal.disk import readable
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.presets.reading import load_presets
from eftlocal_tui.commands import Command
from eftlocal_tui.editor import edit_file
from eftlocal_tui.history import free_name, import_file
from eftlocal_tui.screens.dialogs import AskText
from eftlocal_tui.settings import FIRST, settings_path
from eftlocal_tui.text import totals_line

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

_LONGEST_ID = 19  # digits; longer ones are no conversation's
ACTIONS = {  # commands that are a key as well
    "help": "app.help",
    "clear": "screen.new",
    "regen": "screen.regenerate",
    "continue": "screen.continue",
    "edit": "screen.edit",
    "compare": "screen.compare",
    "influence": "screen.influence",
    "exit": "app.quit",
}


class ChatCommands:
    """One method a command that is no key."""

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen

    async def obey(self, command: Command, rest: str) -> None:
        """Does what a command says; a refusal is one line."""
        if command.name in ACTIONS:
            await self.screen.run_action(ACTIONS[command.name])
            return
        method: Callable[[str], Awaitable[None]] = getattr(self, f"_{command.name}")
        try:
            await method(rest)
        except EftlocalError as error:
            self.screen.trouble(error)

    async def _preset(self, rest: str) -> None:
        presets = load_presets()
        if not rest:
            lines = [f"{name}: {preset.title}" for name, preset in presets.items()]
            await self.screen.transcript.say(
                "Presets (/preset NAME loads one):\n" + "\n".join(lines)
            )
        elif not self.screen.refused():
            self.screen.models.load(rest)

    async def _system(self, rest: str) -> None:
        def chosen(text: str | None) -> None:
            if text is not None:
                self.screen.start(self._set_system(text))

        if rest:
            await self._set_system("" if rest == "-" else rest)
        else:
            question, now = "System prompt of this conversation", self.screen.answers.system
            self.screen.app.push_screen(AskText(question, now, long=True), chosen)

    async def _set_system(self, text: str) -> None:
        self.screen.answers.set_system(text)
        self._notify(
            "The system prompt holds from the next answer on" if text else "No system prompt"
        )

    async def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        models = self.screen.models
        if rest and not value.strip():
            self.screen.trouble(f"/set {name}: to what? As in /set beta 0.5")
        elif rest:
            await models.turn(name.replace("-", "_"), value.strip())
        elif models.dials is None:
            self.screen.trouble("the models are not loaded yet, so there is nothing to turn")
        else:
            lines = [f"{name} = {value}" for name, value in models.dials.shown().items()]
            await self.screen.transcript.say("Dials (/set NAME VALUE):\n" + "\n".join(lines))

    async def _stats(self, rest: str) -> None:
        lines = []
        models, live = self.screen.models, self.screen.answers.last_live
        if live is not None:
            lines += [
                f"Last answer: {totals_line(live.figures)}",
                f"Drafts of {live.draft_length:.1f} tokens in the mean",
                f"Context: {live.context_used} of {live.context_size} tokens",
            ]
        if models.loaded is not None and models.dials is not None:
            lines.append(f"Models: {models.loaded.name} ({', '.join(models.loaded.roles)})")
            lines.append(f"Recipe: {models.dials.recipe}")
        lines.append(f"Memory: {readable(psutil.Process().memory_info().rss)}")
        await self.screen.transcript.say("\n".join(lines))

    async def _save(self, rest: str) -> None:
        if self.screen.conversation is None:
            self.screen.trouble("there is no conversation to name yet")
            return
        self.screen.answers.rename(rest)
        self._notify("Named; it is saved as you go")

    async def _load(self, rest: str) -> None:
        screen = self.screen
        if screen.refused():
            return
        if not rest:
            screen.action_history()
        elif rest.isascii() and rest.isdigit() and len(rest) < _LONGEST_ID:
            await screen.answers.open(int(rest))
        else:
            came = import_file(screen.services.history, file_of(rest))
            if came:
                await screen.answers.open(came[-1].id)
            self._notify(f"{len(came)} came in")

    async def _export(self, rest: str) -> None:
        conversation = self.screen.conversation
        if rest:
            self.screen.export_to(file_of(rest))
        elif conversation is None:
            self.screen.trouble("there is no conversation to export yet")
        else:
            self.screen.export_to(free_name(Path.cwd(), f"chat-{conversation.id}", ".md"))

    async def _copy(self, rest: str) -> None:
        if rest == "code":
            self.screen.action_copy_code()
        elif rest:
            self.screen.trouble(f"/copy takes code or nothing, not {rest!r}")
        else:
            self.screen.action_copy()

    async def _history(self, rest: str) -> None:
        self.screen.action_history(rest)

    async def _theme(self, rest: str) -> None:
        app = self.screen.app
        if not rest:
            await app.run_action("light_or_dark")
        elif rest in app.available_themes:
            app.theme = rest
        else:
            self.screen.trouble(
                f"there is no theme {rest!r}; there are {', '.join(app.available_themes)}"
            )

    async def _settings(self, rest: str) -> None:
        path = settings_path()
        try:
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(FIRST, encoding="utf-8")
            with self.screen.app.suspend():
                edit_file(path, self.screen.services.settings.editor)
        except SuspendNotSupported:
            self.screen.trouble(f"this terminal cannot hand over to an editor; the file is {path}")
            return
        except OSError as error:
            self.screen.trouble(f"{path}: cannot be written: {error.strerror}")
            return
        self._notify(f"{path} is read at the next start")

    def _notify(self, text: str) -> None:
        self.screen.notify(text, markup=False)


def file_of(text: str) -> Path:
    """The file that a person named; ~ is their home.

    Raises:
        UsageError: ~name is nobody's home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{text}: {error}") from None
