"""Every pair of dials together, through the real loop, against the oracle.

`FACTORS` names every dial that acts on a step, with its off and one or two other values. The
settings tried are a covering array: any two values of any two dials stand together in one of them.
Each is run by `Rounds` over contexts whose rows are a hash of what was read, and every
distribution that a token or a draft was drawn from is compared with the oracle's.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import oracle
import pytest
from fake_models import FakeModel, fake_ensemble

from eftlocal import Recipe, Sampling, Speculation
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.sequence import RunningSequence, Turn
from eftlocal.errors import EngineError
from eftlocal.logits.candidates import Candidates
from eftlocal.logits.race import draw
from eftlocal.logits.step import Step
from eftlocal.speculation.settings import OFF

pytestmark = pytest.mark.filterwarnings("error")

SIZE, LENGTH = 24, 7
STOPS = frozenset({0, 9})
ROLES = ("base", "tuned", "reference", "persona")
PROMPTS = {role: [5, 9, 2, 5, 9][: 2 + i] for i, role in enumerate(ROLES)}

FACTORS: dict[str, Sequence[Any]] = {
    "recipe": (
        Recipe.upscale(),
        Recipe.upscale(1.7),
        Recipe.proxy(1.5),
        Recipe.steer(-0.5),
        Recipe.interpolate({"tuned": 0.25, "persona": 0.75}),
        Recipe.mix({"tuned": 0.25, "persona": 0.75}, 1.5),
        Recipe.mix({"tuned": 0.5, "persona": 0.5}, -0.8, {"persona": "base"}),
        Recipe.persona("You are a pirate.", 1.3),
        Recipe({"base": 2.0, "reference": -0.5}, any_sum=True),
    ),
    "delta_top_p": (1.0, 0.9, 0.4),
    "plausibility": (0.0, 0.05, 0.5),
    "delta_clip": (math.inf, 0.5),
    "first_tokens": (None, 0, 3),
    "unsure_below": (1.0, 0.6, 0.25),
    "temperature": (0.7, 0.0, 1.5),
    "top_k": (0, 3),
    "top_p": (1.0, 0.8),
    "min_p": (0.0, 0.1),
    "repeat_penalty": (1.0, 1.3, 0.7),
    "presence_penalty": (0.0, 0.7),
    "frequency_penalty": (0.0, 0.4),
    "logit_bias": ({}, {3: 2.0, 5: -3.0}, dict.fromkeys(range(0, SIZE, 2), -math.inf)),
    "mask": (False, True),
    "foreign": ((), (2, 11)),
    "unusable": ((), (7, 23)),
    "ignore_end": (False, True),
    "drafts": (
        OFF,
        Speculation(length=3, source="model"),
        Speculation(length=3, source="model", rule="rejection"),
        Speculation(length=4, source="lookup"),
    ),
    "rows": ("ordinary", "tied", "impossible", "far"),
}
LIMITS = ("delta_top_p", "plausibility", "delta_clip", "first_tokens", "unsure_below")
SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty", "logit_bias"),
)
Setting = dict[str, int]  # the index of each dial's value


def covering(seed: int = 0) -> Iterator[Setting]:
    """Settings in which any two values of any two dials meet, few of them; greedily."""
    rng = random.Random(seed)
    missing = {
        (one, i, other, j)
        for one, other in combinations(FACTORS, 2)
        for i in range(len(FACTORS[one]))
        for j in range(len(FACTORS[other]))
    }
    order = {name: at for at, name in enumerate(FACTORS)}

    def gained(chosen: Setting, name: str, value: int) -> int:
        pairs = (
            (other, j, name, value) if order[other] < order[name] else (name, value, other, j)
            for other, j in chosen.items()
        )
        return sum(pair in missing for pair in pairs)

    while missing:
        one, i, other, j = rng.choice(sorted(missing))
        chosen: Setting = {one: i, other: j}
        rest = [name for name in FACTORS if name not in chosen]
        rng.shuffle(rest)
        for name in rest:
            values = list(range(len(FACTORS[name])))
            rng.shuffle(values)
            chosen[name] = max(values, key=lambda v, n=name: gained(chosen, n, v))  # type: ignore[misc]
        for one, other in combinations(FACTORS, 2):
            missing.discard((one, chosen[one], other, chosen[other]))
        yield chosen


def row_of(kind: str, seed: int, role: str, read: Sequence[int]) -> np.ndarray:
    """(SIZE,) float32. Roles agree in the main, so that drafts are accepted now and then."""
    at = [seed, len(read), *read[-3:]]  # short contexts: what was read before may come again
    shared, own = np.random.default_rng(at), np.random.default_rng([ROLES.index(role), *at])
    x = shared.normal(0, 2.5, SIZE) + own.normal(0, 0.8, SIZE)
    if kind == "tied":
        x = np.round(x / 2)
    elif kind == "impossible":
        x[shared.random(SIZE) < 0.3] = -np.inf
        x[own.random(SIZE) < 0.1] = -np.inf
        x[1] = 0.0
    elif kind == "far":
        x = x * 8 + own.choice([1e3, -1e3])
    return x.astype(np.float32)


class OfKind(FakeModel):
    """A fake model with rows of a kind."""

    def __init__(self, role: str, kind: str, seed: int) -> None:
        super().__init__(role, vocab_size=SIZE)
        self._args = kind, seed, role

    def _row(self, tokens: tuple[int, ...]) -> np.ndarray:
        return row_of(*self._args, tokens)


def allowed(tokens: Sequence[int]) -> np.ndarray:
    """What a grammar might allow after these tokens."""
    mask = np.random.default_rng([3, *tokens]).random(SIZE) < 0.4
    mask[13] = True
    return mask


class Recorded(Rounds):
    """Keeps every distribution: whether of a draft, the tokens before it, row and candidates."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__(ensemble)
        self.seen: list[tuple[Recipe | None, list[int], np.ndarray, Candidates]] = []
        self.last: list[int] = []

    def _distribution(
        self, step: Step, turn: Turn, recipe: Recipe, position: int
    ) -> tuple[np.ndarray, Candidates]:
        self.last = [*turn.sequence.tokens(), *turn.tokens[:position]]
        row, candidates = super()._distribution(step, turn, recipe, position)
        drafter = recipe if recipe is turn.drafter else None
        self.seen.append((drafter, self.last, row.copy(), candidates.kept()))
        return row, candidates


