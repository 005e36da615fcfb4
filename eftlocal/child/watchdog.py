"""Kills a process that is not done when its time is up.

One thread watches. It sleeps until the first deadline it knew of, through any number of tasks
that were done in time, so that watching one neither starts a thread nor wakes one.
"""

from __future__ import annotations

import subprocess
import threading
import time


class Watchdog:
    """Watches one process at a time; its thread ends when it wakes and has nothing to watch.

    A fork has no such thread: there, make another.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = 0.0
        self._wakes: float | None = None  # when the thread will look; None: there is no thread
        self._killed = False

    def watch(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Kill `process` in so many seconds, in place of whatever was watched before."""
        with self._changed:
            self._process, self._killed = process, False
            self._deadline = time.monotonic() + seconds
            if self._wakes is None:
                threading.Thread(target=self._run, name="eftlocal-watchdog", daemon=True).start()
                self._wakes = self._deadline
            elif self._deadline < self._wakes:
                self._changed.notify()

    def extend(self, seconds: float) -> None:
        """The process has shown life: kill it so many seconds from now instead."""
        with self._changed:
            self._deadline = time.monotonic() + seconds
            if self._wakes is not None and self._deadline < self._wakes:
                self._changed.notify()

    def release(self) -> bool:
        """Watch no longer: from here on nothing is killed. Whether the process was."""
        with self._changed:
            self._process = None
            return self._killed

    def _run(self) -> None:
        with self._changed:
            while self._process is not None:
                left = self._deadline - time.monotonic()
                if left > 0.0:
                    self._wakes = self._deadline
                    self._changed.wait(left)
                else:
                    self._process.kill()
                    self._process, self._killed = None, True
            self._wakes = None
