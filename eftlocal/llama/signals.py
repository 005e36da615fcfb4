"""Signals that come while llama.cpp runs and calls back into Python.

Python runs a signal's handler before the next bytecode of the main thread. That may be the entry of
a callback, and ctypes drops what is raised there: a Ctrl-C would be lost. So while native code
runs, signals are only noted; their handlers run where what they raise can be kept.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

_DEFERRED = (signal.SIGINT, signal.SIGTERM)  # the one that raises, as a rule, goes first


class SignalsLater:
    """For a `with` block around a native call; in other threads than the main one it does nothing.

    Handlers run when the block ends, or earlier in `deliver`.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._came: deque[tuple[int, FrameType | None]] = deque()

    def __enter__(self) -> SignalsLater:
        if threading.current_thread() is threading.main_thread():
            for number in _DEFERRED:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in reversed(self._handlers.items()):  # ... and comes back last
            signal.signal(number, handler)
        self.deliver()

    def deliver(self) -> None:
        """Runs the handlers of what came; raises what they raise."""
        while self._came:
            number, frame = self._came.popleft()
            self._handlers[number](number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))
