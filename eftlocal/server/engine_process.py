"""The parent's side of an engine: its process, and the requests that are on their way in it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

from eftlocal.child_process import child_command
from eftlocal.server.engine import Setup

_LONGEST = 1 << 28  # bytes of a line: an answer with the log-probabilities of a long prompt
_LAST_WORDS = 40  # lines of stderr that are kept
_GRACE = 5.0  # seconds for an engine to end by itself

Said = dict[str, Any]


class EngineDiedError(Exception):
    """The engine ended before it answered."""


class EngineProcess:
    """One engine, which is loading, then ready, and dead in the end.

    Attributes:
        facts: of the models, once they are loaded.
        active: requests that are on their way.
    """

    def __init__(self) -> None:
        self.facts: Said = {}
        self.progress = ""
        self._process: asyncio.subprocess.Process | None = None
        self._replies: dict[int, asyncio.Queue[Said | None]] = {}
        self._numbers = count(1)
        self._words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def active(self) -> int:
        return len(self._replies)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Of the process; None where there is none."""
        return self._process.pid if self._process is not None and self.alive else None

    async def load(self, setup: Setup) -> None:
        """Starts the process and waits until its models are loaded.

        Raises:
            EngineDiedError: they cannot be; why, in one line.
        """
        self._process = await asyncio.create_subprocess_exec(
            *child_command("eftlocal.server.engine", []),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST,
            start_new_session=True,  # the terminal's Ctrl-C is the parent's to handle
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        self._tasks = [asyncio.create_task(self._hear(self._process.stderr))]
        await self._send(setup.line())
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if "ready" in said:
                self.facts = said["ready"]
                self._tasks.append(asyncio.create_task(self._read(self._process.stdout)))
                return
            if "failed" in said:
                await self.close()
                raise EngineDiedError(said["failed"])
            role, share = said["progress"]
            self.progress = f"{role} {share:.0%}"
        await self._process.wait()
        raise EngineDiedError(self.last_words())

    def last_words(self) -> str:
        """How the process ended, in one line."""
        code = self._process.returncode if self._process is not None else None
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        last = self._words[-1] if self._words else ""
        return f"the engine ended ({how}{f': {last}' if last else ''})"

    @asynccontextmanager
    async def asking(self, **said: Any) -> AsyncIterator[AsyncIterator[Said]]:
        """Sends a request; gives the lines that answer it. Whoever leaves before the last of them
        has ended the request.

        Raises:
            EngineDiedError: by the lines' iterator: the engine is dead.
        """
        number = next(self._numbers)
        replies: asyncio.Queue[Said | None] = asyncio.Queue()
        self._replies[number] = replies
        is_done = False

        async def lines() -> AsyncIterator[Said]:
            nonlocal is_done
            while (reply := await replies.get()) is not None:
                is_done = "body" in reply or "error" in reply
                yield reply
                if is_done:
                    return
            is_done = True
            raise EngineDiedError(self.last_words())

        try:
            if not self.alive:
                replies.put_nowait(None)
            else:
                await self._send(_line({**said, "id": number}))
            yield lines()
        finally:
            del self._replies[number]
            if not is_done and self.alive:
                with suppress(ConnectionError):
                    self._write(_line({"op": "cancel", "id": number}))

    async def close(self) -> None:
        """Ends the process, by force where it takes its time."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _GRACE)
        except asyncio.TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for task in self._tasks:
            await task

    async def _send(self, data: bytes) -> None:
        with suppress(ConnectionError):  # it is dead: its lines end, and say so
            self._write(data)
            assert self._process is not None and self._process.stdin is not None
            await self._process.stdin.drain()

    def _write(self, data: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(data)

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        while line := await stdout.readline():
            said = json.loads(line)
            if (replies := self._replies.get(said.pop("id", 0))) is not None:
                replies.put_nowait(said)
        assert self._process is not None
        await self._process.wait()
        for replies in self._replies.values():
            replies.put_nowait(None)

    async def _hear(self, stderr: asyncio.StreamReader) -> None:
        while line := await stderr.readline():
            if words := line.decode("utf-8", "replace").strip():
                self._words.append(words[:500])


def _line(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode("ascii") + b"\n"
