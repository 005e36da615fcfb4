"""What the slash commands do, on the chat screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.app import SuspendNotSupported

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.presets.reading import load_presets
from eftlocal_tui.commands import Command
from eftlocal_tui.editor import edit_file
from eftlocal_tui.figures_text import size, totals_line
from eftlocal_tui.history import free_name
from eftlocal_tui.leaving import until_left
from eftlocal_tui.screens.chat_branches import ChatBranches
from eftlocal_tui.screens.dialogs import AskText
from eftlocal_tui.screens.history import HistoryScreen
from eftlocal_tui.settings import FIRST, settings_path
from eftlocal_tui.told import told

_LONGEST_ID = 19  # digits; longer ones are no conversation's


class ChatCommands(ChatBranches):
    """One method a command."""

    async def obey(self, command: Command, rest: str) -> None:
        """Does what a command says; a refusal is one line."""
        method: Any = getattr(self, f"command_{command.name}")
        try:
            await method(rest)
        except EftlocalError as error:
            self.trouble(error)

    async def command_help(self, rest: str) -> None:
        await self.app.run_action("help")

    async def command_preset(self, rest: str) -> None:
        presets = load_presets()
        if not rest:
            lines = [f"{name}: {preset.title}" for name, preset in presets.items()]
            await self.transcript.say("Presets (/preset NAME loads one):\n" + "\n".join(lines))
        elif not self.refused():
            self.load_models(rest)

    async def command_system(self, rest: str) -> None:
        if rest:
            await self.set_system("" if rest == "-" else rest)
            return
        question = "System prompt of this conversation"
        self.app.push_screen(AskText(question, self.system, long=True), self.set_system)

    @told
    async def set_system(self, text: str | None) -> None:
        """The system prompt from the next answer on; None changes nothing."""
        if text is None:
            return
        if self.conversation is not None:
            self.conversation = self.services.history.conversations.set_system(
                self.conversation.id, text
            )
        self.system = text
        said = "The system prompt holds from the next answer on" if text else "No system prompt"
        self.notify(said, markup=False)

    async def command_set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if not rest:
            if self.dials is None:
                self.trouble("the models are not loaded yet, so there is nothing to turn")
            else:
                lines = [f"{name} = {value}" for name, value in self.dials.shown().items()]
                await self.transcript.say("Dials (/set NAME VALUE):\n" + "\n".join(lines))
        elif not value.strip():
            self.trouble(f"/set {name}: to what? As in /set beta 0.5")
        else:
            await self.turn_dial(name.replace("-", "_"), value.strip())

    async def command_stats(self, rest: str) -> None:
        import psutil

        lines = []
        if self.last_live is not None:
            live = self.last_live
            lines += [
                f"Last answer: {totals_line(live.figures)}",
                f"Drafts of {live.draft_length:.1f} tokens in the mean",
                f"Context: {live.context_used} of {live.context_size} tokens",
            ]
        if self.loaded is not None and self.dials is not None:
            lines.append(f"Models: {self.loaded.name} ({', '.join(self.loaded.roles)})")
            lines.append(f"Recipe: {self.dials.recipe}")
        lines.append(f"Memory: {size(psutil.Process().memory_info().rss)}")
        await self.transcript.say("\n".join(lines))

    async def command_save(self, rest: str) -> None:
        if self.conversation is None:
            self.trouble("there is no conversation to name yet")
            return
        self.conversation = self.services.history.conversations.rename(self.conversation.id, rest)
        self.show_head()
        self.notify("Named; it is saved as you go", markup=False)

    async def command_load(self, rest: str) -> None:
        from eftlocal_tui.history import import_file

        if self.refused():
            return
        if not rest:
            self.open_history()
        elif rest.isascii() and rest.isdigit() and len(rest) < _LONGEST_ID:
            await self.open_conversation(int(rest))
        else:
            came = import_file(self.services.history, file_of(rest))
            if came:
                await self.open_conversation(came[-1].id)
            self.notify(f"{len(came)} came in", markup=False)

    async def command_export(self, rest: str) -> None:
        if rest:
            self.export_to(file_of(rest))
        elif self.conversation is None:
            self.trouble("there is no conversation to export yet")
        else:
            self.export_to(free_name(Path.cwd(), f"chat-{self.conversation.id}", ".md"))

    async def command_clear(self, rest: str) -> None:
        await self.action_new()

    async def command_regen(self, rest: str) -> None:
        await self.action_regenerate()

    async def command_continue(self, rest: str) -> None:
        await self.action_continue()

    async def command_edit(self, rest: str) -> None:
        self.action_edit()

    async def command_copy(self, rest: str) -> None:
        if rest == "code":
            self.action_copy_code()
        elif rest:
            self.trouble(f"/copy takes code or nothing, not {rest!r}")
        else:
            self.action_copy()

    async def command_compare(self, rest: str) -> None:
        self.action_compare()

    async def command_influence(self, rest: str) -> None:
        self.action_influence()

    async def command_history(self, rest: str) -> None:
        self.open_history(rest)

    async def command_theme(self, rest: str) -> None:
        themes = self.app.available_themes
        if not rest:
            await self.app.run_action("light_or_dark")
        elif rest in themes:
            self.app.theme = rest
        else:
            self.trouble(f"there is no theme {rest!r}; there are {', '.join(themes)}")

    async def command_settings(self, rest: str) -> None:
        path = settings_path()
        try:
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(FIRST, encoding="utf-8")
            with self.app.suspend():
                edit_file(path, self.services.settings.editor)
        except SuspendNotSupported:
            self.trouble(f"this terminal cannot hand over to an editor; the file is {path}")
            return
        except OSError as error:
            self.trouble(f"{path}: cannot be written: {error.strerror}")
            return
        self.notify(f"{path} is read at the next start", markup=False)

    async def command_exit(self, rest: str) -> None:
        await self.app.action_quit()

    def open_history(self, words: str = "") -> None:
        """The list of conversations; the one chosen is opened."""
        if self.refused():
            return

        async def chosen(conversation_id: int | None) -> None:
            await until_left(self, self.after_history(conversation_id))

        now = self.conversation.id if self.conversation else None
        self.app.push_screen(HistoryScreen(self.services, words=words, now=now), chosen)

    async def after_history(self, conversation_id: int | None) -> None:
        try:
            if conversation_id is not None:
                await self.open_conversation(conversation_id)
            elif self.conversation is not None:  # it may have another name now, or be gone
                self.conversation = self.services.history.conversations.get(self.conversation.id)
                self.show_head()
        except EftlocalError:
            await self.action_new()


def file_of(text: str) -> Path:
    """The file that a person named; ~ is their home.

    Raises:
        UsageError: ~name is nobody's home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{text}: {error}") from None
