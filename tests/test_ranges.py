"""The range of every number: what is refused, what is off, and that no corner breaks a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlocal import Recipe, Sampling
from eftlocal.errors import EngineError, UsageError
from eftlocal.kinds import OFF
from eftlocal.logits.combine import Combiner
from eftlocal.logits.race import draw
from eftlocal.logits.recipe_text import MIXTURES, NAMED, parse_recipe
from eftlocal.logits.step import Step
from eftlocal.settings import LIMITS, RANGES

pytestmark = pytest.mark.filterwarnings("error")  # numpy's would reach a user's screen

SAMPLED = tuple(name for name in RANGES if name in Sampling.__dataclass_fields__)
DRAWN = tuple(name for name in SAMPLED if name != "logit_bias")
DIALS = (*LIMITS, *DRAWN)


def made(name: str, value: Any) -> Any:
    """What a recipe or a sampling makes of a dial's value."""
    if name in LIMITS:
        return getattr(Recipe.upscale().stabilise(**{name: value}), name)
    return getattr(Sampling(**{name: value}), name)


def beyond(name: str) -> list[Any]:
    limits = RANGES[name]
    wrong = [math.nan, -math.inf, True, False, "0.7", "", b"1", [1], {}, 1j, 10**400, -(10**400)]
    wrong += [limits.least - 1, limits.most + 1, 1e39, -1e300, np.bool_(True), np.array([0.5, 0.5])]
    wrong += [limits.least] * limits.above + [limits.most] * limits.below + [0.5] * limits.whole
    wrong += [math.inf] * (limits.off != math.inf)
    return wrong


@pytest.mark.parametrize("name", DIALS)
def test_what_is_out_of_range_is_refused_by_name_and_range(name: str) -> None:
    for wrong in beyond(name):
        with pytest.raises(UsageError) as refused:
            made(name, wrong)
        told = str(refused.value)
        most = f"{RANGES[name].most} or less"  # the rule of a count does not name its end
        assert told.startswith(f"{name} is ") and told.endswith((RANGES[name].rule, most))
        assert len(told) < 160 and "\n" not in told


@pytest.mark.parametrize("name", DIALS)
def test_numpys_numbers_are_taken(name: str) -> None:
    limits = RANGES[name]
    inside = 1 if limits.whole else 0.5
    kinds = (np.int64, np.int32, np.uint8) if limits.whole else (np.float64, np.float32, np.float16)
    for kind in kinds:
        value = made(name, kind(inside))
        assert value == inside and type(value) is (int if limits.whole else float)


