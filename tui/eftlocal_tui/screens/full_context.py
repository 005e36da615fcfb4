"""What the contexts hold of a conversation, and the ways on, to choose one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList, Static
from textual.widgets.option_list import Option

from eftlocal_tui.engine import Fit
from eftlocal_tui.keys import bindings
from eftlocal_tui.screens.base import Typed, Unasked
from eftlocal_tui.widgets.key_bar import KeyBar

Go = Callable[[], Awaitable[bool]]
"""Goes a way; whether what was asked can be sent then."""


class Way(NamedTuple):
    """A way on.

    Attributes:
        title, about: what it is called, and what it does.
    """

    title: str
    about: str
    go: Go


class ContextScreen(ModalScreen[Way | None], Unasked[Way | None]):
    """Gives the way that was chosen; None where nothing is to change."""

    BINDINGS = bindings("context")
    PLACE = "context"
    USES_MODELS = True

    def __init__(
        self,
        title: str,
        lines: Sequence[str],
        ways: Sequence[Way],
        typed: Typed | None = None,
    ) -> None:
        super().__init__()
        self._title, self._lines, self._ways, self.typed = title, lines, ways, typed

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label(self._title, id="title", markup=False)
            yield Static("\n".join(self._lines), markup=False)
            yield OptionList(*map(_option, self._ways), markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        super().on_mount()
        if self.typed is not None:  # Enter alone, which may have been meant for the box, is no way
            self.query_one(OptionList).highlighted = None

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.leave(self._ways[event.option_index])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        return bool(self._ways) or action != "choose"

    def action_choose(self) -> None:
        self.query_one(OptionList).action_select()

    def action_cancel(self) -> None:
        self.leave(None)


def _option(way: Way) -> Option:
    return Option(Text.assemble((way.title, "bold"), "\n", (f"  {way.about}", "dim")))


def role_lines(fit: Fit) -> list[str]:
    """What each role's context holds, the fullest first; roles that are alike share a line. Where
    one is far too long the others were not counted."""
    alike: dict[tuple[int, int], list[str]] = {}
    counted = [role for role, tokens in fit.tokens.items() if tokens] or fit.tokens
    for role in sorted(counted, key=fit.room_of):
        alike.setdefault((fit.tokens[role], fit.sizes[role]), []).append(role)
    return [
        f"{', '.join(roles)}: {tokens:,} of {size:,} tokens"
        for (tokens, size), roles in alike.items()
    ]
