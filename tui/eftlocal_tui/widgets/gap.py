"""Turns of a long conversation that are not laid out, as a button in their place."""

from __future__ import annotations

from collections.abc import Sequence

from textual.widgets import Button

from eftlocal_tui.history import Turn


class Gap(Button):
    """So many turns between those that are laid out; pressed, the next ones are.

    Attributes:
        turns: in their order.
    """

    def __init__(self, turns: Sequence[Turn], *, first: bool) -> None:
        self.turns = list(turns)
        self._first = first  # nothing stands above it
        super().__init__(self._said, classes="gap", compact=True)

    @property
    def _said(self) -> str:
        return f"Show {len(self.turns):,} {'earlier' if self._first else 'more'}"

    @property
    def first(self) -> bool:
        return self._first

    def index(self, turn_id: int) -> int | None:
        """Where a turn is in it."""
        return next((i for i, turn in enumerate(self.turns) if turn.id == turn_id), None)

    def keep(self, turns: Sequence[Turn]) -> None:
        """It stands for these only."""
        self.turns = list(turns)
        self.label = self._said
