"""What an inspection found: one record per token, one per text, and measures of how far a token was
moved. No model, no screen.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import UsageError
from eftlocal.generation import FinishReason
from eftlocal.logits.recipe import BASE, REFERENCE, TUNED, Recipe

COMBINATION = "combination"
AGREED, SHARED, NOBODY = "agreed", "shared", "nobody"
LEVELS = (0.1, 0.3, 0.6)  # a token is at the last level that its measure reaches

Values = NDArray[np.float64]


class Columns(NamedTuple):
    """What was found at n tokens.

    Attributes:
        logprobs: (distributions, n) float64, nats: of the token.
        ranks: (distributions, n) int64: 1 + the number of tokens that are more probable.
        distances: (pairs, n) float64: total variation, in [0, 1].
        ids: (distributions, n, k) int32: the most probable tokens, best first, ties by id;
            -1 where fewer are possible.
        id_logprobs: (distributions, n, k) float64, nats: of these; nan where there is none.
        subtracted: (n,) bool: no role of positive weight holds it most probable, the combination
            does, and without the roles that it subtracts it would not.
    """

    logprobs: NDArray[np.float64]
    ranks: NDArray[np.int64]
    distances: NDArray[np.float64]
    ids: NDArray[np.int32]
    id_logprobs: NDArray[np.float64]
    subtracted: NDArray[np.bool_]


class Candidate(NamedTuple):
    """A token that was possible: its id, its text as `InspectedToken.label`, its probability."""

    token: int
    label: str
    probability: float


@dataclass(frozen=True)
class InspectedToken:
    """One token of the answer under every distribution (a role, or "combination").

    All numbers are at temperature 1, before penalties and filters of the sampling.

    Attributes:
        index: in the answer, from 0.
        token: its id.
        text: the text that it completes. Texts of all tokens add up to the text of the answer;
            one that ends inside a character completes nothing, and a control token has no text.
        label: what to show for it: its text, the text of a control token as in `<|im_end|>`, or
            its bytes in hexadecimal, as in `<E2 82>`, where it holds a part of a character.
        control: it is a control token (the end of the answer, as a rule).
        logprobs: nats, per distribution; -inf where it is impossible.
        ranks: 1 + the number of tokens that are more probable, per distribution.
        distances: total variation in [0, 1], per pair of distributions.
        candidates: the most probable tokens of each distribution, best first.
        won: whose first choice it is (see `won`).
        subtracted: see `Columns.subtracted`.
        spelled: the labels of its pieces, per role that has another vocabulary.
    """

    index: int
    token: int
    text: str
    label: str
    control: bool
    logprobs: Mapping[str, float]
    ranks: Mapping[str, int]
    distances: Mapping[tuple[str, str], float]
    candidates: Mapping[str, tuple[Candidate, ...]]
    won: str
    subtracted: bool = False
    spelled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def probabilities(self) -> dict[str, float]:
        """Of the token, per distribution."""
        return {name: float(np.exp(value)) for name, value in self.logprobs.items()}


@dataclass(frozen=True, eq=False)
class Inspection:
    """An answer, token by token.

    Attributes:
        prompt: what was asked, as plain text.
        recipe: of the combination.
        distributions: the loaded roles, part of the recipe or not, and "combination".
        sides: the roles between which `won` decides.
        pairs: the pairs of distributions whose distance is known.
        ids: (n,) token ids of the answer.
        columns: the numbers, n tokens long, in the order of distributions and pairs.
        pieces: bytes of every id that occurs, as in the text (a control token has none).
        controls: the text of control tokens among them.
        preset: its name; empty for files given by path.
        seed: of a generated answer; None where the answer was given.
        finish_reason: of a generated answer, as in `Answer`.
        spelled: of roles that have another vocabulary, the pieces of each of the answer's ids, as
            they are at the beginning of a text.
    """

    prompt: str
    recipe: Recipe
    distributions: tuple[str, ...]
    sides: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    ids: tuple[int, ...]
    columns: Columns
    pieces: Mapping[int, bytes]
    controls: Mapping[int, str]
    preset: str = ""
    seed: int | None = None
    finish_reason: FinishReason | None = None
    spelled: Mapping[str, Mapping[int, Sequence[bytes]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def roles(self) -> tuple[str, ...]:
        """The loaded roles."""
        return tuple(name for name in self.distributions if name != COMBINATION)

    @property
    def text(self) -> str:
        """The answer."""
        return b"".join(self.pieces[token] for token in self.ids).decode("utf-8", "replace")

    @cached_property
    def won(self) -> tuple[str, ...]:
        """(n,) of every token, whose first choice it is."""
        first = (self.columns.ranks == 1).T.tolist()
        return tuple(
            won(dict(zip(self.distributions, held, strict=True)), self.sides) for held in first
        )

    @cached_property
    def tokens(self) -> tuple[InspectedToken, ...]:
        """(n,) records, made when they are first asked for."""
        names, columns = self.distributions, self.columns
        texts = texts_of([self.pieces[token] for token in self.ids])
        logprobs, ranks = columns.logprobs.T.tolist(), columns.ranks.T.tolist()
        distances = columns.distances.T.tolist()
        ids = columns.ids.transpose(1, 0, 2).tolist()
        chances = np.exp(columns.id_logprobs.transpose(1, 0, 2)).tolist()
        subtracted = columns.subtracted.tolist()
        return tuple(
            InspectedToken(
                index=i,
                token=token,
                text=texts[i],
                label=texts[i] or self.label(token),
                control=token in self.controls,
                logprobs=dict(zip(names, logprobs[i], strict=True)),
                ranks=dict(zip(names, ranks[i], strict=True)),
                distances=dict(zip(self.pairs, distances[i], strict=True)),
                candidates={
                    name: tuple(
                        Candidate(other, self.label(other), chance)
                        for other, chance in zip(ids[i][d], chances[i][d], strict=True)
                        if other >= 0
                    )
                    for d, name in enumerate(names)
                },
                won=self.won[i],
                subtracted=subtracted[i],
                spelled={
                    role: tuple(map(_label, pieces[token])) for role, pieces in self.spelled.items()
                },
            )
            for i, token in enumerate(self.ids)
        )

    def label(self, token: int) -> str:
        """What to show for a token that occurs here, apart from its context."""
        if token in self.controls:
            return self.controls[token]
        return _label(self.pieces[token])

    def distribution(self, name: str) -> Values:
        """(n,) log-probabilities of the answer's tokens under one distribution, nats."""
        values: Values = self.columns.logprobs[self.distributions.index(name)]
        return values

    def ranks(self, name: str) -> NDArray[np.int64]:
        """(n,) ranks of the answer's tokens in one distribution, 1 for the most probable."""
        ranks: NDArray[np.int64] = self.columns.ranks[self.distributions.index(name)]
        return ranks

    def distance(self, one: str, other: str) -> Values:
        """(n,) total variation of a pair, in [0, 1]."""
        distances: Values = self.columns.distances[self.pairs.index((one, other))]
        return distances

    def shifts(self, role: str) -> dict[str, int]:
        """How many tokens are unshifted, marginal or shifted against a role.

        Lin et al. 2023 (arXiv 2312.01552) call a token so by its rank in the untuned model:
        1; 2 or 3; more than 3.
        """
        ranks = self.ranks(role)
        names = np.array(["unshifted", "marginal", "shifted"])
        found = Counter(names[(ranks > 1).astype(int) + (ranks > 3)].tolist())
        return {str(name): found[str(name)] for name in names}


