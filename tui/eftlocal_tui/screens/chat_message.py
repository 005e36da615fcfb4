"""What is done with one message of the conversation, by its own keys or by those of the chat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from eftlocal.errors import UsageError
from eftlocal.terminal_text import one_line
from eftlocal_tui.history import Turn
from eftlocal_tui.screens.branches import BranchesScreen
from eftlocal_tui.screens.influence import InfluenceScreen
from eftlocal_tui.widgets.turn_view import TurnView

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen


class ChatMessage:
    """One method a key of a message; `map` and `influence` are the chat's too."""

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen

    async def obey(self, view: TurnView, what: str, *by: int) -> None:
        """Does what a key says. Raises EftlocalError where it cannot."""
        method: Callable[..., Awaitable[None]] = getattr(self, f"_{what}")
        await method(view, *by)

    async def _copy(self, view: TurnView) -> None:
        self.screen.copy(view.answer, "message")

    async def _copy_all(self, view: TurnView) -> None:
        self.screen.copy(view.text, "whole message")

    async def _copy_code(self, view: TurnView) -> None:
        self.screen.copy(view.code(), "code block")

    async def _edit(self, view: TurnView) -> None:
        self.screen.answers.edit(view.turn)

    async def _regenerate(self, view: TurnView) -> None:
        await self.screen.answers.regenerate(view.turn)

    async def _sibling(self, view: TurnView, by: int) -> None:
        await self.screen.turns.sibling(view.turn, by)

    async def _walk(self, view: TurnView, by: int) -> None:
        found = await self.screen.transcript.beside(view, by)
        if found is not None:
            self.screen.set_focus(found)
        elif by > 0:
            self.screen.set_focus(self.screen.prompt)

    async def _back(self, view: TurnView) -> None:
        self.screen.set_focus(self.screen.prompt)

    async def _map(self, view: TurnView) -> None:
        self.map(view.turn)

    async def _influence(self, view: TurnView) -> None:
        self.influence(view.turn)

    def map(self, turn: Turn) -> None:
        """Opens the map of the conversation's branches, at a turn."""
        turns = self.screen.services.history.turns.all(turn.conversation)
        shown = [turn.id for turn in self.screen.transcript.turns]
        self.screen.ask(BranchesScreen(turns, shown, turn.id), self._go)

    async def _go(self, chosen: int | None) -> None:
        if chosen is None:
            return
        transcript = self.screen.transcript
        view = await transcript.reveal(chosen)
        if view is None:
            await self.screen.turns.go_to(chosen)
            view = await transcript.reveal(chosen)
        if view is not None:
            shown = view
            self.screen.set_focus(shown, scroll_visible=False)
            transcript.bring(shown, lambda: shown.region)

    def influence(self, turn: Turn) -> None:
        """Opens the influence view of an answer."""
        screen, models = self.screen, self.screen.models
        screen.answers.check_free()
        if turn.role != "assistant" or not turn.text or turn.parent is None:
            raise UsageError("only an answer can be inspected")
        dials, loaded = screen.dials.of(turn), models.ready
        messages = screen.services.history.turns.messages(turn.parent)
        text = models.tokens.get(turn.id) or turn.text
        of = ""
        if turn.settings is None or turn.settings.preset != loaded.name:
            of = one_line((turn.settings and turn.settings.preset) or "another model", 40)
        elif len(dials.recipe.roles) == 1 < len(screen.dials.now.recipe.roles):
            # Of one model's answer a person asks what the emulation would have done to it.
            of, dials = f"{dials.recipe.roles[0]} alone", screen.dials.now
        marked = bool(turn.marks) and not of
        screen.app.push_screen(
            InfluenceScreen(screen.services, loaded, messages, text, dials, marked=marked, of=of)
        )
