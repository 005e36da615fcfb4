"""Verdicts: what the words claim against the definitions in float64, for every kind of recipe."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import oracle
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eftlocal import Emulator, Recipe, Sampling
from eftlocal.logits.combine import Combiner
from eftlocal.logits.recipe_text import parse_recipe
from eftlocal.study.influence import compare, inspect, tips
from eftlocal.study.inspection import COMBINATION, Candidate, InspectedToken
from eftlocal.study.verdict import Verdict, named, percent, tally, verdict, verdicts

ROLES = ("base", "tuned", "reference", "warm", "unguided")
NONE = np.empty(0, dtype=np.intp)
NEAR = 1e-3  # nats: what is nearer to a tie may be rounded to either side
RECIPES = [
    *(Recipe.upscale(beta) for beta in (0.0, 0.5, 1.0, 2.0)),
    *(Recipe.proxy(alpha) for alpha in (0.4, 1.5)),
    *(Recipe.steer(alpha) for alpha in (-1.0, 2.0)),
    *(Recipe.realign(lambda_) for lambda_ in (0.0, 0.5, 1.0, 2.5)),
    Recipe.dials(0.3, 0.3),
    Recipe.downscale(),
    Recipe.contrast(0.7),
    Recipe.contrast(0.7).stabilise(plausibility=0.3),
    Recipe.guidance(1.5),
    Recipe.interpolate({"tuned": 0.25, "warm": 0.75}),
    Recipe.single("base"),
    parse_recipe("base=1,tuned=1", any_sum=True),
    parse_recipe("base=-1,tuned=2"),
    parse_recipe("base=-1", any_sum=True),
    Recipe.upscale(1.5).stabilise(delta_clip=0.5),
    Recipe.upscale(1.5).stabilise(delta_top_p=0.7, plausibility=0.1),
    Recipe.proxy(1.5).stabilise(unsure_below=0.4),
]


def judged(
    rows: dict[str, NDArray[np.float32]], token: int, recipe: Recipe, *, made: bool = True
) -> Verdict:
    """The verdict of the program's own path: combined, compared, told."""
    size = len(rows["base"])
    combiner = Combiner(size)
    combined = combiner({role: rows[role] for role in recipe.roles}, recipe)
    names = (*rows, COMBINATION)
    scored = [(token, {**rows, COMBINATION: combined})]
    found = compare(scored, size, names, [], 3, NONE, tips(recipe, combiner))
    candidates = {
        name: tuple(
            Candidate(i, f" w{i}", float(np.exp(logprob)))
            for i, logprob in zip(found.ids[d, 0].tolist(), found.id_logprobs[d, 0], strict=True)
            if i >= 0
        )
        for d, name in enumerate(names)
    }
    seen = InspectedToken(
        index=0,
        token=token,
        text=f" w{token}",
        label=f" w{token}",
        control=False,
        logprobs=dict(zip(names, found.logprobs[:, 0].tolist(), strict=True)),
        ranks=dict(zip(names, found.ranks[:, 0].tolist(), strict=True)),
        distances={},
        candidates=candidates,
        won="",
        subtracted=bool(found.subtracted[0]),
    )
    return verdict(seen, recipe, made=made)


def first(x: NDArray[np.float64], token: int) -> bool:
    """Whether the token is the most probable one; cases that rounding decides are left out."""
    best = np.sort(x[x > -np.inf])
    assume(len(best) < 2 or best[-1] - best[-2] > NEAR)  # one that alone is possible has no rival
    return bool(x[token] == best[-1])


def in_numbers(text: str) -> dict[str, str]:
    return dict(re.findall(r"([a-z ]+?)(?: alone)? ([<>]?\d+%)(?:, |$)", text))


