"""Calls of native code: signals that come meanwhile are kept, and it has room on the stack.

Python runs a signal's handler before the next bytecode of the main thread. That may be the entry of
a callback, and ctypes drops what is raised there: a Ctrl-C would be lost. So while native code
runs, signals are only noted; their handlers run where what they raise can be kept.

Native code that recurses over its input ends the process where the stack ends. llama.cpp's
tokenizers do (std::regex takes a stack frame for every character of a match), and llguidance's
compiler does for every reference from rule to rule.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

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

    @property
    def came(self) -> bool:
        """Whether one has come whose handler has not run."""
        return bool(self._came)

    def deliver(self) -> None:
        """Runs the handlers of what came; raises what they raise."""
        while self._came:
            number, frame = self._came.popleft()
            self._handlers[number](number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))


T = TypeVar("T")
MAX_STACK = 16 << 30
_UNIT = 1 << 20  # bytes; macOS takes whole pages only, of 16 KiB
_size = threading.Lock()  # the size of a new thread's stack is the whole process's


def on_deep_stack(size: int, call: Callable[[], T], *, leave: bool = False) -> T:
    """What `call` gives, run in a thread with at least so many bytes of stack.

    Memory is taken for what is used of them only.

    Args:
        leave: an interrupt ends the waiting and leaves the thread to end by itself; otherwise it
            waits for the end of the call.

    Raises:
        MemoryError: there is no room for such a stack.
    """
    results: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    if size > MAX_STACK:
        raise MemoryError
    thread = threading.Thread(target=run, name="eftlocal-deep-stack", daemon=True)
    later = SignalsLater()
    with later:
        with _size:
            before = threading.stack_size(-(-size // _UNIT) * _UNIT)
            try:
                thread.start()
            except RuntimeError:
                raise MemoryError from None
            finally:
                threading.stack_size(before)
        while thread.is_alive():
            thread.join(0.05)
            if leave:
                later.deliver()
    if raised:
        raise raised[0]
    return results[0]
