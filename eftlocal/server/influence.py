"""How probable each token of an answer is under each model, told with the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eftlocal.answer import Answer
from eftlocal.arguments import PromptOptions
from eftlocal.batch.completion_body import shown_tokens
from eftlocal.emulator import Emulator
from eftlocal.prompt.messages import Prompt
from eftlocal.study.influence import inspect
from eftlocal.study.inspection import COMBINATION
from eftlocal.study.verdict import verdicts

CANDIDATES = 5
_DIGITS = 6  # of a probability
_TOGETHER = "together"


def influence_of(
    emulator: Emulator, prompt: Prompt, options: Mapping[str, Any], answer: Answer
) -> list[dict[str, Any]]:
    """The tokens of an answer's text, in their order; their texts add up to it.

    Its very tokens are scored once, at temperature 1 and before penalties, filters and masks. Only
    they are decoded where a cache holds the prompt, as it does when the answer has just ended.

    Args:
        prompt, options: what `Emulator.stream` was asked.

    Raises:
        PromptError, EngineError: see `inspect`.
    """
    if not answer.tokens:
        return []
    read = {name: options[name] for name in PromptOptions.__annotations__ if name in options}
    found = inspect(
        emulator, prompt, answer.tokens, candidates=CANDIDATES, recipe=options["recipe"], **read
    )
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
