"""What it takes to use a role of another vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from eftlocal.translation.rows import Rows
from eftlocal.translation.spelling import Speller


@dataclass(frozen=True, eq=False)
class Translation:
    """Of one role.

    Attributes:
        speller: of the answer in the role's tokens.
        back: of what the role writes in the base's tokens.
        rows: translates its rows, in memory of its own.
        width: tokens of its vocabulary; rows are cut to it.
        most: tokens that one of the base's may take.
        candidates: whether the base's likely tokens are read as a whole.
    """

    speller: Speller
    back: Speller
    rows: Rows
    width: int
    most: int
    candidates: bool = False
