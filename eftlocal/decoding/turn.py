"""One sequence in one round: what was drafted for it, the rows at hand, what was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from eftlocal.decoding.sequence import Choice, RunningSequence
from eftlocal.logits.distribution import Row
from eftlocal.logits.recipe import Recipe
from eftlocal.speculation.drafting import Plan
from eftlocal.speculation.rules import Draft


@dataclass(eq=False)
class Turn:
    """What a round knows of one sequence.

    Attributes:
        recipe: of the first token to come; a schedule may change it for the later ones.
        most: longest draft that fits.
        plan: costs that decide the length; None where it is given.
        drafter: the recipe whose roles draft; None where nothing or a lookup does.
        drafts: drafted tokens, in order.
        confidences: of the distributions that a model's drafts were drawn from.
        chances: expected chance that all drafts so far are accepted.
        expected: tokens that the round is expected to bring.
        found: what a lookup proposes, used or not.
        agreed: tokens that agreed before it.
        rows: per position, the rows at hand of each role.
        choices: what was chosen.
    """

    sequence: RunningSequence
    recipe: Recipe
    most: int = 0
    plan: Plan | None = None
    drafter: Recipe | None = None
    drafts: list[Draft] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    chances: float = 1.0
    expected: float = 1.0
    found: list[int] = field(default_factory=list)
    agreed: int = 0
    rows: list[dict[str, Row]] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [draft.token for draft in self.drafts]

    @cached_property
    def counts(self) -> Counter[int]:
        """How often each token occurs in the answer before this round."""
        return self.sequence.counts()

    @property
    def accepted(self) -> int:
        return sum(choice.source == "accepted" for choice in self.choices)

    def use_found(self, length: int) -> None:
        """Drafts what was looked up, up to a length or to what would end the answer."""
        for token in self.found[:length]:
            self.drafts.append(Draft(token, None))
            if token in self.sequence.ends:
                break

    def add_rows(self, role: str, rows: Iterable[Row], first: int) -> None:
        """Rows of a role, from a position on."""
        for position, row in enumerate(rows, first):
            while len(self.rows) <= position:
                self.rows.append({})
            self.rows[position][role] = row
