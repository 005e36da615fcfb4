"""What the screens ask of the engine, each a task: load, count, answer, compare, inspect."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.generation import FinishReason, Step
from eftlocal.logits.recipe import Recipe
from eftlocal.prompt.messages import Message
from eftlocal.thinking import Marks
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import (
    Again,
    Came,
    Fit,
    Larger,
    Live,
    Load,
    Loaded,
    Moved,
    Offer,
    Progress,
    Reading,
    Report,
)
from eftlocal_tui.engine.answering import LocalAnswering, LocalAnswers
from eftlocal_tui.engine.local import LocalEngine
from eftlocal_tui.engine.tally import ThinkingTally
from eftlocal_tui.engine.thread import StoppedError, Task, WorkThread
from eftlocal_tui.engine.turning import Refused, Turned, Turning
from eftlocal_tui.history import AnswerWriter, Thinks, Thought

R = TypeVar("R")

FIGURES = 0.2  # seconds between live figures
Clock = Callable[[], float]


class Thinking(NamedTuple):
    """How what is answered marks its thinking; it comes before the first token."""

    marks: Marks


@dataclass(frozen=True)
class Figured:
    """Figures of one of the answers that are compared."""

    index: int
    live: Live


AnswerEvent = Step | Live | Reading | Turned | Refused | Thinking
Column = Came | Figured | Reading | Thinking
Compared = tuple[Live | None, ...]
Counted = tuple[int, Fit]


@dataclass(frozen=True)
class Ended:
    """How an answer ended; finish_reason is None when it was stopped."""

    finish_reason: FinishReason | None
    live: Live
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class LoadOutcome:
    """What a load came to.

    Attributes:
        loaded: what is loaded now; None where nothing is.
        error: why it is not what was asked for.
        again: what is loaded had been given up, and was loaded again.
        lost: why what was loaded before could not be.
    """

    loaded: Loaded | None
    error: EftlocalError | None = None
    again: bool = False
    lost: EftlocalError | None = None


class Tasks:
    """The engine's tasks. What needs its models runs on one thread, in the order of the calls; what
    only looks at files, or downloads, has threads of its own, and does not hold up answers."""

    def __init__(self, engine: LocalEngine, clock: Clock = time.monotonic) -> None:
        self.engine = engine
        self.thread = WorkThread("engine")
        self._looking, self._fetching = WorkThread("looking"), WorkThread("fetching")
        self._clock = clock

    def close(self, last: Callable[[], None]) -> None:
        """Stops all of them, then calls `last` on the engine's thread."""
        self._looking.close()
        self._fetching.close()
        self.thread.close(last)

    # Models ------------------------------------------------------------------------------------

    def prepare(self, preset: str | None, *, download: bool = False) -> Task[Progress, Load]:
        """Finds, fetches and checks models. A download that was stopped is resumed another time."""
        return self._fetching.submit(
            lambda task: self.engine.prepare(preset, _reporting(task), download=download)
        )

    def load(self, load: Load) -> Task[Progress, LoadOutcome]:
        """Loads what was prepared; where that fails, or is stopped, what was loaded before is
        loaded after it."""

        def work(task: Task[Progress, LoadOutcome]) -> LoadOutcome:
            try:
                return LoadOutcome(load(_reporting(task)))
            except EftlocalError as error:
                failed = error
            again = False

            def told(progress: Progress) -> None:
                nonlocal again
                again = True
                task.put(progress)

            try:
                loaded = self.engine.restore(told)
            except EftlocalError as error:
                return LoadOutcome(None, failed, lost=error)
            return LoadOutcome(loaded, failed, again)

        return self.thread.submit(work)

    def look(self, presets: Sequence[str]) -> Task[Offer, None]:
        """How each of the presets can be had here, one after the other."""

        def work(task: Task[Offer, None]) -> None:
            for preset in presets:
                if task.stopping:
                    return
                try:
                    task.put(self.engine.look(preset))
                except EftlocalError as error:
                    task.put(Offer(preset, problem=str(error)))

        return self._looking.submit(work)

    # Contexts ----------------------------------------------------------------------------------

    def larger(self, fit: Fit) -> Task[None, Larger | None]:
        """The larger context that this needs, where it can be had."""
        return self._looking.submit(lambda _: self.engine.larger(fit))

    def also(self, recipe: Recipe) -> Task[None, Again]:
        """What is loaded, with the roles that this recipe has besides."""
        return self._looking.submit(lambda _: self.engine.also(recipe))

    def fit(self, messages: Sequence[Message], dials: Dials) -> Task[None, Fit]:
        """What a conversation takes in each role."""
        return self.thread.submit(lambda _: self.engine.fits(messages, dials))

    def first_that_fits(
        self,
        begins: Sequence[int],
        messages: Callable[[int], Sequence[Message]],
        share: float,
        dials: Dials,
    ) -> Task[None, Counted | None]:
        """The first of the places from which on a conversation leaves a share of every context
        free, or else the last, if there is room for an answer; None where there is not.

        Args:
            begins: places, from each of which less is sent than from the one before.
            messages: what is sent from there; called on the engine's thread.
        """

        def work(task: Task[None, Counted | None]) -> Counted | None:
            def count(index: int) -> Counted:
                task.check()
                return begins[index], self.engine.fits(messages(begins[index]), dials)

            def fits(counted: Counted) -> bool:
                return counted[1].enough and counted[1].leaves(share)

            low, high = 0, len(begins) - 1
            if high < 0:
                return None
            best = count(high)
            if not fits(best):
                return best if best[1].enough else None
            while low < high:  # `high` fits
                middle = (low + high) // 2
                found = count(middle)
                if fits(found):
                    best, high = found, middle
                else:
                    low = middle + 1
            return best

        return self.thread.submit(work)

    # Answers -----------------------------------------------------------------------------------

    def answer(
        self,
        messages: Sequence[Message],
        dials: Callable[[], Dials],
        writer: AnswerWriter,
        *,
        continue_last: bool = False,
        thought: Thought | None = None,
    ) -> Task[AnswerEvent, Ended]:
        """Answers into the history, token by token, and reports the same to the screen.

        Args:
            dials: those that the next token is to follow; called on the engine's thread.
            thought: what the thinking took of the answer that this goes on from.
        """

        def work(task: Task[AnswerEvent, Ended]) -> Ended:
            with writer:
                answering = self.engine.answer(messages, dials(), task, continue_last=continue_last)
                with closing(answering):
                    writer.note(seed=answering.seed)
                    if answering.marks is not None and not continue_last:
                        writer.note(thinking=Thinks(**vars(answering.marks)))
                        task.put(Thinking(answering.marks))
                    tally = ThinkingTally(writer.marks, thought, self._clock)
                    return _follow(task, answering, dials, writer, tally, self._clock)

        return self.thread.submit(work)

    def inspect(
        self, messages: Sequence[Message], text: str | Sequence[int], dials: Dials
    ) -> Task[Reading, Moved]:
        """How far each token of an answer was moved; reports how far it is read."""

        def work(task: Task[Reading, Moved]) -> Moved:
            return self.engine.inspect(messages, text, dials, task)

        return self.thread.submit(work)

    def compare(
        self, messages: Sequence[Message], columns: Sequence[Dials]
    ) -> Task[Column, Compared]:
        """Answers with all of the dials, side by side; nothing is kept. A column that fails says
        so. Stopping ends all columns; the result is the figures of what came."""

        def work(task: Task[Column, Compared]) -> Compared:
            fit = self.engine.fits(messages, columns[0])
            if not fit.enough:
                raise UsageError(
                    f"no room for an answer: {fit.fullest} holds {fit.sizes[fit.fullest]:,} "
                    f"tokens, {fit.tokens[fit.fullest]:,} are taken; /context in the chat shows "
                    "the ways on"
                )
            with closing(self.engine.answers(messages, columns, task)) as answers:
                _follow_all(task, answers, len(columns), self._clock)
                return tuple(answers.live(index) for index in range(len(columns)))

        return self.thread.submit(work)


