"""The side panel: dials above, live figures below."""

from __future__ import annotations

from collections.abc import Collection

import psutil
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Input, Label, Select, Static

from eftlocal.disk import readable
from eftlocal.kinds import Range, RefusedError, number
from eftlocal.settings import MAX_DRAFT
from eftlocal_tui.dials import DRAFT, Dials, range_of, recipe_names
from eftlocal_tui.engine import Live
from eftlocal_tui.history import Figures
from eftlocal_tui.keys import bindings
from eftlocal_tui.text import bar, plot

_SYMBOLS = {"alpha": "α alpha", "beta": "β beta", "lambda": "λ lambda", "top_p": "top-p"}
_STEPS = {"top_p": 0.05}  # others step by 0.1
_HELD = 120  # samples of the plots
_SAMPLE = 0.1  # seconds that one takes at least


class DialTurned(Message):
    """A dial, and what it is to be turned to."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__()
        self.dial = name
        self.text = text


class DialInput(Input):
    """Up and down step and apply at once; Enter, or leaving the field, applies what was typed."""

    BINDINGS = bindings("dial")

    def __init__(self, dial: str, text: str, range_: Range) -> None:
        super().__init__(text, compact=True, select_on_focus=True)
        self.dial = dial
        self._range = range_
        self._applied = text

    def action_step(self, by: int) -> None:
        self.value = self._stepped(by)
        self._apply()

    def action_back(self) -> None:
        self.value = self._applied
        self.screen.query_one("#prompt").focus()

    def _stepped(self, by: int) -> str:
        if self.dial == DRAFT:
            places = ["off", "auto", *map(str, range(1, MAX_DRAFT + 1))]
            at = places.index(self.value) if self.value in places else 1
            return places[min(max(at + by, 0), len(places) - 1)]
        value, ends = number(self.value), self._range
        if isinstance(value, str):
            return self._applied
        stepped = round(value + by * _STEPS.get(self.dial, 0.1), 6)
        text = f"{min(max(stepped, ends.least), ends.most):g}"
        try:
            ends.parse(text)
        except RefusedError:  # an end that is not in the range itself
            return self._applied
        return text

    def show(self, text: str) -> None:
        """The value that holds, whoever set it."""
        self._applied = text
        if self.value != text:
            self.value = text

    def _apply(self) -> None:
        if self.value != self._applied:
            self.post_message(DialTurned(self.dial, self.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._apply()

    def on_blur(self, event: events.Blur) -> None:
        self._apply()


class SidePanel(VerticalScroll, can_focus=False):
    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._sampled: Figures | None = None  # what the plots show last
        self._speeds: list[float] = []
        self._accepted: list[float] = []
        self.live: Live | None = None
        self._recipe = ""
        self._named = ""  # the recipe that the rows are of

    def compose(self) -> ComposeResult:
        yield Label("Dials", classes="title")
        yield Select[str]([], prompt="recipe", id="recipe", compact=True)
        yield Vertical(id="rows")
        yield Label("Figures", classes="title")
        yield Static("", id="figures", markup=False)
        yield Static("", id="plots", markup=False)

    def on_mount(self) -> None:
        self._show_figures()
        self.set_interval(2.0, self._show_figures)

    async def show_dials(self, dials: Dials, roles: Collection[str]) -> None:
        """These dials; rows are made anew only where the recipe has others."""
        names = recipe_names(dials.recipe, roles)
        values = dials.shown()
        self._recipe = values.pop("recipe")
        select = self.query_one(Select)
        with select.prevent(Select.Changed):
            select.set_options((name, name) for name in names)
            select.value = self._recipe
        rows = {row.dial: row for row in self.query(DialInput)}
        if list(rows) == list(values) and dials.recipe.name == self._named:
            for name, text in values.items():
                rows[name].show(text)
            return
        self._named = dials.recipe.name
        place = self.query_one("#rows")
        with self.app.batch_update():
            await place.remove_children()
            await place.mount_all(
                Horizontal(
                    Label(_SYMBOLS.get(name, name), markup=False),
                    DialInput(name, text, range_of(dials.recipe, name)),
                    classes="dial",
                )
                for name, text in values.items()
            )

    def begin(self) -> None:
        """A new answer begins: its plots are empty."""
        self._sampled, self._speeds, self._accepted = None, [], []

    def show_live(self, live: Live) -> None:
        """Figures of an answer so far; the plots get what came since the last ones.

        The tokens of a draft come at once, so what came in a moment says nothing of the speed.
        """
        self.live, now, before = live, live.figures, self._sampled
        speed = now.tokens_per_second
        if before is not None:
            seconds = now.seconds - before.seconds
            speed = (now.tokens - before.tokens) / seconds if seconds >= _SAMPLE else 0.0
        if speed:
            self._sampled = now
            self._speeds = [*self._speeds, speed][-_HELD:]
            self._accepted = [*self._accepted, now.acceptance or 0.0][-_HELD:]
            self._show_plots()
        self._show_figures()

    def on_resize(self) -> None:
        self._show_plots()

    def _show_plots(self) -> None:
        if not self._speeds:
            return
        top, width = max(self._speeds), self.scrollable_content_region.width
        self.query_one("#plots", Static).update(
            f"tok/s, 0 to {top:.0f}\n{plot(self._speeds, top, width)}\n"
            f"acceptance, 0 to 100%\n{plot(self._accepted, 1.0, width)}"
        )

    def _show_figures(self) -> None:
        live = self.live
        lines = []
        if live is not None:
            figures = live.figures
            drafts = ["drafts       none"]
            if figures.acceptance is not None:
                drafts = [
                    f"drafts       {live.draft_length:.1f} tokens long",
                    f"accepted     {figures.acceptance:.0%}",
                ]
            share = live.context_used / max(live.context_size, 1)
            speed = figures.tokens_per_second
            lines = [
                f"tok/s        {speed:.1f}" if speed else "tok/s        –",
                f"first token  {figures.first_token or 0.0:.2f} s",
                *drafts,
                f"context      {live.context_used} / {live.context_size}",
                f"             {bar(share)} {share:.0%}",
            ]
        lines.append(f"memory       {readable(psutil.Process().memory_info().rss)}")
        lines.append(f"  free       {readable(psutil.virtual_memory().available)}")
        self.query_one("#figures", Static).update("\n".join(lines))

    def on_select_changed(self, event: Select.Changed) -> None:
        event.stop()
        if isinstance(event.value, str) and self._recipe not in ("", event.value):
            self.post_message(DialTurned("recipe", event.value))

    def focus_dials(self) -> None:
        rows = self.query(DialInput)
        if rows:
            rows.first().focus()
