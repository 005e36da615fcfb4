"""Ending by a signal: what was typed is kept, and the terminal is given back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable


def on_signals(end: Callable[[int], object], save: Callable[[], object]) -> None:
    """From now on until the running loop is closed.

    Args:
        end: ends the program with an exit code, where it is told to end (SIGTERM).
        save: called where the terminal is gone (SIGHUP). The process then dies of that: what
            would still be written to the terminal could be waited for without end.
    """
    if sys.platform == "win32":
        return
    loop = asyncio.get_running_loop()

    def hang_up() -> None:
        try:
            save()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)

    loop.add_signal_handler(signal.SIGTERM, end, 128 + signal.SIGTERM)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        loop.add_signal_handler(signal.SIGHUP, hang_up)
