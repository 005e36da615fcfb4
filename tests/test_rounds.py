"""The loop with drafts: every recipe, every setting, every way to end, change or break in.

Under the coupled rule a text must be the one without drafts, token for token, on fake models, whose
rows have the same bits however many stand beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from exactness.texts import SETTINGS, FixedCosts
from fake_models import BOS, VOCAB, FakeModel, fake_emulator, fake_ensemble
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlocal import Emulator, Recipe, Sampling, Speculation
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.sequence import Choice, RunningSequence
from eftlocal.settings import MAX_DRAFT
from eftlocal.speculation.costs import Curve
from eftlocal.speculation.drafting import Plan, PromptLookup
from eftlocal.speculation.settings import OFF

QUESTION = "Where is San Bernardo?"
LENGTHS: tuple[int | None, ...] = (1, 2, 4, 8, 16, None)
WARM = Sampling(temperature=1.0, top_p=1.0)
RECIPES = {
    "upscale": Recipe.upscale(),
    "amplified and filtered": Recipe.upscale(1.3).stabilise(delta_top_p=0.9, plausibility=0.01),
    "proxy": Recipe.proxy(0.5),
    "proxy, away": Recipe.proxy(-0.3),
    "interpolate": Recipe.interpolate({"tuned": 0.6, "plain": 0.4}),
    "mix": Recipe.mix({"tuned": 0.6, "plain": 0.4}, 1.5),
    "realign": Recipe.realign(1.4),
    "contrast": Recipe.contrast(0.5),
    "downscale": Recipe.downscale(),
    "steer": Recipe.steer(1.5),
    "base": Recipe.single("base"),
}
ALONE = {"base"}  # recipes whose drafter would have nothing left to verify it


@pytest.fixture(scope="module", params=[(), ("tuned", "reference", "plain")], ids=["one", "two"])
def models(request: pytest.FixtureRequest) -> Emulator:
    """Roles of one vocabulary, and of two."""
    roles = ("base", "tuned", "reference", "plain")
    return fake_emulator(roles, others=request.param, n_seq_max=6)


def loop(emulator: Emulator) -> Rounds:
    return Rounds(emulator.ensemble, costs=FixedCosts(emulator.roles))


@pytest.fixture
def rounds(models: Emulator) -> Rounds:
    return loop(models)


def opened(emulator: Emulator, prompt: str = QUESTION, **options: Any) -> RunningSequence:
    options = {"recipe": Recipe.upscale(), "sampling": WARM, "seed": 3} | options
    return emulator.ensemble.open(emulator.tokenize(prompt), **options)


def finish(rounds: Rounds, sequences: Sequence[RunningSequence], most: int = 24) -> None:
    """Advances each to `most` tokens (or a few more), and closes all."""
    while running := [s for s in sequences if len(s.choices) < most and rounds.ensemble.room(s)]:
        rounds(running)
    for sequence in sequences:
        rounds.ensemble.close(sequence)


def tokens(rounds: Rounds, most: int = 24, **options: Any) -> list[int]:
    emulator = options.pop("emulator")
    sequence = opened(emulator, **options)
    finish(rounds, [sequence], most)
    return sequence.tokens()[:most]


# The same text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe(name: str, models: Emulator, rounds: Rounds) -> None:
    recipe = RECIPES[name]
    for i, sampling in enumerate((*SETTINGS.values(), Sampling(temperature=0.0))):
        options: dict[str, Any] = {"recipe": recipe, "sampling": sampling, "seed": i}
        plain = tokens(rounds, emulator=models, **options)
        for length in (1, 4, 16, None):
            sequence = opened(models, **options, speculation=Speculation(length=length))
            finish(rounds, [sequence])
            assert sequence.tokens()[:24] == plain
            if length is not None and name not in ALONE:
                totals = sequence.drafting.totals
                assert totals.drafts > totals.looked_up == 0


def test_a_mixture_drafts_for_two_tuned_roles(models: Emulator, rounds: Rounds) -> None:
    drafter = RECIPES["interpolate"].drafter
    assert drafter is not None and dict(drafter.weights) == {"tuned": 0.6, "plain": 0.4}
    assert RECIPES["base"].drafter is None


def test_logprobs_are_those_without_drafts(models: Emulator, rounds: Rounds) -> None:
    def told(speculation: Speculation) -> list[Choice]:
        sequence = opened(models, speculation=speculation, logprobs=True)
        while len(sequence.choices) < 24:
            rounds([sequence])
        models.ensemble.close(sequence)
        return [replace(choice, source="plain") for choice in sequence.choices[:24]]

    plain = told(OFF)
    assert all(choice.logprob is not None and choice.logprob <= 0.0 for choice in plain)
    for length in LENGTHS:
        assert told(Speculation(length=length)) == plain


def test_totals_are_those_of_the_choices(models: Emulator, rounds: Rounds) -> None:
    for length, rule in product(LENGTHS, ("coupled", "rejection")):
        sequence = opened(models, speculation=Speculation(length=length, rule=rule))  # type: ignore[arg-type]
        finish(rounds, [sequence], 40)
        totals, sources = sequence.drafting.totals, Counter(c.source for c in sequence.choices)
        assert sum(totals.accepted) == sources["accepted"]
        assert sources["accepted"] or models.ensemble.translations  # whose rows are strangers
        assert sum(totals.tried) == sources["accepted"] + sources["recovered"]
        # A draft that ends the answer is accepted whole and has no bonus.
        ended = totals.drafts - sources["recovered"] - sources["bonus"]
        assert 0 <= ended <= sum(c.token in models.ensemble.stop_tokens for c in sequence.choices)
        assert totals.rounds == totals.drafts + sources["plain"]
        assert totals.drafted >= sum(totals.tried)
        assert all(a <= t for a, t in zip(totals.accepted, totals.tried, strict=True))
        assert totals.tried[1:] == [min(t, a) for t, a in zip(totals.tried[1:], totals.accepted)]  # noqa: B905


# How answers end ----------------------------------------------------------------------------------


def answer(models: Emulator, length: int | None, **options: Any) -> tuple[object, ...]:
    options = {"sampling": Sampling(temperature=1.0, seed=11)} | options
    got = models.generate(QUESTION, speculation=Speculation(length=length), **options)
    return got.text, got.tokens, got.finish_reason, got.stop


@pytest.mark.parametrize("length", LENGTHS)
def test_end_tokens_limits_and_stop_strings_inside_a_draft(
    length: int | None, models: Emulator
) -> None:
    models.rounds = loop(models)
    whole = answer(models, 0)
    assert whole[2] == "stop" and answer(models, length) == whole
    text = str(whole[0])
    for most in range(1, 10):
        assert answer(models, length, max_tokens=most) == answer(models, 0, max_tokens=most)
    for start in range(2, len(text) - 3, 15):
        stop = [text[start : start + 3]]
        ended = answer(models, length, stop=stop)
        assert ended == answer(models, 0, stop=stop) and ended[3] in stop


@pytest.mark.parametrize("others", [(), ("tuned", "reference")])
def test_a_context_that_fills_inside_a_draft(others: tuple[str, ...]) -> None:
    emulator = fake_emulator(others=others)
    ends = dict.fromkeys(emulator.ensemble.stop_tokens, -np.inf)
    sampling = Sampling(temperature=1.0, top_p=1.0, seed=2, logit_bias=ends)
    emulator.rounds = loop(emulator)
    prompt = "Where is San Bernardo? " * 8
    got = [
        emulator.generate(prompt, sampling=sampling, speculation=Speculation(length=length))
        for length in (0, *LENGTHS)
    ]
    assert {answer.finish_reason for answer in got} == {"context"}
    assert 16 < len(got[0].tokens) < 200
    assert {answer.tokens for answer in got} == {got[0].tokens}


def test_a_cold_prompt_is_decoded_by_itself(models: Emulator, rounds: Rounds) -> None:
    """Kernels for many rows give other bits: drafts behind a prompt must not bring them in."""
    asked = " ".join(f"{QUESTION} {i}" for i in range(12))
    ids = models.tokenize(asked, raw=True)["base"]
    for count in (40, 56, 60, 63, 64, 100):
        texts = []
        for length in (0, 8, 16):
            for context in models.ensemble.contexts.values():
                for slot in range(context.n_seq_max):
                    context.clear(slot)
            sequence = models.ensemble.open(
                dict.fromkeys(models.roles, ids[:count]),
                recipe=Recipe.upscale(),
                sampling=WARM,
                seed=count,
                speculation=Speculation(length=length),
            )
            (first,) = rounds([sequence])
            assert [choice.source for choice in first] == ["plain"]
            finish(rounds, [sequence])
            texts.append(sequence.tokens()[:24])
        assert texts == [texts[0]] * 3


# Changes in the middle ----------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "recipe": Recipe.proxy(0.4),
    "sampling": replace(WARM, temperature=2.5, top_k=50, repeat_penalty=1.3),
    "speculation": Speculation(length=2),
}


@pytest.mark.parametrize("setting", CHANGES)
def test_a_change_at_every_index(setting: str, models: Emulator) -> None:
    models.rounds = loop(models)
    ends = dict.fromkeys(models.ensemble.stop_tokens, -np.inf)
    sampling, change = replace(WARM, seed=4, logit_bias=ends), CHANGES[setting]
    if setting == "sampling":
        change = replace(change, logit_bias=ends)

    def changed(at: int, length: int | None) -> tuple[int, ...]:
        with models.stream(
            QUESTION, sampling=sampling, max_tokens=14, speculation=Speculation(length=length)
        ) as stream:
            for step in stream:
                if step.index == at:
                    setattr(stream, setting, change)
            return stream.answer().tokens

    texts = set()
    for at in range(12):
        plain = changed(at, 0)
        texts.add(plain)
        assert len(plain) == 14
        for length in (1, 3, 8, None):
            assert changed(at, length) == plain
    assert len(texts) > 1 or setting == "speculation"


# Masks and lookups --------------------------------------------------------------------------------


def test_a_mask_that_depends_on_the_answer(models: Emulator, rounds: Rounds) -> None:
    size = models.ensemble.vocab_size

    def mask(before: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """No token beside one that the answer has, and other tokens at every position."""
        allowed = np.arange(size) % 3 != len(before) % 3
        allowed[list(before)] = False
        return allowed

    for recipe in ("upscale", "contrast", "base"):
        options: dict[str, Any] = {"mask": mask, "recipe": RECIPES[recipe]}
        plain = tokens(rounds, emulator=models, **options)
        assert len(set(plain)) == 24
        for length, source in product(LENGTHS, ("auto", "lookup")):
            drafting = Speculation(length=length, source=source)  # type: ignore[arg-type]
            assert tokens(rounds, emulator=models, **options, speculation=drafting) == plain


def test_a_mask_stands_where_the_plausibility_cut_leaves_nothing_of_it(
    models: Emulator, rounds: Rounds
) -> None:
    recipe = Recipe.upscale().stabilise(plausibility=0.5)
    plain = tokens(rounds, emulator=models, recipe=recipe)

    def mask(before: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """None of the tokens that the cut leaves, at every third position."""
        allowed = np.ones(models.ensemble.vocab_size, dtype=np.bool_)
        if len(before) % 3 == 1:
            allowed[:] = False
            allowed[20:40] = True
        return allowed

    found = [
        tokens(rounds, emulator=models, recipe=recipe, mask=mask, speculation=drafting)
        for drafting in (OFF, Speculation(length=4), Speculation(length=4, source="lookup"))
    ]
    assert found[0] != plain and all(20 <= token < 40 for token in found[0][1::3])
    assert found[1:] == found[:1] * 2


@pytest.mark.parametrize("rule", ["coupled", "rejection"])
@pytest.mark.parametrize("length", [4, None])
def test_a_drafter_that_can_give_nothing_of_a_mask_drafts_nothing(
    length: int | None, rule: Any
) -> None:
    class Barred(FakeModel):
        """Some of its tokens are impossible; of negative weight, it bars nobody from them."""

        def _row(self, tokens: tuple[int, ...]) -> Any:
            row = super()._row(tokens)
            row[20:40] = -np.inf
            return row

    def mask(before: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Only those of them, at every third position."""
        return (np.arange(VOCAB) // 20 == 1) | (len(before) % 3 != 1)

    roles = ("base", "tuned", "reference")
    models = {role: (Barred if role == "tuned" else FakeModel)(role) for role in roles}
    rounds = Rounds(fake_ensemble(models), costs=FixedCosts(roles))

    def told(speculation: Speculation) -> RunningSequence:
        sequence = rounds.ensemble.open(
            {role: [BOS, 9, 30, 7] for role in roles},
            recipe=Recipe.proxy(-0.3),
            sampling=WARM,
            seed=3,
            mask=mask,
            ends=frozenset(),
            speculation=speculation,
        )
        finish(rounds, [sequence])
        return sequence

    plain, drafted = told(OFF), told(Speculation(length=length, rule=rule, source="model"))
    assert all(20 <= token < 40 for token in drafted.tokens()[1::3])
    assert length is None or drafted.drafting.totals.drafts > 0
    assert rule == "rejection" or drafted.tokens()[:24] == plain.tokens()[:24]


def test_a_looked_up_draft_across_the_end_of_a_delta_that_outweighs_its_anchor(
    models: Emulator, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.contrast(-1.0).stabilise(first_tokens=2)  # the anchor's weight is 0
    plain = tokens(rounds, emulator=models, recipe=recipe)
    sequence = opened(
        models, recipe=recipe, speculation=Speculation(length=4, source="lookup"), ends=frozenset()
    )
    monkeypatch.setattr(
        PromptLookup, "find", lambda _, length: (plain[len(sequence.choices) :][:length], 3)
    )
    finish(rounds, [sequence])
    assert sequence.tokens()[:24] == plain
    assert sequence.drafting.totals.acceptance == 1.0


def test_lookups_read_one_conversation_whatever_the_recipe_becomes(
    models: Emulator, rounds: Rounds
) -> None:
    ids = models.tokenize(QUESTION)
    ids["base"] = [*ids["base"][:1], *ids["base"]]  # positions differ between roles
    sequence = models.ensemble.open(
        ids,
        recipe=Recipe.upscale().stabilise(first_tokens=4),
        sampling=WARM,
        speculation=Speculation(length=2, source="lookup"),
    )
    whole = []
    for _ in range(12):
        if len(sequence.choices) > 6:
            sequence.recipe = Recipe.single("tuned")
        before = sequence.tokens()
        rounds([sequence])
        lookup = sequence.drafting.lookup
        whole.append(not len(lookup) or len(lookup) == len(ids["base"]) + len(before))
    models.ensemble.close(sequence)
    assert all(whole) and len(lookup)


@pytest.mark.parametrize("rule", ["coupled", "rejection"])
@pytest.mark.parametrize("length", [1, 4, 16, None])
def test_looked_up_drafts(length: int | None, rule: Any, models: Emulator, rounds: Rounds) -> None:
    told = answer(models, 0, sampling=Sampling(temperature=0.0), max_tokens=14)[0]
    prompt = f"{QUESTION}\nAnswer:{told}\n{QUESTION}\nAnswer:{told}\n{QUESTION}\nAnswer:"
    # The prompt's own tokens come again: a bias towards what follows in it stands for a model
    # that quotes.
    quoted = models.tokenize(f"{prompt}{told}", raw=True)["base"]
    ids = models.tokenize(prompt, raw=True)

    def mask(before: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        allowed = np.ones(models.ensemble.vocab_size, dtype=np.bool_)
        at = len(ids["base"]) + len(before)
        if at < len(quoted) and len(before) % 5 != 4:
            allowed[:] = False
            allowed[quoted[at]] = True
        return allowed

    def text(speculation: Speculation) -> RunningSequence:
        sequence = models.ensemble.open(
            ids,
            recipe=Recipe.upscale(),
            sampling=Sampling(temperature=0.0),
            mask=mask,
            speculation=speculation,
        )
        finish(rounds, [sequence], 14)
        return sequence

    drafted = text(Speculation(length=length, rule=rule, source="lookup"))
    assert drafted.tokens()[:14] == text(OFF).tokens()[:14]
    totals = drafted.drafting.totals
    assert totals.drafts == totals.looked_up > 0
    assert sum(totals.accepted) > 0


@given(
    st.lists(st.integers(0, 2), max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.integers(1, 16),
)
def test_lookup_against_a_search(known: list[int], cuts: list[int], length: int) -> None:
    lookup = PromptLookup()
    edges = sorted({0, len(known), *(min(cut, len(known)) for cut in cuts)})
    for start, end in pairwise(edges):
        lookup.extend(known[start:end])
    assert len(lookup) == len(known)
    last = known[-3:]
    starts = [i for i in range(3, len(known)) if known[i - 3 : i] == last]
    expected: tuple[list[int], int] = [], 0
    if len(known) >= 3 and starts:
        start = starts[-1]
        agreed = 3
        while agreed < 16 and agreed < start and known[start - agreed - 1] == known[-agreed - 1]:
            agreed += 1
        expected = known[start : start + length], agreed
    assert lookup.find(length) == expected
    lookup.clear()
    assert lookup.find(length) == ([], 0) and len(lookup) == 0


# Draft lengths ------------------------------------------------------------------------------------

seconds = st.floats(0.01, 10.0)
chances = st.floats(0.0, 1.0)


@settings(max_examples=200)
@given(
    st.tuples(seconds, seconds),
    st.lists(seconds, min_size=MAX_DRAFT + 1, max_size=MAX_DRAFT + 1),
    st.integers(0, MAX_DRAFT),
    st.integers(0, MAX_DRAFT),
    st.lists(chances, min_size=MAX_DRAFT, max_size=MAX_DRAFT),
    st.tuples(chances, chances),
)
def test_the_best_length_against_all_lengths(
    draft: tuple[float, float],
    verify: list[float],
    made: int,
    more: int,
    before: list[float],
    ahead: tuple[float, float],
) -> None:
    most = min(MAX_DRAFT, made + more)
    each = [*before[:made], ahead[0], *[ahead[1]] * MAX_DRAFT]
    plan = Plan(draft[0], draft[1], verify, verify)

    def rate(k: int) -> float:
        """E_k / C_k: the row after the last draft made is at hand, that after a later one not."""
        all_accepted = [float(np.prod(each[:j])) for j in range(k + 1)]
        decodes = made + 1 if k == made else k
        last = 0.0 if k == made else draft[1] * all_accepted[k]
        return sum(all_accepted) / (decodes * draft[0] + last + verify[k])

    so_far = [float(np.prod(each[:j])) for j in range(made + 1)]
    length, promised = plan.longest(most, *ahead, made=made, chances=so_far[-1], tokens=sum(so_far))
    assert made <= length <= most
    assert promised == pytest.approx(rate(length))
    assert promised == pytest.approx(max(rate(k) for k in range(made, most + 1)))


@given(
    st.lists(seconds, min_size=MAX_DRAFT + 1, max_size=MAX_DRAFT + 1),
    st.integers(0, MAX_DRAFT),
    chances,
)
def test_the_best_lookup_against_all_lengths(
    together: list[float], most: int, chance: float
) -> None:
    length, promised = Plan(1.0, 1.0, together, together).lookup(most, chance)
    rates = [sum(chance**j for j in range(k + 1)) / together[k] for k in range(most + 1)]
    assert promised == pytest.approx(rates[length]) == pytest.approx(max(rates))


@given(st.dictionaries(st.integers(1, 40), st.floats(1e-6, 10.0), min_size=2), st.integers(1, 300))
def test_costs_between_and_beyond_measured_points(points: dict[int, float], rows: int) -> None:
    curve, known = Curve(points), sorted(points)
    cost = curve(rows)
    assert cost > 0.0  # rates divide by it
    if rows in points:
        assert cost == points[rows]
    elif known[0] < rows < known[-1]:
        assert cost == pytest.approx(float(np.interp(rows, known, [points[n] for n in known])))
    elif rows > known[-1]:
        assert points[known[-1]] <= cost <= curve(rows + 1)
