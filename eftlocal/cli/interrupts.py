"""Ctrl-C, from the first line of the program to the end of its process.

An exception that may come between any two bytecodes cannot be relied on: native code that calls
back into Python (pydantic's validators, ctypes) drops it or takes it for another failure, and while
modules are imported or the interpreter shuts down nobody is there to catch it. So Ctrl-C ends the
process from the signal's handler, with one line and exit code 130. A verb that has something to put
away says so: in `raising` it is the usual KeyboardInterrupt.

What comes before the first line of `eftlocal/__main__.py` (Python's own start, its site module and
.pth files) is Python's, and so is a traceback there.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

EXIT_CODE = 130  # what a shell reports of a program ended by Ctrl-C
_SHOW_CURSOR = b"\x1b[?25h"  # bars hide it


def stop_at_once() -> None:
    """From now on Ctrl-C ends the process; unless it is ignored, as for a job in the background."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
        # Registered first, so it runs last: what follows is the interpreter's own end.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def stop(*_: object) -> None:
    """Ends the process with one line, whatever is going on in it."""
    stream = sys.__stderr__  # None where descriptor 2 was closed, and may be a file by now
    if stream is not None:
        with suppress(OSError, ValueError):
            descriptor = stream.fileno()
            on_screen = os.isatty(descriptor) and os.environ.get("TERM") != "dumb"
            before = _SHOW_CURSOR + b"\n" if on_screen else b""
            os.write(descriptor, before + b"eftlocal: stopped\n")
    os._exit(EXIT_CODE)


@contextmanager
def raising() -> Iterator[None]:
    """In this block Ctrl-C raises KeyboardInterrupt."""
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is stop
    )
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, stop)


def finish(code: int) -> None:
    """The verb has ended: from now on Ctrl-C only hastens the end, with the verb's own code."""
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))