def _label(piece: bytes) -> str:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return f"<{piece.hex(' ').upper()}>"


def texts_of(pieces: Sequence[bytes]) -> list[str]:
    """The text that each piece completes; together the whole decoded as UTF-8.

    Invalid bytes are U+FFFD; what is unfinished at the end is the last piece's.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = len(pieces) - 1
    return [decoder.decode(piece, final=i == last) for i, piece in enumerate(pieces)]


def sides(roles: Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """The roles between which a token is contested.

    Base and tuned where they are loaded, and every further role of positive weight but the
    reference, which says what tuning changed and wants nothing. Where that leaves fewer than
    two, all loaded roles.
    """
    found = tuple(
        role
        for role in roles
        if role in (BASE, TUNED) or (role != REFERENCE and recipe.weights.get(role, 0.0) > 0.0)
    )
    return found if len(found) > 1 else tuple(roles)


def sides_shown(roles: Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """The sides in the order in which the distance from them tells most: what the recipe adds its
    delta to comes first, a role that is the whole recipe last."""
    return tuple(
        sorted(
            sides(roles, recipe),
            key=lambda role: (recipe.roles == (role,), not recipe.anchor.get(role)),
        )
    )


def pairs(roles: Sequence[str], recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """Whose distance is measured: the combination's from every side, the base's from the tuned
    model (how far they disagree), and the reference's from it (what tuning changed)."""
    found = [(COMBINATION, role) for role in sides(roles, recipe)]
    for one, other in ((BASE, TUNED), (TUNED, REFERENCE)):
        if one in roles and other in roles:
            found.append((one, other))
    return tuple(found)


