"""The command palette: Textual's, mended where keys and clicks find it unready (8.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual.await_complete import AwaitComplete
from textual.binding import Binding
from textual.command import CommandList, CommandPalette
from textual.errors import NoWidget
from textual.geometry import Region
from textual.theme import ThemeProvider
from textual.timer import Timer
from textual.widget import Widget
from textual.worker import Worker

from eftlocal_tui.screens.base import Place, attached


class Palette(CommandPalette):
    BINDINGS: ClassVar = [Binding("escape", "escape", show=False, priority=True)]

    def on_mount(self) -> None:
        """A theme that is changed under it holds for itself, too; Textual leaves it out."""
        self.app.theme_changed_signal.subscribe(self, lambda _: self.app.stylesheet.update(self))

    def dismiss(self, result: Any = None) -> AwaitComplete:
        """Once, and only itself: Textual takes away whatever is in front."""
        return super().dismiss(result) if self.is_active else AwaitComplete()

    def get_widget_at(self, x: int, y: int) -> tuple[Widget, Region]:
        """Itself where the window has become too small for a click that was on its way."""
        try:
            return super().get_widget_at(x, y)
        except NoWidget:
            return self, self.region

    def get_widget_and_offset_at(self, x: int, y: int) -> Place:
        return attached(self, super().get_widget_and_offset_at(x, y))

    def run_worker(self, *args: Any, **options: Any) -> Worker[Any]:
        """A search that the palette is gone from under ends alone."""
        return super().run_worker(*args, **{**options, "exit_on_error": False})

    def set_timer(
        self, delay: float, callback: Callable[[], object] | None = None, **options: Any
    ) -> Timer:
        """What a timer was to do is left when the palette's parts are gone meanwhile."""

        def when_there() -> None:
            if callback is not None and self.query(CommandList):
                callback()

        return super().set_timer(delay, when_there, **options)

    def _action_command_list(self, action: str) -> None:
        if self.query_one(CommandList).size:  # it is laid out
            super()._action_command_list(action)


def command_palette() -> Palette:
    """Every command."""
    return Palette()


def theme_palette() -> Palette:
    """Every theme."""
    return Palette(providers=[ThemeProvider], placeholder="Search themes")
