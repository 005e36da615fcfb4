"""What is typed is obeyed in its order. Textual (8.2) obeys a key of a screen at once, and hands
one of a widget up through all that this is in: the next one could overtake it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from textual import events
from textual.app import App
from textual.dom import DOMNode

Typed = events.Key | events.Paste
_LONGEST = 0.5  # seconds that what was typed waits for what is before it


class InOrder:
    """Takes keys and pastes as they come, and gives on each when the one before it was obeyed."""

    def __init__(self, app: App[Any], obey: Callable[[Typed], Awaitable[None]]) -> None:
        self._app, self._obey = app, obey
        self._typed: deque[Typed] = deque()
        self._on_its_way: Typed | None = None

    async def take(self, event: Typed) -> None:
        self._typed.append(event)
        if self._on_its_way is not None:  # where it was on its way to may be gone
            self._app.set_timer(_LONGEST, partial(self._obeyed, self._on_its_way))
        await self._go_on()

    async def _go_on(self) -> None:
        while self._typed and self._on_its_way is None and self._runs:
            event = self._typed.popleft()
            await self._obey(event)
            if event.is_forwarded and self._runs:
                self._on_its_way = event
                self._follow(event, self._app.focused or self._app.screen)

    @property
    def _runs(self) -> bool:
        """Whether there is a screen for it: none is left while the program ends."""
        return bool(self._app.is_running and self._app.screen_stack)

    def _follow(self, event: Typed, node: DOMNode) -> None:
        def passed() -> None:
            if node.parent is None:  # that was the program
                self._obeyed(event)
            else:
                self._follow(event, node.parent)

        node.call_later(passed)

    def _obeyed(self, event: Typed) -> None:
        if self._on_its_way is event:
            self._on_its_way = None
            self._app.call_later(self._go_on)
