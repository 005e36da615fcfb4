"""One question, answered by the emulation and by models alone: what was asked, and what came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from eftlocal.generation import FinishReason
from eftlocal.logits.recipe import BASE, TUNED, Recipe
from eftlocal.prompt.messages import Message
from eftlocal.thinking import Marks, Parts, parts
from eftlocal_tui.dials import Dials, kept, recipe_line
from eftlocal_tui.engine import Came, Live, Loaded
from eftlocal_tui.engine.tasks import Figured, Thinking
from eftlocal_tui.history import Figures, Settings, Turn


class Question(NamedTuple):
    """What is answered.

    Attributes:
        messages: what the models are given.
        question: the turn that they end with; None where the question is only typed.
        typed: the question, where it is only typed.
    """

    messages: list[Message]
    question: int | None
    typed: str = ""


@dataclass
class Column:
    """An answer of the comparison.

    Attributes:
        name: who gives it.
        about: the recipe with its dials, or the model's file.
        reason: why it ended; None where it runs, was stopped or failed.
        running: it may still grow.
        kept: the answer that it was made; None where it was not.
    """

    name: str
    about: str
    dials: Dials
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    error: str = ""
    live: Live | None = None
    running: bool = False
    kept: Turn | None = None
    marks: Marks | None = None  # of its thinking

    @property
    def parts(self) -> Parts:
        return parts(self.text, self.marks, ended=not self.running)

    @property
    def answer(self) -> str:
        """The text without any thinking."""
        return self.text[self.parts.answer]

    def take(self, event: Came | Figured) -> None:
        if isinstance(event, Figured):
            self.live = event.live
        elif event.step is None:
            self.error, self.running = event.error, False
        else:
            self.text += event.step.text
            self.tokens.append(event.step.token)
            self.reason = event.step.finish_reason
            self.running = self.reason is None


class Comparison:
    """Answers side by side.

    Attributes:
        columns: the emulation's first.
        seed: of all of them; None before they begin.
    """

    def __init__(self, loaded: Loaded, dials: Dials, asked: Question) -> None:
        self.loaded, self.dials, self.asked = loaded, dials, asked
        self.seed: int | None = None
        self.columns = [Column("emulation", recipe_line(dials.recipe), dials)]
        for role in (*(dials.recipe.lambdas or (TUNED,)), BASE):
            if role in loaded.roles:
                alone = replace(dials, recipe=Recipe.single(role))
                about = loaded.file_of(role)
                self.columns.append(Column(f"{role} alone", about, alone))

    @property
    def running(self) -> bool:
        return any(column.running for column in self.columns)

    def begin(self, seed: int) -> None:
        """All columns anew."""
        self.seed = seed
        for at, column in enumerate(self.columns):
            dials = replace(column.dials, sampling=replace(column.dials.sampling, seed=seed))
            self.columns[at] = Column(column.name, column.about, dials, running=True)

    def take(self, event: Came | Figured | Thinking) -> None:
        if isinstance(event, Thinking):
            for column in self.columns:
                column.marks = event.marks
        else:
            self.columns[event.index].take(event)

    def end(self, lives: Sequence[Live | None] = ()) -> None:
        """What has not ended by itself is stopped."""
        for column, live in zip(self.columns, lives, strict=False):
            column.live = live or column.live
        for column in self.columns:
            column.running = False

    def fail(self, why: str) -> None:
        """None of it was answered."""
        self.end()
        self.seed = None
        for column in self.columns:
            column.error = column.error or why

    def answers_as(self, other: Comparison) -> bool:
        """Whether the other one asks the same models the same with the same dials."""
        return (
            self.loaded is other.loaded
            and self.dials == other.dials
            and self.asked.messages == other.asked.messages
        )

    def ask_again(self, asked: Question) -> None:
        """The same messages, perhaps in another place: what is kept elsewhere is not kept there."""
        self.asked = asked
        for column in self.columns:
            if column.kept is not None and column.kept.parent != asked.question:
                column.kept = None

    def settings(self, column: Column) -> Settings:
        """What is written beside a column that is kept."""
        made = kept(self.loaded.name, column.dials)
        return made.model_copy(update={"seed": self.seed})

    def figures(self, column: Column) -> Figures | None:
        """What a column took. Its seconds are those of all columns, which took turns: they say
        nothing of its speed."""
        if column.live is None:
            return None
        others = len(self.columns) - 1
        return column.live.figures.model_copy(update={"tokens_per_second": 0.0, "beside": others})
