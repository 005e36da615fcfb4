"""An acceptance rule for benchmarks: it accepts at a given rate, whatever the drafts are.

Random weights draft badly. With this rule they cost what good drafts would: all real work is done
(both draws, as the coupled rule does), and then a hash of (seed, position) decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eftlocal.logits.candidates import Candidates
from eftlocal.logits.race import draw, uniform
from eftlocal.speculation.rules import Draft

_SEEDS = 400
_DECIDING = 7  # a stream of noise that no real rule uses


class SyntheticRule:
    """Accepts independently with a fixed probability; the text means nothing."""

    name, compares = "synthetic", False

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def accepts(self, seed: int, position: int) -> bool:
        return uniform(seed, position, _DECIDING) < self.rate

    def choose(
        self, target: Candidates, draft: Draft, seed: int, position: int
    ) -> tuple[int, bool]:
        token = draw(target, seed, position)
        if self.accepts(seed, position):
            return draft.token, True
        return token if token != draft.token else int(draft.token == 0), False

    def likelihood(self, target: Candidates, source: Candidates, seed: int, position: int) -> float:
        draw(target, seed, position)
        draw(source, seed, position)
        return self.rate


def even_seeds(rates: Sequence[float], tokens: int, count: int) -> list[int]:
    """Seeds whose first positions are accepted at nearly these rates: short runs have their luck.

    Of the first 400 seeds (or as many as are wanted) those that come nearest, in order.
    """
    among = range(max(_SEEDS, count))
    draws = np.array([[uniform(seed, at, _DECIDING) for at in range(tokens)] for seed in among])
    off = np.max([np.abs(np.mean(draws < rate, axis=1) - rate) for rate in rates], axis=0)
    return sorted(int(seed) for seed in np.argsort(off, kind="stable")[:count])
