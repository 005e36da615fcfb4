"""Speculation changes speed and nothing else: texts and distributions.

Distributions on fake models, against the exact one by the papers' formulas; texts on the demo trio
too, where kernels give a row the same bits however many rows stand beside it. scripts/
check_exactness.py asks the same of the demo at length.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from exactness.chi_square import goodness_of_fit
from exactness.rules import RecoversFromTheTarget
from exactness.texts import GREEDY, SETTINGS, FixedCosts, Job, answers, other_bits
from fake_models import EOS, TRIO, FakeModel, fake_emulator, fake_ensemble, native, translation

from eftlocal import Emulator, Recipe, Sampling, Speculation
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.score import text_rows
from eftlocal.decoding.sequence import RunningSequence
from eftlocal.evaluation.questions import FOLDER, read
from eftlocal.llama import Span
from eftlocal.logits.step import Step
from eftlocal.speculation.rules import RULES, Rule
from eftlocal.speculation.settings import OFF

LENGTHS: tuple[int | None, ...] = (1, 2, 4, 8, 16, None)
LEAST = 1e-4  # p-value
NUMBER = 1_000

# The distribution of answers ----------------------------------------------------------------------

SIZE, LENGTH = 6, 4
MODELS = {role: FakeModel(role, vocab_size=SIZE, sharp=0.7) for role in TRIO}
CROSSED = {  # the pair's tokens are others
    role: FakeModel(role, vocab_size=len(pieces), sharp=0.7, pieces=pieces)
    for role, pieces in {
        "base": ("", "", "a", "b", "ab", "bba"),
        **dict.fromkeys(TRIO[1:], ("", "", *"ab", "aa", "ba", "bb", "aab", "abb", "bab", "bbaa")),
    }.items()
}
PROMPTS = {"base": [2, 3, 4, 2, 3], "tuned": [0, 2, 3, 4, 2, 3], "reference": [0, 0, 2, 3]}
WARM = {
    "warm": (Recipe.upscale(), Sampling(temperature=1.0, top_p=1.0)),
    "filtered": (
        Recipe.proxy(1.4).stabilise(delta_top_p=0.9, first_tokens=3),
        Sampling(temperature=1.2, top_k=5, top_p=0.95, repeat_penalty=1.2, presence_penalty=0.2),
    ),
}


@cache
def ensemble(crossed: bool = False) -> Ensemble:
    """Of one vocabulary, or of two."""
    models, of_another = (CROSSED, TRIO[1:]) if crossed else (MODELS, ())
    others = {role: translation(models[role], models["base"], "ab") for role in of_another}
    return fake_ensemble(models, n_ctx=64, n_seq_max=16, translations=others)


def probabilities(
    answer: tuple[int, ...], recipe: Recipe, sampling: Sampling, crossed: bool
) -> Iterable[float]:
    """Of the token after an answer: by the oracle, or from the translated rows of a plain pass."""
    if crossed:
        found = np.zeros(SIZE)
        passed = text_rows(ensemble(crossed), PROMPTS, [*answer, EOS], recipe=recipe)
        for _, _, rows in passed:
            last = {role: row.copy() for role, row in rows.items()}
        _, choice = Step(ensemble(crossed).combine)(last, recipe, sampling, Counter(answer))
        ids, p = choice.probabilities()
        found[ids] = p
        return found.tolist()
    rows = {role: MODELS[role].row((*PROMPTS[role], *answer)) for role in recipe.roles}
    combined = oracle.combine(rows, recipe, SIZE, stop_tokens=[EOS])
    kept = oracle.step(combined, recipe, sampling, Counter(answer))[0]
    return kept.probabilities(kept.kept)


@cache
def exact(setting: str, crossed: bool = False) -> dict[tuple[int, ...], float]:
    """The probability of every answer, in float64."""
    recipe, sampling = WARM[setting]
    found: dict[tuple[int, ...], float] = {}

    def grow(answer: tuple[int, ...], probability: float) -> None:
        if len(answer) == LENGTH or EOS in answer:
            found[answer] = probability
            return
        at = recipe.at(len(answer))
        for token, p in enumerate(probabilities(answer, at, sampling, crossed)):
            if p > 0.0:
                grow((*answer, token), probability * float(p))

    grow((), 1.0)
    return found


def p_value(
    setting: str,
    speculation: Speculation,
    rule: Rule | None = None,
    number: int = NUMBER,
    *,
    crossed: bool = False,
) -> float:
    recipe, sampling = WARM[setting]
    rules = {**RULES, rule.name: rule} if rule else RULES
    rounds = Rounds(ensemble(crossed), costs=FixedCosts(TRIO), rules=rules)
    jobs = (
        Job(PROMPTS, sampling, 1_000_003 * i + 17, speculation, recipe, LENGTH)
        for i in range(number)
    )
    texts = answers(rounds, jobs)
    accepted = sum(sum(text.totals.accepted) for text in texts)
    tried = sum(sum(text.totals.tried) for text in texts)
    assert speculation.off or not crossed or 0 < accepted < tried
    counts = Counter(text.tokens for text in texts)
    expected = exact(setting, crossed)
    assert counts.keys() <= expected.keys()
    return goodness_of_fit([counts[answer] for answer in expected], expected.values())


DRAFTS = {
    "no drafts": OFF,
    "coupled 3": Speculation(length=3),
    "rejection 1": Speculation(length=1, rule="rejection"),
    "rejection 3": Speculation(length=3, rule="rejection"),
    "rejection, looked up": Speculation(length=2, rule="rejection", source="lookup"),
    "rejection, auto": Speculation(rule="rejection"),
}


@pytest.mark.parametrize("drafts", DRAFTS)
@pytest.mark.parametrize("setting", WARM)
def test_answers_have_the_distribution_of_the_formulas(setting: str, drafts: str) -> None:
    assert len(exact(setting)) > 200
    assert sum(exact(setting).values()) == pytest.approx(1.0)
    assert p_value(setting, DRAFTS[drafts]) > LEAST


@pytest.mark.parametrize("drafts", [name for name in DRAFTS if "looked up" not in name])
def test_a_text_in_another_vocabulary_is_a_proposal(drafts: str) -> None:
    assert p_value("warm", DRAFTS[drafts], crossed=True) > LEAST


@pytest.mark.parametrize(("crossed", "number"), [(False, 2_500), (True, 500)])
def test_a_wrong_rule_is_seen(crossed: bool, number: int) -> None:
    wrong = RecoversFromTheTarget()
    assert p_value("warm", DRAFTS["rejection 3"], wrong, number, crossed=crossed) < LEAST


# Texts: many seeds, lengths and neighbours --------------------------------------------------------

RECIPES = (
    Recipe.upscale(),
    Recipe.upscale(1.3).stabilise(delta_top_p=0.9, plausibility=0.01),
    Recipe.proxy(-0.3).stabilise(delta_clip=2.0),
    Recipe.realign(1.4).stabilise(first_tokens=7),
    Recipe.contrast(0.5).stabilise(unsure_below=0.7),
    Recipe.single("base"),
)
SAMPLINGS = (*SETTINGS.values(), GREEDY)


def kind(seed: int) -> dict[str, Any]:
    """What a sequence of this seed is asked for, without drafts."""
    return {
        "prompts": {
            role: [2 + (seed + i) % 60 for i in range(5 + extra)] for extra, role in enumerate(TRIO)
        },
        "recipe": RECIPES[seed % len(RECIPES)],
        "sampling": SAMPLINGS[seed % len(SAMPLINGS)],
        "seed": seed,
        "ends": frozenset(),
    }


def alone(rounds: Rounds, seed: int, count: int) -> list[int]:
    sequence = rounds.ensemble.open(**kind(seed))
    while len(sequence.choices) < count:
        rounds([sequence])
    rounds.ensemble.close(sequence)
    return sequence.tokens()


@pytest.mark.parametrize("rewinds", [True, False])
def test_a_text_is_its_seeds_whatever_comes_goes_moves_or_breaks_beside_it(
    rewinds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafts of every length, up to five neighbours, slots changed, Ctrl-C in a decode."""
    emulator = fake_emulator(n_seq_max=6, rewinds=rewinds)
    rounds = Rounds(emulator.ensemble, costs=FixedCosts(TRIO))
    chance, count = random.Random(7), 20
    seeds = range(60 if rewinds else 12)
    wanted = {seed: alone(rounds, seed, count) for seed in seeds}
    waiting, running, done = list(seeds), list[RunningSequence](), 0
    interrupts = accepted = 0

    def disturb() -> None:
        if chance.random() < 0.02:
            raise KeyboardInterrupt

    def watched(spans: Sequence[Span], *rest: Any) -> Any:
        padded.extend(span for span in spans if span.padding)
        return decode(spans, *rest)

    context = emulator.ensemble.contexts["base"]
    padded, decode = list[Span](), context.decode
    monkeypatch.setattr(context, "decode", watched)
    monkeypatch.setattr(native, "disturb", disturb)
    while waiting or running:
        while waiting and len(running) < 6 and chance.random() < 0.5:
            length = chance.choice(LENGTHS) if rewinds else 0
            drafts = Speculation(length=length, source=chance.choice(["auto", "model", "lookup"]))
            running.append(
                rounds.ensemble.open(**kind(waiting.pop()), speculation=drafts, max_tokens=count)
            )
        some = [s for s in running if chance.random() < 0.8]
        if some and emulator.ensemble.free and chance.random() < 0.1:
            emulator.ensemble.move(some[0], emulator.ensemble.free[-1])
        before = [s.tokens() for s in some]
        try:
            rounds(some)
        except KeyboardInterrupt:
            interrupts += 1
            assert [s.tokens() for s in some] == before
        for sequence in [s for s in running if len(s.choices) >= count]:
            running.remove(sequence)
            rounds.ensemble.close(sequence)
            accepted += sum(choice.source == "accepted" for choice in sequence.choices)
            assert sequence.tokens() == wanted[sequence.seed][:count], sequence.seed
            done += 1
    assert done == len(seeds) and interrupts > 5 and (accepted > 200) == rewinds
    assert padded if rewinds else not padded


