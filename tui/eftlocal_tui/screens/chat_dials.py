"""The dials that the next token of the chat follows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from eftlocal.errors import UsageError
from eftlocal.logits.recipe import PERSONA, Recipe
from eftlocal.presets.reading import load_presets
from eftlocal.terminal_text import one_line
from eftlocal_tui.dials import Dials, restored
from eftlocal_tui.history import Turn
from eftlocal_tui.screens.dialogs import Confirm

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen


class ChatDials:
    """The dials, turned by the person or as a conversation left them.

    Attributes:
        turned: None where they are as the models came.
        offered: a recipe with a persona, of the conversation's last answer, that the models lack
            the role for.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self.turned: Dials | None = None
        self.offered: Recipe | None = None

    @property
    def now(self) -> Dials:
        """What the next token follows. Raises UsageError where nothing is loaded."""
        return self.turned or self.screen.models.ready.dials

    async def show(self) -> None:
        """The dials in the side panel and in the head."""
        if (loaded := self.screen.models.loaded) is not None:
            await self.screen.side.show_dials(self.now, loaded)
        self.screen.show_head()

    async def restore(self, dials: Dials | None = None, *, chosen: bool = False) -> None:
        """Goes on with these dials, or with those of the conversation's last answer, if it is of
        this preset; if it is another's, says so.

        Args:
            chosen: the person has just loaded these models for it.
        """
        screen, loaded = self.screen, self.screen.models.loaded
        conversation = screen.turns.conversation
        self.offered = None
        if dials is not None:
            self.turned = dials
        elif loaded is not None and conversation is not None:
            path = screen.services.history.turns.path(conversation.id, last=2)
            answers = [turn for turn in path if turn.settings is not None]
            if answers and answers[-1].settings is not None:
                self.turned = self.of(answers[-1])
                made = answers[-1].settings.preset
                if made is not None and made != loaded.name:
                    await screen.say(self._of_other(made, chosen=chosen), once=True)
        await self.show()

    def _of_other(self, made: str, *, chosen: bool) -> str:
        """What to say of a conversation that other models have answered so far."""
        now = one_line(self.screen.models.ready.name, 60)
        made_by = one_line(made, 60)
        if chosen:
            return f"From here {now} answers; so far {made_by} did."
        said = f"{made_by} answered this conversation, and {now} is loaded."
        if made in load_presets():
            return f"{said} /preset {made_by} loads it; without that, {now} answers from here."
        return f"{said} There is no preset {made_by} any more; {now} answers from here."

    def of(self, turn: Turn) -> Dials:
        """The dials that an answer was given with, if it is of this preset; else the present ones.

        Raises:
            UsageError: nothing is loaded.
        """
        dials, loaded = self.now, self.screen.models.ready
        if turn.settings and turn.settings.preset == loaded.name:
            try:
                found = restored(turn.settings, loaded.dials)
                if PERSONA in found.recipe.roles and PERSONA not in loaded.roles:
                    self.offered = found.recipe
                    persona = one_line(found.recipe.persona_prompt, 60)
                    raise UsageError(f"its persona was “{persona}”; /persona brings it back")
                return found
            except UsageError as error:
                self.screen.trouble(error)
        return dials

    async def turn(self, name: str, to: str | int | None) -> None:
        """Turns a dial; an answer that is being written follows from its next token.

        Args:
            to: a value as text, so many steps, or (None) where the preset began.

        Raises:
            UsageError: nothing is loaded, there is no such dial, or it does not go there.
        """
        loaded, dials = self.screen.models.ready, self.now
        try:
            if to is None:
                self.turned = dials.reset(name, loaded.dials)
            elif isinstance(to, int):
                self.turned = dials.stepped(name, to)
            else:
                self.turned = dials.turned(name, to, loaded.roles, loaded.dials)
        finally:
            await self.show()

    @property
    def persona(self) -> str:
        """That of the dials, or that may be brought back. Raises UsageError: nothing is loaded."""
        of_dials = self.now.recipe.persona_prompt
        return of_dials or (self.offered.persona_prompt if self.offered else "")

    async def set_persona(self, text: str) -> None:
        """From the next answer on; empty is none. Where no role can read it, the person is asked
        whether the models are to be loaded again with one.

        Raises:
            UsageError: nothing is loaded, or it is not valid text.
        """
        models = self.screen.models
        if not text or PERSONA in models.ready.roles:
            await self._use_persona(text)
            return
        if models.doing:
            raise UsageError("models are on their way; give the persona when they are there")
        self.screen.start(partial(self._load_persona, Recipe.persona(text)))

    async def _load_persona(self, recipe: Recipe) -> None:
        screen = self.screen
        again = await screen.services.tasks.also(recipe).result()
        question = f"The persona needs a role of its own, which {again.costs}."
        asked = Confirm(question, "Load", dangerous=False, typed=screen.typed)
        if await screen.app.push_screen_wait(asked) and await screen.models.load_again(
            again, "a persona"
        ):
            await self._use_persona(recipe.persona_prompt)

    async def _use_persona(self, text: str) -> None:
        loaded, now = self.screen.models.ready, self.now
        if self.offered and text == self.offered.persona_prompt:
            self.turned, self.offered = replace(now, recipe=self.offered), None
        else:
            self.turned = now.with_persona(text, loaded.roles, loaded.preset or loaded.dials)
        await self.show()
        what = "Persona set; it applies from the next answer" if text else "No persona"
        self.screen.notify(what)

    async def reset(self) -> None:
        """Every dial where the preset began.

        Raises:
            UsageError: nothing is loaded.
        """
        self.turned = self.screen.models.ready.dials
        await self.show()
