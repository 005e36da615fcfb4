"""Speculation changes speed and nothing else: texts and distributions on the demo trio.

Small versions of scripts/check_exactness.py. Equal texts need kernels that give a row the same
bits however many rows stand beside it; that is asked of this machine first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from exactness.chi_square import same_distribution
from exactness.texts import (
    GREEDY,
    SETTINGS,
    FixedCosts,
    Job,
    Text,
    answers,
    other_bits,
    uncertain_beginning,
)

from eftlocal import Emulator, Sampling, Speculation
from eftlocal.decoding.rounds import Rounds
from eftlocal.logits.sampling import Candidates, draw
from eftlocal.speculation.rules import RULES, Draft, Rejection
from eftlocal.study.questions import FOLDER, read

WIDTH = 16
LEAST = 1e-4
LENGTHS: tuple[int | None, ...] = (1, 2, 4, 8, 16, None)
ASKED = [q.text for q in read(FOLDER / "questions.json", "validation").questions[::35]]


@pytest.fixture(scope="module")
def trio(demo_files: dict[str, Path]) -> Iterator[Emulator]:
    with Emulator.from_files(**demo_files, n_ctx=256, n_seq_max=WIDTH, threads=1) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def same_bits(trio: Emulator) -> None:
    tokens = np.random.default_rng(0).integers(10, trio.ensemble.vocab_size - 10, 17).tolist()
    prompts = trio.tokenize(ASKED[0])
    for role, context in trio.ensemble.contexts.items():
        if found := other_bits(context, prompts[role], tokens, (1, 2, WIDTH)):
            pytest.skip(f"{role}: (sequences, rows) with other bits than one row: {found}")


@pytest.fixture
def rounds(trio: Emulator) -> Rounds:
    return Rounds(trio.ensemble, costs=FixedCosts(trio.roles))


def texts(
    trio: Emulator, rounds: Rounds, sampling: Sampling, speculation: Speculation
) -> list[Text]:
    return answers(
        rounds,
        [Job(trio.tokenize(q), sampling, i, speculation) for i, q in enumerate(ASKED)],
    )


def tokens(made: Sequence[Text]) -> list[tuple[int, ...]]:
    return [text.tokens for text in made]


@pytest.mark.usefixtures("same_bits")
@pytest.mark.parametrize("setting", [*SETTINGS, "greedy"])
def test_a_seed_gives_one_text_at_every_draft_length(
    setting: str, trio: Emulator, rounds: Rounds
) -> None:
    sampling = SETTINGS.get(setting, GREEDY)
    plain = texts(trio, rounds, sampling, Speculation(length=0))
    assert {source for text in plain for source in text.sources} == {"plain"}
    sources: Counter[str] = Counter()
    for length in LENGTHS:
        drafted = texts(trio, rounds, sampling, Speculation(length=length))
        assert tokens(drafted) == tokens(plain)
        sources.update(source for text in drafted for source in text.sources)
    # over all lengths: the answers are shorter than the longest drafts, which give no bonus
    assert min(sources["accepted"], sources["recovered"], sources["bonus"]) > 0


@pytest.mark.usefixtures("same_bits")
def test_greedy_texts_are_the_same_under_rejection(trio: Emulator, rounds: Rounds) -> None:
    plain = texts(trio, rounds, GREEDY, Speculation(length=0))
    for length in LENGTHS:
        drafted = texts(trio, rounds, GREEDY, Speculation(length=length, rule="rejection"))
        assert tokens(drafted) == tokens(plain)


# Rejection: the text differs, its distribution does not -------------------------------------------

Sample = tuple[Counter[Hashable], Counter[Hashable]]
NUMBER = 1_000


@pytest.fixture(scope="module")
def begun(trio: Emulator) -> dict[str, list[int]]:
    return uncertain_beginning(trio, ASKED)


def sample(
    trio: Emulator,
    begun: dict[str, list[int]],
    setting: str,
    length: int,
    rule: Rejection | None = None,
) -> Sample:
    """First three tokens, and whole answers, of many seeds; no two lengths share one."""
    drafting = Speculation(length=length, rule="rejection")
    made = answers(
        Rounds(trio.ensemble, rules={**RULES, "rejection": rule or Rejection()}),
        (
            Job(begun, SETTINGS[setting], (length + 1) * 10_000_000 + i, drafting, max_tokens=4)
            for i in range(NUMBER)
        ),
    )
    return Counter(text.tokens[:3] for text in made), Counter(text.tokens for text in made)


@pytest.fixture(scope="module")
def plain(trio: Emulator, begun: dict[str, list[int]]) -> dict[str, Sample]:
    return {setting: sample(trio, begun, setting, 0) for setting in SETTINGS}


@pytest.mark.parametrize(("setting", "length"), list(zip(SETTINGS, (4, 2, 3), strict=True)))
def test_rejection_leaves_the_distribution_of_answers(
    setting: str,
    length: int,
    trio: Emulator,
    begun: dict[str, list[int]],
    plain: dict[str, Sample],
) -> None:
    drafted = sample(trio, begun, setting, length)
    for without, with_ in zip(plain[setting], drafted, strict=True):
        p_value, cells = same_distribution(without, with_)
        assert cells > 1  # the coldest setting leaves two answers
        assert p_value > LEAST


class RecoversFromTheTarget(Rejection):
    """The classic mistake: after a refusal, a token of p instead of max(p - q, 0)."""

    def choose(
        self, target: Candidates, draft: Draft, seed: int, position: int
    ) -> tuple[int, bool]:
        token, accepted = super().choose(target, draft, seed, position)
        return (token, True) if accepted else (draw(target, seed, position, stream=2), False)


def test_a_wrong_rule_changes_the_answers(
    trio: Emulator, begun: dict[str, list[int]], plain: dict[str, Sample]
) -> None:
    setting = list(SETTINGS)[2]  # the warmest: most refusals
    drafted = sample(trio, begun, setting, 2, RecoversFromTheTarget())
    assert same_distribution(plain[setting][1], drafted[1])[0] < LEAST
