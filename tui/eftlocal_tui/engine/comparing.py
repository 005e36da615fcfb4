"""One conversation answered with several dials side by side, on the engine's thread."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from eftlocal.errors import EftlocalError
from eftlocal.prompt.messages import Message
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine.protocol import Answers, Came, Engine, Live
from eftlocal_tui.engine.tasks import FIGURES, Clock
from eftlocal_tui.engine.worker import EngineThread, StoppedError, Task


@dataclass(frozen=True)
class Figured:
    """Figures of one of the answers that are compared."""

    index: int
    live: Live


Column = Came | Figured
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
        with closing(engine.answers(messages, columns, check=task.check)) as answers:
            _follow_all(task, answers, len(columns), clock)
            return tuple(answers.live(index) for index in range(len(columns)))

    return thread.submit(work)


def _follow_all(task: Task[Column, Compared], answers: Answers, count: int, clock: Clock) -> None:
    running = set(range(count))
    told = clock()
    try:
        for came in answers:
            task.put(came)
            if came.piece is None or came.piece.finish_reason is not None:
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
