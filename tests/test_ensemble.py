"""The roles kept in step: prefix reuse, several sequences, lagging roles, scoring."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from eftlocal import Emulator, Recipe, Sampling, Speculation
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.score import text_rows
from eftlocal.decoding.sequence import RunningSequence, Wanted
from eftlocal.errors import EngineError, PromptError
from eftlocal.loading.roles import RoleSource
from eftlocal.speculation.costs import Costs, Curve

GREEDY = Sampling(temperature=0.0)
FIRST, SECOND = list(range(20, 60)), list(range(100, 117))


@pytest.fixture
def ensemble(tiny: Emulator, monkeypatch: pytest.MonkeyPatch) -> Ensemble:
    linear = Costs({role: Curve({1: 1.0, 17: 17.0}) for role in tiny.roles})
    monkeypatch.setattr(tiny.ensemble, "costs", linear)  # so that no call is padded
    for context in tiny.ensemble.contexts.values():
        for slot in range(context.n_seq_max):
            context.clear(slot)
    return tiny.ensemble


def start(ensemble: Ensemble, prompt: list[int], recipe: Recipe | None = None) -> RunningSequence:
    prompts = dict.fromkeys(ensemble.contexts, prompt)
    return ensemble.open(prompts, recipe=recipe or Recipe.upscale(), sampling=GREEDY)


def answer(ensemble: Ensemble, prompt: list[int], rounds: int = 12) -> list[int]:
    sequence = start(ensemble, prompt)
    for _ in range(rounds):
        Rounds(ensemble)([sequence])
    ensemble.close(sequence)
    return sequence.tokens()


def decoded(ensemble: Ensemble) -> dict[str, int]:
    return {role: context.decoded for role, context in ensemble.contexts.items()}


def test_a_second_turn_decodes_only_what_is_new(ensemble: Ensemble) -> None:
    reply = answer(ensemble, FIRST, rounds=8)
    before = decoded(ensemble)
    second = start(ensemble, [*FIRST, *reply, *SECOND])
    Rounds(ensemble)([second])
    # The last token of the first reply was never fed: it is decoded with the new ones.
    new = len(SECOND) + 1
    assert {role: n - before[role] for role, n in decoded(ensemble).items()} == dict.fromkeys(
        ensemble.contexts, new
    )
    assert set(second.reused.values()) == {len(FIRST) + len(reply) - 1}
    ensemble.close(second)


def test_the_same_prompt_again_decodes_one_token(ensemble: Ensemble) -> None:
    first = answer(ensemble, FIRST)
    sequence = start(ensemble, FIRST)
    assert set(sequence.reused.values()) == {len(FIRST) - 1}
    ensemble.close(sequence)
    assert answer(ensemble, FIRST) == first


def test_prompts_longer_than_a_batch(ensemble: Ensemble) -> None:
    prompt = [20 + i % 200 for i in range(150)]  # batches hold 32
    sequence = start(ensemble, prompt)
    Rounds(ensemble)([sequence])
    assert all(len(c.tokens(sequence.slot)) == 150 for c in ensemble.contexts.values())
    ensemble.close(sequence)


def test_sequences_side_by_side_answer_as_alone(ensemble: Ensemble) -> None:
    prompts = [FIRST, SECOND, [*FIRST[:30], 77], [5]]
    alone = [answer(ensemble, prompt) for prompt in prompts]
    together = [start(ensemble, prompt) for prompt in prompts]
    assert len({sequence.slot for sequence in together}) == 4
    with pytest.raises(EngineError, match="all 4 sequences are running"):
        start(ensemble, FIRST)
    for _ in range(12):
        Rounds(ensemble)(together)
    for sequence in together:
        ensemble.close(sequence)
    assert [sequence.tokens() for sequence in together] == alone


def test_sequences_with_recipes_of_their_own(ensemble: Ensemble) -> None:
    alone = start(ensemble, FIRST, Recipe.single("base"))
    for _ in range(6):
        Rounds(ensemble)([alone])
    ensemble.close(alone)
    before = decoded(ensemble)
    beside = [start(ensemble, FIRST, Recipe.single("base")), start(ensemble, SECOND)]
    for _ in range(6):
        Rounds(ensemble)(beside)
    for sequence in beside:
        ensemble.close(sequence)
    assert beside[0].tokens() == alone.tokens()
    after = decoded(ensemble)
    assert after["tuned"] - before["tuned"] == len(SECOND) + 5  # the first never needed it


def test_a_role_that_lagged_catches_up(ensemble: Ensemble) -> None:
    changed = start(ensemble, FIRST, Recipe.single("base"))
    for _ in range(5):
        Rounds(ensemble)([changed])
    assert len(ensemble.contexts["tuned"].tokens(changed.slot)) == 0
    changed.recipe = Recipe.upscale()
    Rounds(ensemble)([changed])
    lengths = {len(context.tokens(changed.slot)) for context in ensemble.contexts.values()}
    assert lengths == {len(FIRST) + 5}
    ensemble.close(changed)


def test_a_failing_open_keeps_its_slot(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(ensemble, FIRST)
    context = type(ensemble.contexts["tuned"])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(context, "rewind", interrupted)
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                start(ensemble, FIRST)
    sequences = [start(ensemble, FIRST) for _ in range(4)]
    for sequence in sequences:
        ensemble.close(sequence)


def test_a_role_that_cannot_rewind_starts_anew(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an interrupt between decoding and drawing, on a recurrent model."""
    undisturbed = answer(ensemble, FIRST)
    sequence = start(ensemble, FIRST)
    Rounds(ensemble)([sequence])
    context = ensemble.contexts["tuned"]
    # Decoded, but nothing was drawn.
    ensemble.decode({role: [Wanted(sequence)] for role in ensemble.contexts})
    monkeypatch.setattr(type(context), "can_rewind", lambda self, slot, length: length == 0)
    while len(sequence.choices) < 12:
        Rounds(ensemble)([sequence])
    ensemble.close(sequence)
    assert sequence.tokens() == undisturbed


