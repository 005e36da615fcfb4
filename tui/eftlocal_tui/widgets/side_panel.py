"""The side panel: dials above, live figures below."""

from __future__ import annotations

from collections.abc import Callable

import psutil
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Input, Label, Select, Static

from eftlocal.disk import readable
from eftlocal.terminal_text import one_line
from eftlocal_tui.dials import Dials, formula_of, recipe_names
from eftlocal_tui.engine import Live, Loaded
from eftlocal_tui.history import Figures
from eftlocal_tui.keys import bindings
from eftlocal_tui.text import packed, plot, speed_text

_SYMBOLS = {"alpha": "α alpha", "beta": "β beta", "lambda": "λ lambda", "top_p": "top-p"}
_DIAL = 19  # columns of a dial, where these do
_PERSONA = 160  # characters of it that are shown
_HELD = 120  # samples of the plots
_SAMPLE = 0.1  # seconds that one takes at least


class DialTurned(Message):
    """A dial, and what it is to be turned to: a value as text, by so many steps, or (None) to
    where the preset began."""

    def __init__(self, name: str, to: str | int | None) -> None:
        super().__init__()
        self.dial = name
        self.to = to


class DialInput(Input):
    """Up and down step and apply at once; Enter, or leaving the field, applies what was typed."""

    BINDINGS = bindings("dial")

    def __init__(self, dial: str, text: str) -> None:
        super().__init__(text, compact=True, select_on_focus=True)
        self.dial = dial
        self._applied = text

    def action_step(self, by: int) -> None:
        # From the value that holds by then: keys of a dial that is held come faster than it shows.
        self._apply()
        self.post_message(DialTurned(self.dial, by))

    def action_reset(self) -> None:
        self.value = self._applied
        self.post_message(DialTurned(self.dial, None))

    def action_back(self) -> None:
        self.value = self._applied
        self.screen.set_focus(self.screen.query_one("#prompt"))

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


class RecipeSelect(Select[str]):
    """The recipes that may be chosen."""

    BINDINGS = bindings("dial.reset")

    def action_reset(self) -> None:
        self.post_message(DialTurned("recipe", None))


class SidePanel(VerticalScroll, can_focus=False):
    def __init__(self, spelled: Callable[[str], str], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._spelled = spelled
        self._dials: Dials | None = None
        self._begun: Dials | None = None
        self._sampled: Figures | None = None  # what the plots show last
        self._speeds: list[float] = []
        self._accepted: list[float] = []
        self.live: Live | None = None
        self._recipe = ""
        self._named = ""  # the recipe that the rows are of

    def compose(self) -> ComposeResult:
        yield Label("Dials", classes="title")
        yield RecipeSelect([], prompt="recipe", id="recipe", compact=True)
        yield Static("", id="about", markup=False)
        yield Vertical(id="rows")
        yield Static("", id="explained", markup=False)
        yield Label("Figures", classes="title")
        yield Static("", id="figures", markup=False)
        yield Static("", id="plots", markup=False)

    def on_mount(self) -> None:
        self._explain()
        self._show_figures()
        self.set_interval(2.0, self._show_figures)

    async def show_dials(self, dials: Dials, loaded: Loaded) -> None:
        """These dials; rows are made anew only where the recipe has others."""
        self._dials, self._begun = dials, loaded.dials
        names = recipe_names(dials.recipe, loaded.roles, loaded.dials.recipe)
        values = dials.shown()
        does = f"{dials.told('recipe')}\n{formula_of(dials.recipe, loaded.files)}"
        if dials.recipe.persona_prompt:
            does += f"\n“{one_line(dials.recipe.persona_prompt, _PERSONA)}”"
        self.query_one("#about", Static).update("\n".join(map(one_line, does.split("\n"))))
        self._explain()
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
                    DialInput(name, text),
                    classes="dial",
                )
                for name, text in values.items()
            )

    def clear(self) -> None:
        """Nothing has been answered yet by these models, or in this conversation."""
        self.live = None
        self.begin()
        self._show_figures()

    def begin(self) -> None:
        """A new answer begins: its plots are empty."""
        self._sampled, self._speeds, self._accepted = None, [], []
        self._show_plots()

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
            if now.acceptance is not None:
                self._accepted = [*self._accepted, now.acceptance][-_HELD:]
            self._show_plots()
        self._show_figures()

    def on_resize(self) -> None:
        self.query_one("#rows").styles.grid_size_columns = max(self.size.width // _DIAL, 1)
        self._show_plots()
        self._show_figures()

    def _show_plots(self) -> None:
        width, lines = self.scrollable_content_region.width, []
        if self._speeds:
            top = max(self._speeds)
            lines += [f"tok/s, 0 to {top:.0f}", plot(self._speeds, top, width)]
        if self._accepted:
            lines += ["acceptance, 0 to 100%", plot(self._accepted, 1.0, width)]
        self.query_one("#plots", Static).update("\n".join(lines))

    def _show_figures(self) -> None:
        lines = _figures(self.live) if self.live is not None else []
        used = readable(psutil.Process().memory_info().rss)
        lines.append(f"memory {used} · {readable(psutil.virtual_memory().available)} free")
        width = self.scrollable_content_region.width
        self.query_one("#figures", Static).update(packed(lines, width))

    def on_select_changed(self, event: Select.Changed) -> None:
        event.stop()
        if isinstance(event.value, str) and self._recipe not in ("", event.value):
            self.post_message(DialTurned("recipe", event.value))

    def on_descendant_focus(self) -> None:
        self._explain()

    def on_descendant_blur(self) -> None:
        self._explain()

    def _explain(self) -> None:
        """What the dial with the focus does, below the dials."""
        row, dials, begun = self.screen.focused, self._dials, self._begun
        text = ""
        if isinstance(row, DialInput) and dials and begun and row.dial in dials.all():
            told = dials.told(row.dial).replace("; ", "\n")  # a line for each of its values
            text = f"{told}\n{dials.began(row.dial, begun)}"
        explained = self.query_one("#explained", Static)
        explained.update(self._spelled(text))
        explained.display = bool(text)
        self.set_class(bool(text), "-explains")

    def focus_dials(self) -> None:
        rows = self.query(DialInput)
        if rows:
            self.screen.set_focus(rows.first())


def _figures(live: Live) -> list[str]:
    figures = live.figures
    lines = []
    if figures.tokens:
        first = f"first {figures.first_token:.2f} s"
        speed = speed_text(figures)
        lines.append(f"{speed} · {first}" if speed else first)
    if figures.acceptance is not None:
        lines.append(f"drafts {live.draft_length:.1f} · accepted {figures.acceptance:.0%}")
    share = live.context_used / max(live.context_size, 1)
    return [*lines, f"context {live.context_used} / {live.context_size} · {share:.0%}"]
