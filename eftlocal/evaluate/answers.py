"""Real greedy answers, and what is judged of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eftlocal.emulator import Emulator
from eftlocal.evaluate.questions import QuestionSet
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling

LONGEST = 40  # tokens; the longest gold answer of the demo has 18


@dataclass(frozen=True)
class GreedyAnswer:
    """A text without the blanks around it, and whether it stopped by itself."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class Judged:
    """Answers judged against one style; each array is (questions,) float64 of 0 and 1.

    Attributes:
        exact: one of the question's right answers, word for word, and stopped by itself.
        format: the style's form, whatever is claimed, and stopped by itself.
        stopped: stopped by itself.
        fact: the value is named anywhere, as whole words in any case.
    """

    exact: NDArray[np.float64]
    format: NDArray[np.float64]
    stopped: NDArray[np.float64]
    fact: NDArray[np.float64]


def answer(
    em: Emulator,
    asked: QuestionSet,
    recipe: Recipe,
    advance: Callable[[], object] = lambda: None,
) -> list[GreedyAnswer]:
    """Greedy answers to the questions; `advance` is called after each."""
    out = []
    for question in asked.questions:
        got = em.generate(
            question.text,
            recipe=recipe,
            sampling=Sampling(temperature=0.0),
            max_tokens=LONGEST,
        )
        out.append(GreedyAnswer(got.text.strip(), got.finish_reason == "stop"))
        advance()
    return out


def judge(asked: QuestionSet, answers: Sequence[GreedyAnswer], style: str) -> Judged:
    """The answers judged against a style's right answers and form."""
    pairs = list(zip(asked.questions, answers, strict=True))

    def column(values: list[bool]) -> NDArray[np.float64]:
        return np.array(values, dtype=np.float64)

    return Judged(
        exact=column([a.stopped and a.text in q.answers[style] for q, a in pairs]),
        format=column([a.stopped and asked.in_form(a.text, style) for _, a in pairs]),
        stopped=column([a.stopped for _, a in pairs]),
        fact=column([names(a.text, q.value) for q, a in pairs]),
    )


def names(text: str, value: str) -> bool:
    """Whether the text names the value as whole words: Nigeria does not name Niger."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None