def test_scoring_in_small_batches(tiny_files: dict[str, Path]) -> None:
    sources = {
        role: RoleSource(path, prompt="plain", n_ctx=64, n_batch=8, threads=1)
        for role, path in tiny_files.items()
    }
    with Emulator.from_sources(sources) as small:
        scored = small.logprobs("a text of more than eight tokens, it seems", prompt="Well?")
    assert len(scored.tokens) > 8 and np.isfinite(scored.logprobs).all()


def test_prompts_that_do_not_fit_are_refused_with_the_numbers(ensemble: Ensemble) -> None:
    with pytest.raises(
        PromptError, match="the prompt of base has 256 tokens and its context holds 256"
    ):
        start(ensemble, [7] * 256)
    with pytest.raises(PromptError, match="the prompt of base is empty"):
        start(ensemble, [])


def test_logprobs_of_a_round_are_those_of_scoring(ensemble: Ensemble) -> None:
    sampled = Sampling(temperature=1.0, repeat_penalty=1.2, presence_penalty=0.3)
    prompts = dict.fromkeys(ensemble.contexts, FIRST)
    sequence = ensemble.open(
        prompts, recipe=Recipe.upscale(1.5), sampling=sampled, seed=4, logprobs=True
    )
    told = [Rounds(ensemble)([sequence])[0][0].logprob for _ in range(40)]
    ensemble.close(sequence)
    scored = []
    recipe, tokens = Recipe.upscale(1.5), sequence.tokens()
    for token, row, rows in text_rows(ensemble, prompts, tokens, recipe=recipe):
        scored.append(float(row[token]) - float(np.logaddexp.reduce(row.astype(np.float64))))
        assert set(rows) == {"base", "tuned", "reference"}
    assert len(scored) == 40 and not ensemble.running
    assert told == pytest.approx(scored, abs=0.02)


