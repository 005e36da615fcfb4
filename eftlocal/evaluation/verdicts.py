"""What a judge's verdicts on pairs of answers come to: wins, ties, losses, and how far to trust it.

Each pair is judged in both orders, since judges prefer a place (Zheng et al. 2023, arXiv
2306.05685, section 3.4): when the two disagree it is a tie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from eftlocal.study.statistics import Interval, ratios_of_sums

Outcome = Literal["win", "tie", "loss", "unreadable"]
_POINTS = {"win": 1.0, "tie": 0.5, "loss": 0.0}


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, whose text is for people to read.

    Attributes:
        one: the answer of the model whose wins are counted.
        other: that of the model it is compared with.
        groups: parts of the whole that are also shown by themselves.
    """

    prompt: str
    one: str
    other: str
    groups: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """The answers are the same text: a tie, and no question for a judge."""
        return self.one.strip() == self.other.strip()


class Question(NamedTuple):
    """What a judge is asked of a pair.

    Attributes:
        pair: its index.
        swapped: `other` is shown first.
    """

    pair: int
    criterion: str
    swapped: bool


@dataclass(frozen=True)
class Tally:
    """What the pairs of a whole or a group come to.

    Attributes:
        rate: (wins + ties / 2) / pairs that could be read; its 95% interval is a bootstrap over
            prompts, whose pairs stay together. NaN where nothing could be read.
        agreed: of the readable pairs that were asked, the share in which both orders said the same.
        first, second: of their replies, the share that preferred the answer shown first, second;
            a judge without a bias for a place has equal ones.
    """

    wins: int
    ties: int
    losses: int
    unreadable: int
    rate: Interval
    agreed: float
    first: float
    second: float


@dataclass(frozen=True)
class Verdicts:
    """All verdicts of a judge.

    Attributes:
        said: "A" (the answer shown first), "B" (the second), "C" (a tie) or "" (unreadable).
    """

    pairs: Sequence[Pair]
    said: Mapping[Question, str]

    @property
    def groups(self) -> tuple[str, ...]:
        """In the order of the pairs."""
        return tuple(dict.fromkeys(group for pair in self.pairs for group in pair.groups))

    def outcome(self, pair: int, criterion: str) -> Outcome:
        """What a pair is for the model whose wins are counted."""
        if self.pairs[pair].same:
            return "tie"
        straight, swapped = self._said(pair, criterion)
        if not (straight and swapped):
            return "unreadable"
        if straight + swapped == "AB":
            return "win"
        return "loss" if straight + swapped == "BA" else "tie"

    def tally(self, criterion: str, group: str | None = None) -> Tally:
        """Of the pairs of a group, or of all."""
        chosen = [i for i, p in enumerate(self.pairs) if group is None or group in p.groups]
        outcomes = {i: self.outcome(i, criterion) for i in chosen}
        read = [i for i in chosen if outcomes[i] != "unreadable"]
        by_prompt: dict[str, list[float]] = {}
        for i in read:
            by_prompt.setdefault(self.pairs[i].prompt, []).append(_POINTS[outcomes[i]])
        (rate,) = ratios_of_sums(
            np.array([len(points) for points in by_prompt.values()]),
            np.array([[sum(points)] for points in by_prompt.values()]).reshape(-1, 1),
        )
        both = [self._said(i, criterion) for i in read if not self.pairs[i].same]
        shown = [letter for letters in both for letter in letters]
        count = list(outcomes.values()).count
        return Tally(
            wins=count("win"),
            ties=count("tie"),
            losses=count("loss"),
            unreadable=count("unreadable"),
            rate=rate,
            agreed=_share(["".join(letters) in ("AB", "BA", "CC") for letters in both]),
            first=_share([letter == "A" for letter in shown]),
            second=_share([letter == "B" for letter in shown]),
        )

    def _said(self, pair: int, criterion: str) -> tuple[str, str]:
        """In the order given, and swapped."""
        straight, swapped = (self.said[Question(pair, criterion, order)] for order in (False, True))
        return straight, swapped


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found) if found else math.nan
