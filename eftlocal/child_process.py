"""A child process that answers requests, JSON lines, each by a deadline; replaced when it dies.

The child is started at the first request, or before it by `start`, and kept. It ends with its
parent, whatever ends that: its stdin closes (see `child_service`). It inherits no open file and no
Ctrl-C. `multiprocessing` would not do: it imports the caller's main module in the child, unpickles
what a harmed child sends, and sets no deadline for sending a request.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import eftlocal
from eftlocal.errors import EngineError

_STARTUP_S = 60.0  # imports, on a machine that may be busy loading models
_PIECE = 65_536  # bytes
_LAST_WORDS = 4096  # bytes of stderr that are kept of a child that died
_BOOT = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__')"
)

OnProgress = Callable[[dict[str, Any]], float]
"""Called with each line of progress; gives the seconds that may pass until the next line."""


class ChildDiedError(Exception):
    """The child ended instead of answering.

    Attributes:
        code: its exit code, negative for a signal; that of SIGKILL when it answered nonsense.
        timed_out: it was killed at its deadline.
        words: the end of what it wrote to stderr.
    """

    def __init__(self, code: int, timed_out: bool, words: str) -> None:
        super().__init__(f"exit code {code}")
        self.code, self.timed_out, self.words = code, timed_out, words


@dataclass(eq=False)
class ChildProcess:
    """Sends requests to a child, one at a time; safe to call from many threads.

    Args:
        module: what the child runs; it calls `child_service.serve`.
        arguments: of its command line, asked for at each start.
        purpose: what it is for, for the message when it does not start.
        longest: bytes of the longest answer.
        environment: variables set for the child beside this process's own.
    """

    module: str
    arguments: Callable[[], Sequence[str]]
    purpose: str
    longest: Callable[[], int]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)
        atexit.register(self.close)

    def _begin(self) -> None:
        # A fork must not share the child's pipes, and has neither the thread that watches nor,
        # perhaps, the one that holds the lock.
        self._lock = threading.Lock()
        self._watchdog = Watchdog()
        self._process: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None
        self._said = 0  # bytes of them, before the last request
        self._ready = self._answer_due = False

    @property
    def pid(self) -> int | None:
        """The child's process id; None when none is running."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def ask(
        self, request: Mapping[str, Any], seconds: float, on_progress: OnProgress | None = None
    ) -> dict[str, Any]:
        """The child's answer. Whatever ends the waiting, Ctrl-C too, ends the child at once.

        Args:
            request: JSON values.
            seconds: that may pass until the first line.

        Raises:
            ChildDiedError: it died, or had to be killed. Nothing is running afterwards.
            EngineError: it cannot be started.
            TypeError, ValueError: the request is not made of JSON values.
        """
        data = json.dumps(request).encode("ascii") + b"\n"
        with self._lock:
            try:
                return self._ask(data, seconds, on_progress)
            except BaseException:
                self._discard()
                raise

    def close(self) -> None:
        """End the child. A later request starts another."""
        with self._lock:
            self._discard()

    def start(self) -> None:
        """Start the child if there is none; it gets ready while this process does other work."""
        with self._lock, contextlib.suppress(EngineError):  # the first request says what is wrong
            if self._process is None:
                self._start()

    def _ask(
        self, request: bytes, seconds: float, on_progress: OnProgress | None
    ) -> dict[str, Any]:
        if self._answer_due:  # an interrupt left it unread: it is not the answer to this request
            self._discard()
        # A child that was found dead may have been killed from outside while idle, or have been
        # harmed by an earlier request: try once more.
        while True:
            fresh = not self._ready
            if fresh:
                self._get_ready()
            line, timed_out = self._exchange(request, seconds, on_progress)
            if (said := _parsed(line)) is not None:
                return said
            died = ChildDiedError(self._exit_code(), timed_out, self._last_words())
            self._discard()
            if fresh or timed_out:
                raise died

    def _start(self) -> None:
        with contextlib.suppress(OSError):  # no room for its last words: it works without
            self._words = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (_discard closes it)
        try:
            self._process = subprocess.Popen(
                child_command(self.module, self.arguments()),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words or subprocess.DEVNULL,
                bufsize=0,  # a buffer's lock may be held by a thread that a fork does not have
                env={**os.environ, **self.environment},
                start_new_session=True,  # the terminal's signals are the parent's to handle
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise EngineError(f"cannot start the process for {self.purpose}: {error}") from None

    def _get_ready(self) -> None:
        if self._process is None:
            self._start()
        line, _ = self._exchange(b"", _STARTUP_S)  # it says when it is ready
        self._ready = line.endswith(b"\n")
        if not self._ready:
            code, words = self._exit_code(), self._last_words().split("\n")[-1]
            why = f": {words}" if words else ""
            raise EngineError(
                f"the process for {self.purpose} did not start (exit code {code}{why}); "
                "try again, and if that fails reinstall eftlocal"
            )

    def _exchange(
        self, request: bytes, seconds: float, on_progress: OnProgress | None = None
    ) -> tuple[bytes, bool]:
        """Send a request, wait for a line: the line, whole or not, and whether time ran out."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        self._answer_due = True
        self._said = os.fstat(self._words.fileno()).st_size if self._words else 0
        line, rest, longest = b"", b"", self.longest()
        # Killing it ends the blocking read on every system; select() knows no pipes on Windows.
        self._watchdog.kill_in(seconds, process)
        unsent = memoryview(request)
        with contextlib.suppress(OSError):  # the child is gone: there will be no line
            while unsent:
                unsent = unsent[process.stdin.write(unsent) :]
        while not line and len(rest) < longest:
            piece = b""
            with contextlib.suppress(OSError):
                piece = process.stdout.read(_PIECE)
            rest += piece
            if not piece:
                break
            while (end := rest.find(b"\n") + 1) and not line:
                line, rest = rest[:end], rest[end:]
                if on_progress is not None and line.startswith(b'{"progress"'):
                    if (said := _parsed(line)) is None:
                        break
                    self._watchdog.kill_in(on_progress(said), process)
                    line = b""
        timed_out = self._watchdog.release()
        self._answer_due = False
        return line or rest, timed_out

    def _exit_code(self) -> int:
        """The exit code of a child that is on its way out, or is sent there now."""
        assert self._process is not None
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _last_words(self) -> str:
        if self._words is None:
            return ""
        self._words.seek(max(self._said, self._words.seek(0, os.SEEK_END) - _LAST_WORDS))
        return self._words.read().decode("utf-8", "replace").strip()

    def _discard(self) -> None:
        process, self._process = self._process, None
        self._watchdog.release()
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
            process.wait()
        if self._words is not None:
            self._words.close()
            self._words = None
        self._ready = self._answer_due = False


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a whole line; None for anything else, as a harmed process may write."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and line.endswith(b"\n") else None


def child_command(module: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs a module of this program with the search path of this process.

    Isolated (-I): no variable of the environment and no working directory gets into its imports.
    """
    root = str(Path(eftlocal.__file__).parents[1])
    path = [os.path.abspath(place) if place else root for place in sys.path]  # noqa: PTH100
    path += [] if root in path else [root]
    return [sys.executable, "-I", "-c", _BOOT, json.dumps(path), module, *arguments]


class Watchdog:
    """Kills a process that is not done when its time is up.

    Its one thread sleeps until the first deadline it knew of, through any number of requests that
    were answered in time: watching a request neither starts a thread nor wakes one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = 0.0
        self._wakes: float | None = None  # when the thread will look; None: there is no thread
        self._killed = False

    def kill_in(self, seconds: float, process: subprocess.Popen[bytes]) -> None:
        """Kill `process` in so many seconds, in place of what was said before."""
        with self._changed:
            if self._killed:  # too late: it is on its way out
                return
            self._process, self._deadline = process, time.monotonic() + seconds
            if self._wakes is None:
                threading.Thread(target=self._run, name="eftlocal-watchdog", daemon=True).start()
                self._wakes = self._deadline
            elif self._deadline < self._wakes:
                self._changed.notify()

    def release(self) -> bool:
        """Watch no longer: from here on nothing is killed. Whether the process was."""
        with self._changed:
            killed, self._process, self._killed = self._killed, None, False
            return killed

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
