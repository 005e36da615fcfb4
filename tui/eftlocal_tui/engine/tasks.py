"""A thread of the engine, and the tasks that run on it: load, answer, compare, inspect.

Reports are collected and handed over in batches, so that many tokens cost the screen one update.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from eftlocal.errors import EftlocalError
from eftlocal.generation import FinishReason, Step
from eftlocal.prompt.messages import Message
from eftlocal.thinking import Marks
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import (
    Answering,
    Answers,
    Came,
    Engine,
    Live,
    Loaded,
    Moved,
    Offer,
    Progress,
    Reading,
)
from eftlocal_tui.engine.priority import give_way
from eftlocal_tui.engine.tally import ThinkingTally
from eftlocal_tui.engine.turning import Refused, Turned, Turning
from eftlocal_tui.history import AnswerWriter, Thinks, Thought

E = TypeVar("E")
R = TypeVar("R")

_BETWEEN = 1 / 25  # seconds between batches: more often than Markdown can be laid out is waste
_GOODBYE = 2.0  # seconds that leaving waits for a decode that is under way


class StoppedError(EftlocalError):
    """The person at the keyboard stopped a task."""


class Task(Generic[E, R]):
    """Work on the engine's thread, seen from both sides.

    The work calls `put` and looks at `stopping`; the event loop reads `batches` and `result`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[Task[E, R]], R]) -> None:
        self._loop = loop
        self._work = work
        self._came: deque[E] = deque()
        self._woken = asyncio.Event()
        self._calling = False
        self._stopping = threading.Event()
        self._outcome: asyncio.Future[R] = loop.create_future()
        self._ended = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether the work should end where it is."""
        return self._stopping.is_set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def stop(self) -> None:
        """Asks the work to end; it does so at its next report or token, or while it reads."""
        self._stopping.set()

    def put(self, event: E) -> None:
        """Called by the work: something for the event loop."""
        self._came.append(event)
        if not self._calling:  # one call is under way already, and will find this too
            self._calling = True
            self._call(self._woken.set)

    def check(self) -> None:
        """Called by the work, or by what works for it in other threads, where it can end.

        Raises:
            StoppedError: it was asked to stop.
        """
        if self.stopping:
            raise StoppedError("stopped")

    async def batches(self) -> AsyncIterator[list[E]]:
        """What was put, until the work has ended."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            self._calling = False
            ended = self.ended
            batch = [self._came.popleft() for _ in range(len(self._came))]
            if batch:
                yield batch
            if ended and not self._came:
                return
            await asyncio.sleep(_BETWEEN)

    async def result(self) -> R:
        """What the work returned, or what it raised."""
        return await asyncio.shield(self._outcome)  # who stops waiting does not end the work

    def run(self) -> None:
        """Called by the engine's thread."""
        try:
            self.check()
            result = self._work(self)
        except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
            self._end(self._outcome.set_exception, error)
        else:
            self._end(self._outcome.set_result, result)

    def _end(self, settle: Callable[[Any], None], value: object) -> None:
        def on_loop() -> None:
            if not self._outcome.done():
                settle(value)
            # Whoever stopped listening has decided not to see the error.
            self._outcome.exception()
            self._woken.set()

        self._ended.set()
        self._call(on_loop)

    def _call(self, callback: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(callback)
            except RuntimeError:  # it was closed between the two lines
                return


class EngineThread:
    """The thread. A daemon, so that a decode that will not end cannot keep the program."""

    def __init__(self) -> None:
        self._tasks: queue.Queue[Task[Any, Any] | None] = queue.Queue()
        self._open: list[Task[Any, Any]] = []
        self._thread = threading.Thread(target=self._run, name="eftlocal-engine", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Task[E, R]], R]) -> Task[E, R]:
        """Runs `work` after everything submitted before. Called from the event loop."""
        task = Task(asyncio.get_running_loop(), work)
        self._open = [other for other in self._open if not other.ended]
        self._open.append(task)
        self._tasks.put(task)
        return task

    @property
    def waiting(self) -> bool:
        """Whether a task waits for the one that runs."""
        return not self._tasks.empty()

    def close(self, last: Callable[[], None]) -> bool:
        """Stops every task, then calls `last` on the thread. False if that took too long."""
        for task in self._open:
            task.stop()
        ended = threading.Event()

        def goodbye() -> None:
            last()
            ended.set()

        loop = asyncio.new_event_loop()
        self._tasks.put(Task(loop, lambda _: goodbye()))
        self._tasks.put(None)
        fine = ended.wait(_GOODBYE)
        loop.close()
        return fine

    def _run(self) -> None:
        give_way()
        while (task := self._tasks.get()) is not None:
            task.run()


