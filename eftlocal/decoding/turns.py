"""Threads that share contexts take turns; none begins once the models are closed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from eftlocal.errors import EngineError

T = TypeVar("T")

_LOOKS, _MOMENT = 500, 1e-4  # and seconds between them, until a waiting thread has woken up


class Turns:
    """One lock around every piece of native work, of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._ended = False
        self._asking: set[int] = set()  # threads that wait for the lock
        self._thread = threading.local()  # whether it is inside of `alone`

    def alone(self, work: Callable[[], T]) -> T:
        """Runs `work` while no other thread has its turn; reentrant.

        Threads take turns: a lock that is taken again at once is never seen free by a thread that
        sleeps.

        Raises:
            EngineError: the models are closed, or this process is a fork of the one that loaded.
        """
        if os.getpid() != self._process:
            raise EngineError(
                "the models were loaded before this process was forked; load them in the process "
                "that uses them"
            )
        me, inside = threading.get_ident(), getattr(self._thread, "inside", False)
        try:
            self._thread.inside = True
            self._asking.add(me)
            with self._lock:
                self._asking.discard(me)
                self.refuse_if_ended()
                return work()
        finally:
            self._asking.discard(me)
            if not inside:
                self._thread.inside = False
                self._give_way()

    def _give_way(self) -> None:
        """Lets waiting threads go first."""
        for _ in range(_LOOKS):
            if not self._asking:
                return
            time.sleep(_MOMENT)

    def end(self, free: Callable[[], object]) -> None:
        """Refuses all further work, in every thread; frees once nothing is being decoded.

        In a forked process nothing is freed: llama.cpp's threads are not there.
        """
        if os.getpid() == self._process:
            self._ended = True
            with self._lock:
                free()

    def refuse_if_ended(self) -> None:
        if self._ended:
            raise EngineError("the models are closed; load them again")
