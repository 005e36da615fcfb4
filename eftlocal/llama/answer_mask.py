"""Which tokens may follow an answer so far, whatever engine runs its constraint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eftlocal.constraint import Constraint
from eftlocal.llama.grammar import Grammar
from eftlocal.llama.model import Model


class AnswerMask(Protocol):
    """A constraint over the tokens of one model. Used from one thread at a time."""

    def allowed(self, tokens: Sequence[int]) -> NDArray[np.bool_]:
        """Which tokens may follow these of an answer: (vocab_size,) bool, read-only."""

    def close(self) -> None:
        """Frees it. A second call does nothing."""


def answer_mask(model: Model, constraint: Constraint, ends: Iterable[int] = ()) -> AnswerMask:
    """GBNF on llama.cpp, everything else on llguidance.

    Args:
        model: whose tokens the answers are made of; close the mask before it.
        ends: further ids that end an answer, beside the model's own end-of-generation tokens.

    Raises:
        UsageError: the engine cannot compile the constraint; one line with its reason.
    """
    if constraint.kind == "grammar":
        return Grammar(model, constraint.text, ends=ends)
    from eftlocal.llama.guide import Guide  # with llguidance, which few need

    return Guide(model, constraint, ends=ends)
