"""Ways to decode that take turns on one ensemble, each on a sequence of its own, and their times.

A busy machine slows a turn of every lane alike; ratios are therefore taken to the plain lane of the
same turn.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.sequence import RunningSequence, Wanted
from eftlocal.llama import Check, Context, Span
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.settings import OFF, Speculation, Totals
from eftlocal.study.statistics import Interval, ratios_of_sums

_PARTS = ("draft", "verify", "combine")  # of a round


class Turn(NamedTuple):
    """Tokens, seconds, and those of them inside llama_decode."""

    tokens: int
    seconds: float
    decoding: float


class DecodeTimes:
    """Seconds spent in the decodes of some contexts, in all and by role and number of rows.

    Attributes:
        seconds: since whoever reads it last set it to 0.
        by_rows: (role, rows) to the seconds of each decode without a prompt.
    """

    def __init__(self, contexts: Mapping[str, Context]) -> None:
        self.seconds = 0.0
        self.by_rows: dict[tuple[str, int], list[float]] = defaultdict(list)
        for role, context in contexts.items():
            self._watch(role, context)

    def _watch(self, role: str, context: Context) -> None:
        decode = context.decode

        def timed(spans: Sequence[Span], check: Check | None = None) -> NDArray[np.float32]:
            began = time.perf_counter()
            rows = decode(spans, check)
            took = time.perf_counter() - began
            self.seconds += took
            if all(len(span.tokens) == span.rows for span in spans):
                self.by_rows[role, len(rows)].append(took)
            return rows

        context.decode = timed  # type: ignore[method-assign]


@dataclass
class Lane:
    """One way to decode."""

    name: str
    rounds: Rounds
    recipe: Recipe
    speculation: Speculation = OFF
    turns: list[Turn] = field(default_factory=list)
    totals: list[Totals] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)  # seed, tokens

    def open(
        self, prompts: Mapping[str, Sequence[int]], sampling: Sampling, seed: int
    ) -> RunningSequence:
        """A sequence whose prompt is in the caches of all roles of the recipe."""
        ensemble = self.rounds.ensemble
        sequence = ensemble.open(
            prompts,
            recipe=self.recipe,
            sampling=sampling,
            seed=seed,
            speculation=self.speculation,
        )
        ensemble.decode({role: [Wanted(sequence)] for role in self.recipe.roles})
        return sequence

    def turn(self, sequence: RunningSequence, tokens: int, watch: DecodeTimes) -> None:
        """Decodes at least so many tokens, or to the end of the answer."""
        ensemble = self.rounds.ensemble
        before, ended = len(sequence.choices), False
        watch.seconds = 0.0
        began = time.perf_counter()
        while not ended and len(sequence.choices) - before < tokens:
            (came,) = self.rounds([sequence])
            ended = any(choice.token in ensemble.stop_tokens for choice in came)
        seconds = time.perf_counter() - began
        self.turns.append(Turn(len(sequence.choices) - before, seconds, watch.seconds))

    def close(self, sequence: RunningSequence) -> None:
        self.rounds.ensemble.close(sequence)
        self.totals.append(sequence.drafting.totals)
        self.runs.append((sequence.seed, len(sequence.choices)))

    @property
    def acceptance(self) -> float | None:
        tried = sum(sum(t.tried) for t in self.totals)
        return sum(sum(t.accepted) for t in self.totals) / tried if tried else None


def figures(lane: Lane, plain: Lane, base: Lane) -> dict[str, Any]:
    """Speeds over the plain lane and over the base, and what the loop itself costs.

    "speed_up" is that of all turns together, each measured in the plain lane's time a token in
    the same turn, with a bootstrap 95% interval over turns; "median_turn" the median turn's.
    """
    own, other = np.array(lane.turns), np.array(plain.turns)
    rounds = sum(t.rounds for t in lane.totals)
    drafts = sum(t.drafts for t in lane.totals)
    outside = own[:, 1] - own[:, 2]
    value, low, high = ratio(lane, plain)
    over_base, *interval = ratio(lane, base)
    spent = [sum(getattr(t, f"{part}_seconds") for t in lane.totals) for part in _PARTS]
    return {
        "tokens": int(own[:, 0].sum()),
        "tokens_per_second": float(own[:, 0].sum() / own[:, 1].sum()),
        "speed_up": value,
        "speed_up_interval_95": [low, high],
        "median_turn": float(np.median(_rates(own) / _rates(other))),
        "over_base": over_base,
        "over_base_interval_95": interval,
        "acceptance": lane.acceptance,
        "drafted_length": sum(t.drafted for t in lane.totals) / drafts if drafts else 0.0,
        "rounds": rounds,
        "outside_decode_ms_a_round": float(outside.sum() / rounds * 1000.0),
        "outside_decode_share": float(np.median(outside / own[:, 1])),
        "combine_share": spent[-1] / sum(spent),
    }


def ratio(lane: Lane, other: Lane) -> Interval:
    """Speed over another lane's, turn by turn, with a bootstrap 95% interval over turns."""
    own, others = np.array(lane.turns), np.array(other.turns)
    spent = own[:, 1] * _rates(others)  # in tokens of the other lane
    return ratios_of_sums(spent, own[:, 0])[0]


def _rates(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    return turns[:, 0] / turns[:, 1]
