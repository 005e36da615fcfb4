"""The presets: what is here, how large, and whether it fits; one is chosen to be loaded."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from eftlocal.disk import readable
from eftlocal.presets.schema import Preset
from eftlocal.terminal_text import one_line
from eftlocal_tui.engine import Offer
from eftlocal_tui.engine.thread import Task
from eftlocal_tui.keys import bindings
from eftlocal_tui.screens.base import BaseScreen, Services
from eftlocal_tui.text import fitted
from eftlocal_tui.widgets.key_bar import KeyBar

_NARROWEST = 20  # columns that a line is cut to at least
_NAME = 30  # cells of a name


class ModelsScreen(BaseScreen[str | None]):
    """Gives the preset that was chosen, or None.

    Args:
        presets: by name, in order.
        now: what is loaded.
    """

    BINDINGS = bindings("models")
    PLACE = "models"
    AUTO_FOCUS = "#presets"

    def __init__(self, services: Services, presets: Mapping[str, Preset], now: str = "") -> None:
        super().__init__()
        self._services = services
        self._presets = presets
        self._now = now
        self._offers: dict[str, Offer] = {}
        self._job: Task[Offer, None] | None = None

    def compose(self) -> ComposeResult:
        yield Static("Presets", id="head", markup=False)
        yield OptionList(*map(self._option, self._presets), id="presets", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        names = list(self._presets)
        self._list.highlighted = names.index(self._now) if self._now in names else 0
        self.start(self._look)

    @property
    def _list(self) -> OptionList:
        return self.query_one(OptionList)

    async def _look(self) -> None:
        self._job = task = self._services.tasks.look(list(self._presets))
        async for batch in task.batches():
            for offer in batch:
                self._offers[offer.name] = offer
                self._show(offer.name)
        await task.result()

    def _show(self, name: str) -> None:
        at = list(self._presets).index(name)
        self._list.replace_option_prompt_at_index(at, self._text(name))
        free = self._offers[name].free
        if free is not None:
            self.query_one("#head", Static).update(f"Presets · {readable(free)} of memory free")

    def on_resize(self) -> None:
        for name in self._offers:
            self._show(name)

    def _option(self, name: str) -> Option:
        return Option(self._text(name), id=name)

    def _text(self, name: str) -> Text:
        width = max(_NARROWEST, self.app.size.width - 4)
        mark = "● " if name == self._now else "  "
        first = Text(f"{mark}{fitted(name, _NAME)}", style="bold")
        title = one_line(self._presets[name].title, 200)
        if title:
            first.append(f"  {fitted(title, width - first.cell_len - 2)}", style="not bold")
        offer = self._offers.get(name)
        said = "…" if offer is None else _said(offer)
        if offer is None or not offer.roles:
            said = f"{said} · {', '.join(self._presets[name].roles)}"
        return first.append(f"\n  {fitted(said, width - 2)}", style="not bold dim")

    async def on_option_list_option_selected(self) -> None:
        self.action_load()

    def action_load(self) -> None:
        option = self._list.highlighted_option
        if option is not None:
            self.leave(option.id)

    def action_back(self) -> None:
        self.leave(None)

    def on_unmount(self) -> None:
        if self._job is not None:
            self._job.stop()


def _said(offer: Offer) -> str:
    """What there is to say of a preset in one line, the most important first."""
    if offer.problem:
        return f"✗ {offer.problem}"
    parts = [_files(offer)]
    if offer.needs is not None:
        parts.append(_memory(offer))
    if offer.n_ctx:
        parts.append(f"context {offer.n_ctx}")
    parts.append(", ".join(offer.roles))
    return " · ".join(part for part in parts if part)


def _files(offer: Offer) -> str:
    size = "" if offer.size is None else readable(offer.size)
    if offer.here:
        return f"here, {size}" if size else "here"
    if offer.to_come is None:
        return "partly here, the rest of unknown size" if offer.begun else "size unknown"
    if offer.begun:
        return f"partly here, {readable(offer.to_come)} of {size} to download"
    return f"{readable(offer.to_come)} to download"


def _memory(offer: Offer) -> str:
    assert offer.needs is not None
    needs = f"memory {readable(offer.needs)}{'' if offer.here else '+'}"
    if offer.fits is None:
        return needs
    return f"{needs}, {'fits' if offer.fits else '✗ does not fit'}"
