"""What is on its way: a message that is being sent, or an answer that is being written.

What is sent meanwhile waits in the box, and goes out when that has ended well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.terminal_text import one_line
from eftlocal_tui.history import Turn
from eftlocal_tui.screens.chat_box import ChatBox, Outgoing
from eftlocal_tui.screens.chat_context import SENDING, SUMMARY, Asked, ChatContext, Sending
from eftlocal_tui.screens.chat_turns import in_turn
from eftlocal_tui.screens.running_answer import RunningAnswer

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

_NO_ANSWER = "there is no answer to continue"
_BUSY = "an answer is being generated; {chat.stop} stops it and keeps the text so far"
_CHECK_SENT = "a message is being sent; {chat.stop} takes it back"
_LOADING = "Queued; sent when the models are loaded"
_TAKEN_BACK = "Your message is back in the box; {{prompt.send}} sends it to {}."
_NO_MODELS = "no models are loaded; /preset NAME loads some"


class ChatAnswers:
    """Has messages answered, one after the other. What cannot be done raises EftlocalError.

    Attributes:
        now: what is on its way, if anything; an answer may be another conversation's.
        box: what is typed and not yet sent.
        context: whether what is asked fits the models.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self.history = screen.services.history
        self.now: Sending | RunningAnswer | None = None
        self.box = ChatBox(screen)
        self.context = ChatContext(screen)

    @property
    def busy(self) -> bool:
        """Whether anything is on its way, or waits for it."""
        return self.now is not None or bool(self.box.waiting)

    @property
    def sending(self) -> bool:
        return isinstance(self.now, Sending)

    @property
    def given_up(self) -> bool:
        """Whether nobody waits any more for what is being sent."""
        return isinstance(self.now, Sending) and self.now.given_up

    @property
    def running(self) -> RunningAnswer | None:
        """The answer that is being written, in whatever conversation."""
        return self.now if isinstance(self.now, RunningAnswer) else None

    def check_sent(self) -> None:
        """Raises UsageError while a message is being sent."""
        if self.sending:
            raise UsageError(_CHECK_SENT)

    def check_free(self) -> None:
        """Raises UsageError where something is on its way that must end first."""
        self.check_sent()
        if self.now is not None:
            raise UsageError(_BUSY)

    def _begin(self) -> Sending:
        """Something is being sent from now on, for `_on_its_way`."""
        sending = self.now = Sending()
        self.screen.status(SENDING)
        self.box.show_waiting()
        return sending

    @contextmanager
    def _on_its_way(self, sending: Sending) -> Iterator[None]:
        """It is being sent until it is answered, or the block is left."""
        try:
            yield
        finally:
            if self.now is sending:
                self.now = None
                self.screen.status("")

    # Messages ----------------------------------------------------------------------------------

    def ask(self, text: str) -> None:
        """Sends a message: keeps it, shows it, and has it answered. It waits for what is on its
        way, and no key waits for it."""
        self.box.hold(text)
        models = self.screen.models
        if self.now is not None or models.loading or models.loaded is None:
            self.screen.start(self._send_next)
        else:  # from now on, and not when its turn comes
            self.screen.start(partial(self._send_first, self._begin()))

    async def _send_next(self) -> None:
        screen, box = self.screen, self.box
        if waits := screen.models.loading:
            screen.status(_LOADING)
        came = await screen.models.settled()
        if waits and screen.said == _LOADING:
            screen.status("")
        if self.now is not None or not box.waiting:
            return
        if not came:
            box.take_back()
            loaded = screen.models.loaded
            if loaded is None:
                await screen.say(_NO_MODELS, error=True)
            else:
                await screen.say(_TAKEN_BACK.format(one_line(loaded.name, 60)))
            return
        await self._send_first(self._begin())

    async def _send_first(self, sending: Sending) -> None:
        with self._on_its_way(sending):
            try:
                await self._send(self.box.waiting[0], sending)
            except EftlocalError as error:
                self.box.take_back()
                await self.screen.say(str(error), error=True)

    async def _send(self, outgoing: Outgoing, sending: Sending) -> None:
        turns = self.screen.turns
        parent = outgoing.edits.parent if outgoing.edits else turns.leaf
        asked = Asked(turns.system, turns.down_to(parent), outgoing.text)
        if not outgoing.is_summary and not await self.context.has_room(asked, sending):
            self.box.take_back()
            return
        async with turns.layout:
            question = await turns.when_free(lambda: self._keep(outgoing))
            self.box.sent(question.conversation)
            await turns.show_question(question)
            if not outgoing.is_summary:
                await turns.when_free(lambda: self._reply(question))

    def _keep(self, outgoing: Outgoing) -> Turn:
        turns, edited = self.history.turns, outgoing.edits
        if edited is not None:
            put = turns.rewrite if outgoing.is_summary else turns.edit
            return put(edited.id, outgoing.text)
        question = self.screen.turns.ask(outgoing.text)
        self.screen.turns.conversation = self.history.conversations.get(question.conversation)
        return question

    def edit(self, turn: Turn) -> None:
        """Puts a question, or a summary, into the message box; sending makes a branch."""
        self.check_free()
        of_summary = turn.parent is not None and self.history.turns.get(turn.parent).summary
        if turn.role != "user" and not of_summary:
            raise UsageError("an answer cannot be edited; {chat.regenerate} regenerates it")
        self.box.edit(turn)

    # Answers -----------------------------------------------------------------------------------

    def _reply(self, question: Turn, *, before: Turn | None = None) -> None:
        """Has a question answered; the answer is shown as it comes."""
        running = self.now = RunningAnswer(self.screen, question, before)
        self.box.show_waiting()  # what was sent while this was on its way
        self.screen.start(partial(self._follow, running))

    async def _follow(self, running: RunningAnswer) -> None:
        """Shows an answer, and then sends what waits for its end."""
        screen, goes_on = self.screen, False
        try:
            well = await running.follow()
            goes_on = well or not running.is_shown  # what waits is not about that answer
        finally:
            self.now = None
            if screen.alive and not goes_on:
                self.box.take_back()
        if not screen.alive:
            return
        if running.is_shown and running.question.summary:
            async with screen.turns.layout:
                await screen.turns.show(screen.turns.path())  # with a line above it
        if running.is_shown and running.turn.finish_reason == "context":
            await screen.say("The context is full. /context shows the ways on.")
        await self._send_next()

    def stop(self) -> bool:
        """Ends what is on its way, or an edit; whether there was any. What waits comes back."""
        if isinstance(self.now, Sending):
            self.now.given_up = True
            self.now.stop()
            return True
        back = self.box.take_back()
        if self.now is not None:
            self.now.stop()
            return True
        return back or self.box.end_edit()

    @in_turn
    async def regenerate(self, turn: Turn) -> None:
        """Another answer, beside the one that is there."""
        self._answer_again(turn.id if turn.role == "user" else turn.parent)

    @in_turn
    async def go_on(self) -> None:
        """The last answer, continued, beside the one that is there."""
        answer = self.screen.turns.last("assistant", _NO_ANSWER)
        if not answer.text:
            raise UsageError(_NO_ANSWER)
        self._answer_again(answer.parent, before=answer)

    def _answer_again(self, question_id: int | None, *, before: Turn | None = None) -> None:
        """Shows the turns down to a question, and has that answered; no key waits for it."""
        self.check_free()
        _ = self.screen.models.ready  # nothing is taken away where nothing can answer
        shown = self.screen.turns.path()
        upto = next((i for i, turn in enumerate(shown) if turn.id == question_id), None)
        if upto is None:
            raise UsageError("that message is gone; its conversation was deleted")
        self.screen.set_focus(self.screen.prompt)  # what had it may be gone
        sending = self._begin()
        self.screen.start(partial(self._answer, sending, shown, upto, before))

    async def _answer(
        self, sending: Sending, shown: list[Turn], upto: int, before: Turn | None
    ) -> None:
        turns, question = self.screen.turns, shown[upto]
        prefix = before.text if before else ""
        asked = Asked(turns.system, turns.down_to(question.id), prefix=prefix)
        with self._on_its_way(sending):
            if not await self.context.has_room(asked, sending):
                return
            async with turns.layout:
                await turns.show(shown[: upto + 1])
                try:
                    self._reply(question, before=before)
                except EftlocalError:
                    await turns.show(shown)
                    raise

    # The context -------------------------------------------------------------------------------

    async def summarise(self) -> None:
        """Has a summary of the conversation written, from which it goes on."""
        turns = self.screen.turns
        path = turns.down_to(turns.leaf)
        begin = await self.context.summary(turns.system, path)
        async with turns.layout:
            self.check_free()
            ask = partial(
                self.history.turns.ask, path[-1].conversation, SUMMARY, path[-1].id, summary=True
            )
            question = await turns.when_free(partial(ask, begins_at=path[begin].id))
            await turns.show_question(question)
            await turns.when_free(lambda: self._reply(question))

    async def ways_on(self) -> None:
        """Shows how full the contexts are, and goes the way that is chosen."""
        _ = self.screen.models.ready
        self.check_free()
        turns, text = self.screen.turns, self.screen.prompt.text
        text = "" if self.box.editing else text.strip()
        await self.context.show(Asked(turns.system, turns.down_to(turns.leaf), text))
