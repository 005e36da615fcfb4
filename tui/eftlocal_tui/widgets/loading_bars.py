"""Bars for what is on its way: downloads, weights, measuring. Gone when it is done."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Label, ProgressBar

from eftlocal.terminal_text import one_line
from eftlocal_tui.engine.protocol import Progress
from eftlocal_tui.figures_text import size

_VERBS = {
    "download": "Downloading",
    "checking": "Checking for the first time:",
    "weights": "Loading",
    "measuring": "Measuring",
}


class _Bar(Horizontal):
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._what = f"{_VERBS[progress.stage]} {one_line(progress.name, 40)}"
        self._bytes = progress.stage == "download"

    def compose(self) -> ComposeResult:
        yield Label(self._what, classes="what", markup=False)
        yield ProgressBar(total=1.0, show_eta=False)
        yield Label("", classes="bytes", markup=False)

    def show(self, progress: Progress) -> None:
        bar = self.query_one(ProgressBar)
        bar.update(total=max(progress.total, 1e-9), progress=progress.done)
        if self._bytes:
            text = f" {size(progress.done)} of {size(progress.total)}"
            self.query_one(".bytes", Label).update(text)


class LoadingBars(Vertical):
    DEFAULT_CSS = """
    LoadingBars { height: auto; max-height: 8; display: none; background: $panel; padding: 0 1; }
    LoadingBars.-busy { display: block; }
    LoadingBars Horizontal { height: 1; }
    LoadingBars .what { width: 1fr; max-width: 44; }
    LoadingBars ProgressBar { width: auto; }
    LoadingBars Bar { width: 12; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._bars: dict[tuple[str, str], _Bar] = {}

    async def show(self, progress: Progress) -> None:
        self.add_class("-busy")
        key = (progress.stage, progress.name)
        if key not in self._bars:
            self._bars[key] = bar = _Bar(progress)
            await self.mount(bar)
        self._bars[key].show(progress)

    async def clear(self) -> None:
        self.remove_class("-busy")
        self._bars.clear()
        await self.remove_children()