def _reporting(task: Task[Progress, R]) -> Report:
    def report(progress: Progress) -> None:
        task.check()
        task.put(progress)

    return report


def _follow(
    task: Task[AnswerEvent, Ended],
    answering: LocalAnswering,
    dials: Callable[[], Dials],
    writer: AnswerWriter,
    tally: ThinkingTally,
    clock: Clock,
) -> Ended:
    def live() -> Live:
        now = answering.live()
        return replace(now, figures=tally.added_to(now.figures))

    reason: FinishReason | None = None
    tokens: list[int] = []
    told = clock()
    turning = Turning(answering, dials, writer, task.put, clock)
    while not task.stopping and reason is None:
        turning.look()
        try:
            step = next(answering, None)
        except StoppedError:  # while the prompt was read
            break
        if step is None:
            break
        tokens.append(step.token)
        turning.came(step.text)
        writer.append(step.text)
        tally.take(writer.text)
        task.put(step)
        reason = step.finish_reason
        if clock() - told >= FIGURES:
            told = clock()
            task.put(live())
    last = live()
    if reason is None:
        writer.stop(last.figures if tokens else None)
    else:
        writer.finish(reason, last.figures)
    return Ended(reason, last, tuple(tokens))


def _follow_all(
    task: Task[Column, Compared], answers: LocalAnswers, count: int, clock: Clock
) -> None:
    running = set(range(count))
    told, marks = clock(), None
    try:
        for came in answers:
            if marks is None and (marks := answers.marks) is not None:
                task.put(Thinking(marks))
            task.put(came)
            if came.step is None or came.step.finish_reason is not None:
                running.discard(came.index)
                _tell(task, answers, [came.index])
            elif clock() - told >= FIGURES:
                told = clock()
                _tell(task, answers, running)
    except StoppedError:
        return
    except EftlocalError as error:
        for index in running:
            task.put(Came(index, None, str(error)))


def _tell(task: Task[Column, Compared], answers: LocalAnswers, which: Iterable[int]) -> None:
    for index in which:
        live = answers.live(index)
        if live is not None:
            task.put(Figured(index, live))
