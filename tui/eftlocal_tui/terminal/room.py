"""The least room that the program is laid out in, and what is said where a terminal has less."""

from __future__ import annotations

from typing import TypeVar

from rich.console import RenderableType
from rich.control import Control
from rich.segment import Segment, Segments
from textual import events
from textual.app import App
from textual.geometry import Size
from textual.screen import Screen

R = TypeVar("R")

LEAST = Size(40, 10)


class RoomyApp(App[R]):
    """A program whose screens never hear of a terminal smaller than `LEAST`: they stay as they
    are, one line says so in their place, and they are there again when it grows."""

    _terminal = LEAST
    _told: Size | None = None  # the size for which the line is there

    @property
    def cramped(self) -> bool:
        """Whether the terminal is too small."""
        return self._terminal.width < LEAST.width or self._terminal.height < LEAST.height

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Resize):
            await super().on_event(event)
            return
        before, self._terminal = self._terminal, event.size
        room = Size(max(event.size.width, LEAST.width), max(event.size.height, LEAST.height))
        await super().on_event(events.Resize(room, room, room, event.pixel_size))
        if before != event.size and self._is_mounted and self.screen_stack:
            self.screen.refresh()

    def _display(self, screen: Screen[object], renderable: RenderableType | None) -> None:
        if not self.cramped:
            self._told = None
        elif renderable is not None and not self._batch_count:  # in a batch nothing is drawn
            renderable = None if self._told == self._terminal else too_small(self._terminal)
            self._told = self._terminal
        super()._display(screen, renderable)


def too_small(size: Size) -> Segments:
    """An empty terminal of that size with as much of a line in its middle as it has room for."""
    wanted, there = f"{LEAST.width}x{LEAST.height}", f"{size.width}x{size.height}"
    lines = (
        f"eftlocal needs at least {wanted}; this is {there}",
        f"eftlocal needs {wanted}, has {there}",
        f"needs {wanted}",
        wanted,
        "",
    )
    line = next(line for line in lines if len(line) <= size.width)
    middle = Control.move_to((size.width - len(line)) // 2, size.height // 2)
    return Segments([Control.clear().segment, middle.segment, Segment(line)])
