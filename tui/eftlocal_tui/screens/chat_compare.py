"""The comparison of the chat: it is opened, opened again, and a column of it made an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eftlocal.errors import UsageError
from eftlocal_tui.comparison import Column, Comparison
from eftlocal_tui.history import Turn
from eftlocal_tui.screens.compare import CompareScreen
from eftlocal_tui.screens.influence import InfluenceScreen

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen


class ChatCompare:
    """The last comparison is held until another one is asked for: what was answered there can
    still be kept after its screen was left."""

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self._last: Comparison | None = None

    def open(self) -> None:
        """Compares the models on what is typed, or on the last question."""
        screen = self.screen
        screen.answers.check_free()
        loaded = screen.models.ready
        asked = screen.answers.to_compare(screen.prompt.text)
        comparison = Comparison(loaded, screen.models.dials, asked)
        if self._last is not None and self._last.answers_as(comparison):
            comparison = self._last
            comparison.ask_again(asked)
        self._last = comparison
        screen.app.push_screen(CompareScreen(screen.services, comparison, self))

    async def keep(self, comparison: Comparison, column: Column) -> None:
        """Makes a column an answer of the conversation, beside those that its question has. A
        question that was only typed is kept first."""
        screen, answers = self.screen, self.screen.answers
        answers.check_free()
        if not column.text:
            raise UsageError(f"{column.name} has no text that could be kept")
        if column.kept is not None:
            raise UsageError(f"{column.name} is kept already")
        async with answers.layout:
            answers.check_free()
            turn = await answers.when_free(lambda: self._write(comparison, column))
            screen.models.tokens[turn.id] = tuple(column.tokens)
            await answers.show_leaf(turn)
        column.kept = turn
        screen.notify(f"Kept in the conversation: {column.name}, branch {turn.branch}")

    def _write(self, comparison: Comparison, column: Column) -> Turn:
        history, asked = self.screen.services.history, comparison.asked
        with history.db.transaction():
            question = asked.question
            if question is None:
                question = self.screen.answers.add_question(asked.typed).id
            settings, figures = comparison.settings(column), comparison.figures(column)
            with history.answer(question, settings) as writer:
                writer.append(column.text, len(column.tokens))
                if column.reason is None:
                    writer.stop(figures)
                else:
                    writer.finish(column.reason, figures)
        comparison.asked = asked._replace(question=question, typed="")
        turn = history.turns.get(writer.id)
        if asked.typed:
            self.screen.answers.box.taken(turn.conversation)
        return turn

    def influence(self, comparison: Comparison, column: Column) -> None:
        """Which model moved each token of a column's text, as the emulation reads it."""
        if not column.tokens:
            raise UsageError(f"{column.name} has no tokens to inspect")
        first = comparison.columns[0]
        screen = InfluenceScreen(
            self.screen.services,
            comparison.loaded,
            comparison.asked.messages,
            column.tokens,
            first.dials,
            of="" if column is first else column.name,
        )
        self.screen.app.push_screen(screen)
