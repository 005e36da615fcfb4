"""`inspect`: a prompt and an answer under every loaded role and under their combination."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from eftlocal import arguments
from eftlocal.decoding.sequence import Choice, RunningSequence, Wanted
from eftlocal.emulator import Emulator, Prompt
from eftlocal.errors import PromptError, UsageError
from eftlocal.generation import FinishReason
from eftlocal.influence.inspection import Inspection
from eftlocal.influence.rows import Columns, RowComparison
from eftlocal.influence.sides import COMBINATION, pairs, sides
from eftlocal.llama import Model
from eftlocal.logits.recipe import TUNED, Recipe
from eftlocal.logits.sampling import Sampling

MAX_CANDIDATES = 100
_ROWS = 32  # rows of each role held at once, as when a text is scored


def inspect(
    emulator: Emulator,
    prompt: Prompt,
    answer: str | Sequence[int] | None = None,
    *,
    recipe: Recipe | str | None = None,
    sampling: Sampling | None = None,
    max_tokens: int | None = None,
    stop: Sequence[str] | None = None,
    loop_guard: int | Literal["off"] | None = None,
    candidates: int = 5,
    raw: bool = False,
    special: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Inspection:
    """Answers a prompt, or takes a given answer, and says of every token which model moved it.

    A generated answer is generated first and scored then, so that it is measured exactly as the
    same answer given. All loaded roles are scored, those of weight 0 too.

    Args:
        prompt: a conversation, or a string: one message of the user.
        answer: text or token ids; None generates one.
        recipe: of the combination; None takes the emulator's default.
        sampling, max_tokens, stop, loop_guard: of a generated answer, as in `Emulator.stream`.
            They change which tokens are chosen; the numbers are those before sampling, at
            temperature 1.
        candidates: how many of the most probable tokens are kept of every distribution.
        raw, special, chat_template_kwargs: of the prompt, as in `Emulator.stream`. With special,
            special tokens' texts are those tokens in a given answer too.

    Raises:
        PromptError: empty, nothing to inspect, or it does not fit a context.
        UsageError: an option is out of its range, or meant for generated answers only.
    """
    chosen = emulator.checked(emulator.defaults.recipe if recipe is None else recipe)
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise UsageError(f"candidates is {candidates}; it must be from 1 to {MAX_CANDIDATES}")
    if COMBINATION in emulator.roles:
        raise UsageError(f"a role is called {COMBINATION!r}, which stands for all; rename it")
    model = emulator.models.get(TUNED) or next(iter(emulator.models.values()))
    read: dict[str, Any] = {"raw": raw, "special": special and raw}
    read["chat_template_kwargs"] = chat_template_kwargs
    seed: int | None = None
    finish_reason: FinishReason | None = None
    if answer is None:
        generated = emulator.generate(
            prompt,
            **read,
            recipe=chosen,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=stop,
            loop_guard=loop_guard,
        )
        tokens = list(generated.tokens)
        seed, finish_reason = generated.seed, generated.finish_reason
    else:
        given = {
            "sampling": sampling,
            "max_tokens": max_tokens,
            "stop": stop or None,
            "loop_guard": loop_guard,
        }
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} is for a generated answer, and one is given: drop it")
        tokens = _tokens(answer, model, emulator.ensemble.vocab_size, special)
    distributions = (*emulator.roles, COMBINATION)
    compared = pairs(emulator.roles, chosen)
    comparison = RowComparison(
        emulator.ensemble.vocab_size,
        distributions,
        compared,
        candidates,
        emulator.ensemble.unusable,
    )
    columns = emulator.with_place(
        lambda: _columns(emulator, emulator.tokenize(prompt, **read), chosen, tokens, comparison)
    )
    occurring = {*tokens, *np.unique(columns.ids[columns.ids >= 0]).tolist()}
    pieces = {token: model.piece(token) for token in occurring}
    return Inspection(
        prompt=prompt if isinstance(prompt, str) else _plain(prompt),
        recipe=chosen,
        distributions=distributions,
        sides=sides(emulator.roles, chosen),
        pairs=compared,
        ids=tuple(tokens),
        columns=columns,
        pieces=pieces,
        controls={
            token: model.piece(token, special=True).decode("utf-8", "replace") or f"<{token}>"
            for token, piece in pieces.items()
            if not piece
        },
        preset=emulator.name,
        seed=seed,
        finish_reason=finish_reason,
    )


def _columns(
    emulator: Emulator,
    ids: dict[str, list[int]],
    recipe: Recipe,
    tokens: Sequence[int],
    comparison: RowComparison,
) -> Columns:
    ensemble = emulator.ensemble
    sequence = ensemble.open(ids, recipe=recipe, sampling=Sampling(temperature=0.0))
    try:
        room = ensemble.room(sequence)
        if len(tokens) > room:
            raise PromptError(
                f"the answer has {len(tokens)} tokens and {room} fit after its prompt; "
                "shorten it or raise n_ctx"
            )
        return Columns.join(list(_compare(emulator, sequence, tokens, comparison)))
    finally:
        ensemble.close(sequence)


def _compare(
    emulator: Emulator,
    sequence: RunningSequence,
    tokens: Sequence[int],
    comparison: RowComparison,
) -> Iterator[Columns]:
    """Appends the tokens to the sequence; the columns of some of them at a time.

    `Ensemble.score` decodes the roles of the recipe; here every role is wanted.
    """
    ensemble, recipe = emulator.ensemble, sequence.recipe
    count = min(_ROWS, ensemble.n_batch)
    block = min(count, comparison.block)
    combined = np.empty((block, ensemble.vocab_size), dtype=np.float32)
    for start in range(0, len(tokens), count):
        chunk = tokens[start : start + count]
        sequence.choices.extend(Choice(token) for token in chunk[:-1])
        wanted = [Wanted(sequence, rows=len(chunk))]
        of_roles = {r: rows for r, (rows,) in ensemble.decode(_all(emulator, wanted)).items()}
        for first in range(0, len(chunk), block):
            some = chunk[first : first + block]
            rows = {role: found[first : first + block] for role, found in of_roles.items()}
            for i in range(len(some)):
                of_token = {role: found[i] for role, found in rows.items()}
                combined[i] = ensemble.combine(of_token, recipe.at(start + first + i))
            yield comparison({**rows, COMBINATION: combined[: len(some)]}, some)
        sequence.choices.append(Choice(chunk[-1]))


def _all(emulator: Emulator, wanted: list[Wanted]) -> dict[str, list[Wanted]]:
    return dict.fromkeys(emulator.roles, wanted)


def _tokens(answer: str | Sequence[int], model: Model, size: int, special: bool) -> list[int]:
    if isinstance(answer, str):
        tokens = model.tokenize(answer, parse_special=special, continues=True)
    elif not isinstance(answer, Iterable):
        arguments.refuse("answer", answer, "a string or a list of token ids")
    else:
        tokens = [arguments.token("a token of answer", token) for token in answer]
    for token in tokens:
        if not 0 <= token < size:
            raise PromptError(f"the answer has token {token}; the vocabulary is 0 to {size - 1}")
    if not tokens:
        raise PromptError("the answer is empty: there is no token to inspect")
    return tokens


def _plain(messages: Sequence[object]) -> str:
    texts = [f"{m['role']}: {m['content']}" for m in messages if isinstance(m, dict)]
    return "\n".join(texts)
