"""The chat screen's questions: which conversation they are of, kept first, answered then."""

from __future__ import annotations

from eftlocal.errors import EftlocalError
from eftlocal.prompt.messages import validate_prompt
from eftlocal_tui import commands
from eftlocal_tui.history import Turn
from eftlocal_tui.screens.chat_answers import ChatAnswers
from eftlocal_tui.screens.chat_state import MOST_TURNS, alone
from eftlocal_tui.told import told
from eftlocal_tui.widgets.prompt import PromptArea
from eftlocal_tui.widgets.side_panel import SidePanel


class ChatAsks(ChatAnswers):
    """Opens conversations, and asks in them."""

    async def obey(self, command: commands.Command, rest: str) -> None:
        """Does what a slash command says."""
        raise NotImplementedError

    @alone
    async def open_conversation(self, conversation_id: int) -> None:
        """Shows a conversation and goes on with it."""
        history = self.services.history
        self.conversation = history.conversations.get(conversation_id)
        self.system = self.conversation.system
        self._stop_editing()
        await self.transcript.show(history.turns.path(conversation_id, last=MOST_TURNS))
        if self.loaded is not None:
            self._restore_dials()
            if self.dials is not None:
                await self.query_one(SidePanel).show_dials(self.dials, self.loaded.roles)
        self.show_head()
        self.prompt.focus()

    @alone
    async def action_new(self) -> None:
        if self.refused():
            return
        self.conversation = None
        self.system = self.services.settings.system
        self._stop_editing()
        await self.transcript.show([])
        self.show_head()
        self.prompt.focus()

    async def on_prompt_area_sent(self, event: PromptArea.Sent) -> None:
        try:
            command = commands.parse(event.text)
            if command is not None:
                await self.obey(*command)
                return
            if not event.text.strip():
                return
            text = validate_prompt(commands.message(event.text))
        except EftlocalError as error:
            self.prompt.give_back(event.text)
            self.trouble(error)
            return
        self.start(self.ask(text))  # it may have to wait, and the screen must not

    @told
    async def ask(self, text: str) -> None:
        """Keeps a question, shows it, and has it answered. Busy from here on."""
        if self.refused():
            self.prompt.give_back(text)
            return
        self._sending = True
        try:
            async with self._changing:
                await self._ask(text)
        finally:
            self._sending = False

    async def _ask(self, text: str) -> None:
        try:
            question = await self.when_free(lambda: self._kept(text))
        except EftlocalError as error:
            self.prompt.give_back(text)
            await self.transcript.say(str(error), error=True)
            return
        await self._show(question)
        self.transcript.follow()
        if self.loaded is None and self._load_task is None:
            await self.transcript.say("No models are loaded: /preset NAME loads some.", error=True)
        elif self.loaded is None:
            self._kept_question = True
            self.status("Kept; it is answered when the models are loaded")
        else:
            await self._answer_last()

    def _kept(self, text: str) -> Turn:
        history = self.services.history
        if self._editing is not None:
            return history.turns.edit(self._editing.id, text)
        if self.conversation is None:
            self.conversation = history.conversations.create(system=self.system)
        return history.turns.ask(self.conversation.id, text, self.transcript.leaf)

    async def _show(self, question: Turn) -> None:
        history = self.services.history
        if self._editing is not None:
            self._stop_editing()
            await self.transcript.show(history.turns.path(question.conversation, MOST_TURNS))
        else:
            await self.transcript.add(question)
        self.conversation = history.conversations.get(question.conversation)
        self.show_head()

    def on_chat_models_ready(self) -> None:
        if self._kept_question:
            self.start(self._answer_kept())

    async def _answer_kept(self) -> None:
        try:
            await self._answer_last()
        finally:
            self._kept_question = False

    @told
    async def _answer_last(self) -> None:
        question = self.last("user")
        if question is not None:
            await self.when_free(lambda: self.reply(question))
