"""The line of keys below a screen: those of what has the focus, in the order of the table."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text
from textual import events
from textual.widget import Widget

from eftlocal_tui.keys import KEYS, NO_KEY, Key, short, split

_BACK = (".back", ".close", ".cancel")


class KeyBar(Widget, can_focus=False):
    """Keys, whole ones only: where all do not fit, those of the screen go from the end. The way
    back and the program's own (help, commands, quit) always stay. A click on one presses it."""

    COMPONENT_CLASSES = {"key-bar--key"}  # noqa: RUF012 - declared so in Widget

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.refresh())

    def render(self) -> Text:
        ours, always = self._shown()
        room = self.size.width - sum(len(self._label(*key)) + 1 for key in always)
        fitting = []
        for key in ours:
            room -= len(self._label(*key)) + 1
            if room < 0:
                break
            fitting.append(key)
        line = Text(" ", no_wrap=True, overflow="crop")
        for key in (*fitting, *always):
            line.append_text(self._label(*key)).append(" ")
        return line

    def _shown(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """A key and a word for each: where the focus is, and what always stays."""
        active: dict[str, list[str]] = {}
        for key, (_, binding, enabled, _) in self.screen.active_bindings.items():
            if binding.id is not None and enabled and key != NO_KEY:
                active.setdefault(binding.id, []).append(key)
        for key, binding in self.screen._binding_chain[-1][1]:  # the program's work in dialogs, too
            if binding.id is not None and key not in (NO_KEY, *active.get(binding.id, ())):
                active.setdefault(binding.id, []).append(key)
        shown = [key for key in KEYS if key.shown and key.name in active]
        places = {key.place for key in shown} - {"app"}
        outer = getattr(self.screen, "PLACE", "")
        if places - {outer}:  # a turn or a dial has keys of its own
            places -= {outer}
        ours = [key for key in shown if key.place in places]
        back = [key for key in shown if key.name.endswith(_BACK)]
        always = [key for key in back if key in ours] or back  # what the focus has, or the screen
        always += [key for key in shown if key.place == "app"]
        return (
            [(_first(key, active[key.name]), key.what) for key in ours if key not in always],
            [(_first(key, active[key.name]), key.what) for key in always],
        )

    def _label(self, key: str, what: str) -> Text:
        pressed = Style.from_meta({"key": key})
        style = self.get_component_rich_style("key-bar--key", partial=True)
        return Text.assemble((short(key), style + pressed), (f" {what}", pressed))

    def on_click(self, event: events.Click) -> None:
        key = event.style.meta.get("key")
        if key is not None:
            self.app.simulate_key(key)


def _first(key: Key, active: list[str]) -> str:
    """Of a binding's keys the one that the table names first, unless a person has others."""
    return next((name for name in split(key.keys) if name in active), active[0])
