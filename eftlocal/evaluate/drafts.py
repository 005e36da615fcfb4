"""How often the small tuned model would have drafted what the combination chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eftlocal.emulator import Emulator
from eftlocal.evaluate.answers import GreedyAnswer
from eftlocal.evaluate.questions import QuestionSet
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling


@dataclass(frozen=True)
class Acceptance:
    """Means over the tokens of the combination's own answers.

    Attributes:
        agreement: share of tokens where both have the same most probable token; this is the
            acceptance of drafts under greedy sampling.
        overlap: mean of 1 - TV, the total variation distance at temperature 1; this is the
            acceptance under rejection sampling (Leviathan et al. 2023, arXiv 2211.17192).
        tokens: how many were looked at.
    """

    agreement: float
    overlap: float
    tokens: int


def acceptance(
    em: Emulator,
    asked: QuestionSet,
    answers: Sequence[GreedyAnswer],
    recipe: Recipe,
    advance: Callable[[], object] = lambda: None,
) -> Acceptance:
    """Acceptance of drafts by the tuned role along the given answers of the recipe."""
    same: list[bool] = []
    overlap: list[float] = []
    for question, given in zip(asked.questions, answers, strict=True):
        tokens = em.models["tuned"].tokenize(f" {given.text}", continues=True)
        if given.stopped:
            tokens = [*tokens, min(em.ensemble.stop_tokens)]
        sequence = em.ensemble.open(
            em.tokenize(question.text), recipe=recipe, sampling=Sampling(temperature=0.0)
        )
        try:
            for _, row, rows in em.ensemble.score(sequence, tokens):
                same.append(int(row.argmax()) == int(rows["tuned"].argmax()))
                p, q = (np.exp(r - r.max(), dtype=np.float64) for r in (row, rows["tuned"]))
                overlap.append(float(np.minimum(p / p.sum(), q / q.sum()).sum()))
        finally:
            em.ensemble.close(sequence)
        advance()
    return Acceptance(float(np.mean(same)), float(np.mean(overlap)), len(same))
