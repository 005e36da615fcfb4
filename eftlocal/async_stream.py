"""An answer as it comes, for programs that use asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from eftlocal.answer import Answer
from eftlocal.dispatcher import Dispatcher, Ticket
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.generation import Step
from eftlocal.prompt.messages import Prompt


class AsyncAnswerStream(AsyncIterator[Step]):
    """The steps of one answer. Read it to its end, or leave it: an answer that nobody waits for any
    more (a loop that was left, a task that was cancelled, a stream that was dropped) ends before
    the next round, and its place is free. `async with` leaves it at the end of the block.

    Whoever reads slowly gets every step, and holds up nobody.

    Args:
        prompt, options: as `Emulator.stream` takes them.

    Raises:
        EngineError: the emulator is closed.
    """

    _ticket: Ticket | None = None  # nothing to cancel yet

    def __init__(self, dispatcher: Dispatcher, prompt: Prompt, options: Mapping[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        came: asyncio.Queue[Step | EftlocalError | None] = asyncio.Queue()
        ended: list[Answer] = []

        def put(item: Step | EftlocalError | None) -> None:
            loop.call_soon_threadsafe(came.put_nowait, item)

        def end(answer: Answer | None, error: EftlocalError | None) -> None:
            if answer is not None:
                ended.append(answer)
            if not loop.is_closed():
                put(error)

        self._came, self._ended, self._done = came, ended, False
        self._dispatcher = dispatcher
        self._ticket = Ticket(prompt, options, put, end)
        dispatcher.submit(self._ticket)

    async def __anext__(self) -> Step:
        """The next step.

        Raises:
            PromptError, UsageError: the prompt or an option is refused; see `Emulator.stream`.
            EngineError: llama.cpp failed, or the emulator was closed.
        """
        if self._done:
            raise StopAsyncIteration
        try:
            item = await self._came.get()
        except asyncio.CancelledError:
            self.close()
            raise
        if isinstance(item, Step):
            return item
        self._done = True
        if item is not None:
            raise item
        raise StopAsyncIteration

    async def whole(self) -> Answer:
        """Reads it to its end; the answer."""
        async with self:
            async for _ in self:
                continue
            return self.answer()

    def answer(self) -> Answer:
        """The whole answer, once it has come to its end.

        Raises:
            UsageError: it has not.
        """
        if not self._ended:
            raise UsageError("the answer has not come to its end")
        return self._ended[0]

    def close(self) -> None:
        """Ends the answer here; does not wait."""
        self._done = True
        if self._ticket is not None:
            self._dispatcher.cancel(self._ticket)
            self._ticket = None

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    async def __aenter__(self) -> AsyncAnswerStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
