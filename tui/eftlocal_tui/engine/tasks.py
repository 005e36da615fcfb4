"""What runs on the engine's thread: loading, answering into the history, inspecting."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from eftlocal.errors import EftlocalError
from eftlocal.generation import FinishReason
from eftlocal.prompt.messages import Message
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine.protocol import (
    Answering,
    Engine,
    Live,
    Loaded,
    Moved,
    Piece,
    Progress,
)
from eftlocal_tui.engine.worker import EngineThread, StoppedError, Task
from eftlocal_tui.history import AnswerWriter

FIGURES = 0.2  # seconds between live figures


class Turned(NamedTuple):
    """The dials were turned here; `what` is `beta 1 → 0.5`."""

    what: str


class Refused(NamedTuple):
    """The dials could not be turned as asked; the answer goes on."""

    why: str


AnswerEvent = Piece | Live | Turned | Refused
Clock = Callable[[], float]


@dataclass(frozen=True)
class Ended:
    """How an answer ended; finish_reason is None when it was stopped."""

    finish_reason: FinishReason | None
    live: Live
    tokens: tuple[int, ...]


class DialHolder:
    """The dials that an answer is to follow; the event loop sets them, the answer reads them."""

    def __init__(self, dials: Dials) -> None:
        self.dials = dials


def load(thread: EngineThread, engine: Engine, preset: str | None) -> Task[Progress, Loaded]:
    """Loads models; stopping ends a download, which is resumed another time."""

    def work(task: Task[Progress, Loaded]) -> Loaded:
        def report(progress: Progress) -> None:
            task.check()
            task.put(progress)

        return engine.load(preset, report)

    return thread.submit(work)


def answer(
    thread: EngineThread,
    engine: Engine,
    messages: Sequence[Message],
    holder: DialHolder,
    writer: AnswerWriter,
    *,
    continue_last: bool = False,
    clock: Clock = time.monotonic,
) -> Task[AnswerEvent, Ended]:
    """Answers into the history, token by token, and reports the same to the screen."""

    def work(task: Task[AnswerEvent, Ended]) -> Ended:
        with writer:
            asked = holder.dials
            answering = engine.answer(
                messages, asked, continue_last=continue_last, check=task.check
            )
            with closing(answering):
                writer.set_seed(answering.seed)
                return _follow(task, answering, asked, holder, writer, clock)

    return thread.submit(work)


def _follow(
    task: Task[AnswerEvent, Ended],
    answering: Answering,
    applied: Dials,
    holder: DialHolder,
    writer: AnswerWriter,
    clock: Clock,
) -> Ended:
    reason: FinishReason | None = None
    tokens: list[int] = []
    told = clock()
    while not task.stopping:
        if holder.dials is not applied:
            applied = _turn(task, answering, applied, holder.dials, writer)
        try:
            piece = next(answering, None)
        except StoppedError:  # while the prompt was read
            break
        if piece is None:
            break
        tokens.append(piece.token)
        writer.append(piece.text)
        task.put(piece)
        reason = piece.finish_reason
        if reason is not None:
            break
        if clock() - told >= FIGURES:
            told = clock()
            task.put(answering.live())
    live = answering.live()
    if reason is None:
        writer.stop(live.figures)
    else:
        writer.finish(reason, live.figures)
    return Ended(reason, live, tuple(tokens))


def _turn(
    task: Task[AnswerEvent, Ended],
    answering: Answering,
    old: Dials,
    new: Dials,
    writer: AnswerWriter,
) -> Dials:
    try:
        answering.dials = new
    except EftlocalError as error:
        task.put(Refused(str(error)))
        return new
    what = old.difference(new)
    if what:
        writer.mark(what)
        task.put(Turned(what))
    return new


def inspect(
    thread: EngineThread,
    engine: Engine,
    messages: Sequence[Message],
    text: str | Sequence[int],
    dials: Dials,
) -> Task[None, Moved]:
    """How far each token of an answer was moved."""
    return thread.submit(lambda task: engine.inspect(messages, text, dials, check=task.check))