# The demo, on llama.cpp ---------------------------------------------------------------------------

ASKED = [q.text for q in read(FOLDER / "questions.json", "validation").questions[::70]]


@pytest.fixture(scope="module")
def trio(demo_files: dict[str, Path]) -> Iterator[Emulator]:
    with Emulator.from_files(**demo_files, n_ctx=256, n_seq_max=8, threads=1) as emulator:
        tokens = np.random.default_rng(0).integers(10, emulator.ensemble.vocab_size - 10, 17)
        prompts = emulator.tokenize(ASKED[0])
        for role, context in emulator.ensemble.contexts.items():
            if found := other_bits(context, prompts[role], tokens.tolist(), (1, 2, 8)):
                pytest.skip(f"{role}: (sequences, rows) with other bits than one row: {found}")
        yield emulator


@pytest.mark.parametrize("rule", ["coupled", "rejection"])
def test_a_seed_gives_one_text_at_every_draft_length(rule: Any, trio: Emulator) -> None:
    """Under rejection, of greedy texts only."""
    rounds = Rounds(trio.ensemble, costs=FixedCosts(trio.roles))
    settings = [*SETTINGS.values(), GREEDY] if rule == "coupled" else [GREEDY]

    def texts(length: int | None) -> list[Any]:
        return answers(
            rounds,
            [
                Job(trio.tokenize(asked), sampling, i, Speculation(length=length, rule=rule))
                for i, asked in enumerate(ASKED)
                for sampling in settings
            ],
        )

    plain, sources = texts(0), Counter[str]()
    assert {source for text in plain for source in text.sources} == {"plain"}
    for length in LENGTHS:
        drafted = texts(length)
        assert [text.tokens for text in drafted] == [text.tokens for text in plain]
        sources.update(source for text in drafted for source in text.sources)
    # over all lengths: the answers are shorter than the longest drafts, which give no bonus
    assert min(sources["accepted"], sources["recovered"], sources["bonus"]) > 0
