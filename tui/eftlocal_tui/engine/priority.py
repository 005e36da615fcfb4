"""Keys before tokens: a model that decodes on every core must not hold up what is typed."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

_BELOW = 5  # steps of niceness
_TURN = 0.001  # seconds after which a thread lets another one run Python; 0.005 is usual


def give_way() -> None:
    """Called by a thread whose work, and that of the threads it starts, can wait a moment."""
    sys.setswitchinterval(_TURN)
    if sys.platform == "linux":  # elsewhere niceness is of the whole process
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, now + _BELOW)