def agrees(shown: str, probability: float, *, within: float = 1e-5) -> bool:
    if shown == "<1%":
        return probability < 0.01 + within
    if shown == ">99%":
        return probability > 0.99 - within
    return abs(probability - int(shown[:-1]) / 100) <= 0.005 + within


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@given(seed=st.integers(0, 2**32 - 1), made=st.booleans(), impossible=st.booleans())
def test_a_verdict_claims_what_the_definitions_say(
    recipe: Recipe, seed: int, made: bool, impossible: bool
) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(3, 8))
    shared = rng.normal(0.0, 1.5, size)
    rows = {
        role: (shared * rng.uniform(0, 2) + rng.normal(0.0, 1.0, size)).astype(np.float32)
        for role in ROLES
    }
    if impossible:
        rows["base"][rng.integers(size)] = -np.inf
    token = int(rng.integers(size))

    combined = oracle.combine(rows, recipe, size)
    chances = {role: oracle.softmax(row.astype(np.float64)) for role, row in rows.items()}
    together = oracle.softmax(combined.row)
    assume(all(np.allclose(oracle.softmax(x), together, atol=1e-6) for x in combined.others))
    up = {role: w for role, w in recipe.weights.items() if w > 0}
    down = {role for role, w in recipe.weights.items() if w < 0}
    held = {role for role in up if first(rows[role].astype(np.float64), token)}

    said = judged(rows, token, recipe, made=made)

    if not first(combined.row, token):
        assert said.kind == ("sampled" if made else "given")
        assert not said.cause and set(said.by) == held
        best = int(combined.row.argmax())
        assert f"“w{best}” (" in said.words and "decided" not in said.words
    elif up and held == set(up):
        assert said.kind == ("agreed" if len(up) > 1 else "own") and set(said.by) == held
        assert not said.cause
    elif held:
        assert said.kind == "decided" and set(said.by) == held
        assert said.words.endswith("decided")
    else:
        tipped = bool(down)
        if down and up:
            without = Recipe(up, any_sum=True, anchor=recipe.anchor, judge=recipe.judge)
            plain = oracle.combine(rows, without.limited_as(recipe), size)
            tipped = not first(plain.row, token)
            assume(all(first(x, token) != tipped for x in plain.others))
        assert said.kind == ("subtraction" if tipped else "compromise")
        assert set(said.by) == (down if tipped else set())

    if "knowledge" in said.words:
        assert "base" in held and recipe.weights["reference"] < 0
    if "tuning" in said.words:
        assert held == {"tuned"} and recipe.weights["reference"] != 0
    if "both agreed" in said.words:
        assert len(up) == len(held) == 2
    told = in_numbers(said.numbers)
    expected = {**{role: float(p[token]) for role, p in chances.items()}}
    expected |= {"together": float(together[token])}
    expected["without instructions"] = expected["unguided"]
    assert told.keys() >= {role for role in up if role != "unguided"}
    for name, shown in told.items():
        assert agrees(shown, expected[name]), (name, shown, expected[name])


def told(
    recipe: Recipe, *, made: bool = True, tipped: bool = False, **chances: tuple[float, int]
) -> str:
    """A verdict of probabilities and ranks."""
    seen = InspectedToken(
        index=0,
        token=0,
        text=" France",
        label=" France",
        control=False,
        logprobs={name: float(np.log(p)) for name, (p, _) in chances.items()},
        ranks={name: rank for name, (_, rank) in chances.items()},
        distances={},
        candidates={COMBINATION: (Candidate(1, " Spain", 0.61),)},
        won="",
        subtracted=tipped,
    )
    return f"{named(seen.label)}: {verdict(seen, recipe, made=made)}"


UP = Recipe.upscale()


def test_the_words() -> None:
    up = {"tuned": (0.03, 7), "base": (0.41, 1), "reference": (0.2, 2), "combination": (0.88, 1)}
    assert (
        told(UP, **up)
        == "“France”: tuned alone 3%, base 41%, together 88%: the base's knowledge decided"
    )
    assert told(Recipe.downscale(), **up).endswith("together 88%: the base decided")
    up["tuned"] = (0.5, 1)
    assert told(UP, **up).endswith("both agreed")
    assert told(Recipe.proxy(), **up).startswith("“France”: base alone 41%, tuned 50%, together")
    up["base"] = (0.001, 90)
    assert told(UP, **up).endswith("base <1%, together 88%: the tuning decided")
    up["tuned"] = (0.3, 2)
    assert told(UP, **up).endswith("a compromise, the first choice of neither")
    assert told(UP, tipped=True, **up).endswith(
        "base <1%, reference 20%, together 88%: subtracting the reference decided"
    )
    up["combination"] = (0.2, 3)
    assert told(UP, **up).endswith("sampled against all; together “Spain” (61%) was likelier")
    assert told(UP, made=False, **up).endswith("together 20%: the emulation prefers “Spain” (61%)")
    up["tuned"] = (0.5, 1)
    assert told(UP, **up).endswith(
        "sampled; the tuned model's first choice, but together “Spain” (61%) was likelier"
    )
    assert told(UP, made=False, **up).endswith(
        "the tuned model's first choice, but the emulation prefers “Spain” (61%)"
    )
    alone = {"tuned": (0.5, 1), "combination": (0.5, 1)}
    assert told(Recipe.single("tuned"), **alone) == (
        "“France”: tuned alone 50%: the first choice of the tuned model"
    )
    guided = {"tuned": (0.1, 4), "unguided": (0.6, 1), "combination": (0.4, 1)}
    assert told(Recipe.guidance(1.0), tipped=True, **guided) == (
        "“France”: tuned alone 10%, without instructions 60%, together 40%: "
        "the instructions decided"
    )
    turned = {"unguided": (0.6, 1), "combination": (0.6, 1)}
    assert told(Recipe.guidance(-1.0), **turned) == (
        "“France”: without instructions alone 60%: "
        "the first choice of the model without instructions"
    )


