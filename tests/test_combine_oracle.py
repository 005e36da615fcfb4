"""Combining, penalties, filters and drawing against the float64 oracle, thousands of cases.

Every stage gets the very float32 row that the stage before it made, so tolerances are those of
one stage's rounding; the whole chain is compared as well, where no threshold is in doubt.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import pytest
from numpy.typing import NDArray

from eftlocal.logits.candidates import Candidates, Filters
from eftlocal.logits.combine import Combiner
from eftlocal.logits.race import draw
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling, penalise
from eftlocal.logits.step import Step

# A numpy warning on a user's screen would be a defect of its own.
pytestmark = pytest.mark.filterwarnings("error")

Row = NDArray[np.float32]
Rng = np.random.Generator


def some_size(rng: Rng, case: int) -> int:
    if case % 100 == 0:
        return 5000
    return int(rng.integers(2, 12) if case % 3 == 0 else rng.integers(2, 301))


def some_row(rng: Rng, n: int) -> Row:
    """Peaked, flat, tied, sorted, huge, or with impossible tokens; a constant added or not."""
    x = rng.normal(size=n) * rng.choice([0.1, 1.0, 3.0, 10.0, 30.0])
    match rng.integers(8):
        case 0:
            x = np.round(x)
        case 1:
            x[:] = x[0]
        case 2:
            x[rng.integers(n)] += rng.choice([5.0, 20.0, 100.0])
        case 3:
            x *= rng.choice([100.0, 1000.0])
        case 4:
            x[rng.random(n) < rng.choice([0.1, 0.5, 0.9])] = -np.inf
        case 5:
            x = np.sort(x)[::-1].copy()
        case 6:
            bad = rng.random(n) < 0.05
            kinds = ([np.nan], [np.inf], [np.nan, -np.inf], [np.nan, np.inf, -np.inf])
            x[bad] = rng.choice(kinds[rng.integers(4)], size=int(bad.sum()))
    x += rng.choice([0.0, 0.0, rng.normal() * 50, 1e3])
    if not (x > -np.inf).any():
        x[0] = 1.0
    return x.astype(np.float32)


def some_recipe(rng: Rng) -> Recipe:
    def dial() -> float:
        return float(np.round(rng.normal(1, 1), 2))

    makers = [
        Recipe.upscale,
        lambda: Recipe.upscale(dial()),
        lambda: Recipe.proxy(dial()),
        lambda: Recipe.dials(dial(), dial()),
        lambda: Recipe.realign(dial()),
        lambda: Recipe.contrast(dial()),
        lambda: Recipe.interpolate({"tuned": 0.25, "b": 0.75}, {"b": "own_reference"}),
        lambda: Recipe.mix({"tuned": 0.25, "b": 0.75}, dial()),
        lambda: Recipe.mix({"tuned": 0.4, "b": 0.6}, dial(), {"tuned": "base", "b": "own"}),
        lambda: Recipe.persona("You are a pirate.", dial()),
        lambda: Recipe.single(str(rng.choice(["base", "tuned"]))),
        lambda: Recipe({"base": dial(), "tuned": dial(), "reference": dial()}, any_sum=True),
    ]
    recipe = makers[rng.integers(len(makers))]()
    if rng.random() < 0.3:
        return recipe
    recipe = recipe.stabilise(
        delta_top_p=float(rng.choice([1.0, 0.1, 0.5, 0.9, 0.95, 0.99])),
        plausibility=float(rng.choice([0.0, 0.0, 0.01, 0.1, 0.5])),
        delta_clip=float(rng.choice([np.inf, np.inf, 0.5, 1.0, 5.0, 20.0])),
        unsure_below=float(rng.choice([1.0, 1.0, 1.0, 0.9, 0.5, 0.1])),
    )
    if recipe.stabilised and rng.random() < 0.3:
        recipe = dataclasses.replace(recipe, judge={str(rng.choice(recipe.roles)): 1.0})
    return recipe


def some_sampling(rng: Rng, n: int) -> Sampling:
    def one(*values: float) -> float:
        return float(values[rng.integers(len(values))])

    return Sampling(
        temperature=one(0, 0.01, 0.3, 0.7, 1, 1.5, 5),
        top_k=int(one(0, 0, 1, 2, 5, 40, n, n + 5)),
        top_p=one(1, 1, 0.05, 0.5, 0.9, 0.95, 0.999),
        min_p=one(0, 0, 0.01, 0.1, 0.5),
        repeat_penalty=one(1, 1, 1.3, 0.8),
        presence_penalty=one(0, 0, 0.5, -1),
        frequency_penalty=one(0, 0, 0.3),
        logit_bias={
            int(token): one(-100, 5, 1, -1) for token in rng.integers(n, size=rng.integers(3))
        },
    )


def some_counts(rng: Rng, n: int) -> dict[int, int]:
    tokens = rng.integers(n, size=rng.integers(8))
    return {int(token): int(rng.integers(1, 5)) for token in tokens}


def some_ids(rng: Rng, n: int, chance: float) -> list[int]:
    count = int(rng.integers(1, min(4, n))) if rng.random() < chance else 0
    return [int(i) for i in rng.choice(n, count, replace=False)]


@dataclass(frozen=True)
class Case:
    recipe: Recipe
    rows: Mapping[str, Row]
    size: int
    unusable: list[int]
    stops: list[int]

    def impl(self) -> Row:
        combiner = Combiner(self.size, unusable=self.unusable, stop_tokens=self.stops)
        return combiner(self.rows, self.recipe)

    def oracle(self) -> oracle.Combined:
        return oracle.combine(
            self.rows,
            self.recipe,
            self.size,
            unusable=self.unusable,
            stop_tokens=self.stops,
            tolerance=self.tolerance,
        )

    @property
    def tolerance(self) -> float:
        """Nats: a few roundings of the largest term of the sum, in float32."""
        largest = 1.0
        for role, row in self.rows.items():
            w, a = self.recipe.weights.get(role, 0.0), self.recipe.anchor.get(role, 0.0)
            size = float(np.abs(row[np.isfinite(row)]).max(initial=0.0))
            largest += size * max(abs(w), abs(a), abs(w - a))
        return 3e-6 + 2e-6 * largest


def some_cases(seed: int, count: int) -> Iterator[tuple[Rng, Case]]:
    rng = np.random.default_rng(seed)
    for number in range(count):
        n = some_size(rng, number)
        recipe = some_recipe(rng)
        roles = list(dict.fromkeys([*recipe.roles, *recipe.anchor]))
        rows = {role: some_row(rng, n + int(rng.integers(3))) for role in roles}
        case = Case(recipe, rows, n, some_ids(rng, n, 0.2), some_ids(rng, n, 0.5))
        usable = np.delete(np.arange(n), case.unusable)
        if all((row[usable] > -np.inf).any() for row in rows.values()):
            yield rng, case


def finite_shift(row: Row, wanted: oracle.Floats, among: oracle.Bools) -> float | None:
    """The constant by which two rows differ, from the tokens that are possible in both."""
    both = among & np.isfinite(row) & np.isfinite(wanted)
    return float(np.median(row[both] - wanted[both])) if both.any() else None


def test_combined_rows() -> None:
    compared = 0
    for _, case in some_cases(seed=1, count=3000):
        row = case.impl().astype(np.float64)
        assert row.shape == (case.size,)
        assert not np.isnan(row).any() and not np.isposinf(row).any(), case
        wanted = case.oracle()
        certain = (wanted.others == wanted.row).all(axis=0)
        shift = finite_shift(row, wanted.row, certain)
        if shift is None:
            # No token is at once certain and possible: only which are possible can be compared.
            assert ((row > -np.inf) == (wanted.others > -np.inf)).any(axis=0).all(), case
            continue
        both = np.isfinite(row) & np.isfinite(wanted.others)
        error = np.where(row == wanted.others, 0.0, np.inf)  # -inf in both
        error[both] = np.abs(np.broadcast_to(row - shift, both.shape)[both] - wanted.others[both])
        assert (error.min(axis=0) <= case.tolerance).all(), case
        compared += 1
    assert compared > 2500


SPECIAL = (1.5, np.nan, np.inf, -np.inf)


@pytest.mark.parametrize("delta_clip", [np.inf, 1000.0])
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe.upscale(1.5),
        Recipe.steer(-0.5),
        Recipe.dials(2.0, -0.5),
        Recipe.mix({"tuned": 0.3, "b": 0.7}, 1.5, {"b": "base"}),
        Recipe.persona("You are a pirate.", 1.5),
        Recipe({"reference": -1.0}, any_sum=True),
    ],
    ids=str,
)
def test_every_meeting_of_what_is_not_finite(recipe: Recipe, delta_clip: float) -> None:
    """NaN is impossible and +inf certain, in a role of either sign, whatever the others hold."""
    recipe = recipe.stabilise(delta_clip=delta_clip)
    for first in itertools.product(SPECIAL, repeat=len(recipe.roles)):
        rows = {
            role: np.array([special, i, 2 - i, 1], np.float32)
            for i, (role, special) in enumerate(zip(recipe.roles, first, strict=True))
        }
        found = oracle.log_softmax(Combiner(4)(rows, recipe).astype(np.float64))
        wanted = oracle.log_softmax(oracle.combine(rows, recipe, 4).row)
        np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=str(rows))


Logs = Mapping[str, oracle.Floats]


@pytest.mark.parametrize(
    ("recipe", "formula"),
    [
        (Recipe.upscale(1.7), lambda lp: lp["tuned"] + 1.7 * (lp["base"] - lp["reference"])),
        (Recipe.proxy(0.6), lambda lp: lp["base"] + 0.6 * (lp["tuned"] - lp["reference"])),
        (Recipe.downscale(), lambda lp: lp["base"] + lp["tuned"] - lp["reference"]),
        (Recipe.steer(-1.2), lambda lp: lp["base"] - 1.2 * (lp["tuned"] - lp["reference"])),
        (
            Recipe.dials(2.0, 0.5),
            lambda lp: 2.0 * lp["tuned"] + 0.5 * lp["base"] + (1 - 2.0 - 0.5) * lp["reference"],
        ),
        (
            Recipe.realign(1.4),
            lambda lp: lp["reference"] + 1.4 * (lp["tuned"] - lp["reference"]),
        ),
        (Recipe.contrast(0.8), lambda lp: 1.8 * lp["base"] - 0.8 * lp["reference"]),
        (Recipe.guidance(0.8), lambda lp: 1.8 * lp["tuned"] - 0.8 * lp["unguided"]),
        (
            Recipe.interpolate({"tuned": 0.3, "b": 0.7}, {"b": "own"}),
            lambda lp: (
                lp["base"] + 0.3 * (lp["tuned"] - lp["reference"]) + 0.7 * (lp["b"] - lp["own"])
            ),
        ),
        *(
            (
                Recipe.mix({"tuned": 0.3, "b": 0.7}, alpha, {"b": "base"}),
                lambda lp, alpha=alpha: (
                    lp["base"]
                    + alpha * (0.3 * (lp["tuned"] - lp["reference"]) + 0.7 * (lp["b"] - lp["base"]))
                ),
            )
            for alpha in (1.5, 1.0, 0.0, -0.7)
        ),
        (
            Recipe.persona("You are a pirate.", 1.3),
            lambda lp: lp["base"] + 1.3 * (lp["persona"] - lp["tuned"]),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Recipe) else "",
)
def test_named_recipes_are_their_formulas(recipe: Recipe, formula: Callable[[Logs], Any]) -> None:
    rng = np.random.default_rng(9)
    for _ in range(20):
        names = ("base", "tuned", "reference", "unguided", "persona", "b", "own")
        rows = {name: rng.normal(0, 4, 60).astype(np.float32) for name in names}
        lp = {role: oracle.log_softmax(row.astype(np.float64)) for role, row in rows.items()}
        found = oracle.log_softmax(Combiner(60)(rows, recipe).astype(np.float64))
        wanted = oracle.log_softmax(formula(lp))
        np.testing.assert_allclose(found, wanted, atol=5e-5)
        by_oracle = oracle.log_softmax(oracle.combine(rows, recipe, 60).row)
        np.testing.assert_allclose(by_oracle, wanted, atol=1e-9)


def test_penalties_and_bias() -> None:
    rng = np.random.default_rng(2)
    for number in range(1500):
        n = some_size(rng, number)
        row = np.nan_to_num(some_row(rng, n), nan=-np.inf, posinf=200.0, neginf=-np.inf)
        sampling, counts = some_sampling(rng, n), some_counts(rng, n)
        wanted = oracle.penalise(row.astype(np.float64), sampling, counts)
        got = row.copy()
        penalise(got, sampling, counts)
        possible = wanted > -np.inf
        assert ((got > -np.inf) == possible).all(), (sampling, counts, row)
        tolerance = 1e-6 * (1.0 + np.abs(row[possible]).max() + np.abs(wanted[possible]).max())
        shift = finite_shift(got, wanted, possible)
        assert np.abs(got[possible] - shift - wanted[possible]).max() <= tolerance, (sampling, row)


def check_candidates(candidates: Candidates, wanted: oracle.Filtered, relative: float) -> bool:
    """Whether no token was in doubt; fails when the candidates are not the oracle's."""
    n = len(wanted.kept)
    ids, got = candidates.probabilities()
    assert (np.diff(ids) > 0).all()
    kept = np.zeros(n, bool)
    kept[ids] = True
    possible = wanted.kept.copy()
    possible[wanted.either] = kept[wanted.either]
    probabilities = wanted.probabilities(possible)
    # Below the smallest float32 a candidate may be there with probability 0, or not be there.
    assert (kept == possible)[(probabilities > 1e-37) | ~possible & (wanted.logits > -np.inf)].all()
    given = np.zeros(n)
    given[ids] = got
    assert got.sum() == pytest.approx(1.0, abs=1e-9)
    assert np.abs(given - probabilities).max() <= relative
    assert (np.abs(given - probabilities) <= relative * probabilities + 1e-30).all()
    return not wanted.either.any()