class Run:
    """One setting: the real loop's tokens, and the oracle's word on each of its steps."""

    def __init__(self, setting: Mapping[str, int], seed: int) -> None:
        self.value = {name: FACTORS[name][i] for name, i in setting.items()}
        self.seed = seed
        limits = {name: self.value[name] for name in LIMITS}
        self.recipe: Recipe = self.value["recipe"].stabilise(**limits)
        self.sampling = Sampling(**{name: self.value[name] for name in SAMPLING})
        self.ids = {name: self.value[name] for name in ("unusable", "foreign")}

    def play(self, drafts: Speculation) -> tuple[Recorded, RunningSequence, EngineError | None]:
        self.models = {r: OfKind(r, self.value["rows"], self.seed) for r in ROLES}
        ensemble = fake_ensemble(self.models, stop_tokens=STOPS, ids=self.ids, n_ctx=64)
        rounds = Recorded(ensemble)
        sequence = ensemble.open(
            PROMPTS,
            recipe=self.recipe,
            sampling=self.sampling,
            seed=self.seed,
            mask=allowed if self.value["mask"] else None,
            speculation=drafts,
            ends=frozenset() if self.value["ignore_end"] else None,
        )
        ended = None
        try:
            while len(sequence.choices) < LENGTH and not (
                sequence.choices and sequence.choices[-1].token in sequence.ends
            ):
                rounds([sequence])
        except EngineError as error:
            ended = error
        return rounds, sequence, ended

    def at(self, index: int) -> Recipe:
        """The recipe of this token, by the words: after the first tokens, the anchor alone."""
        first = self.value["first_tokens"]
        if first is None or index < first:
            return self.recipe
        alone = self.recipe.anchor
        return Recipe(alone, anchor=alone, judge=self.recipe.judge, any_sum=True)

    def oracle(self, recipe: Recipe, tokens: list[int]) -> tuple[oracle.Combined, list[Any], float]:
        rows = {r: self.models[r].row((*PROMPTS[r], *tokens)) for r in recipe.roles}
        largest = max(np.abs(row[np.isfinite(row)]).max() for row in rows.values())
        tolerance = 1e-4 + 2e-6 * float(largest)
        combined = oracle.combine(
            rows, recipe, SIZE, stop_tokens=sorted(STOPS), tolerance=tolerance, **self.ids
        )
        mask = allowed(tokens) if self.value["mask"] else None
        counts = Counter(tokens)
        choices = oracle.step(combined, recipe, self.sampling, counts, mask, tolerance)
        return combined, choices, tolerance

    def faults(self) -> list[str]:
        """What the loop did otherwise than the oracle; empty where nothing."""
        rounds, sequence, ended = self.play(self.value["drafts"])
        found = []
        if ended is not None and self.oracle(self.at(len(rounds.last)), rounds.last)[1]:
            found.append(f"after {rounds.last}: {ended}")
        targets = {}
        for drafter, tokens, row, candidates in rounds.seen:
            recipe = drafter or self.at(len(tokens))
            combined, choices, tolerance = self.oracle(recipe, tokens)
            kind = "draft" if drafter else "token"
            if not any(agrees(candidates, choice, self.sampling, tolerance) for choice in choices):
                found.append(f"after {tokens}: another distribution of the {kind}")
            if not any(close(row, z, tolerance) for z in (*combined.others, *combined.uncut)):
                found.append(f"after {tokens}: another combined row of the {kind}")
            if drafter is None:
                targets[tuple(tokens)] = candidates
        chosen = sequence.tokens()
        rejection = self.value["drafts"].rule == "rejection"
        for i, token in enumerate(chosen):
            target = targets[tuple(chosen[:i])]
            if token not in target.probabilities()[0]:
                found.append(f"after {chosen[:i]}: {token} is no candidate")
            if not rejection and token != draw(target, self.seed, i):
                found.append(f"after {chosen[:i]}: {token} is not what is drawn")
        if not rejection and not self.value["drafts"].off:
            plain = self.play(OFF)[1].tokens()
            both = min(len(plain), len(chosen), LENGTH)
            if plain[:both] != chosen[:both]:
                found.append(f"{chosen} with drafts, and {plain} without")
        return found


