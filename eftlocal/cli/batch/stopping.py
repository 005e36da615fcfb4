"""Ctrl-C, and the SIGTERM of `kill`, containers and queues, end a run that is put away first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from eftlocal.cli.interrupts import raising


@contextmanager
def terminable() -> Iterator[None]:
    """In this block both are a KeyboardInterrupt, unless a caller ignores or handles them."""
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with raising():
            yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
