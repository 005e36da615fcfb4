"""The acceptance rules alone: pairs of distributions, and what a rule makes of drafts from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eftlocal.logits.candidates import Candidates, Filters
from eftlocal.logits.race import draw
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.rules import Draft, Rejection, Rule
from exactness.chi_square import Floats, goodness_of_fit


class RecoversFromTheTarget(Rejection):
    """The classic mistake: after a refusal, a token of p instead of max(p - q, 0).

    A check that cannot tell this from the rule proves nothing.
    """

    def choose(
        self, target: Candidates, draft: Draft, seed: int, position: int
    ) -> tuple[int, bool]:
        token, accepted = super().choose(target, draft, seed, position)
        return (token, True) if accepted else (draw(target, seed, position, stream=2), False)


@dataclass(frozen=True)
class Case:
    """A target p and what drafts come from: q, or a token that was looked up."""

    name: str
    target: Candidates
    source: Candidates | None
    found: int = 0

    @property
    def size(self) -> int:
        """Above every id of p and q."""
        ids = [int(c.probabilities()[0].max()) for c in (self.target, self.source) if c is not None]
        return max(*ids, self.found) + 1

    @property
    def p(self) -> Floats:
        """(size,) float64."""
        return dense(self.target, self.size)

    @property
    def q(self) -> Floats:
        """(size,) float64; a looked-up draft is certain of itself."""
        if self.source is None:
            return np.eye(self.size)[self.found]
        return dense(self.source, self.size)

    @property
    def overlap(self) -> float:
        """sum min(p, q) = 1 - TV."""
        return float(np.minimum(self.p, self.q).sum())

    def draft(self, seed: int, position: int) -> Draft:
        """As a round makes it."""
        if self.source is None:
            return Draft(self.found, None)
        return Draft(draw(self.source, seed, position), self.source)


def dense(candidates: Candidates, size: int) -> Floats:
    """Probabilities (size,) of every id, 0 where it is no candidate."""
    ids, p = candidates.probabilities()
    out = np.zeros(size)
    out[ids] = p
    return out


def candidates(weights: list[float] | Floats, ids: list[int] | None = None) -> Candidates:
    """From weights (m,), 0 for a token that is masked."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(weights, dtype=np.float64)).astype(np.float32)
    return Candidates(None if ids is None else np.asarray(ids, dtype=np.intp), logits)


