"""Translation against the yardstick: exact sums over all ways to spell what comes next.

Given a role's tokens so far, the probability that its text goes on with some bytes is a sum over
tokens that begin with them, and over tokens that they begin with, each times the same for what is
left: a tree of decodes, far too slow for use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

import eftlocal
from eftlocal import Emulator, Recipe, Sampling
from eftlocal.decoding.score import text_rows
from eftlocal.evaluation.questions import FOLDER, WARM, read
from eftlocal.llama import Context, Model, Span

Probabilities = Callable[[tuple[int, ...]], NDArray[np.float64]]


@pytest.fixture(scope="module", params=["candidates", "prefix", "text"])
def crossed(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with eftlocal.load("demo-cross", translation=request.param, n_ctx=256) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def probabilities() -> Iterator[Mapping[str, Probabilities]]:
    """By role, what follows these tokens, (vocab,)."""
    models = {role: Model(FOLDER / f"cross_{role}.gguf") for role in ("tuned", "reference")}
    contexts = {role: Context(model, n_ctx=256, n_threads=1) for role, model in models.items()}

    def of(role: str) -> Probabilities:
        @cache
        def row(tokens: tuple[int, ...]) -> NDArray[np.float64]:
            contexts[role].clear(0)
            (logits,) = contexts[role].decode([Span(0, tokens, 1)])
            p = np.exp(logits.astype(np.float64) - logits.max())
            return p / p.sum()

        return row

    yield {role: of(role) for role in models}
    for role, model in models.items():
        contexts[role].close()
        model.close()


def exact(
    p: Probabilities, pieces: Mapping[int, bytes], tokens: tuple[int, ...], rest: bytes
) -> float:
    """The probability that the text goes on with these bytes."""
    row, found = p(tokens), 0.0
    for token, piece in pieces.items():
        if piece.startswith(rest):
            found += float(row[token])
        elif rest.startswith(piece):
            found += float(row[token]) * exact(p, pieces, (*tokens, token), rest[len(piece) :])
    return found


MOST = {"candidates": 0.1, "prefix": 1.0, "text": 3.0}  # nats; 0.03, 0.68 and 1.93 were seen


def test_deltas_are_near_the_exact_ones(
    crossed: Emulator, probabilities: Mapping[str, Probabilities]
) -> None:
    """Of the base's likely tokens along right answers: mean distance of the delta, in nats."""
    ensemble = crossed.ensemble
    method = "candidates" if ensemble.translations["tuned"].candidates else "prefix"
    if len(ensemble.translations["tuned"].rows.missing) > 1000:
        method = "text"
    model = crossed.models["tuned"]
    pieces = model.text_pieces(model.vocab_size)
    off = []
    for question in read(FOLDER / "questions.json", "validation").first(1).questions:
        answer = f" {question.answers[WARM][0]}"
        tokens = crossed.text_model.tokenize(answer, continues=True)
        prompts = crossed.tokenize(question.text)
        recipe = Recipe.proxy()
        for at, (_, _, rows) in enumerate(text_rows(ensemble, prompts, tokens, recipe=recipe)):
            before = b"".join(map(crossed.piece, tokens[:at])).decode()
            likely = np.flatnonzero(rows["base"] >= rows["base"].max() - 3.0)
            for token in likely.tolist():
                if token in ensemble.stop_tokens:
                    continue
                text = crossed.piece(token)
                given = {
                    role: (*prompts[role], *model.tokenize(before, continues=True))
                    for role in probabilities
                }
                ratio = [exact(p, pieces, given[role], text) for role, p in probabilities.items()]
                want = float(np.log(ratio[0] / ratio[1]))
                off.append(abs(float(rows["tuned"][token] - rows["reference"][token]) - want))
    print(f"{method}: {np.mean(off):.3f} nats, {len(off)} tokens")
    assert len(off) > 50 and np.mean(off) < MOST[method]


def test_the_same_pair_gives_the_base(crossed: Emulator) -> None:
    """tuned == reference, or alpha 0: the base, whatever the vocabulary."""
    question = "In which country is Toulouse?"
    sampling = Sampling(seed=1)
    base, none = (
        crossed.generate(question, recipe=recipe, sampling=sampling, max_tokens=12)
        for recipe in ("base", Recipe.proxy(0.0))
    )
    assert none.tokens == base.tokens
    same = Recipe({"base": 1.0, "tuned": 1.0}, any_sum=True)
    rows = next(
        rows
        for _, _, rows in text_rows(
            crossed.ensemble, crossed.tokenize(question), base.tokens[:1], recipe=same
        )
    )
    copy: Sequence[NDArray[np.float32]] = [rows["base"], rows["tuned"], rows["tuned"].copy()]
    got = crossed.ensemble.combine(
        dict(zip(("base", "tuned", "reference"), copy, strict=True)), Recipe.proxy(1.3)
    )
    assert np.allclose(got - got.max(), rows["base"] - rows["base"].max(), atol=1e-4)
