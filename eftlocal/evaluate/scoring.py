"""Gold answers under many recipes at once: each role is decoded once a question.

Teacher forcing: greedy decoding gives the gold answer exactly when each of its tokens is the
most probable one after those before it, so no text need be generated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eftlocal.emulator import Emulator
from eftlocal.evaluate.questions import Question, QuestionSet
from eftlocal.logits.combine import Combiner
from eftlocal.logits.distribution import token_logprob
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling


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


def score(
    em: Emulator,
    asked: QuestionSet,
    recipes: Mapping[str, Recipe],
    style: str,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Scores]:
    """Scores per recipe.

    Args:
        recipes: name to recipe, over roles that are loaded.
        advance: called after each question.
    """
    roles = dict.fromkeys(role for recipe in recipes.values() for role in recipe.roles)
    # Any weights will do: what is used are the rows of the roles, not this combination.
    needed = Recipe({role: 1.0 / len(roles) for role in roles}, name="all roles")
    combine = Combiner(em.ensemble.vocab_size, stop_tokens=sorted(em.ensemble.stop_tokens))
    scratch = np.empty(em.ensemble.vocab_size, dtype=np.float32)
    out: dict[str, list[tuple[float, float, float]]] = {name: [] for name in recipes}
    for question in asked.questions:
        tokens, is_fact = gold_tokens(em, question, style)
        found: dict[str, list[tuple[bool, float]]] = {name: [] for name in recipes}
        sequence = em.ensemble.open(
            em.tokenize(question.text), recipe=needed, sampling=Sampling(temperature=0.0)
        )
        try:
            for token, _, rows in em.ensemble.score(sequence, tokens):
                for name, recipe in recipes.items():
                    z = combine(rows, recipe)
                    right = int(z.argmax()) == token
                    found[name].append((right, -token_logprob(z, token, scratch)))
        finally:
            em.ensemble.close(sequence)
        for name, steps in found.items():
            nll = np.array([loss for _, loss in steps])
            exact = float(all(right for right, _ in steps))
            out[name].append((exact, float(nll[is_fact].sum()), float(nll[~is_fact].sum())))
        advance()
    return {
        name: Scores(*np.array(rows, dtype=np.float64).reshape(-1, 3).T)
        for name, rows in out.items()
    }


def gold_tokens(
    em: Emulator, question: Question, style: str
) -> tuple[list[int], NDArray[np.bool_]]:
    """The gold answer's tokens with the stop token, and which of them touch the fact."""
    model = em.models["tuned"]
    text = f" {question.answers[style][0]}"
    start = len(text[: text.lower().rfind(question.value.lower())].encode())
    end = start + len(question.value.encode())
    tokens, is_fact, position = model.tokenize(text, continues=True), [], 0
    for token in tokens:
        size = len(model.piece(token))
        is_fact.append(position < end and position + size > start)
        position += size
    return [*tokens, min(em.ensemble.stop_tokens)], np.array([*is_fact, False])