@pytest.mark.parametrize(
    ("label", "shown"),
    [(" a", "“a”"), (" ", "“␣”"), ("\n", "“↵”"), ("\x1b[1m", "“\ufffd[1m”"), ("’s", "“’s”")],
)
def test_tokens_are_shown_safely(label: str, shown: str) -> None:
    assert named(label) == shown


def test_percentages_that_are_not_whole_say_so() -> None:
    shown = [percent(p) for p in (0.0, 1e-9, 0.0099, 0.01, 0.416, 0.99, 0.996, 1.0)]
    assert shown == ["0%", "<1%", "<1%", "1%", "42%", "99%", ">99%", "100%"]


@pytest.mark.parametrize(
    "recipe",
    [UP, Recipe.realign(1.5), Recipe.steer(-1.0), Recipe.proxy(2.0).stabilise(first_tokens=4)],
    ids=str,
)
def test_numbers_are_those_that_the_emulator_scores(demo: Emulator, recipe: Recipe) -> None:
    prompt = "In which country is Toulouse?"
    sampling = Sampling(seed=1, temperature=1.0)
    found = inspect(demo, prompt, recipe=recipe, sampling=sampling, max_tokens=24)
    said = verdicts(found)
    scored = demo.logprobs(found.text, prompt=prompt, recipe=recipe)
    assert scored.tokens == found.ids[: len(scored.tokens)]
    for i, one in enumerate(said[: len(scored.tokens)]):
        told = in_numbers(one.numbers)
        # Rows of one decode differ from rows of another in their last bits: see ARCHITECTURE.md.
        for role in told.keys() & scored.roles.keys():
            assert agrees(told[role], float(np.exp(scored.roles[role][i])), within=2e-3)
        if "together" in told:
            assert agrees(told["together"], float(np.exp(scored.logprobs[i])), within=2e-3)
    kinds = Counter(one.kind for one in said)
    if recipe.first_tokens is not None:  # afterwards the base alone speaks
        assert {one.kind for one in said[4:]} <= {"own", "sampled"}
    elif recipe is UP:
        assert {"agreed", "decided"} <= kinds.keys()
    line = tally(said)
    moved = sum(bool(one.cause) for one in said)
    assert line.startswith(f"{moved} of {len(said)} tokens moved: " if moved else "")


def test_an_answer_in_one_line() -> None:
    def one(kind: str, cause: str = "") -> Verdict:
        return Verdict(kind, (), cause, "", "the first choice of the base")  # type: ignore[arg-type]

    both = [one("agreed")] * 68
    knew, tuned = one("decided", "the base's knowledge"), one("decided", "the tuning")
    assert tally([*both, *[knew] * 9, *[tuned] * 3]) == (
        "12 of 80 tokens moved: 9 by the base's knowledge, 3 by the tuning"
    )
    assert tally([one("agreed")]) == "none of 1 token moved"
    assert (
        tally([*both, one("sampled")]) == "none of 69 tokens moved; 1 sampled, not the first choice"
    )
    assert tally([*both, one("given")]).endswith("; at 1 the emulation prefers another")
    assert tally([one("own")]) == "1 of 1 token is the first choice of the base"
    assert tally([one("own")] * 3) == "3 of 3 tokens are the first choice of the base"