def close(row: np.ndarray, wanted: oracle.Floats, tolerance: float) -> bool:
    """One distribution but for rounding."""
    one, other = oracle.log_softmax(row.astype(np.float64)), oracle.log_softmax(wanted)
    if not np.array_equal(np.isneginf(one), np.isneginf(other)):
        return False
    finite = np.isfinite(one)
    return bool((np.abs(one[finite] - other[finite]) <= 4 * tolerance).all())


def agrees(
    candidates: Candidates, wanted: oracle.Filtered, sampling: Sampling, tolerance: float
) -> bool:
    ids, got = candidates.probabilities()
    if sampling.temperature == 0.0:
        best = wanted.logits.max()
        return len(ids) == 1 and wanted.logits[ids[0]] >= best - 4 * tolerance
    given = np.zeros(SIZE)
    given[ids] = got
    # Which of those that are equal but for rounding comes in at the edge, rounding decides.
    edge = wanted.logits[wanted.kept].min()
    near = np.abs(wanted.logits - edge) <= 4 * tolerance / sampling.temperature
    kept = np.where(wanted.either | near, given > 0, wanted.kept)
    expected = wanted.probabilities(kept)
    return bool(np.abs(given - expected).max() <= 8 * tolerance / sampling.temperature)


def test_the_settings_are_few_and_hold_every_pair() -> None:
    settings = list(covering(0))
    pairs = {
        (one, setting[one], other, setting[other])
        for setting in settings
        for one, other in combinations(FACTORS, 2)
    }
    sizes = [len(values) for values in FACTORS.values()]
    assert len(pairs) == sum(a * b for a, b in combinations(sizes, 2))
    assert len(settings) < 60


@pytest.mark.parametrize("array", range(4))
def test_every_pair_of_dials_is_as_the_oracle_has_it(array: int) -> None:
    """Each array holds every pair once more, in other company."""
    for setting in covering(array):
        for seed in range(2):
            run = Run(setting, 2 * array + seed)
            assert run.faults() == [], run.value
