"""Rendering untrusted jinja2 templates in a child process with bounded time, memory and output.

Jinja2's sandbox keeps a template away from Python's objects, but it bounds neither time nor
memory nor output. So one child is started at the first use and kept; it is killed when it passes
the deadline, and the next rendering starts another.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eftlocal.errors import EngineError, PromptError, UsageError
from eftlocal.prompt.watchdog import Watchdog

MIB = 1 << 20
_STARTUP_S = 60.0  # an import, on a machine that may be busy loading models
_PIECE = 65_536  # bytes
_CHILD = Path(__file__).with_name("child.py")
_WORDS = {
    "syntax": "is not valid",
    "undefined": "uses what is not there",
    "security": "tries what the sandbox forbids",
    "refused": "refuses the conversation",
    "recursion": "recurses without end",
}


def one_line(text: str, limit: int = 200) -> str:
    """`text` from an untrusted file made fit for a message: one line, printable, bounded."""
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * limit])
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


class TemplateWorker:
    """Renders template sources, one at a time; safe to call from many threads.

    `deadline_s`: seconds one rendering may take. `memory_bytes`: address space of the child
    (enforced on Linux). `output_chars`: the longest text a template may produce.
    """

    def __init__(
        self,
        *,
        deadline_s: float = 5.0,
        memory_bytes: int = 512 * MIB,
        output_chars: int = MIB,
    ) -> None:
        self.deadline_s = deadline_s
        self.memory_bytes = memory_bytes
        self.output_chars = output_chars
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
        self._answer_due = False

    @property
    def pid(self) -> int | None:
        """The child's process id; None when none is running."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def render(self, source: str, variables: Mapping[str, Any], *, name: str = "template") -> str:
        """The text that `source` makes of `variables` (JSON values).

        Raises PromptError, its message beginning with `name`, for anything wrong with the
        template; UsageError when a variable is not a JSON value.
        """
        try:
            request = json.dumps({"source": source, "variables": dict(variables)})
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name}: a variable is not a JSON value: {error}") from None
        with self._lock:
            reply = self._ask(request.encode("ascii") + b"\n", name)
            if reply.get("fault") == "memory":
                self._discard()  # what it still holds would be missing for the next rendering
        if "text" not in reply:
            raise PromptError(f"{name} {self._describe(reply)}")
        text = str(reply["text"])
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise PromptError(
                f"{name} produced half of a surrogate pair, which is not text"
            ) from None
        return text

    def close(self) -> None:
        """End the child. A later rendering starts another."""
        with self._lock:
            self._discard()

    def _ask(self, request: bytes, name: str) -> dict[str, Any]:
        if self._answer_due:  # Ctrl-C left it unread: it is not the answer to this request
            self._discard()
        # A child that was found dead may have been killed from outside while idle: try once more.
        for last_try in (False, True):
            fresh = self._process is None
            if fresh:
                self._start()
            line, timed_out = self._exchange(request, self.deadline_s)
            if line.endswith(b"\n"):
                return dict(json.loads(line))
            code = self._discard()
            if timed_out:
                raise PromptError(
                    f"{name} timed out: it was still running after {self.deadline_s:g} s"
                )
            if fresh or last_try:
                break
        raise PromptError(f"{name} crashed the process it ran in (exit code {code})")

    def _start(self) -> None:
        spec = importlib.util.find_spec("jinja2")
        search_path = [str(Path(spec.origin).parents[1])] if spec and spec.origin else []
        limits = (self.memory_bytes, self.output_chars, self.deadline_s)
        self._answer_due = True  # it says when it is ready
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_CHILD), *map(str, limits), *search_path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # a buffer's lock may be held by a thread that a fork does not have
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise EngineError(f"the process for chat templates did not start: {error}") from None
        line, _ = self._exchange(b"", _STARTUP_S)
        if not line.endswith(b"\n"):
            code = self._discard()
            raise EngineError(
                f"the process for chat templates did not start (exit code {code}): "
                f"check that {sys.executable} -I can import jinja2"
            )

    def _exchange(self, request: bytes, seconds: float) -> tuple[bytes, bool]:
        """Send a request, wait for a line: the line, whole or not, and whether time ran out."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        self._answer_due = True
        # Killing it ends the blocking read on every system; select() knows no pipes on Windows.
        self._watchdog.watch(process, seconds)
        line, unsent = bytearray(), memoryview(request)
        longest = 12 * self.output_chars + 65_536  # JSON: 12 bytes a character, and its braces
        with contextlib.suppress(OSError):  # the child is gone: the line is not whole
            while unsent:
                unsent = unsent[process.stdin.write(unsent) :]
            while not line.endswith(b"\n") and len(line) < longest:
                piece = process.stdout.read(_PIECE)
                if not piece:
                    break
                line += piece
        timed_out = self._watchdog.release()
        self._answer_due = False
        return bytes(line), timed_out

    def _discard(self) -> int | None:
        process, self._process = self._process, None
        self._answer_due = False
        if process is None:
            return None
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        return process.wait()

    def _describe(self, reply: dict[str, Any]) -> str:
        kind = str(reply.get("fault"))
        if kind == "output":
            return f"produced more than {self.output_chars} characters"
        if kind == "memory":
            return f"needs more than {self.memory_bytes // MIB} MiB of memory"
        where = f" (line {reply['line']})" if isinstance(reply.get("line"), int) else ""
        message = one_line(str(reply.get("message", "")))
        words = _WORDS.get(kind, f"fails with {one_line(kind, 40)}")
        return f"{words}{where}: {message}" if message else f"{words}{where}"