def cases() -> Iterator[Case]:
    """Vocabularies of 2 to 50 tokens, and one of 200 that spans several blocks of the draw."""
    rng = np.random.default_rng(20231019)
    ten = candidates(rng.dirichlet(np.ones(10)))
    yield Case("p = q", ten, ten)
    row = rng.normal(size=50)
    close = row + 0.01 * rng.normal(size=50)
    yield Case("nearly equal", candidates(np.exp(row)), candidates(np.exp(close)))
    yield Case("disjoint, masked", candidates([1, 2, 0, 0, 0]), candidates([0, 0, 1, 2, 3]))
    yield Case("disjoint, filtered", candidates([3, 1], [0, 4]), candidates([1, 1, 2], [1, 2, 3]))
    yield Case("one-hot p", candidates([0, 0, 1, 0]), candidates([1, 2, 3, 4]))
    yield Case("one-hot p, filtered", candidates([1], [2]), candidates([1, 2, 3, 4]))
    yield Case("one-hot q", candidates([1, 2, 3, 4]), candidates([0, 0, 1, 0]))
    yield Case("one-hot q, filtered", candidates([1, 2, 3, 4]), candidates([1], [3]))
    yield Case("one-hot q outside p", candidates([1, 2, 3], [0, 1, 2]), candidates([1], [3]))
    yield Case("zeros in q", candidates([4, 3, 2, 1, 1, 2]), candidates([1, 0, 5, 0, 1, 0]))
    yield Case("zeros in p", candidates([4, 0, 2, 0, 1, 2]), candidates([1, 3, 5, 1, 1, 1]))
    yield Case("p filtered", candidates([5, 1, 2], [1, 5, 8]), candidates(np.arange(1.0, 11.0)))
    yield Case("q filtered", candidates(np.arange(1.0, 11.0)), candidates([5, 1, 2], [1, 5, 8]))
    yield Case("both filtered", candidates([1, 2, 3], [0, 4, 6]), candidates([3, 1, 1], [4, 5, 6]))
    yield Case("very peaked", candidates([1e4, 1, 1, 3]), candidates([1, 1e4, 2, 3]))
    yield Case("peaked alike", candidates([1e3, 1, 1, 3]), candidates([1e3, 5, 1, 1]))
    yield Case("looked up", candidates([1, 2, 3, 4]), None, found=1)
    yield Case("looked up, certain", candidates([1], [1]), None, found=1)
    yield Case("looked up, impossible", candidates([1, 2], [0, 2]), None, found=1)
    for size in (2, 3, 17, 50):
        yield Case(
            f"{size} tokens",
            candidates(rng.dirichlet(np.full(size, 0.5))),
            candidates(rng.dirichlet(np.full(size, 0.5))),
        )
    rows = rng.normal(scale=2.0, size=(2, 50)).astype(np.float32)
    rows[1] += rows[0]
    for name, sampling in (
        ("temperature 0.7, top-p 0.95", Sampling(temperature=0.7, top_p=0.95)),
        ("top-k 20, min-p 0.02", Sampling(temperature=1.2, top_k=20, top_p=1.0, min_p=0.02)),
        ("greedy", Sampling(temperature=0.0)),
    ):
        filtered = [Filters(50)(row, sampling).kept() for row in rows]
        yield Case(name, filtered[0], filtered[1])
    far = np.exp(rng.normal(size=200))
    yield Case("several blocks", candidates(far), candidates(far * np.exp(rng.normal(size=200))))


@dataclass(frozen=True)
class Outcome:
    """What became of many drafts.

    Attributes:
        p_value: of the tokens under the target, chi-square.
        acceptance: share of drafts that were accepted.
        sigma: standard error of an acceptance of `Case.overlap`.
    """

    p_value: float
    acceptance: float
    sigma: float


def outcome(case: Case, rule: Rule, number: int, first_seed: int = 0) -> Outcome:
    """Draws drafts at two positions each of number / 2 seeds, and lets the rule judge them."""
    counts: Counter[int] = Counter()
    accepted = 0
    for i in range(number):
        seed, position = first_seed + i // 2, i % 2
        draft = case.draft(seed, position)
        token, same = rule.choose(case.target, draft, seed, position)
        if same and token != draft.token:
            raise AssertionError(f"{case.name}: {rule.name} accepted {draft.token} as {token}")
        counts[token] += 1
        accepted += same
    p_value = goodness_of_fit([counts[i] for i in range(case.size)], case.p)
    sigma = (case.overlap * (1.0 - case.overlap) / number) ** 0.5
    return Outcome(p_value, accepted / number, sigma)


def coupled_acceptance(p: Floats, q: Floats, block: int) -> float:
    """Chance that two exponential races with shared noise have one winner, in closed form.

    Both choose i with probability 1 / sum_j max(p_j / p_i, q_j / q_i). Blocks of `block`
    neighbours race first, and then the tokens of the winning block; 1 is one flat race.
    """
    edges = np.arange(0, len(p), block)
    blocks = np.add.reduceat(p, edges), np.add.reduceat(q, edges)
    total = 0.0
    for edge, a, b in zip(edges, *blocks, strict=True):
        if a > 0.0 and b > 0.0:
            inside = slice(edge, edge + block)
            total += _both(a, b, *blocks) * _agreement(p[inside] / a, q[inside] / b)
    return total


def _agreement(p: Floats, q: Floats) -> float:
    return sum(_both(a, b, p, q) for a, b in zip(p, q, strict=True) if a > 0.0 and b > 0.0)


def _both(a: float, b: float, p: Floats, q: Floats) -> float:
    return 1.0 / float(np.maximum(p / a, q / b).sum())
