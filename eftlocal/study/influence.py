"""`inspect`: a prompt and an answer under every loaded role and under their combination.

A *distribution* is a role or the combination. Every row is exponentiated once, and everything else
is taken from that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from eftlocal import arguments
from eftlocal.arguments import AnswerOptions, PromptOptions, refuse_unknown
from eftlocal.decoding.score import at_once, finished, text_rows
from eftlocal.emulator import Emulator
from eftlocal.errors import PromptError, UsageError
from eftlocal.generation import FinishReason
from eftlocal.llama import Model
from eftlocal.logits.distribution import Ids, Row, exp_shifted, top_k
from eftlocal.logits.recipe import Recipe
from eftlocal.prompt.messages import Prompt, transcript
from eftlocal.prompt.reader import ReadPrompt
from eftlocal.study.inspection import COMBINATION, Columns, Inspection, pairs, sides
from eftlocal.study.verdict import speakers, subtracted, unsubtracted
from eftlocal.translation.spelling import START

if TYPE_CHECKING:
    from typing_extensions import Unpack

MAX_CANDIDATES = 100

Tips = Callable[[int, int, Mapping[str, Row], Mapping[str, bool]], bool]
"""Whether subtraction tips a token: of its index, its id, its rows, whose first choice it is."""


def inspect(
    emulator: Emulator,
    prompt: Prompt,
    answer: str | Sequence[int] | None = None,
    *,
    candidates: int = 5,
    **options: Unpack[AnswerOptions],
) -> Inspection:
    """Answers a prompt, or takes a given answer, and tells which model moved each token.

    A generated answer is generated first and scored then, so that it is measured exactly as the
    same answer given. All loaded roles are scored, those of weight 0 too.

    Args:
        prompt: a conversation, or a string: one message of the user.
        answer: text or token ids; None generates one.
        candidates: how many of the most probable tokens are kept of every distribution.
        options: as in `Emulator.stream`. A given answer goes with a recipe and how the prompt is
            read; `special` then holds for the answer, too. The others change which tokens are
            generated: the numbers are those before sampling, at temperature 1.

    Raises:
        PromptError: empty, nothing to inspect, or it does not fit a context.
        UsageError: an option is out of its range, or meant for generated answers only.
    """
    refuse_unknown(options, tuple(AnswerOptions.__annotations__))
    given: dict[str, Any] = {name: v for name, v in options.items() if v is not None}
    chosen = emulator.checked(given.pop("recipe", emulator.defaults.recipe))
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise UsageError(f"candidates is {candidates}; it must be from 1 to {MAX_CANDIDATES}")
    if COMBINATION in emulator.roles:
        raise UsageError(f"a role is named {COMBINATION!r}, which is reserved; rename it")
    model = emulator.text_model
    read = {name: given.pop(name) for name in PromptOptions.__annotations__ if name in given}
    special = arguments.needed("special", read.pop("special", False))
    read["special"] = special and read.get("raw", False)
    seed: int | None = None
    finish_reason: FinishReason | None = None
    if answer is None:
        made = emulator.generate(prompt, **read, recipe=chosen, **given)
        tokens, seed, finish_reason = list(made.tokens), made.seed, made.finish_reason
    else:
        if given:
            raise UsageError(
                f"{next(iter(given))} is for generated answers, and an answer was given; "
                "leave it out"
            )
        tokens = _tokens(answer, model, special)
    asked = ReadPrompt(prompt, emulator.tokenize(prompt, recipe=chosen, **read))
    found = emulator.slots.when_free(
        lambda: finished(inspecting(emulator, asked, tokens, chosen, candidates=candidates))
    )
    return replace(found, seed=seed, finish_reason=finish_reason)


def inspecting(
    emulator: Emulator,
    prompt: ReadPrompt,
    tokens: Sequence[int],
    recipe: Recipe,
    *,
    candidates: int,
) -> Generator[int, None, Inspection]:
    """What `inspect` tells of given tokens, in parts. To be run inside `Ensemble.alone`, with a
    sequence free.

    Yields:
        how many tokens were decoded since the last time: other sequences may be decoded now.

    Raises:
        PromptError: they do not fit a context.
    """
    ensemble, model = emulator.ensemble, emulator.text_model
    distributions, compared = (*emulator.roles, COMBINATION), pairs(emulator.roles, recipe)
    scored = text_rows(
        ensemble, prompt.ids, tokens, recipe=recipe, roles=emulator.roles, what="answer"
    )
    columns = yield from comparing(
        ((token, {**of_roles, COMBINATION: row}) for token, row, of_roles in scored),
        ensemble.vocab_size,
        distributions,
        compared,
        candidates,
        ensemble.unusable,
        tips(recipe, ensemble.combine),
        ensemble.translations,
        together=at_once(ensemble),
    )
    occurring = {*tokens, *np.unique(columns.ids[columns.ids >= 0]).tolist()}
    pieces = {token: model.piece(token) for token in occurring}
    return Inspection(
        prompt=transcript(prompt.prompt),
        recipe=recipe,
        distributions=distributions,
        sides=sides(emulator.roles, recipe),
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
        spelled=_spelled(emulator, tokens),
    )


def _spelled(emulator: Emulator, tokens: Sequence[int]) -> dict[str, dict[int, list[bytes]]]:
    """See `Inspection.spelled`."""
    return {
        role: {
            token: list(map(emulator.models[role].piece, own.speller.after(START, token).tokens()))
            for token in set(tokens)
        }
        for role, own in emulator.ensemble.translations.items()
    }


def _tokens(answer: str | Sequence[int], model: Model, special: bool) -> list[int]:
    if isinstance(answer, str):
        tokens = model.tokenize(answer, parse_special=special, continues=True)
    elif not isinstance(answer, Iterable):
        arguments.refuse("answer", answer, "a string or a list of token ids")
    else:
        tokens = [arguments.token("a token of answer", token) for token in answer]
    if not tokens:
        raise PromptError("the answer is empty: there is no token to inspect")
    return tokens


def compare(*what: Any) -> Columns:
    """What is said of tokens at once; the arguments are those of `comparing`."""
    return finished(comparing(*what))


def comparing(
    scored: Iterable[tuple[int, Mapping[str, Row]]],
    size: int,
    distributions: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    candidates: int,
    unusable: Ids,
    tips: Tips | None = None,
    translated: Collection[str] = (),
    *,
    together: int = 1,
) -> Generator[int, None, Columns]:
    """What is said of tokens, in the order of distributions and pairs. numpy only.

    Args:
        scored: tokens, each with the row (vocab,) float32 of every distribution; rows are not
            modified. NaN counts as -inf.
        size: tokens of the vocabulary.
        candidates: how many of the most probable tokens are wanted of each.
        unusable: ids that are never chosen, impossible in every distribution.
        tips: see `tips`; asked when a token's rows are needed no more.
        translated: distributions whose rows are log-probabilities as they come: tokens that share
            a first piece share its probability, so that all together may have more than 1.
        together: how many tokens' rows come at a time.

    Yields:
        this number, when so many were looked at.
    """
    at = {name: i for i, name in enumerate(distributions)}
    weights = np.empty((len(at), size), dtype=np.float32)
    scratch, totals, found = np.empty(size, dtype=np.float32), np.empty(len(at)), []
    tipped: list[bool] = []
    for index, (token, rows) in enumerate(scored):
        logprobs, ranks, distances = np.empty(len(at)), np.empty(len(at), int), []
        ids = np.full((len(at), candidates), -1, dtype=np.int32)
        id_logprobs = np.full((len(at), candidates), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):  # a row in which nothing is possible
            for name, i in at.items():
                row = _usable(rows[name], unusable)
                best, totals[i] = exp_shifted(row, weights[i])
                normaliser = 0.0 if name in translated else best + np.log(totals[i])
                logprobs[i] = row[token] - normaliser
                ranks[i] = 1 + np.count_nonzero(row > row[token])
                top = top_k(row, candidates)
                top = top[np.lexsort((top, -row[top]))]
                ids[i, : len(top)], id_logprobs[i, : len(top)] = top, row[top] - normaliser
            for one, other in ((at[one], at[other]) for one, other in pairs):
                # 1 - sum(min(p, q)); scaling one side only keeps equal rows exactly 0 apart.
                np.multiply(weights[one], np.float32(totals[other] / totals[one]), out=scratch)
                np.minimum(scratch, weights[other], out=scratch)
                distances.append(np.maximum(1.0 - scratch.sum() / totals[other], 0.0))
        first = {name: bool(ranks[i] == 1) for name, i in at.items()}
        tipped.append(tips is not None and tips(index, token, rows, first))
        found.append((logprobs, ranks, np.array(distances), ids, id_logprobs))
        if (index + 1) % together == 0:
            yield together
    columns = [np.stack(column, axis=1) for column in zip(*found, strict=True)]
    return Columns._make([*columns, np.array(tipped, dtype=bool)])


def tips(recipe: Recipe, combine: Callable[[Mapping[str, Row], Recipe], Row]) -> Tips:
    """Asks whether a token is the first choice only because the recipe subtracts roles.

    Args:
        combine: may write into the memory of the combination that it is asked about.
    """

    def tip(index: int, token: int, rows: Mapping[str, Row], first: Mapping[str, bool]) -> bool:
        here = recipe.at(index)
        if not first[COMBINATION] or any(first[role] for role in speakers(here)):
            return False
        plain = unsubtracted(here)
        if plain is None:  # nothing is subtracted, or everything
            return bool(subtracted(here))
        row = combine(rows, plain)
        return bool(row[token] < row.max())

    return tip


def _usable(row: Row, unusable: Ids) -> Row:
    """The row without NaN, +inf and unusable tokens."""
    if unusable.size:
        row = row.copy()
        row[unusable] = -np.inf
    if not np.isfinite(row.max()):
        row = np.nan_to_num(row, nan=-np.inf, posinf=np.finfo(np.float32).max, neginf=-np.inf)
    return row
