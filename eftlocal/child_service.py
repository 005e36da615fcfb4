"""Inside a child process: requests are answered one by one, until the parent is gone."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY_EXIT = 77  # the exit code of a child that took more than `limit_memory` allows
_REFUSES = sys.platform == "linux"
_LOOK_S = 0.05
_most: list[int] = []  # bytes that the thread lets this process have; empty: it does not run

Tell = Callable[[dict[str, Any]], None]
"""Sends a line of progress: a dict whose first key is "progress"."""


def serve(answer: Callable[[dict[str, Any], Tell], dict[str, Any]], *, seconds: float) -> None:
    """Answers a JSON line of stdin with one on stdout; the first says that the child is ready.

    The process ends with its stdin, in the middle of native code too: a thread waits for that.
    Where a request holds the interpreter's lock for good, a timer ends the process.

    Args:
        answer: what to do with a request; it may tell its progress.
        seconds: that a request may take at most; more than the parent allows.
    """
    # On Windows the read of the parent cannot be interrupted: there Ctrl-C must end the child.
    signal.signal(signal.SIGINT, signal.SIG_DFL if sys.platform == "win32" else signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints is no answer
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            requests.put(line)
        os._exit(0)

    def write(said: dict[str, Any]) -> None:
        out.write(json.dumps(said).encode("ascii") + b"\n")
        out.flush()

    threading.Thread(target=read, name="eftlocal-stdin", daemon=True).start()
    write({"ready": True})
    while True:
        request = json.loads(requests.get())
        # Its thread needs no interpreter lock: it ends even one long call into C, on every system.
        faulthandler.dump_traceback_later(seconds, exit=True)
        said = answer(request, write)
        faulthandler.cancel_dump_traceback_later()
        write(said)


def limit_files(file_bytes: int) -> None:
    """No core dump, and no file beyond a size. Windows has neither; there no dialog is shown."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.SetErrorMode(msvcrt.SEM_FAILCRITICALERRORS | msvcrt.SEM_NOGPFAULTERRORBOX)
        return
    import resource

    for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, file_bytes)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))


def limit_memory(more_bytes: int, mapped_bytes: int = 0) -> None:
    """From here on this process may take so much more memory than it has; a later call replaces it.

    Linux counts the address space, and refuses what would exceed it. Other systems do not keep to
    such a limit: there a thread looks at the resident memory, and ends the process with
    MEMORY_EXIT.

    Args:
        mapped_bytes: of files that are mapped already, and become resident as they are read.
    """
    if _REFUSES:
        import resource

        with contextlib.suppress(
            OSError
        ):  # where memory runs out all the same, this one goes first
            Path("/proc/self/oom_score_adj").write_text("1000")
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more_bytes
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        return
    import psutil

    process = psutil.Process()
    watched = bool(_most)
    _most[:] = [process.memory_info().rss + more_bytes + mapped_bytes]
    if not watched:

        def watch() -> None:
            while process.memory_info().rss <= _most[0]:
                time.sleep(_LOOK_S)
            os._exit(MEMORY_EXIT)

        threading.Thread(target=watch, name="eftlocal-memory", daemon=True).start()
