"""The list above the message box while a command is typed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from eftlocal_tui.completion import Choice
from eftlocal_tui.text import fitted

_WIDEST = 28  # cells of the names


class CommandMenu(OptionList, can_focus=False):
    """Shows choices, a row each. Keys come from the message box, which keeps the focus."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self.choices: Sequence[Choice] = ()

    @property
    def chosen(self) -> Choice | None:
        return None if self.highlighted is None else self.choices[self.highlighted]

    def show(self, choices: Sequence[Choice], width: int, *, first: bool) -> None:
        """These and no others, in rows of so many cells; `first`: that one is chosen already."""
        self.choices = choices
        self.clear_options()
        self.display = bool(choices)
        column = min(max((len(choice.name) for choice in choices), default=0), _WIDEST, width // 2)
        self.add_options(Option(_row(choice, column, width)) for choice in choices)
        self.highlighted = 0 if first and choices else None

    def move(self, by: int) -> None:
        """Chooses the next (1) or the one before (-1), around at the ends."""
        at = self.highlighted
        begin = 0 if by > 0 else -1
        self.highlighted = (begin if at is None else at + by) % len(self.choices)


def _row(choice: Choice, column: int, width: int) -> Text:
    name = fitted(choice.name, column if choice.about else width)
    row = Text(name.ljust(column), "bold", no_wrap=True)
    return row.append(f"  {fitted(choice.about, width - column - 2)}", "not bold dim")
