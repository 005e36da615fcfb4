"""A given text under the combination: log-probabilities of its tokens, and of each role alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import Choice, Point, RunningSequence, Wanted
from eftlocal.errors import PromptError
from eftlocal.logits.distribution import Row, token_logprob, top_logprobs
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling

T = TypeVar("T")
_SCORED = 32  # rows of each role held at once while a given text is scored


@dataclass(frozen=True)
class TextLogprobs:
    """A given text under the combination.

    Attributes:
        tokens: (n,) ids.
        pieces: (n,) the bytes of each token.
        logprobs: (n,) float64, nats, at temperature 1; nan for a first token that nothing
            stands before.
        greedy: (n,) bool, whether the token is the most probable one.
        roles: the same as logprobs, under each role of the recipe alone.
        top: (n,) the most probable tokens at each place with their log-probabilities, as many as
            were asked for; None where nothing stands before it.
        end: the log-probability that the answer ends after the text; nan where it was not asked
            for.
        ends: whether an end is then the most probable.
    """

    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...]
    logprobs: NDArray[np.float64]
    greedy: NDArray[np.bool_]
    roles: Mapping[str, NDArray[np.float64]]
    top: tuple[tuple[tuple[int, float], ...] | None, ...] = ()
    end: float = math.nan
    ends: bool = False


def text_rows(
    ensemble: Ensemble,
    prompts: Mapping[str, Sequence[int]],
    tokens: Sequence[int],
    *,
    recipe: Recipe,
    roles: Collection[str] | None = None,
    what: str = "text",
) -> Iterator[tuple[int, Row, Mapping[str, Row]]]:
    """Goes through given tokens after a prompt, in a slot of its own.

    Args:
        prompts: token ids for every role.
        roles: whose rows, those of the recipe among them; None is these.
        what: the tokens are, for the messages.

    Yields:
        each token, and what stood before it: the combined row (vocab,) float32 and each
        role's row (vocab,) float32, valid until the next ones.

    Raises:
        PromptError: the tokens do not fit a context, or one is outside the common vocabulary.
        EngineError: every slot is taken.
    """
    outside = next((token for token in tokens if not 0 <= token < ensemble.vocab_size), None)
    if outside is not None:
        raise PromptError(
            f"the {what} has token {outside}, and the vocabulary that all roles share is 0 to "
            f"{ensemble.vocab_size - 1}; leave it out"
        )
    sequence = ensemble.open(
        prompts, recipe=recipe, sampling=Sampling(temperature=0.0), scored=len(tokens)
    )
    try:
        fit = _fitting(ensemble, sequence, tokens)
        if len(tokens) > fit:
            raise PromptError(
                f"the {what} has {len(tokens)} tokens and {fit} fit after its prompt; "
                "shorten it or raise n_ctx"
            )
        count = at_once(ensemble)
        for start in range(0, len(tokens), count):
            chunk = tokens[start : start + count]
            sequence.choices.extend(Choice(token) for token in chunk[:-1])
            wanted = [Wanted(sequence, rows=len(chunk))]
            found = ensemble.decode(dict.fromkeys(roles or recipe.roles, wanted))
            at_hand = [{r: rows[i] for r, (rows,) in found.items()} for i in range(len(chunk))]
            points = [Point(sequence, (), len(chunk) - i, rows) for i, rows in enumerate(at_hand)]
            ensemble.refine(points)
            for role in found:
                held = len(ensemble.contexts[role].tokens(sequence.slot))
                sequence.tell(role, held, ensemble.on_read)
            for i, token in enumerate(chunk):
                rows = at_hand[i]
                yield token, ensemble.combine(rows, recipe.at(start + i)), rows
            sequence.choices.append(Choice(chunk[-1]))
    finally:
        ensemble.close(sequence)


def at_once(ensemble: Ensemble) -> int:
    """Tokens of a text that are decoded in one call."""
    return min(_SCORED, ensemble.n_rows)


def _fitting(ensemble: Ensemble, sequence: RunningSequence, tokens: Sequence[int]) -> int:
    """How many of these tokens fit every context; in another vocabulary, as they are spelled."""
    fit = len(tokens)
    for role, context in ensemble.contexts.items():
        room = context.n_ctx - len(sequence.prompts[role])
        if role not in ensemble.translations:
            fit = min(fit, room)
        elif fit > 0:
            places = sequence.places(role, fit, tokens[:fit])
            fit = next((i for i, place in enumerate(places) if place.length > room), fit)
    return fit


def score_under(ensemble: Ensemble, *what: Any, **options: Any) -> tuple[TextLogprobs, ...]:
    """Scores tokens that follow the prompts at once; the arguments are those of `scoring`."""
    return finished(scoring(ensemble, *what, **options))


def scoring(
    ensemble: Ensemble,
    prompts: Mapping[str, Sequence[int]],
    tokens: Sequence[int],
    *,
    recipes: Sequence[Recipe],
    piece: Callable[[int], bytes],
    unpredicted: Sequence[int] = (),
    top: int = 0,
    ending: bool = False,
) -> Generator[int, None, tuple[TextLogprobs, ...]]:
    """Scores tokens that follow the prompts under many recipes; each role is decoded once.

    Args:
        prompts: token ids for every role.
        recipes: at least one.
        piece: the bytes of a token.
        unpredicted: the text's first tokens where they are the prompt: nothing predicts them.
        top: how many of the most probable tokens to give at each place.
        ending: tell whether the answer ends after them, too.

    Yields:
        how many tokens were decoded since the last time: other sequences may be decoded now.

    Raises:
        PromptError: see `text_rows`.
    """
    scratch = np.empty(ensemble.vocab_size, dtype=np.float32)
    scored = (*unpredicted, *tokens)
    pieces = tuple(piece(token) for token in scored)
    known = [_Scored.of(recipe, len(unpredicted)) for recipe in recipes]
    roles = tuple(dict.fromkeys(role for recipe in recipes for role in recipe.roles))
    alone: dict[str, list[float]] = {role: [math.nan] * len(unpredicted) for role in roles}
    stop = sorted(ensemble.stop_tokens) if ending else []
    asked = [*tokens, *stop[:1]]
    rows_of = text_rows(ensemble, prompts, asked, recipe=recipes[0], roles=roles)
    together = at_once(ensemble)
    for i, (token, row, rows) in enumerate(rows_of):
        for one in known:
            z = row if one is known[0] else ensemble.combine(rows, one.recipe.at(i))
            if i < len(tokens):
                one.take(z, token, top, scratch)
            else:
                one.finish(z, stop, scratch)
        for role, of_role in rows.items() if i < len(tokens) else ():
            if role in ensemble.translations:  # log-probabilities as they come
                alone[role].append(float(of_role[token]))
                continue
            if ensemble.unusable.size:
                of_role = of_role.copy()
                of_role[ensemble.unusable] = -np.inf
            alone[role].append(token_logprob(of_role, token, scratch))
        if (i + 1) % together == 0:
            yield together
    by_role = {role: np.array(values) for role, values in alone.items()}
    return tuple(one.found(scored, pieces, by_role) for one in known)


@dataclass
class _Scored:
    """What is known of the tokens so far, under one recipe."""

    recipe: Recipe
    logprobs: list[float]
    greedy: list[bool]
    top: list[tuple[tuple[int, float], ...] | None]
    end: float = math.nan
    ends: bool = False

    @classmethod
    def of(cls, recipe: Recipe, unpredicted: int) -> _Scored:
        none = unpredicted
        return cls(recipe, [math.nan] * none, [False] * none, [None] * none)

    def take(self, row: Row, token: int, top: int, scratch: Row) -> None:
        self.logprobs.append(token_logprob(row, token, scratch))
        self.greedy.append(int(row.argmax()) == token)
        self.top.append(tuple(top_logprobs(row, top, scratch)) if top else ())

    def finish(self, row: Row, stop: Sequence[int], scratch: Row) -> None:
        ends = [token_logprob(row, token, scratch) for token in stop]
        self.end = float(np.logaddexp.reduce(ends))
        self.ends = int(row.argmax()) in stop

    def found(
        self,
        tokens: tuple[int, ...],
        pieces: tuple[bytes, ...],
        by_role: Mapping[str, NDArray[np.float64]],
    ) -> TextLogprobs:
        return TextLogprobs(
            tokens=tokens,
            pieces=pieces,
            logprobs=np.array(self.logprobs),
            greedy=np.array(self.greedy),
            roles={role: by_role[role] for role in self.recipe.roles},
            top=tuple(self.top),
            end=self.end,
            ends=self.ends,
        )


def score_prompt(
    ensemble: Ensemble,
    prompts: Mapping[str, Sequence[int]],
    role: str,
    *,
    recipe: Recipe,
    piece: Callable[[int], bytes],
    spelled: Callable[[Sequence[int]], Mapping[str, list[int]]],
    top: int = 0,
) -> Generator[int, None, TextLogprobs]:
    """A raw prompt under the combination. BOS, and a first token that no role has BOS before,
    stand at the beginning without a probability.

    Args:
        prompts: token ids for every role, which end alike.
        role: whose tokens are the text.
        piece, top: see `scoring`.
        spelled: the role's tokens as those of each role.

    Yields:
        as `scoring`.
    """
    whole, others = prompts[role], ensemble.translations
    same = common_end({name: ids for name, ids in prompts.items() if name not in others})
    heads = {name: tokens[: len(tokens) - same] for name, tokens in prompts.items()}
    if others:
        own = spelled(whole[: len(whole) - same])
        heads |= {name: own[name] for name in others}
    (found,) = yield from scoring(
        ensemble,
        heads,
        whole[len(whole) - same :],
        recipes=[recipe],
        piece=piece,
        unpredicted=whole[: len(whole) - same],
        top=top,
    )
    return found


def finished(work: Generator[object, None, T]) -> T:
    """What work gives that can be interrupted between its parts, done at once."""
    try:
        while True:
            next(work)
    except StopIteration as end:
        found: T = end.value
        return found


def common_end(prompts: Mapping[str, Sequence[int]]) -> int:
    """How many tokens all roles' prompts end with, and have another one before."""
    shortest = min(map(len, prompts.values()))
    same = next(
        (n for n in range(shortest) if len({tokens[-1 - n] for tokens in prompts.values()}) > 1),
        shortest,
    )
    return same - (same == shortest)  # each role needs a token before the first that is predicted
