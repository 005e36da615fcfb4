"""How probable each token of an answer is under each model, told with the answer."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from eftlocal.answer import Answer
from eftlocal.batch.completion_body import shown_tokens
from eftlocal.emulator import Emulator
from eftlocal.logits.recipe import Recipe
from eftlocal.prompt.reader import ReadPrompt
from eftlocal.study.influence import inspecting
from eftlocal.study.inspection import COMBINATION, Inspection
from eftlocal.study.verdict import verdicts

CANDIDATES = 5
_DIGITS = 6  # of a probability
_TOGETHER = "together"


def scored(
    emulator: Emulator, prompt: ReadPrompt, recipe: Recipe | None, answer: Answer
) -> Generator[int, None, Inspection]:
    """Scores an answer's very tokens, at temperature 1 and before penalties, filters and masks.
    Only they are decoded where a cache holds the prompt, as it does when the answer has just ended.

    Args:
        prompt, recipe: what `Emulator.opening` was asked.

    Yields, Raises: see `inspecting`.
    """
    recipe = emulator.defaults.recipe if recipe is None else recipe
    return inspecting(emulator, prompt, answer.tokens, recipe, candidates=CANDIDATES)


def influence_of(found: Inspection, answer: Answer) -> list[dict[str, Any]]:
    """The tokens of an answer's text, in their order; their texts add up to it."""
    shown = shown_tokens(answer, [token.text for token in found.tokens])
    return [
        {
            "token": token.text,
            "verdict": str(verdict),
            "cause": verdict.cause,
            "probability": {
                _name(role): round(chance, _DIGITS) for role, chance in token.probabilities.items()
            },
            "candidates": {
                _name(role): [
                    {"token": other.label, "probability": round(other.probability, _DIGITS)}
                    for other in some
                ]
                for role, some in token.candidates.items()
            },
        }
        for token, verdict in zip(
            found.tokens[:shown], verdicts(found, made=True)[:shown], strict=True
        )
    ]


def _name(distribution: str) -> str:
    return _TOGETHER if distribution == COMBINATION else distribution
