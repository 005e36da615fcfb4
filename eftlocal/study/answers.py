"""Answers to questions, and what is judged of them: generated ones, gold ones, drafts of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.decoding.score import text_rows
from eftlocal.emulator import Emulator
from eftlocal.logits.distribution import token_logprob
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.study.questions import Question, QuestionSet

LONGEST = 40  # tokens; the longest gold answer of the demo has 18
GREEDY = Sampling(temperature=0.0)

Advance = Callable[[], object]


def nothing() -> None:
    """What to call after a step where nobody counts them."""


class GreedyAnswer(NamedTuple):
    """A text without the blanks around it, and whether it stopped by itself."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class Verdicts:
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


@dataclass(frozen=True)
class Scores:
    """Gold answers under one recipe; each array is (questions,) float64.

    Attributes:
        exact: 1 where greedy decoding gives the gold answer and then stops.
        fact_nll: negative log-likelihood of the tokens that hold the fact, nats, summed.
        format_nll: that of the other tokens and of the stop token.
    """

    exact: NDArray[np.float64]
    fact_nll: NDArray[np.float64]
    format_nll: NDArray[np.float64]


class DraftAcceptance(NamedTuple):
    """How often the small tuned model would have drafted what the combination chooses: means over
    the tokens of the combination's own answers.

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


def answer(
    em: Emulator, asked: QuestionSet, recipe: Recipe, advance: Advance = nothing
) -> list[GreedyAnswer]:
    """Greedy answers to the questions; `advance` is called after each."""
    out = []
    for question in asked.questions:
        got = em.generate(question.text, recipe=recipe, sampling=GREEDY, max_tokens=LONGEST)
        out.append(GreedyAnswer(got.text.strip(), got.finish_reason == "stop"))
        advance()
    return out


def judge(asked: QuestionSet, answers: Sequence[GreedyAnswer], style: str) -> Verdicts:
    """The answers judged against a style's right answers and form."""
    rows = [
        (
            a.stopped and a.text in q.answers[style],
            a.stopped and asked.in_form(a.text, style),
            a.stopped,
            mentions(a.text, q.value),
        )
        for q, a in zip(asked.questions, answers, strict=True)
    ]
    return Verdicts(*np.array(rows, dtype=np.float64).reshape(-1, 4).T)


def mentions(text: str, value: str) -> bool:
    """Whether the value stands in the text as whole words: Nigeria does not mention Niger."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def score(
    em: Emulator,
    asked: QuestionSet,
    recipes: Mapping[str, Recipe],
    style: str,
    advance: Advance = nothing,
) -> dict[str, Scores]:
    """Gold answers under many recipes at once; each role is decoded once a question.

    Teacher forcing: greedy decoding gives the gold answer exactly when each of its tokens is the
    most probable one after those before it, so no text need be generated.

    Args:
        recipes: name to recipe, over roles that are loaded.
        advance: called after each question.
    """
    first = next(iter(recipes.values()))
    roles = dict.fromkeys(role for recipe in recipes.values() for role in recipe.roles)
    combine = em.ensemble.combine
    scratch = np.empty(em.ensemble.vocab_size, dtype=np.float32)
    out: dict[str, list[tuple[float, float, float]]] = {name: [] for name in recipes}
    for question in asked.questions:
        tokens, is_fact = gold_tokens(em, question, style)
        right = dict.fromkeys(recipes, True)
        losses = {name: np.zeros(len(tokens)) for name in recipes}
        prompts = em.tokenize(question.text)
        scored = text_rows(em.ensemble, prompts, tokens, recipe=first, roles=roles)
        for i, (token, _, rows) in enumerate(scored):
            for name, recipe in recipes.items():
                z = combine(rows, recipe)
                right[name] &= int(z.argmax()) == token
                losses[name][i] = -token_logprob(z, token, scratch)
        for name, nll in losses.items():
            out[name].append((float(right[name]), nll[is_fact].sum(), nll[~is_fact].sum()))
        advance()
    return {
        name: Scores(*np.array(rows, dtype=np.float64).reshape(-1, 3).T)
        for name, rows in out.items()
    }


def gold_tokens(
    em: Emulator, question: Question, style: str
) -> tuple[list[int], NDArray[np.bool_]]:
    """The gold answer's tokens with the stop token, and which of them touch the fact."""
    model = em.text_model
    text = f" {question.answers[style][0]}"
    start = len(text[: text.lower().rfind(question.value.lower())].encode())
    end = start + len(question.value.encode())
    tokens, is_fact, position = model.tokenize(text, continues=True), [], 0
    for token in tokens:
        size = len(model.piece(token))
        is_fact.append(position < end and position + size > start)
        position += size
    return [*tokens, min(em.ensemble.stop_tokens)], np.array([*is_fact, False])


def acceptance(
    em: Emulator,
    asked: QuestionSet,
    answers: Sequence[GreedyAnswer],
    recipe: Recipe,
    advance: Advance = nothing,
) -> DraftAcceptance:
    """DraftAcceptance of drafts by the tuned role along the given answers of the recipe."""
    same: list[bool] = []
    overlap: list[float] = []
    for question, given in zip(asked.questions, answers, strict=True):
        tokens = em.text_model.tokenize(f" {given.text}", continues=True)
        if given.stopped:
            tokens = [*tokens, min(em.ensemble.stop_tokens)]
        prompts = em.tokenize(question.text)
        for _, row, rows in text_rows(em.ensemble, prompts, tokens, recipe=recipe):
            same.append(int(row.argmax()) == int(rows["tuned"].argmax()))
            p, q = (np.exp(r - r.max(), dtype=np.float64) for r in (row, rows["tuned"]))
            overlap.append(float(np.minimum(p / p.sum(), q / q.sum()).sum()))
        advance()
    return DraftAcceptance(float(np.mean(same)), float(np.mean(overlap)), len(same))
