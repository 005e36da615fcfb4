"""What an inspection found: one record per token, one per text. No model, no screen."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.generation import FinishReason
from eftlocal.influence.rows import Columns
from eftlocal.influence.sides import COMBINATION
from eftlocal.influence.winner import won
from eftlocal.logits.recipe import Recipe


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
        won: whose first choice it is (see `winner.won`).
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
        first = self.columns.ranks == 1
        holders = {name: first[i].tolist() for i, name in enumerate(self.distributions)}
        return tuple(
            won({name: held[i] for name, held in holders.items()}, self.sides, COMBINATION)
            for i in range(len(self))
        )

    @cached_property
    def tokens(self) -> tuple[InspectedToken, ...]:
        """(n,) records, made when they are first asked for."""
        names, columns, labels = self.distributions, self.columns, self._labels
        texts = texts_of([self.pieces[token] for token in self.ids])
        logprobs, ranks = columns.logprobs.T.tolist(), columns.ranks.T.tolist()
        distances = columns.distances.T.tolist()
        ids = columns.ids.transpose(1, 0, 2).tolist()
        chances = np.exp(columns.id_logprobs.transpose(1, 0, 2)).tolist()
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
                        Candidate(other, labels[other], chance)
                        for other, chance in zip(ids[i][d], chances[i][d], strict=True)
                        if other >= 0
                    )
                    for d, name in enumerate(names)
                },
                won=self.won[i],
            )
            for i, token in enumerate(self.ids)
        )

    def label(self, token: int) -> str:
        """What to show for a token that occurs here, apart from its context."""
        return self._labels[token]

    @cached_property
    def _labels(self) -> dict[int, str]:
        return {
            token: self.controls[token] if token in self.controls else _label(piece)
            for token, piece in self.pieces.items()
        }

    def distribution(self, name: str) -> NDArray[np.float64]:
        """(n,) log-probabilities of the answer's tokens under one distribution, nats."""
        values: NDArray[np.float64] = self.columns.logprobs[self.distributions.index(name)]
        return values

    def shifts(self, role: str) -> dict[str, int]:
        """How many tokens are unshifted, marginal or shifted against a role.

        Lin et al. 2023 (arXiv 2312.01552) call a token so by its rank in the untuned model:
        1; 2 or 3; more than 3.
        """
        ranks = self.columns.ranks[self.distributions.index(role)]
        names = np.array(["unshifted", "marginal", "shifted"])
        found = Counter(names[(ranks > 1).astype(int) + (ranks > 3)].tolist())
        return {str(name): found[str(name)] for name in names}


def texts_of(pieces: Sequence[bytes]) -> list[str]:
    """The text that each piece completes; together the whole decoded as UTF-8.

    Invalid bytes are U+FFFD; what is unfinished at the end is the last piece's.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = len(pieces) - 1
    return [decoder.decode(piece, final=i == last) for i, piece in enumerate(pieces)]


def _label(piece: bytes) -> str:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return f"<{piece.hex(' ').upper()}>"
