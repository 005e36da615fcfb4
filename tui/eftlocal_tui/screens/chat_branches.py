"""The chat screen's branches: other answers, edited questions, walking among them."""

from __future__ import annotations

from eftlocal.errors import EftlocalError
from eftlocal_tui.history import Turn
from eftlocal_tui.screens.chat_state import alone
from eftlocal_tui.screens.chat_views import ChatViews
from eftlocal_tui.told import told
from eftlocal_tui.widgets.turns import TurnView


class ChatBranches(ChatViews):
    """Nothing is lost: what is made anew stands beside what was there."""

    async def action_regenerate(self) -> None:
        answer, question = self.last("assistant"), self.last("user")
        target = answer or question
        if target is None:
            self.trouble("there is nothing to answer yet")
        else:
            await self.regenerate(target)

    @alone
    async def regenerate(self, turn: Turn) -> None:
        """Another answer, beside the one that is there."""
        if self.refused():
            return
        if self.loaded is None:
            self.trouble("the models are not loaded, so nothing can be answered")
            return
        await self._answer_again(turn.id if turn.role == "user" else turn.parent)

    @alone
    async def action_continue(self) -> None:
        answer = self.last("assistant")
        if self.refused():
            return
        if answer is None or not answer.text or answer.parent is None:
            self.trouble("there is no answer to go on with")
            return
        if self.loaded is None:
            self.trouble("the models are not loaded, so nothing can be answered")
            return
        await self._answer_again(answer.parent, prefix=answer.text)

    async def _answer_again(self, question_id: int | None, *, prefix: str = "") -> None:
        """Shows the turns down to a question, and has that answered."""
        shown = self.path()
        upto = next((i for i, turn in enumerate(shown) if turn.id == question_id), None)
        if upto is None:
            self.trouble("that message is no longer there: its conversation was deleted")
            return
        await self.transcript.show(shown[: upto + 1])
        try:
            self.reply(shown[upto], prefix=prefix)
        except EftlocalError:
            await self.transcript.show(shown)
            raise

    def action_edit(self) -> None:
        question = self.last("user")
        if question is None:
            self.trouble("there is no message of yours to edit yet")
        else:
            self.edit(question)

    def edit(self, turn: Turn) -> None:
        """Puts a question into the message box; sending makes a branch."""
        if self.refused():
            return
        if turn.role != "user":
            self.trouble("answers are not edited; r (or Ctrl+R) asks for another one")
            return
        self._editing = turn
        self.prompt.add_class("-editing")
        self.prompt.replace_all(turn.text)
        self.prompt.focus()

    async def action_sibling(self, by: int) -> None:
        turn = next((turn for turn in reversed(self.path()) if turn.branches > 1), None)
        if turn is None:
            self.notify("There is one branch only; F4 and Ctrl+R make others", markup=False)
        else:
            await self.sibling(turn, by)

    @alone
    async def sibling(self, turn: Turn, by: int) -> None:
        """Walks to a branch beside this one."""
        if self.refused():
            return
        turns = self.services.history.turns
        siblings = turns.siblings(turn.id)
        at = turn.branch - 1 + by
        if 0 <= at < len(siblings):
            focused = isinstance(self.focused, TurnView)
            await self.transcript.show(turns.switch(siblings[at].id))
            view = self.transcript.view_of(siblings[at].id)
            if focused and view is not None:
                view.focus()

    def action_turns(self) -> None:
        if views := self.transcript.views:
            views[-1].focus()

    @told
    async def on_turn_view_asked(self, event: TurnView.Asked) -> None:
        event.stop()
        turn, view = event.turn, self.transcript.view_of(event.turn.id)
        if event.what == "copy":
            self.copy(view.text if view else turn.text, "the message")
        elif event.what == "copy_code":
            self.copy(view.code() if view else None, "a code block")
        elif event.what == "edit":
            self.edit(turn)
        elif event.what == "regenerate":
            await self.regenerate(turn)
        elif event.what == "influence":
            self.influence(turn)
        elif event.what == "sibling":
            await self.sibling(turn, event.by)
        elif event.what == "walk":
            self._walk(turn, event.by)
        else:
            self.prompt.focus()

    def _walk(self, turn: Turn, by: int) -> None:
        views = self.transcript.views
        at = next((i for i, view in enumerate(views) if view.turn.id == turn.id), 0) + by
        if at >= len(views):
            self.prompt.focus()
        elif at >= 0:
            views[at].focus()
