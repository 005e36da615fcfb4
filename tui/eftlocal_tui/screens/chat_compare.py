"""The comparison of the chat: it is opened, opened again, and a column of it made an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eftlocal.errors import UsageError
from eftlocal.prompt.messages import validate_prompt
from eftlocal_tui import commands
from eftlocal_tui.comparison import Column, Comparison, Question
from eftlocal_tui.history import Thinks, Turn
from eftlocal_tui.screens.chat_context import Asked
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
        asked = self._question(screen.prompt.text)
        comparison = Comparison(loaded, screen.dials.now, asked)
        if self._last is not None and self._last.answers_as(comparison):
            comparison = self._last
            comparison.ask_again(asked)
        self._last = comparison
        screen.app.push_screen(CompareScreen(screen.services, comparison, self))

    def _question(self, typed: str) -> Question:
        """What is typed, or the last question.

        Raises:
            UsageError: there is neither.
            PromptError: what is typed cannot be a message.
        """
        turns, read = self.screen.turns, self.screen.services.history.turns
        if not typed.strip() or self.screen.answers.box.editing is not None:
            last = turns.last("user", "type a message to compare, or ask something first")
            return Question(read.messages(last.id), last.id)
        text = validate_prompt(commands.message(typed))
        asked = Asked(turns.system, turns.down_to(turns.leaf), text)
        return Question(asked.messages(asked.begin), None, text)

    async def keep(self, comparison: Comparison, column: Column) -> None:
        """Makes a column an answer of the conversation, beside those that its question has. A
        question that was only typed is kept first."""
        screen, answers, turns = self.screen, self.screen.answers, self.screen.turns
        answers.check_free()
        if not column.text:
            raise UsageError(f"{column.name} has no text that could be kept")
        if column.kept is not None:
            raise UsageError(f"{column.name} is kept already")
        async with turns.layout:
            answers.check_free()
            turn = await turns.when_free(lambda: self._write(comparison, column))
            screen.models.tokens[turn.id] = tuple(column.tokens)
            await turns.show_leaf(turn)
        column.kept = turn
        screen.notify(f"Kept in the conversation: {column.name}, branch {turn.branch}")

    def _write(self, comparison: Comparison, column: Column) -> Turn:
        history, asked = self.screen.services.history, comparison.asked
        with history.db.transaction():
            question = asked.question
            if question is None:
                question = self.screen.turns.ask(asked.typed).id
            settings, figures = comparison.settings(column), comparison.figures(column)
            with history.answer(question, settings) as writer:
                if column.marks is not None:
                    writer.note(thinking=Thinks(**vars(column.marks)))
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
