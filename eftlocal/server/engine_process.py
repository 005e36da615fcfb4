"""The parent's side of an engine: its process, and the requests that are on their way in it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from eftlocal.child_process import child_command
from eftlocal.server.room import Around, NoRoomError
from eftlocal.server.setup import Setup, packed

_LONGEST = 1 << 28  # bytes of a line: an answer with the log-probabilities of a long prompt
_UNREAD = 1 << 25  # bytes of one stream that nobody has taken
_LAST_WORDS = 4096  # bytes of stderr that are kept
_GRACE = 5.0  # seconds for an engine to end by itself


class EngineDiedError(Exception):
    """The engine cannot be loaded; why, in one line."""


class Reply(NamedTuple):
    """A line of an engine.

    Attributes:
        kind: chunk, or the last one's: done or error.
        data: JSON: an event of the stream; what there is to tell at the end; or an error's
            status and message.
        counts: of an answer, for the metrics.
    """

    kind: str
    data: bytes
    counts: Mapping[str, Any] = {}

    @classmethod
    def error(cls, status: int, message: str) -> Reply:
        """One that the parent gives itself."""
        return cls("error", json.dumps({"status": status, "message": message}).encode())


@dataclass(eq=False)
class _Asked:
    """A request: the replies that came and were not taken."""

    replies: asyncio.Queue[Reply] = field(default_factory=asyncio.Queue)
    unread: int = 0

    def put(self, reply: Reply) -> None:
        self.unread += len(reply.data)
        self.replies.put_nowait(reply)

    async def lines(self) -> AsyncIterator[Reply]:
        kind = "chunk"
        while kind == "chunk":
            reply = await self.replies.get()
            kind, self.unread = reply.kind, self.unread - len(reply.data)
            yield reply


class EngineProcess:
    """One engine, which is loading, then ready, and dead in the end.

    Args:
        on_death: told when it ends by itself once it was loaded.

    Attributes:
        facts: of the models, once they are loaded.
        progress: of the load, for people.
    """

    def __init__(self, on_death: Callable[[], object]) -> None:
        self.facts: dict[str, Any] = {}
        self.progress = ""
        self._on_death = on_death
        self._process: asyncio.subprocess.Process | None = None
        self._asked: dict[int, _Asked] = {}
        self._numbers = count(1)
        self._words = b""
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def active(self) -> int:
        """Requests that are on their way."""
        return len(self._asked)

    @property
    def alive(self) -> bool:
        """Whether requests may be sent to it."""
        running = self._process is not None and self._process.returncode is None
        return running and not self._closing

    @property
    def pid(self) -> int | None:
        """Of the process; None where there is none."""
        return self._process.pid if self._process is not None and self.alive else None

    async def load(
        self,
        setup: Setup,
        around: Callable[[], Around],
        put_away: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        """Starts the process and waits until its models are loaded.

        Args:
            around: what is loaded beside it.
            put_away: takes away what it names, as far as that is idle.

        Raises:
            NoRoomError: there is no room for them.
            EngineDiedError: they cannot be loaded; why, in one line.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                *child_command("eftlocal.server.engine_child", []),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LONGEST,
                start_new_session=True,  # the terminal's Ctrl-C is the parent's to handle
            )
        except OSError as error:
            raise EngineDiedError(f"its process cannot be started: {error}") from None
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None and stderr is not None
        hearing = asyncio.create_task(self._hear(stderr))
        self._tasks.append(hearing)
        self._write(packed(setup) + packed(around()))
        if self._closing and self._process.stdin is not None:  # meanwhile
            self._process.stdin.close()
        while (line := await stdout.readline()).endswith(b"\n"):
            said = json.loads(line)
            if "ready" in said:
                self.facts = said["ready"]
                self._tasks.append(asyncio.create_task(self._read(stdout)))
                return
            if "leaving" in said:
                await put_away(said["leaving"])
                self._write(packed(around()))
                continue
            if "no_room" in said:
                raise NoRoomError(said["no_room"], busy=said["busy"])
            if "failed" in said:
                raise EngineDiedError(said["failed"])
            role, share = said["progress"]
            self.progress = f"{role} {share:.0%}"
        await self._process.wait()
        await hearing
        raise EngineDiedError(self.last_words())

    def last_words(self) -> str:
        """How the process ended, in one line."""
        if self._closing:
            return "the server puts the model away"
        code = self._process.returncode if self._process is not None else None
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        lines = self._words.decode("utf-8", "replace").strip().splitlines()
        return f"the engine ended ({how}{f': {lines[-1][:500]}' if lines else ''})"

    @asynccontextmanager
    async def asking(self, **said: Any) -> AsyncIterator[AsyncIterator[Reply]]:
        """Sends a request; gives its replies, of which the last is no chunk, whatever becomes of
        the engine. Whoever leaves before that has ended the request."""
        number, asked = next(self._numbers), _Asked()
        if self.alive:
            self._asked[number] = asked
            self._write(_line({**said, "id": number}))
        else:
            asked.put(self._died())
        try:
            yield asked.lines()
        finally:
            self._leave(number)

    async def state(self) -> dict[str, int]:
        """How many answers are in the making, and waiting, and of how many requests; empty where
        the engine is dead."""
        async with self.asking(op="state") as replies:
            reply = await anext(replies)
            found: dict[str, int] = json.loads(reply.data) if reply.kind == "done" else {}
            return found

    async def close(self) -> None:
        """Ends the process, by force where it takes its time; its requests end with an error."""
        self._closing = True
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._end()
        await asyncio.gather(*self._tasks)

    async def _end(self) -> None:
        """Waits until the process has ended, and ends it where it takes its time."""
        assert self._process is not None
        try:
            await asyncio.wait_for(self._process.wait(), _GRACE)
        except asyncio.TimeoutError:
            with suppress(ProcessLookupError):
                if sys.platform == "win32":
                    self._process.kill()
                else:  # Python's own first waits for it behind asyncio's back, which then warns
                    os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    def _died(self) -> Reply:
        return Reply.error(503, f"{self.last_words()}; ask again")

    def _leave(self, number: int) -> None:
        if self._asked.pop(number, None) is not None and self.alive:
            self._write(_line({"op": "cancel", "id": number}))

    def _write(self, data: bytes) -> None:
        """Whoever is dead does not get it, and `_read` says so."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(data)

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        try:
            while (line := await stdout.readline()).endswith(b"\n"):
                self._take(line)
        except ValueError as error:  # too long a line, or none that it should have written
            self._words += f"\nits line cannot be read: {error}".encode()
        await self._end()
        await asyncio.wait(self._tasks[:1], timeout=1.0)  # its last words
        if not self._closing:
            self._on_death()
        for asked in self._asked.values():
            asked.put(self._died())
        self._asked.clear()

    def _take(self, line: bytes) -> None:
        head, _, data = line.partition(b"\t")
        number, kind, counts = json.loads(head)
        if (asked := self._asked.get(number)) is None:
            return  # its client left
        if kind != "chunk":
            del self._asked[number]
        elif asked.unread > _UNREAD:
            self._leave(number)
            asked.put(Reply.error(408, "the answer was read too slowly"))
            return
        asked.put(Reply(kind, data.rstrip(b"\n"), counts))

    async def _hear(self, stderr: asyncio.StreamReader) -> None:
        while data := await stderr.read(65536):
            self._words = (self._words + data)[-_LAST_WORDS:]


def _line(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode("ascii") + b"\n"
