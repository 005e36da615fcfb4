"""Threads that work for the event loop: tasks, which report and can be stopped.

Reports are collected and handed over in batches, so that many tokens cost the screen one update.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from eftlocal.errors import EftlocalError

E = TypeVar("E")
R = TypeVar("R")

_BETWEEN = 1 / 25  # seconds between batches: more often than Markdown can be laid out is waste
_GOODBYE = 2.0  # seconds that leaving waits for a decode that is under way
_BELOW = 5  # steps of niceness: a model that decodes on every core must not hold up what is typed
_TURN = 0.001  # seconds after which a thread lets another one run Python; 0.005 is usual


class StoppedError(EftlocalError):
    """The person at the keyboard stopped a task."""


class Task(Generic[E, R]):
    """Work on another thread, seen from both sides.

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
        """Called by its thread."""
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


class WorkThread:
    """A daemon, so that a decode that will not end cannot keep the program."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.Queue[Task[Any, Any] | None] = queue.Queue()
        self._open: list[Task[Any, Any]] = []
        self._thread = threading.Thread(target=self._run, name=f"eftlocal-{name}", daemon=True)
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

    def close(self, last: Callable[[], None] = lambda: None) -> bool:
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
        _give_way()
        while (task := self._tasks.get()) is not None:
            task.run()


def _give_way() -> None:
    """Keys come before this thread, and before those that it starts."""
    sys.setswitchinterval(_TURN)
    if sys.platform == "linux":  # elsewhere niceness is of the whole process
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, now + _BELOW)
