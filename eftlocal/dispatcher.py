"""One thread that advances many answers side by side, for callers in other threads.

They submit a call and are told of its tokens in this thread. So nobody waits for a round, and who
reads slowly holds up nobody else.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eftlocal.answer import Answer
from eftlocal.bases import Closing
from eftlocal.errors import EftlocalError, EngineError
from eftlocal.generation import Step
from eftlocal.prompt.messages import Prompt
from eftlocal.prompt.reader import ReadPrompt
from eftlocal.scheduler import Call, Scheduler, Work

if TYPE_CHECKING:
    from eftlocal.emulator import Emulator


@dataclass(eq=False)
class Ticket:
    """A call that was submitted.

    Attributes:
        prompt, options: what `Emulator.stream` takes; the prompt may have been read already.
        on_step: told each token, in the dispatcher's thread; it must not block, and an exception of
            its own ends the call with an error.
        on_end: told once how it ended, unless it was cancelled: with the answer, or why there is
            none. What it raises of an answer it is told as an error, which it must not raise.
        owners: as `Call` has them.
    """

    prompt: Prompt | ReadPrompt
    options: Mapping[str, Any]
    on_step: Callable[[Step], object]
    on_end: Callable[[Answer | None, EftlocalError | None], object]
    owners: tuple[Hashable, ...] = ()
    call: Call | None = field(default=None, repr=False)

    def added(self, scheduler: Scheduler) -> Call:
        self.call = scheduler.add(self.prompt, owners=self.owners, **self.options)
        return self.call

    def tell_end(self, call: Call) -> None:
        self.on_end(call.answer(), None)


@dataclass(eq=False)
class Errand:
    """Work that was submitted, for a place that an answer has left or will leave.

    Attributes:
        work: as `Scheduler.add_work` takes it. What it raises ends nothing else.
        on_end, owners: as a ticket's; told what the work returned.
    """

    work: Work
    on_end: Callable[[Any, EftlocalError | None], object]
    owners: tuple[Hashable, ...] = ()
    call: Call | None = field(default=None, repr=False)

    def added(self, scheduler: Scheduler) -> Call:
        self.call = scheduler.add_work(self._alone, owners=self.owners)
        return self.call

    def _alone(self) -> Generator[int, None, tuple[Any, EftlocalError | None]]:
        try:
            return (yield from self.work()), None
        except EftlocalError as error:
            return None, error
        except Exception as error:  # noqa: BLE001 - it concerns this work alone
            return None, _broken(error)

    def tell_end(self, call: Call) -> None:
        self.on_end(*call.found)


class Dispatcher(Closing):
    """Runs a scheduler in a thread of its own until it is closed.

    Args:
        emulator, parallel, prefill: as `Scheduler` takes them.

    Raises:
        UsageError: parallel or prefill is out of its range.
    """

    def __init__(
        self, emulator: Emulator, *, parallel: int | None = None, prefill: int | None = None
    ) -> None:
        self._scheduler = Scheduler(emulator, parallel=parallel, prefill=prefill)
        self._tickets: dict[Call, Ticket | Errand] = {}
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # or the interpreter would end under a round

    @property
    def waiting(self) -> int:
        """Calls that have no place yet."""
        return self._scheduler.waiting

    @property
    def active(self) -> int:
        """Calls that have one."""
        return self._scheduler.active

    def submit(self, ticket: Ticket | Errand) -> None:
        """Asks for an answer, or for work.

        Raises:
            EngineError: the dispatcher is closed.
        """

        def add() -> None:
            self._tickets[ticket.added(self._scheduler)] = ticket

        if not self._post(add):
            raise EngineError("the models are closed")

    def cancel(self, ticket: Ticket | Errand) -> None:
        """Ends a call before the next round; nothing more is told of it. An ended one stays so."""

        def end() -> None:
            if ticket.call is not None and self._tickets.pop(ticket.call, None) is not None:
                self._scheduler.cancel(ticket.call)

        self._post(end)

    def close(self) -> None:
        """Ends the round that is running, and every call with an error. From any thread but its
        own."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def _post(self, work: Callable[[], None]) -> bool:
        with self._wake:
            if self._closed:
                return False
            self._inbox.append(work)
            self._wake.notify()
            return True

    def _work(self) -> None:
        while self._take():
            try:
                came = self._scheduler.step()
            except EftlocalError as error:
                self._end_all(error)
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                self._end_all(_broken(error))
                continue
            for call, step in came:
                if step is not None:
                    self._tell_step(call, step)
            for call in dict.fromkeys(call for call, _ in came if call.ended):
                self._tell_end(call)
        self._end_all(EngineError("the models were closed before the answer ended"))

    def _take(self) -> bool:
        """Does what was posted, and waits where there is nothing else to do; False at the end."""
        while True:
            with self._wake:
                while not (self._inbox or self._closed or self._scheduler):
                    self._wake.wait()
                if self._closed:
                    return False
                posted, self._inbox = self._inbox, deque()
            for work in posted:
                work()
            if self._scheduler:
                return True

    def _end_all(self, error: EftlocalError) -> None:
        tickets, self._tickets = self._tickets, {}
        for call, ticket in tickets.items():
            self._scheduler.cancel(call)
            ticket.on_end(None, error)

    def _tell_step(self, call: Call, step: Step) -> None:
        ticket = self._tickets.get(call)
        if isinstance(ticket, Ticket):
            try:
                ticket.on_step(step)
            except Exception as error:  # noqa: BLE001 - it concerns this call alone
                del self._tickets[call]
                self._scheduler.cancel(call)
                ticket.on_end(None, _broken(error))

    def _tell_end(self, call: Call) -> None:
        if (ticket := self._tickets.pop(call, None)) is None:
            return
        if call.error is not None:
            ticket.on_end(None, call.error)
            return
        try:
            ticket.tell_end(call)
        except Exception as error:  # noqa: BLE001 - it concerns this call alone
            ticket.on_end(None, _broken(error))


def _broken(error: Exception) -> EngineError:
    return EngineError(f"the program itself failed: {type(error).__name__}: {error}")
