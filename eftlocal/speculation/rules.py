"""The two exact rules by which a drafted token is accepted or replaced. Pure functions.

At one position the target distribution is p (the combination's) and the draft x was drawn from
q. Both rules return a token that is distributed as p, whatever q is:

    coupled    y = draw(p) with the noise that drew x from q; x is accepted when y = x
    rejection  x is accepted with probability min(1, p(x) / q(x)); otherwise y is drawn from
               max(p - q, 0), renormalised:  q min(1, p/q) + (1 - sum min(p, q)) * that  =  p

A draft that was not drawn but found (prompt lookup) has q = 1 on itself. Under greedy sampling p
and q are certain of one token each, and both rules compare these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eftlocal.logits.candidates import Candidates
from eftlocal.logits.race import draw, uniform

# Streams of noise at one position; drafts and plain tokens are drawn from stream 0.
_ACCEPTING, _RECOVERING = 1, 2


@dataclass(frozen=True)
class Draft:
    """A drafted token and the distribution it was drawn from; None when it was looked up, or when
    the rule compares no distributions."""

    token: int
    candidates: Candidates | None


class Rule(Protocol):
    """How a drafted token becomes the token of its position."""

    @property
    def name(self) -> str: ...

    @property
    def compares(self) -> bool:
        """Whether it looks at distributions, not only at what is drawn from them."""
        ...

    def choose(
        self, target: Candidates, draft: Draft, seed: int, position: int
    ) -> tuple[int, bool]:
        """The token of this position, distributed as `target`, and whether it is the draft."""
        ...

    def likelihood(self, target: Candidates, source: Candidates, seed: int, position: int) -> float:
        """How likely a draft of this source would have been accepted, 0 to 1."""
        ...


class Coupled:
    """Draft and target share their noise, so that the text does not depend on the drafts.

    Mitchell et al. 2023 (arXiv 2310.12962) draft so, with one seed per time step. A race between
    all tokens would accept with at least (1 - TV)/(1 + TV), TV the total variation distance of p
    and q; `draw` races blocks first, which costs a little of that (measured on the demo: 0.853
    against 0.857, where 1 - TV was 0.866).
    """

    name, compares = "coupled", False

    def choose(
        self, target: Candidates, draft: Draft, seed: int, position: int
    ) -> tuple[int, bool]:
        token = draw(target, seed, position)
        return token, token == draft.token

    def likelihood(self, target: Candidates, source: Candidates, seed: int, position: int) -> float:
        return float(draw(target, seed, position) == draw(source, seed, position))


class Rejection:
    """Leviathan et al. 2023 (arXiv 2211.17192), Chen et al. 2023 (arXiv 2302.01318).

    Accepts with 1 - TV, the most that is possible; the text depends on where drafts stood.
    """

    name, compares = "rejection", True

    def choose(
        self, target: Candidates, draft: Draft, seed: int, position: int
    ) -> tuple[int, bool]:
        p = _probability(target, draft.token)
        q = 1.0 if draft.candidates is None else _probability(draft.candidates, draft.token)
        if uniform(seed, position, _ACCEPTING) * q < p:
            return draft.token, True
        return draw(_residual(target, draft), seed, position, stream=_RECOVERING), False

    def likelihood(self, target: Candidates, source: Candidates, seed: int, position: int) -> float:
        ids, p = target.probabilities()
        return float(np.minimum(p, _aligned(source, ids)).sum())


RULES: dict[str, Rule] = {rule.name: rule for rule in (Coupled(), Rejection())}


def _probability(candidates: Candidates, token: int) -> float:
    """Of one token; 0 where it is no candidate."""
    at = token
    if candidates.ids is not None:
        at = int(np.searchsorted(candidates.ids, token))
        if at == len(candidates.ids) or candidates.ids[at] != token:
            return 0.0
    weights = np.exp(candidates.logits - candidates.logits.max())
    return float(weights[at]) / float(weights.sum(dtype=np.float64))


def _residual(target: Candidates, draft: Draft) -> Candidates:
    """max(p - q, 0) as candidates; the target itself where rounding left nothing."""
    ids, p = target.probabilities()
    if draft.candidates is None:
        rest = np.where(ids == draft.token, 0.0, p)
    else:
        rest = np.maximum(p - _aligned(draft.candidates, ids), 0.0)
    some = np.flatnonzero(rest > 0.0)
    if not some.size:
        return target
    return Candidates(ids[some], np.log(rest[some]).astype(np.float32))


def _aligned(candidates: Candidates, ids: NDArray[np.intp]) -> NDArray[np.float64]:
    """Probabilities (m,) of the given ascending ids (m,); 0 where one is no candidate."""
    own, q = candidates.probabilities()
    at = np.minimum(np.searchsorted(own, ids), len(own) - 1)
    return np.where(own[at] == ids, q[at], 0.0)