FIGURES = 0.2  # seconds between live figures


class Thinking(NamedTuple):
    """How this answer marks its thinking; it comes before the first token."""

    marks: Marks


AnswerEvent = Step | Live | Reading | Turned | Refused | Thinking
Clock = Callable[[], float]


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


def load(
    thread: EngineThread, engine: Engine, preset: str | None, *, download: bool = False
) -> Task[Progress, LoadOutcome]:
    """Loads models; where that fails, or is stopped, what was loaded before is loaded after it. A
    download that was stopped is resumed another time."""

    def work(task: Task[Progress, LoadOutcome]) -> LoadOutcome:
        def report(progress: Progress) -> None:
            task.check()
            task.put(progress)

        try:
            return LoadOutcome(engine.load(preset, report, download=download))
        except EftlocalError as error:
            failed = error
        again = False

        def told(progress: Progress) -> None:
            nonlocal again
            again = True
            task.put(progress)

        try:
            loaded = engine.restore(told)
        except EftlocalError as error:
            return LoadOutcome(None, failed, lost=error)
        return LoadOutcome(loaded, failed, again)

    return thread.submit(work)


def look(thread: EngineThread, engine: Engine, presets: Sequence[str]) -> Task[Offer, None]:
    """How each of the presets can be had here, one after the other."""

    def work(task: Task[Offer, None]) -> None:
        for preset in presets:
            if task.stopping:
                return
            try:
                task.put(engine.look(preset))
            except EftlocalError as error:
                task.put(Offer(preset, problem=str(error)))

    return thread.submit(work)


def answer(
    thread: EngineThread,
    engine: Engine,
    messages: Sequence[Message],
    dials: Callable[[], Dials],
    writer: AnswerWriter,
    *,
    continue_last: bool = False,
    thought: Thought | None = None,
    clock: Clock = time.monotonic,
) -> Task[AnswerEvent, Ended]:
    """Answers into the history, token by token, and reports the same to the screen.

    Args:
        dials: those that the next token is to follow; called on the engine's thread.
        thought: what the thinking took of the answer that this goes on from.
    """

    def work(task: Task[AnswerEvent, Ended]) -> Ended:
        with writer:
            answering = engine.answer(
                messages, dials(), continue_last=continue_last, check=task.check, read=task.put
            )
            with closing(answering):
                writer.set_seed(answering.seed)
                if answering.marks is not None and not continue_last:
                    writer.set_thinking(Thinks(**vars(answering.marks)))
                    task.put(Thinking(answering.marks))
                tally = ThinkingTally(writer.marks, thought, clock)
                return _follow(task, answering, dials, writer, tally, clock)

    return thread.submit(work)


def _follow(
    task: Task[AnswerEvent, Ended],
    answering: Answering,
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


def inspect(
    thread: EngineThread,
    engine: Engine,
    messages: Sequence[Message],
    text: str | Sequence[int],
    dials: Dials,
) -> Task[Reading, Moved]:
    """How far each token of an answer was moved; reports how far it is read."""

    def work(task: Task[Reading, Moved]) -> Moved:
        return engine.inspect(messages, text, dials, check=task.check, read=task.put)

    return thread.submit(work)


@dataclass(frozen=True)
class Figured:
    """Figures of one of the answers that are compared."""

    index: int
    live: Live


Column = Came | Figured | Reading
Compared = tuple[Live | None, ...]


def compare(
    thread: EngineThread,
    engine: Engine,
    messages: Sequence[Message],
    columns: Sequence[Dials],
    *,
    clock: Clock = time.monotonic,
) -> Task[Column, Compared]:
    """Answers with all of the dials, side by side; nothing is kept. A column that fails says so.

    Stopping ends all columns; the result is the figures of what came.
    """

    def work(task: Task[Column, Compared]) -> Compared:
        with closing(engine.answers(messages, columns, check=task.check, read=task.put)) as answers:
            _follow_all(task, answers, len(columns), clock)
            return tuple(answers.live(index) for index in range(len(columns)))

    return thread.submit(work)


def _follow_all(task: Task[Column, Compared], answers: Answers, count: int, clock: Clock) -> None:
    running = set(range(count))
    told = clock()
    try:
        for came in answers:
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


def _tell(task: Task[Column, Compared], answers: Answers, which: Iterable[int]) -> None:
    for index in which:
        live = answers.live(index)
        if live is not None:
            task.put(Figured(index, live))