def test_a_check_ends_prompts_and_they_are_read_on(ensemble: Ensemble) -> None:
    wanted = answer(ensemble, FIRST * 2)
    for context in ensemble.contexts.values():
        context.clear(0)
    sequence = start(ensemble, FIRST * 2)
    left = iter(range(40))
    ensemble.check = partial(next, left)
    try:
        with pytest.raises(StopIteration):
            Rounds(ensemble)([sequence])
    finally:
        ensemble.check = None
    assert not sequence.choices
    for _ in range(12):
        Rounds(ensemble)([sequence])
    assert sequence.tokens() == wanted
    ensemble.close(sequence)


def test_what_is_read_is_told(ensemble: Ensemble) -> None:
    for context in ensemble.contexts.values():
        context.clear(0)
    sequence, told = start(ensemble, FIRST * 2), list[dict[str, tuple[int, int]]]()

    def on_read(of: RunningSequence) -> None:
        told.append({role: of.reading(role) for role in ensemble.contexts})

    ensemble.on_read = on_read
    try:
        Rounds(ensemble)([sequence])
        whole = {role: len(sequence.prompts[role]) for role in ensemble.contexts}
        for role, count in whole.items():
            counts = [each[role][0] for each in told]
            assert {each[role][1] for each in told} == {count}
            assert counts == sorted(counts)
            assert (counts[0], counts[-1]) == (0, count - 1)  # the last is a round's
        held = len(told)
        Rounds(ensemble)([sequence])
        assert len(told) == held  # an answer's own tokens are not read
        ensemble.close(sequence)
        told.clear()
        tokens = [5, 6, 7] * 16
        rows = text_rows(ensemble, sequence.prompts, tokens, recipe=Recipe.upscale())
        assert len(list(rows)) == 48
        assert told[-1] == {role: (count + 47, count + 48) for role, count in whole.items()}
        assert max(done for done, _ in told[0].values()) < min(whole.values()) + 48
    finally:
        ensemble.on_read = None


def test_a_failing_role_ends_the_prompts_of_the_others(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Side by side, nobody waits for seconds to see an error, or an interrupt."""
    first, *others = ensemble.contexts.values()
    begun, failed = threading.Event(), threading.Event()

    def fail(*_: object) -> None:
        begun.wait(30)
        failed.set()
        raise EngineError("out of memory")

    def check() -> None:
        begun.set()
        failed.wait(30)

    monkeypatch.setattr(first, "decode", fail)
    monkeypatch.setattr(ensemble, "check", check)
    before = [context.decoded for context in others]
    with ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(ensemble, "pool", pool)
        monkeypatch.setattr(ensemble, "side_by_side", True)
        sequence = start(ensemble, FIRST * 2)
        with pytest.raises(EngineError, match="out of memory"):
            Rounds(ensemble)([sequence])
    ensemble.close(sequence)
    assert [context.decoded for context in others] == before


def test_roles_side_by_side_answer_as_in_turn(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn = answer(ensemble, FIRST)
    drafting = Speculation(length=3)
    with ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(ensemble, "pool", pool)
        monkeypatch.setattr(ensemble, "side_by_side", True)
        ensemble.contexts["base"].clear(0)
        assert answer(ensemble, FIRST) == in_turn
        sequence = start(ensemble, FIRST)
        sequence.speculation = drafting
        while len(sequence.choices) < 12:
            Rounds(ensemble)([sequence])
        ensemble.close(sequence)
        assert sequence.tokens()[:12] == in_turn

        sequence = start(ensemble, FIRST)

        def failing(*_: object) -> None:
            raise EngineError("out of order")

        with monkeypatch.context() as patch:
            patch.setattr(type(ensemble.contexts["base"]), "decode", failing)
            with pytest.raises(EngineError, match="out of order"):
                Rounds(ensemble)([sequence])
        while len(sequence.choices) < 12:
            Rounds(ensemble)([sequence])
        ensemble.close(sequence)
        assert sequence.tokens() == in_turn