def test_temperature_and_filters() -> None:
    rng = np.random.default_rng(3)
    certain = 0
    for number in range(2500):
        n = some_size(rng, number)
        row = np.nan_to_num(some_row(rng, n), nan=-np.inf, posinf=200.0, neginf=-np.inf)
        sampling = some_sampling(rng, n)
        largest = 1.0 + float(np.abs(row[row > -np.inf]).max())
        wanted = oracle.filtered(row.astype(np.float64), sampling, 1e-5 + 1e-6 * largest)
        before = row.copy()
        candidates = Filters(n)(row, sampling)
        assert np.array_equal(row, before)
        relative = 1e-5 + 1e-6 * largest / (sampling.temperature or 1.0)
        certain += check_candidates(candidates, wanted, relative)
    assert certain > 2000


def test_loose_candidates_draw_what_the_very_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are folded, their totals bounded, and the draw settles what is open, if it matters."""
    monkeypatch.setattr("eftlocal.logits.candidates._LARGE", 1)
    rng, loose, settled = np.random.default_rng(8), 0, 0
    for number in range(2000):
        n = some_size(rng, number)
        row = np.nan_to_num(some_row(rng, n), nan=-np.inf, posinf=200.0, neginf=-np.inf)
        top_p = float(rng.choice([0.5, 0.9, 0.95]))
        sampling = dataclasses.replace(some_sampling(rng, n), top_k=0, top_p=top_p)
        filters, before = Filters(n), row.copy()
        wanted = filters(row, sampling).kept()
        found = filters(row, sampling, to_draw=True)
        if found.sure is not None and found.settle is not None:
            assert set(found.ids[found.sure]) <= set(wanted.ids) <= set(found.ids)
            settle, calls = found.settle, []
            watched = lambda settle=settle, calls=calls: calls.append(1) or settle()  # noqa: E731
            found, loose = dataclasses.replace(found, settle=watched), loose + 1
            for position in range(20):
                assert draw(found, number, position) == draw(wanted, number, position)
            assert len(calls) <= 1  # what was settled is kept
            settled += len(calls)
        for position in range(3):
            assert draw(found, number, position) == draw(wanted, number, position)
        kept = found.kept()
        assert np.array_equal(kept.ids, wanted.ids) if wanted.ids is not None else kept.ids is None
        assert np.array_equal(kept.logits, wanted.logits)
        assert np.array_equal(row, before)
    assert loose > 40 and 0 < settled < loose


def test_the_whole_chain() -> None:
    certain = 0
    for rng, case in some_cases(seed=4, count=1500):
        sampling, counts = some_sampling(rng, case.size), some_counts(rng, case.size)
        sampling = dataclasses.replace(sampling, temperature=max(sampling.temperature, 0.3))
        mask = rng.random(case.size) < 0.5 if rng.random() < 0.3 else None
        tolerance = 3 * case.tolerance + 1e-4
        combined = case.oracle()
        possible = oracle.step(combined, case.recipe, sampling, counts, mask, tolerance)
        sure = (combined.others == combined.row).all() and (
            combined.uncut == combined.uncut[0]
        ).all()
        if not possible or not sure or possible[0].either.any():
            continue
        combiner = Combiner(case.size, unusable=case.unusable, stop_tokens=case.stops)
        row, candidates = Step(combiner)(case.rows, case.recipe, sampling, counts, mask)
        certain += check_candidates(candidates, possible[0], tolerance / sampling.temperature)
        if not sampling.penalised and mask is None:
            assert np.array_equal(row, case.impl())
    assert certain > 700


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    row = np.array([1, 7, 3, 7, -np.inf], np.float32)
    candidates = Filters(5)(row, Sampling(temperature=0.0))
    assert draw(candidates, 1, 0) == 1
    ids, probabilities = candidates.probabilities()
    assert probabilities[ids == 1] == 1.0
    assert probabilities.sum() == 1.0


@pytest.mark.parametrize("largest", [3e38, 1e30, 1e10])
def test_no_nan_from_extreme_logits(largest: float) -> None:
    rng = np.random.default_rng(5)
    values = np.array([largest, -largest, 0.0, 1.0, np.nan, np.inf, -np.inf], np.float32)
    for _ in range(200):
        recipe = some_recipe(rng)
        roles = {*recipe.roles, *recipe.anchor}
        rows = {role: rng.choice(values, 6) for role in roles}
        row = Combiner(6, stop_tokens=[2])(rows, recipe)
        assert not np.isnan(row).any(), (recipe, rows)
        assert not np.isposinf(row).any(), (recipe, rows)
        if (row > -np.inf).any():
            sampling = some_sampling(rng, 6)
            ids, probabilities = Filters(6)(row, sampling).probabilities()
            assert probabilities.sum() == pytest.approx(1.0), (recipe, rows, sampling)
            assert (row[ids[probabilities > 0]] > -np.inf).all()


def test_draws_follow_the_distribution() -> None:
    n, draws = 300, 20_000
    row = np.random.default_rng(6).normal(size=n).astype(np.float32) * 2
    row[::7] = -np.inf
    sampling = Sampling(temperature=0.9, top_p=0.98)
    wanted = oracle.filtered(row.astype(np.float64), sampling)
    probabilities = wanted.probabilities(wanted.kept)
    candidates = Filters(n)(row, sampling)
    tokens = np.array([draw(candidates, seed=i // 200, position=i % 200) for i in range(draws)])

    counts = np.bincount(tokens, minlength=n).astype(np.float64)
    assert counts[~wanted.kept].sum() == 0
    statistic, freedom = oracle.chi_square(counts, probabilities * draws)
    assert freedom > 50
    assert statistic < oracle.chi_square_bound(freedom)

    # Neighbouring positions, and the same position of neighbouring seeds, are independent.
    group = (np.cumsum(probabilities) * 6).astype(int).clip(max=5)
    share = np.bincount(group, weights=probabilities, minlength=6)
    grid = group[tokens].reshape(-1, 200)
    for first, second in ((grid[:, :-1], grid[:, 1:]), (grid[:-1], grid[1:])):
        pairs = np.bincount((first * 6 + second).ravel(), minlength=36).astype(np.float64)
        statistic, freedom = oracle.chi_square(pairs, np.outer(share, share).ravel() * first.size)
        assert statistic < oracle.chi_square_bound(freedom)


@pytest.mark.parametrize("recipe", [Recipe.proxy(1.5), Recipe.upscale().stabilise(delta_top_p=0.9)])
def test_ids_foreign_to_the_base_keep_the_tuned_models_probability(recipe: Recipe) -> None:
    rng = np.random.default_rng(7)
    rows = {role: rng.normal(0, 3, 50).astype(np.float32) for role in recipe.roles}
    foreign = [3, 49]
    found = oracle.log_softmax(Combiner(50, foreign=foreign)(rows, recipe).astype(np.float64))
    ordinary = oracle.log_softmax(Combiner(50)(rows, recipe).astype(np.float64))
    tuned = oracle.log_softmax(rows["tuned"].astype(np.float64))
    np.testing.assert_allclose(found[foreign], tuned[foreign], atol=1e-4)
    others = [i for i in range(50) if i not in foreign]
    np.testing.assert_allclose(
        oracle.log_softmax(found[others]), oracle.log_softmax(ordinary[others]), atol=1e-4
    )
    alone = Combiner(50, foreign=foreign)(rows, Recipe.single("base"))
    np.testing.assert_array_equal(alone, rows["base"])
    rows["tuned"][3] = 1e4  # certain of it
    assert int(Combiner(50, foreign=foreign)(rows, recipe).argmax()) == 3
