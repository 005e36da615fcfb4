"""The Python API: streams, stops, seeds, chat turns, dials turned mid-answer, scoring."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eftlocal
from eftlocal import Defaults, Emulator, Recipe, Sampling, Speculation
from eftlocal.errors import ModelFileError, PromptError, UsageError, VocabularyError
from eftlocal.generation import Generation
from eftlocal.llama import Context, Span
from eftlocal.loading.roles import RoleSource
from eftlocal.speculation.costs import Costs, Curve

GREEDY = Sampling(temperature=0.0)
QUESTION = "What is the capital of Peru?"


def test_a_stream_gives_the_answer_bit_by_bit(smol: Emulator) -> None:
    stream = smol.stream(QUESTION, sampling=GREEDY, max_tokens=24)
    steps = list(stream)
    answer = smol.generate(QUESTION, sampling=GREEDY, max_tokens=24)
    assert "".join(step.text for step in steps) == answer.text == str(answer)
    assert tuple(step.token for step in steps) == answer.tokens
    assert [step.index for step in steps] == list(range(len(steps)))
    assert [step.finish_reason for step in steps[:-1]] == [None] * (len(steps) - 1)
    assert steps[-1].finish_reason == answer.finish_reason == "stop"
    assert answer.timing.tokens == len(steps)
    assert 0 < answer.timing.first_token <= answer.timing.seconds
    cut = smol.generate(QUESTION, sampling=GREEDY, max_tokens=3)
    assert cut.tokens == answer.tokens[:3] and cut.finish_reason == "length"


def test_a_second_turn_prefills_only_what_is_new(
    demo: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.measure()  # or the first answer does, and takes the place of the costs given here
    linear = Costs({role: Curve({1: 1.0, 17: 17.0}) for role in demo.roles})
    monkeypatch.setattr(demo.ensemble, "costs", linear)  # so that no call is padded
    messages: list[eftlocal.Message] = [{"role": "user", "content": QUESTION}]
    first = demo.chat(messages, sampling=GREEDY, max_tokens=60)
    before = {role: context.decoded for role, context in demo.ensemble.contexts.items()}
    turn = [
        *messages,
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "And of Chile?"},
    ]
    second = demo.stream(turn, sampling=GREEDY, max_tokens=1)  # type: ignore[arg-type]
    next(second)
    for role, context in demo.ensemble.contexts.items():
        prompt = second.timing.prompt_tokens[role]
        reused = second.timing.reused_tokens[role]
        assert context.decoded - before[role] == prompt - reused
        assert reused >= first.timing.prompt_tokens[role] + len(first.tokens) - 2


def test_a_conversation_in_openais_form(demo: Emulator) -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "a finch?"}]
    given = [
        {"role": "developer", "content": "Rhyme."},
        {"role": "user", "content": parts, "name": "Ada"},
    ]
    own = [
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "What is\na finch?"},
    ]
    options = {"sampling": Sampling(temperature=0.0), "max_tokens": 4}
    assert demo.chat(given, **options).tokens == demo.chat(own, **options).tokens
    assert demo.tokenize(given) == demo.tokenize(own)
    assert demo.logprobs("A", prompt=given).tokens == demo.logprobs("A", prompt=own).tokens


def test_seeds(smol: Emulator) -> None:
    hot = Sampling(temperature=1.2, top_p=1.0, seed=5)
    first = smol.generate(QUESTION, sampling=hot, max_tokens=12)
    assert first.seed == 5
    assert smol.generate(QUESTION, sampling=hot, max_tokens=12).tokens == first.tokens
    drawn = smol.generate(QUESTION, sampling=Sampling(temperature=1.2, top_p=1.0), max_tokens=12)
    again = Sampling(temperature=1.2, top_p=1.0, seed=drawn.seed)
    assert smol.generate(QUESTION, sampling=again, max_tokens=12).tokens == drawn.tokens


def test_stop_strings_are_held_back_across_tokens(smol: Emulator) -> None:
    whole = smol.generate(QUESTION, sampling=GREEDY, max_tokens=24).text
    stop = whole[7:15]
    stream = smol.stream(QUESTION, sampling=GREEDY, max_tokens=24, stop=[stop])
    texts = [step.text for step in stream]
    answer = stream.answer()
    assert "".join(texts) == answer.text == whole[: whole.index(stop)]
    assert (answer.finish_reason, answer.stop) == ("stop", stop)


def biased(token: int) -> Sampling:
    """Nothing but this token is drawn."""
    return Sampling(temperature=0.0, logit_bias={token: 1000.0})


def test_an_end_token_ends_and_is_not_text(smol: Emulator) -> None:
    end = smol.models["tuned"].eos
    assert end is not None
    answer = smol.generate(QUESTION, sampling=biased(end))
    assert (answer.text, answer.tokens, answer.finish_reason) == ("", (end,), "stop")


def test_characters_split_over_tokens_come_whole(smol: Emulator) -> None:
    """Bias forces the bytes of one emoji, one token after the other."""
    ids = smol.models["tuned"].tokenize("🙂")
    assert len(ids) > 1
    stream = smol.stream("Say it.", sampling=GREEDY, max_tokens=len(ids))
    texts = []
    for token in ids:
        stream.sampling = biased(token)
        texts.append(next(stream).text)
    assert texts == [""] * (len(ids) - 1) + ["🙂"]
    unfinished = smol.generate("Say it.", sampling=biased(ids[0]), max_tokens=1)
    assert unfinished.text == "\N{REPLACEMENT CHARACTER}"


def test_a_full_context_ends_the_answer(tiny: Emulator) -> None:
    answer = tiny.generate("word " * 40, raw=True, sampling=Sampling(1.5, top_p=1.0, seed=1))
    assert answer.finish_reason == "context"
    prompt = answer.timing.prompt_tokens["base"]
    assert prompt + len(answer.tokens) == tiny.ensemble.n_ctx


def test_the_recipe_can_change_in_the_middle(demo: Emulator) -> None:
    stream = demo.stream(QUESTION, recipe=Recipe.single("tuned"), sampling=GREEDY, max_tokens=8)
    start = [next(stream).token for _ in range(3)]
    stream.recipe = Recipe.single("base")
    rest = [step.token for step in stream]
    alone = demo.generate(QUESTION, recipe=Recipe.single("tuned"), sampling=GREEDY, max_tokens=8)
    assert start == list(alone.tokens[:3])
    ids = demo.tokenize(QUESTION)
    expected = []
    for _ in rest:
        sequence = demo.ensemble.open(
            {role: [*ids[role], *start, *expected] for role in ids},
            recipe=Recipe.single("base"),
            sampling=GREEDY,
        )
        expected.append(demo.rounds([sequence])[0][0].token)
        demo.ensemble.close(sequence)
    assert rest == expected
    with pytest.raises(UsageError, match="needs the role warm"):
        stream.recipe = Recipe.interpolate({"tuned": 0.5, "warm": 0.5})


def test_a_stream_left_early_leaves_a_usable_emulator(smol: Emulator) -> None:
    whole = smol.generate(QUESTION, sampling=GREEDY, max_tokens=10)
    for step in smol.stream(QUESTION, sampling=GREEDY, max_tokens=10):
        if step.index == 3:
            break
    stream = smol.stream(QUESTION, sampling=GREEDY, max_tokens=10)
    next(stream)
    stream.close()
    assert stream.answer().finish_reason is None and list(stream) == []
    assert smol.generate(QUESTION, sampling=GREEDY, max_tokens=10).tokens == whole.tokens


def test_a_stream_in_a_with_block_is_closed(smol: Emulator) -> None:
    with smol.stream(QUESTION, sampling=GREEDY) as stream:
        next(stream)
    with smol.stream(QUESTION, sampling=GREEDY, recipe="tuned", max_tokens=2) as again:
        assert again.recipe.roles == ("tuned",)
        assert len(list(again)) == 2


def test_nothing_is_lost_between_a_round_and_its_step(
    smol: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = smol.generate(QUESTION, sampling=GREEDY, max_tokens=8)
    stream = smol.stream(QUESTION, sampling=GREEDY, max_tokens=8)
    real, calls = Generation.take, 0

    def flaky(self: Generation, index: int) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(self, index)

    monkeypatch.setattr(Generation, "take", flaky)
    next(stream), next(stream)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert [step.index for step in stream] == list(range(2, 8))
    assert stream.answer().text == whole.text and stream.answer().tokens == whole.tokens


def test_an_interrupt_leaves_a_usable_emulator(
    smol: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = smol.generate(QUESTION, sampling=GREEDY, max_tokens=10)
    context = smol.ensemble.contexts["tuned"]
    real, calls = type(context).decode, 0

    def flaky(self: object, spans: object, *more: Any) -> object:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return real(self, spans, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(type(context), "decode", flaky)
    with pytest.raises(KeyboardInterrupt):
        smol.generate(QUESTION, sampling=GREEDY, max_tokens=10)
    assert smol.generate(QUESTION, sampling=GREEDY, max_tokens=10).tokens == whole.tokens


def test_logprobs_of_an_answer_and_of_its_text_agree(smol: Emulator) -> None:
    answer = smol.generate(QUESTION, sampling=GREEDY, max_tokens=20, logprobs=True)
    assert answer.logprobs is not None and answer.finish_reason == "stop"
    scored = smol.logprobs(answer.text, prompt=QUESTION)
    assert scored.tokens == answer.tokens[:-1]  # the end token has no text
    assert b"".join(scored.pieces).decode() == answer.text
    assert scored.logprobs == pytest.approx(np.array(answer.logprobs[:-1]), abs=0.3)
    assert scored.greedy.mean() > 0.8  # decoded many rows at once: other kernels, other rounding
    assert set(scored.roles) == {"base", "tuned", "reference"}
    assert scored.roles["base"] == pytest.approx(scored.logprobs, abs=1e-3)


def test_logprobs_of_a_text_by_itself(tiny: Emulator, smol: Emulator) -> None:
    text = "Many words, more than are scored at once. " * 3
    scored = tiny.logprobs(text, recipe=Recipe.single("base"))
    assert b"".join(scored.pieces).decode() == text
    model = tiny.models["base"]
    assert model.bos is not None and model.adds_bos
    whole = [model.bos, *scored.tokens]
    with Context(model, n_ctx=256, n_threads=1) as alone:
        rows = alone.decode([Span(0, whole, len(whole))]).astype(np.float64)
        for i, token in enumerate(scored.tokens):
            expected = rows[i][token] - np.logaddexp.reduce(rows[i])
            assert scored.logprobs[i] == pytest.approx(expected, abs=0.05)
    # A model without BOS has nothing before the first token, so that one cannot be scored.
    without = smol.logprobs("Paris is nice.")
    assert b"".join(without.pieces).decode() == "Paris is nice."
    assert np.isnan(without.logprobs[0]) and np.isfinite(without.logprobs[1:]).all()


USER: list[Any] = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda em: em.generate(""), PromptError, "the prompt is empty"),
        (lambda em: em.generate("  \n"), PromptError, "the prompt is empty"),
        (lambda em: em.generate([]), PromptError, "the list is empty"),
        (lambda em: em.generate("a\ud800b"), PromptError, "an unpaired surrogate at character 1"),
        (lambda em: em.generate("word " * 900), PromptError, "its context holds 512"),
        (lambda em: em.logprobs("a", prompt=None), PromptError, "no token to score"),
        (lambda em: em.logprobs("word " * 600, prompt="x"), PromptError, "fit after its prompt"),
        (lambda em: em.generate("x", max_tokens=0), UsageError, "max_tokens is 0"),
        (lambda em: em.generate("x", stop=[""]), UsageError, "empty stop string"),
        (lambda em: em.generate("x", stop="text"), UsageError, "a list of strings is needed"),
        (lambda em: em.generate("x", max_tokens=2.5), UsageError, "max_tokens is 2.5"),
        (lambda em: em.generate("x", recipe="upscal"), UsageError, "did you mean upscale?"),
        (lambda em: em.generate("x", recipe=Recipe({"warm": 1.0})), UsageError, "needs the role w"),
        (lambda em: em.chat("x"), UsageError, "list of messages"),
        (lambda em: em.generate(USER, raw=True), UsageError, "raw takes a string"),
    ],
)
def test_calls_that_are_refused(smol: Emulator, call: Any, kind: type, says: str) -> None:
    with pytest.raises(kind) as caught:
        call(smol)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert smol.generate("x", sampling=GREEDY, max_tokens=1).tokens  # the slot was given back


def test_files_that_do_not_go_together(smollm2: Path, tiny_files: dict[str, Path]) -> None:
    with pytest.raises(VocabularyError, match="tuned and reference do not share"):
        Emulator.from_files(base=smollm2, tuned=tiny_files["tuned"], reference=smollm2)
    with pytest.raises(ModelFileError, match=r"none\.gguf"):
        Emulator.from_files(base="none.gguf", tuned=smollm2, reference=smollm2)
    with pytest.raises(UsageError, match="needs the role reference"):
        Emulator.from_files(base=smollm2, tuned=smollm2)


def test_a_file_of_several_roles_is_loaded_once(smol: Emulator) -> None:
    assert len({id(model) for model in smol.models.values()}) == 1


def test_closing_frees_and_says_so(tiny_files: dict[str, Path]) -> None:
    emulator = Emulator.from_files(**tiny_files, n_ctx=64, threads=1)
    emulator.close()
    emulator.close()
    with pytest.raises(eftlocal.EftlocalError, match="closed"):
        emulator.generate("x", raw=True)


def test_ctrl_c_while_weights_are_loaded(
    tiny_files: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    roles: list[str] = []

    def progress(role: str, _share: float) -> None:
        roles.append(role)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Emulator.from_files(**tiny_files, n_ctx=64, threads=1, progress=progress)
    assert roles == ["base"]  # the load ended there, and the others were not begun
    assert capfd.readouterr().err == ""


def test_defaults_can_be_changed(smol: Emulator) -> None:
    before = smol.defaults
    try:
        smol.defaults = replace(before, recipe=Recipe.single("base"), max_tokens=3)
        assert len(smol.generate(QUESTION).tokens) == 3
    finally:
        smol.defaults = before


def test_the_delta_of_the_first_tokens_then_the_base_alone(demo: Emulator) -> None:
    """The schedule is that of changing the recipe by hand, with drafts and without."""
    for length in (0, 4):
        options = {"sampling": Sampling(temperature=0.7, seed=5), "max_tokens": 30}
        options["speculation"] = Speculation(length=length)
        scheduled = Recipe.proxy().stabilise(first_tokens=4)
        found = demo.generate("Where is Braga?", recipe=scheduled, **options)
        by_hand = demo.stream("Where is Braga?", recipe="proxy", **options)
        steps = [next(by_hand) for _ in range(4)]
        by_hand.recipe = Recipe.single("base")
        steps += list(by_hand)
        assert list(found.tokens) == [step.token for step in steps]


def test_guidance_is_one_model_with_and_without_its_instructions(
    demo_files: dict[str, Path],
) -> None:
    messages = [
        {"role": "system", "content": "Speak of the sea."},
        {"role": "user", "content": "Where is Braga?"},
    ]
    defaults = Defaults(Recipe.guidance(0.5), Sampling(temperature=0.0))
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    sources = {"tuned": RoleSource(demo_files["tuned"], prompt=template, threads=1)}
    with Emulator.from_sources(sources, defaults=defaults) as em:
        assert em.roles == ("tuned", "unguided")
        ids = em.tokenize(messages)
        assert len(ids["tuned"]) > len(ids["unguided"]) > 0
        assert em.models["tuned"] is em.models["unguided"]  # its weights are loaded once
        guided = em.chat(messages, max_tokens=12)
        alone = em.chat(messages, max_tokens=12, recipe=Recipe.single("tuned"))
        zero = em.chat(messages, max_tokens=12, recipe=Recipe.guidance(0.0))
    assert zero.tokens == alone.tokens
    assert guided.tokens


def test_a_second_stream_drafts_too_where_costs_are_known(tiny_files: dict[str, Path]) -> None:
    sources = {role: RoleSource(path, n_ctx=128, threads=1) for role, path in tiny_files.items()}
    with Emulator.from_sources(sources) as first:
        first.measure()
    with Emulator.from_sources(sources, n_seq_max=2) as em:
        off = Speculation(length=0)
        with (
            em.stream("One", max_tokens=4, speculation=off) as running,
            em.stream("Two", max_tokens=4) as second,
        ):
            assert em.rounds.planner.costs is not None  # remembered ones: nothing ran for them
            assert len(list(second)) == 4
            next(running)
            running.speculation = Speculation(length=2)
            assert {step.source for step in running} - {"plain"}


def test_a_sequence_is_closed_once(tiny: Emulator) -> None:
    ensemble = tiny.ensemble
    prompts = dict.fromkeys(ensemble.contexts, (1, 2, 3))
    sequence = ensemble.open(prompts, recipe=Recipe.upscale(), sampling=GREEDY)
    ensemble.close(sequence)
    other = ensemble.open(prompts, recipe=Recipe.upscale(), sampling=GREEDY)
    ensemble.close(sequence)
    third = ensemble.open(prompts, recipe=Recipe.upscale(), sampling=GREEDY)
    assert third.slot != other.slot
    ensemble.close(other)
    ensemble.close(third)
