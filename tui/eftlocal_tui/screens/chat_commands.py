"""What the slash commands do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from textual.app import SuspendNotSupported

from eftlocal.disk import readable
from eftlocal.errors import UsageError
from eftlocal.logits.meaning import MEANINGS
from eftlocal.settings import nearest
from eftlocal.terminal_text import one_line
from eftlocal.user_settings import from_file
from eftlocal.user_settings import settings_path as defaults_path
from eftlocal_tui.commands import Command, file_of
from eftlocal_tui.dials import formula_of, recipe_names
from eftlocal_tui.editor import edit_file
from eftlocal_tui.history import export_file, free_name, import_file
from eftlocal_tui.history.search import LONGEST_QUERY
from eftlocal_tui.screens.chat_turns import NO_CONVERSATION
from eftlocal_tui.screens.dialogs import AskText
from eftlocal_tui.settings import FIRST, FIRST_DEFAULTS, read_settings, settings_path
from eftlocal_tui.text import totals_line

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

_HOW_TO_SET = "/set temperature explains one; /set temperature 0.5 turns it"
_LONGEST_ID = 19  # digits; longer ones are no conversation's


class ChatCommands:
    """One method a command that is no key, or that may take more than the key does."""

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen

    async def obey(self, command: Command, rest: str) -> None:
        """Does what a command says. Raises EftlocalError where it cannot."""
        if command.action and not rest:
            await self.screen.run_action(command.action)
        else:
            method: Callable[[str], Awaitable[None]] = getattr(self, f"_{command.name}")
            await method(rest)

    async def _preset(self, rest: str) -> None:
        self.screen.models.choose(rest)

    async def _system(self, rest: str) -> None:
        if rest:
            await self._set_system("" if rest == "-" else rest)
        else:
            question = "System prompt of this conversation"
            box = AskText(question, self.screen.turns.system, long=True)
            self.screen.ask(box, self._asked_system)

    async def _asked_system(self, text: str | None) -> None:
        if text is not None:
            await self._set_system(text)

    async def _set_system(self, text: str) -> None:
        await self.screen.turns.set_system(text)
        what = "System prompt set; it applies from the next answer" if text else "No system prompt"
        self.screen.notify(what)

    async def _persona(self, rest: str) -> None:
        if rest:
            await self._set_persona("" if rest == "-" else rest)
        else:
            question = "Persona: a system prompt that only the tuned model reads"
            box = AskText(question, self.screen.dials.persona, long=True)
            self.screen.ask(box, self._set_persona)

    async def _set_persona(self, text: str | None) -> None:
        if text is not None:
            await self.screen.dials.set_persona(text)

    async def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        name = name.removesuffix("?").replace("-", "_")
        loaded, dials = self.screen.models.ready, self.screen.dials.now
        if value.strip():
            await self.screen.dials.turn(name, value.strip())
        elif name == "recipe":
            names = recipe_names(dials.recipe, loaded.roles, loaded.dials.recipe)
            lines = [f"{name}: {MEANINGS[name].does}" for name in names if name in MEANINGS]
            lines.append(f"Now: {formula_of(dials.recipe, loaded.files)}")
            await self.screen.say("\n".join(lines))
        elif name:
            now = f"{name} = {dials.all().get(name, '')}\n"
            await self.screen.say(now + dials.explained(name, loaded.dials))
        else:
            table = dials.table(loaded.dials, loaded.preset or loaded.dials)
            await self.screen.say(f"{table}\n{_HOW_TO_SET}")

    async def _reset(self, rest: str) -> None:
        dials = self.screen.dials
        before = dials.now
        if rest:
            await dials.turn(rest.replace("-", "_"), None)
        else:
            await dials.reset()
        what = before.difference(dials.now)
        self.screen.notify(what or "Nothing to reset: it is as the preset began")

    async def _stats(self, rest: str) -> None:
        lines: list[str] = []
        models, live = self.screen.models, self.screen.side.live
        if (conversation := self.screen.turns.conversation) is not None:
            lines.append(f"Conversation: #{conversation.id} (/load {conversation.id} opens it)")
        if live is not None:
            took = totals_line(live.figures) or "stopped before the first token"
            lines.append(f"Last answer: {took}")
            if live.figures.acceptance is not None:
                lines.append(f"Mean draft length: {live.draft_length:.1f} tokens")
            lines.append(f"Context: {live.context_used:,} of {live.context_size:,} tokens")
        if models.loaded is not None:
            lines.append(f"Models: {models.loaded.name} ({', '.join(models.loaded.roles)})")
            lines.append(f"Recipe: {self.screen.dials.now.recipe}")
        lines.append(self.screen.services.kept.about())
        lines.append(f"Memory: {readable(psutil.Process().memory_info().rss)}")
        await self.screen.say("\n".join(lines))

    async def _context(self, rest: str) -> None:
        self.screen.start(self.screen.answers.ways_on)

    async def _save(self, rest: str) -> None:
        self.screen.turns.rename(rest)
        self.screen.notify("Renamed; messages are saved as they come")

    async def _load(self, rest: str) -> None:
        screen = self.screen
        screen.answers.check_sent()
        if rest.isascii() and rest.isdigit():
            number = rest.lstrip("0") or "0"
            if len(number) >= _LONGEST_ID:
                raise UsageError(f"there is no conversation {one_line(rest, 30)}")
            await screen.turns.open(int(number))
        else:
            came = import_file(screen.services.history, file_of(rest))
            if came:
                await screen.turns.open(came[-1].id)
            screen.notify(f"Imported {len(came)} conversation{'s' * (len(came) != 1)}")

    async def _export(self, rest: str) -> None:
        conversation = self.screen.turns.conversation
        if conversation is None:
            raise UsageError(NO_CONVERSATION)
        path = file_of(rest) if rest else free_name(Path.cwd(), f"chat-{conversation.id}", ".md")
        leaf = self.screen.transcript.leaf  # another process may have gone to another branch
        written = export_file(self.screen.services.history, [conversation.id], path, leaf)
        self.screen.notify(f"Exported to {one_line(str(written))}")

    async def _copy(self, rest: str) -> None:
        if rest == "code":
            self.screen.action_copy_code()
        elif rest == "all":
            self.screen.action_copy_all()
        else:
            raise UsageError(f"/copy takes code, all or nothing, not {rest!r}")

    async def _history(self, rest: str) -> None:
        self.screen.action_history(_searched(rest))

    async def _find(self, rest: str) -> None:
        self.screen.find.open(_searched(rest))

    async def _theme(self, rest: str) -> None:
        app = self.screen.app
        if rest not in app.available_themes:
            raise UsageError(f"unknown theme {rest!r}; {nearest(rest, app.available_themes)}")
        app.theme = rest

    async def _settings(self, rest: str) -> None:
        if rest not in ("", "dials"):
            raise UsageError(f"/settings takes dials or nothing, not {rest!r}")
        path, first = (defaults_path(), FIRST_DEFAULTS) if rest else (settings_path(), FIRST)
        try:
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(first, encoding="utf-8")
            with self.screen.app.suspend():
                edit_file(path, self.screen.services.settings.editor)
        except SuspendNotSupported:
            raise UsageError(f"this terminal cannot run an editor; the file is {path}") from None
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
        _ = from_file() if rest else read_settings()  # says what is wrong in it
        more = "" if rest else "; /settings dials edits the defaults of dials and limits"
        self.screen.notify(f"{path} is read at the next start{more}")


def _searched(words: str) -> str:
    """What a box of one line can hold."""
    if len(words) > LONGEST_QUERY:
        raise UsageError(f"a search takes at most {LONGEST_QUERY} characters, not {len(words):,}")
    return words
