"""`inspect`: a prompt and an answer under every loaded role and under their combination.

A *distribution* is a role or the combination. Every row is exponentiated once and everything else
is taken from that, several rows at a time where the vocabulary is small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eftlocal import arguments
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.emulator import Emulator
from eftlocal.errors import PromptError, UsageError
from eftlocal.generation import FinishReason
from eftlocal.llama import Model
from eftlocal.logits.recipe import TUNED, Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.prompt.messages import Prompt
from eftlocal.study.inspection import COMBINATION, Columns, Inspection, pairs, sides

MAX_CANDIDATES = 100
_ELEMENTS = 1 << 16  # of a block: its exponentials stay in the processor's cache
_COLUMNS = 256  # at least as many as candidates can be asked for
_FLOAT_MAX = float(np.finfo(np.float32).max)

Rows = NDArray[np.float32]


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
    generation: dict[str, Any] = {
        "sampling": sampling,
        "max_tokens": max_tokens,
        "stop": stop or None,
        "loop_guard": loop_guard,
    }
    seed: int | None = None
    finish_reason: FinishReason | None = None
    if answer is None:
        made = emulator.generate(prompt, **read, recipe=chosen, **generation)
        tokens, seed, finish_reason = list(made.tokens), made.seed, made.finish_reason
    else:
        for option, value in generation.items():
            if value is not None:
                raise UsageError(f"{option} is for a generated answer, and one is given: drop it")
        tokens = _tokens(answer, model, emulator.ensemble.vocab_size, special)
    compared = pairs(emulator.roles, chosen)
    ensemble, distributions = emulator.ensemble, (*emulator.roles, COMBINATION)
    comparison = RowComparison(
        ensemble.vocab_size, distributions, compared, candidates, ensemble.unusable
    )
    columns = emulator.slots.when_free(
        lambda: _columns(ensemble, emulator.tokenize(prompt, **read), chosen, tokens, comparison)
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
    ensemble: Ensemble,
    prompts: Mapping[str, Sequence[int]],
    recipe: Recipe,
    tokens: Sequence[int],
    comparison: RowComparison,
) -> Columns:
    sequence = ensemble.open(prompts, recipe=recipe, sampling=Sampling(temperature=0.0))
    try:
        room = ensemble.room(sequence)
        if len(tokens) > room:
            raise PromptError(
                f"the answer has {len(tokens)} tokens and {room} fit after its prompt; "
                "shorten it or raise n_ctx"
            )
        size, index, parts = min(len(tokens), comparison.block), 0, []
        combined = np.empty((size, ensemble.vocab_size), dtype=np.float32)
        for some, rows in ensemble.rows_before(sequence, tokens, roles=prompts, most=size):
            for i in range(len(some)):
                of_token = {role: found[i] for role, found in rows.items()}
                combined[i] = ensemble.combine(of_token, recipe.at(index + i))
            index += len(some)
            parts.append(comparison({**rows, COMBINATION: combined[: len(some)]}, some))
        return Columns(*(np.concatenate(column, axis=1) for column in zip(*parts, strict=True)))
    finally:
        ensemble.close(sequence)


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


class RowComparison:
    """Compares rows in preallocated memory.

    Args:
        size: tokens in the common vocabulary.
        distributions: their names, which the columns keep the order of.
        pairs: of distributions whose total variation is wanted.
        candidates: how many of the most probable tokens are wanted of each.
        unusable: ids that are never chosen, impossible in every distribution.
    """

    def __init__(
        self,
        size: int,
        distributions: Sequence[str],
        pairs: Sequence[tuple[str, str]],
        candidates: int,
        unusable: NDArray[np.intp],
    ) -> None:
        self._at = {name: i for i, name in enumerate(distributions)}
        self._pairs = [(self._at[one], self._at[other]) for one, other in pairs]
        self._k = min(candidates, size)
        self._unusable = unusable
        self.block = max(1, _ELEMENTS // size)
        self._weights = np.empty((len(distributions), self.block, size), dtype=np.float32)
        self._scratch = np.empty((self.block, size), dtype=np.float32)

    def __call__(self, rows: Mapping[str, Rows], tokens: Sequence[int]) -> Columns:
        """The columns of n tokens, n at most `block`.

        Args:
            rows: (n, size) float32 logits per distribution; not modified. NaN counts as -inf.
            tokens: (n,) ids, each the one that its row is compared at.
        """
        n, d = len(tokens), len(self._at)
        found = Columns(
            np.empty((d, n)),
            np.empty((d, n), dtype=np.int64),
            np.empty((len(self._pairs), n)),
            np.empty((d, n, self._k), dtype=np.int32),
            np.empty((d, n, self._k)),
        )
        totals = np.empty((d, n), dtype=np.float32)
        weights, scratch = self._weights[:, :n], self._scratch[:n]
        each = np.arange(n)
        with np.errstate(divide="ignore", invalid="ignore"):  # rows in which nothing is possible
            for name, i in self._at.items():
                logits, best = self._usable(rows[name])
                np.subtract(logits, best[:, None], out=weights[i])
                np.exp(weights[i], out=weights[i])
                weights[i].sum(axis=1, out=totals[i])
                normaliser = best + np.log(totals[i], dtype=np.float64)
                chosen = logits[each, tokens]
                found.logprobs[i] = chosen - normaliser
                above = [np.count_nonzero(row > of) for row, of in zip(logits, chosen, strict=True)]
                found.ranks[i] = 1 + np.array(above)
                found.ids[i] = ids = top_of_rows(logits, self._k)
                values = logits[each[:, None], ids] - normaliser[:, None]
                found.id_logprobs[i] = np.where(ids >= 0, values, np.nan)
            for p, (one, other) in enumerate(self._pairs):
                # 1 - sum(min(p, q)); scaling one side only keeps equal rows exactly 0 apart.
                scale = totals[other] / totals[one]
                np.multiply(weights[one], scale[:, None], out=scratch)
                np.minimum(scratch, weights[other], out=scratch)
                overlap = scratch.sum(axis=1) / totals[other]
                found.distances[p] = np.maximum(1.0 - overlap, 0.0)
        return found

    def _usable(self, rows: Rows) -> tuple[Rows, Rows]:
        """The rows without NaN, +inf and unusable tokens, and (n,) the best of each."""
        if self._unusable.size:
            rows = rows.copy()
            rows[:, self._unusable] = -np.inf
        best = rows.max(axis=1)
        if not np.isfinite(best).all():
            rows = np.nan_to_num(rows, nan=-np.inf, posinf=_FLOAT_MAX, neginf=-np.inf)
            best = rows.max(axis=1)
            best[best == -np.inf] = 0.0
        return rows, best


def top_of_rows(rows: Rows, k: int) -> NDArray[np.int32]:
    """(n, k) ids of the highest values of (n, size) rows, best first, ties by id; -1 where fewer
    than k are possible. For a few hundred at most; `distribution.top_k` is for one long row.
    """
    n, size = rows.shape
    whole = size - size % _COLUMNS
    # Every maximum stands for another token, so the k-th of them bounds the k-th of the row.
    maxima = rows[:, :whole].reshape(n, -1, _COLUMNS).max(axis=1) if whole else rows
    at = maxima.shape[1] - k
    bound = np.maximum(np.partition(maxima, at, axis=1)[:, at], np.finfo(np.float32).min)
    which, ids = np.divmod(np.flatnonzero(rows >= bound[:, None]), size)
    order = np.lexsort((ids, -rows[which, ids], which))
    which, ids = which[order], ids[order]
    place = np.arange(len(ids)) - np.searchsorted(which, which)
    first = place < k
    found = np.full((n, k), -1, dtype=np.int32)
    found[which[first], place[first]] = ids[first]
    return found