@pytest.mark.parametrize(
    ("text", "dials", "told"),
    [
        (None, {"beta": 1e39}, "beta is 1e+39; it must be a number from -100 to 100"),
        (None, {"alpha": -101}, "alpha is -101; it must be"),
        ("realign", {"lambda_": math.nan}, "lambda is nan; it must be"),
        ("contrast", {"strength": 1e300}, "strength is 1e+300; it must be"),
        ("interpolate", {"lambda_": {"tuned": True}}, "lambda of tuned is True; it must be"),
        ("base=1e39,tuned=-1e39", {"any_sum": True}, "weight of base is 1e+39; it must be"),
    ],
)
def test_the_dials_of_recipes(text: str | None, dials: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_recipe(text, **dials)
    assert str(refused.value).startswith(told)


def test_every_dial_of_a_recipe_may_go_to_its_ends() -> None:
    for name, (_, takes, _) in NAMED.items():
        for end in (-100.0, 100.0):
            if takes and name not in MIXTURES:
                dials = {("lambda_" if d == "lambda" else d): end for d in takes if d in RANGES}
                parse_recipe(name, **dials, persona="You." if "persona" in takes else None)


def test_a_bias_bans_or_is_in_range() -> None:
    assert dict(Sampling(logit_bias={np.int64(3): np.float32(-math.inf)}).logit_bias) == {
        3: -math.inf
    }
    for wrong in (math.inf, math.nan, 1001, True, "1", None, 10**400):
        with pytest.raises(UsageError, match="logit_bias of token 3 is"):
            Sampling(logit_bias={3: wrong})
    for token in (-1, 1.0, "3", True, None):
        with pytest.raises(UsageError, match="is not a token id"):
            Sampling(logit_bias={token: 1.0})  # type: ignore[dict-item]


# Corners ------------------------------------------------------------------------------------------

TINY = float(np.nextafter(0.0, 1.0))
BELOW_1 = float(np.nextafter(1.0, 0.0))
SIZE = 12


def corners(name: str) -> list[Any]:
    """The ends of a range, what lies next to them, and off."""
    limits = RANGES[name]
    off = [] if name in ("temperature", "logit_bias") or name not in DIALS else [OFF]
    if limits.whole:
        return [*off, int(limits.least), int(limits.most), 1, 2]
    inner = [x for x in (1e-320, 1e-30, 1e-7, 1e-6, 1.0, 3.0) if limits.least < x < limits.most]
    ends = [limits.least] * (not limits.above) + [limits.most] * (not limits.below)
    return [*off, *ends, *inner, *([TINY, BELOW_1] if limits.most == 1.0 else [])]


def one_of(name: str) -> st.SearchStrategy[Any]:
    return st.sampled_from(corners(name))


FLOATS = [3.4e38, -3.4e38, 1e30, -1e4, 0.0, -0.0, 1.0, 1e-30, math.nan, math.inf, -math.inf]
ROWS = st.fixed_dictionaries(
    {
        role: st.lists(st.sampled_from(FLOATS), min_size=SIZE, max_size=SIZE)
        | st.lists(st.sampled_from([0.0, 1.0, 5.0, -5.0, -math.inf]), min_size=SIZE, max_size=SIZE)
        for role in ("base", "tuned", "reference")
    }
)
WEIGHTS = st.tuples(*(st.sampled_from(corners("weight")) for _ in range(3))).filter(any)


@settings(max_examples=400)
@given(
    ROWS,
    WEIGHTS | one_of("alpha"),
    st.fixed_dictionaries({name: one_of(name) for name in LIMITS}),
    st.fixed_dictionaries({name: one_of(name) for name in DRAWN if name != "seed"}),
    st.dictionaries(st.integers(0, SIZE - 1), st.sampled_from([-math.inf, -1000.0, 1000.0])),
    st.dictionaries(st.integers(0, SIZE - 1), st.sampled_from([1, 1_000_000]), max_size=4),
)
def test_no_corner_overflows_or_draws_what_is_impossible(
    values: dict[str, list[float]],
    weights: Any,
    limits: dict[str, Any],
    drawn: dict[str, Any],
    bias: dict[int, float],
    counts: dict[int, int],
) -> None:
    if isinstance(weights, tuple):
        named = dict(zip(("base", "tuned", "reference"), weights, strict=True))
        recipe = Recipe(named, any_sum=True)
    else:
        recipe = Recipe.dials(0.0 if weights == OFF else weights, 100.0)
    recipe = recipe.stabilise(**limits).at(1)
    sampling = Sampling(**drawn, logit_bias=bias)
    rows = {role: np.array(row, np.float32) for role, row in values.items()}
    combiner = Combiner(SIZE, stop_tokens=[2], foreign=[7], unusable=[11])
    possible = combiner(rows, recipe).copy() > -np.inf
    banned = [token for token, added in bias.items() if added == -math.inf]
    uncut = combiner(rows, recipe.uncut).copy() > -np.inf
    uncut[banned] = False
    try:
        row, candidates = Step(combiner)(rows, recipe, sampling, counts)
    except EngineError:
        assert not uncut.any()
        return
    assert not np.isnan(row).any() and not np.isposinf(row).any()
    possible[banned] = False
    _, probabilities = candidates.probabilities()
    assert np.isfinite(probabilities).all() and probabilities.sum() == pytest.approx(1.0)
    for seed in range(3):
        token = draw(candidates, seed, 0)
        assert (possible if possible.any() else uncut)[token]
