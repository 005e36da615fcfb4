"""The grid of an evaluation: its notation, and the points that it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from grids import points
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.errors import UsageError
from eftlocal.evaluation.grid import (
    AXES,
    LARGE,
    MOST,
    SMALL,
    compared,
    parse_dial,
    parse_dials,
    shown,
    varied,
)
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling

# The grid's notation -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0,0.5,1", (0, 0.5, 1)),
        ("0:2:0.5", (0, 0.5, 1, 1.5, 2)),
        ("0:1:0.1", (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)),
        ("0:1:0.4", (0, 0.4, 0.8)),
        ("1:-1:-1", (1, 0, -1)),
        ("0:1:0.5,1,3", (0, 0.5, 1, 3)),
        (" 1 , -.5 ", (1, -0.5)),
        ("1e-3", (0.001,)),
        ("-0", (0,)),
        ("10000000000000000000000000006", (1e28,)),
    ],
)
def test_values(text: str, values: tuple[float, ...]) -> None:
    assert parse_dial("beta", text) == values


@pytest.mark.parametrize(
    "text",
    ["", "1,", "x", "nan", "inf", "0:1", "0:1:0", "1:0:0.5", "0:1:2:3", "0:1e9:1", "1_0", "١"],
)
def test_values_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--beta") as refused:
        parse_dial("beta", text)
    assert "\n" not in str(refused.value)


@given(st.integers(-99, 99), st.integers(0, 60), st.sampled_from(["0.25", "0.1", "1", "0.01"]))
def test_a_range_has_both_ends_and_no_rounding(start: int, steps: int, step: str) -> None:
    stop = f"{start + steps * float(step):.10g}"
    found = parse_dial("beta", f"{start}:{stop}:{step}")
    assert found == tuple(float(f"{start + i * float(step):.10g}") for i in range(steps + 1))


@given(st.lists(st.floats(-1e9, 1e9).filter(lambda v: not 0 < abs(v) < 1e-90), min_size=1))
def test_a_list_is_read_back(values: list[float]) -> None:
    text = ",".join(f"{value:.17g}" for value in values)
    assert parse_dial("beta", text) == tuple(dict.fromkeys(v + 0.0 for v in values))


@given(st.text(alphabet="0123456789.:,;=-+einfratuced _", max_size=30), st.sampled_from([*AXES]))
def test_any_text_is_read_or_refused(text: str, dial: str) -> None:
    try:
        found = parse_dials({dial: text})
    except UsageError:
        return
    assert 1 <= len(found[dial]) <= 31 * MOST
    assert all(isinstance(shown(value), str) for value in found[dial])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0:1:0.5", (0, 0.5, 1)),
        ("a=0.3,b=0.7", ({"a": 0.3, "b": 0.7},)),
        ("a=0,b=1;a=0.5,b=0.5", ({"a": 0, "b": 1}, {"a": 0.5, "b": 0.5})),
        ("a=0:1:0.5,b=rest", ({"a": 0, "b": 1}, {"a": 0.5, "b": 0.5}, {"a": 1, "b": 0})),
        ("a=0,0.9,b=rest", ({"a": 0, "b": 1}, {"a": 0.9, "b": 0.1})),
        ("a=0:1:1,b=0:1:1,c=rest", ({"a": 0, "b": 0, "c": 1}, {"a": 0, "b": 1, "c": 0},
                                    {"a": 1, "b": 0, "c": 0})),
    ],
)  # fmt: skip
def test_lambdas(text: str, values: tuple[Any, ...]) -> None:
    assert parse_dial("lambda", text) == values


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a=rest,b=rest", "a and b cannot both take the rest"),
        ("a=0,a=1", "'a' is given twice"),
        ("0,a=1", "it must begin with ROLE="),
        ("a=,b=rest", "neither a number nor a range"),
        ("=1", "'' is no name of a role"),
        ("a=2,b=rest", "no combination leaves a rest"),
        ("a=0:1:0.01,b=0:1:0.01,c=rest", "more than 1000 points"),
        ("a,b:5", "neither a number"),
    ],
)
def test_lambdas_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_dial("lambda", text)


@given(st.integers(1, 40))
def test_a_line_through_the_simplex_sums_to_one(n: int) -> None:
    for found in parse_dial("lambda", f"a=0:1:{1 / n:.6f},b=rest"):
        assert isinstance(found, Mapping) and sum(found.values()) == pytest.approx(1, abs=1e-15)
        Recipe.interpolate(found)


def test_recipes_and_limits() -> None:
    found = parse_dials({"recipe": "upscale,proxy;base=1,tuned=1,reference=-1",
                         "delta_top_p": "0.9,off", "first_tokens": "4,off"})  # fmt: skip
    assert found == {
        "recipe": ("upscale", "proxy", "base=1,tuned=1,reference=-1"),
        "delta_top_p": (0.9, 1.0),
        "first_tokens": (4, None),
    }
    with pytest.raises(UsageError, match=r"--top-k 1\.5: 1\.5 is not a whole number") as refused:
        parse_dials({"top_k": "1.5", "beta": "x", "recipe": "a,,b"})
    assert str(refused.value).count(" | ") == 2  # all faults at once


# The grid ----------------------------------------------------------------------------------------


def test_every_combination_the_first_dial_slowest() -> None:
    grid = points(beta="0,1", temperature="0.5,1")
    assert [p.label() for p in grid] == [
        "beta 0, temperature 0.5", "beta 0, temperature 1",
        "beta 1, temperature 0.5", "beta 1, temperature 1",
    ]  # fmt: skip
    assert varied(points(beta="0,1", temperature="1")) == ("beta",)
    assert len(points()) == 1


def test_what_a_recipe_refuses_is_told_together() -> None:
    with pytest.raises(UsageError) as refused:
        points(recipe="upscale,proxy,upscal", beta="0,1", top_p="0.5,2")
    lines = str(refused.value).split(" | ")
    assert lines == [
        "top_p is 2.0; it must be a number above 0 and at most 1, or off (2 points)",
        "recipe proxy has no beta; it takes alpha (4 points)",
        *[line for line in lines if line.startswith("unknown recipe 'upscal'")],
    ]
    assert len(lines) == 3
    with pytest.raises(UsageError, match="the grid has 1000000 points"):
        points(beta="1:1000:1", temperature="1:1000:1")


def test_points_of_one_meaning_have_one_key() -> None:
    same = points(beta="1", temperature="0")[0].key
    assert points(recipe="upscale", temperature="0")[0].key == same
    assert points(temperature="0", top_p="0.5")[0].key == same  # greedy: nothing to filter
    assert points(beta="1", temperature="1")[0].key != same
    assert len({p.key for p in points(temperature="1", top_p="0.5,0.9,1")}) == 3


def test_models_to_compare_with_are_no_points_of_the_grid() -> None:
    small, large = compared([SMALL, LARGE], Sampling(temperature=0.0))
    assert small.key != large.key  # two files in one role
    assert points(recipe="tuned", temperature="0")[0].key == small.key
    assert varied([*points(beta="0,1"), small, large]) == ("beta",)
    assert [p.label() for p in (small, large)] == ["small tuned", "large tuned"]