def won(first: Mapping[str, bool], between: Sequence[str]) -> str:
    """Whose first choice (most probable token, rank 1) the chosen token is.

    - "agreed": of all sides. Nobody had to move it.
    - a role: of this side alone. The other sides would have said something else.
    - "shared": of some sides, more than one, but not all (three sides or more).
    - "combination": of no side, and of the combination: none of the models by itself would have
      said it. Emulation at its most visible.
    - "nobody": of neither; it was drawn, or given.

    "agreed" against the rest is the share of first choices that the recipe could change at all;
    proxy-tuning's authors report how often base and combination differ there.

    Args:
        first: per distribution, whether the token is its first choice.
        between: the sides.
    """
    holders = [role for role in between if first[role]]
    if len(holders) == len(between):
        return AGREED
    if len(holders) > 1:
        return SHARED
    if holders:
        return holders[0]
    return COMBINATION if first[COMBINATION] else NOBODY


@dataclass(frozen=True)
class Measure:
    """One way to say how far a token was moved.

    Attributes:
        name: as on the command line, "tv-base".
        about: one line for people.
        signed: values in [-1, 1], otherwise in [0, 1].
        values: (n,) of an inspection.
    """

    name: str
    about: str
    signed: bool
    values: Callable[[Inspection], Values]


def measures_for(roles: Sequence[str], recipe: Recipe) -> tuple[Measure, ...]:
    """The measures that loaded roles allow; the first is shown unless told.

    - tv-ROLE: total variation between the combination and a side. Against the base it is what
      the tuned pair did to the large model, against the tuned model what the large model added.
    - tv-base-tuned: how far the two disagree; tv-tuned-reference: what tuning changed.
    - gain-ROLE: probability of the chosen token under the combination less that under a side.
      Against the base it is the measure of proxy-tuning's own analysis (Liu et al. 2024).
    - rank-ROLE: 1 - 1 / rank of the chosen token in a side: 0 is its first choice, 0.5 its
      second, near 1 what it would hardly have said.
    """

    def distance(one: str, other: str) -> Measure:
        name = f"tv-{other}" if one == COMBINATION else f"tv-{one}-{other}"
        about = f"total variation between {one} and {other}"
        return Measure(name, about, False, lambda found: found.distance(one, other))

    def gain(role: str) -> Measure:
        def values(found: Inspection) -> Values:
            combined, alone = map(found.distribution, (COMBINATION, role))
            return np.exp(combined) - np.exp(alone)

        about = f"probability under the combination less that under {role}"
        return Measure(f"gain-{role}", about, True, values)

    def rank(role: str) -> Measure:
        about = f"1 - 1/rank in {role}: 0 is its first choice, 0.5 its second"
        return Measure(f"rank-{role}", about, False, lambda found: 1.0 - 1.0 / found.ranks(role))

    between = sides(roles, recipe)
    tv = [distance(one, other) for one, other in pairs(roles, recipe)]
    found = [*tv, *map(gain, between), *map(rank, between)]
    first = f"tv-{_of_interest(between, recipe)}"
    return tuple(sorted(found, key=lambda measure: measure.name != first))


def measures_of(inspection: Inspection) -> tuple[Measure, ...]:
    """The measures of an inspection; the first is shown unless told."""
    return measures_for(inspection.roles, inspection.recipe)


def measure_of(known: Sequence[Measure], name: str | None) -> Measure:
    """A measure by its name; None is the first.

    Raises:
        UsageError: it is unknown, or its role is not loaded.
    """
    if name is None:
        return known[0]
    by_name = {measure.name: measure for measure in known}
    if name not in by_name:
        near = get_close_matches(name, by_name, 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UsageError(f"unknown measure {name!r}{hint} Known: {', '.join(by_name)}")
    return by_name[name]


def _of_interest(between: Sequence[str], recipe: Recipe) -> str:
    """The side whose distance is shown unless told: the base where it takes part.

    A role that is the whole recipe has no distance; then it is another one.
    """
    taking = [role for role in between if recipe.weights.get(role)]
    others = [role for role in between if role not in taking]
    if len(recipe.roles) == 1 and others:
        return others[0]
    return BASE if BASE in taking else (taking or others)[0]


def level(value: float) -> int:
    """0 to 3, of the size of a measure."""
    return sum(abs(value) >= step for step in LEVELS)
