"""Many answers at once: each as it would be alone, whoever joins, leaves or fails beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fake_models import fake_emulator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eftlocal import Emulator, Recipe, Sampling, Speculation
from eftlocal.errors import PromptError, UsageError
from eftlocal.llama import Context, Span
from eftlocal.scheduler import Call, Scheduler
from eftlocal.speculation.settings import OFF

WIDTH = 5
SYSTEM = "Answer in one short sentence, and do not say anything that you are not sure of. " * 3
PLACES = ("Toulouse", "Lima", "Oslo", "Quito", "Lyon", "Dakar", "Bonn", "Rome", "Nice", "Paris")


def question(place: str, system: str | None = None) -> list[Any]:
    asked: list[Any] = [{"role": "user", "content": f"In which country is {place}?"}]
    return [{"role": "system", "content": system}, *asked] if system else asked


@pytest.fixture(scope="module")
def wide() -> Emulator:
    return fake_emulator(n_ctx=512, n_seq_max=WIDTH)


@pytest.fixture
def cold(wide: Emulator) -> Emulator:
    for context in wide.ensemble.contexts.values():
        for slot in range(context.n_seq_max):
            context.clear(slot)
    return wide


def finish(scheduler: Scheduler) -> None:
    while scheduler:
        scheduler.step()


KINDS: tuple[dict[str, Any], ...] = (
    {"sampling": Sampling(temperature=0.0, seed=1)},
    {"sampling": Sampling(temperature=1.0, seed=3), "speculation": OFF},
    {"sampling": Sampling(temperature=0.8, seed=4), "speculation": Speculation(length=4)},
    {"sampling": Sampling(temperature=1.2, top_p=0.9, seed=5), "recipe": "base"},
    {"sampling": Sampling(seed=6), "recipe": "proxy", "speculation": Speculation(length=1)},
    {"sampling": Sampling(seed=7), "stop": ["an"], "max_tokens": 9},
    {"sampling": Sampling(seed=8), "stop": ["e", "i"]},
    {"sampling": Sampling(temperature=0.0, repeat_penalty=1.3, seed=2), "logprobs": True},
)


def test_each_answers_as_alone(cold: Emulator) -> None:
    """More calls than places, of every kind, with prompts of several lengths."""
    asked = [
        (question(place, SYSTEM if i % 3 == 0 else None), {"max_tokens": 20} | KINDS[i % 8])
        for i, place in enumerate(PLACES * 2)
    ]
    alone = [cold.generate(prompt, **options) for prompt, options in asked]
    scheduler = Scheduler(cold)
    calls = [scheduler.add(prompt, **options) for prompt, options in asked]
    finish(scheduler)
    assert len({answer.text for answer in alone}) > 5
    for call, expected in zip(calls, alone, strict=True):
        answer = call.answer()
        assert (answer.tokens, answer.text, answer.finish_reason, answer.stop, answer.seed) == (
            expected.tokens,
            expected.text,
            expected.finish_reason,
            expected.stop,
            expected.seed,
        )
        assert (answer.logprobs is None) == (expected.logprobs is None)
        assert answer.timing.tokens == len(answer.tokens)
    assert not cold.ensemble.running


def test_steps_bring_every_token_once(cold: Emulator) -> None:
    scheduler = Scheduler(cold, parallel=3)
    calls = [
        scheduler.add(question(p), max_tokens=7, speculation=Speculation(length=2)) for p in PLACES
    ]
    texts = {id(call): "" for call in calls}
    ended = []
    while scheduler:
        assert scheduler.active <= 3
        for call, step in scheduler.step():
            assert step is not None and call.stream is not None
            texts[id(call)] += step.text
            if step.finish_reason:
                ended.append(call)
    assert sorted(map(id, ended)) == sorted(texts)
    assert [texts[id(call)] for call in calls] == [call.answer().text for call in calls]


def test_a_common_beginning_is_decoded_once(cold: Emulator) -> None:
    prompts = [question(place, SYSTEM) for place in PLACES[:WIDTH]]
    ids = [cold.tokenize(prompt) for prompt in prompts]
    before = {role: context.decoded for role, context in cold.ensemble.contexts.items()}
    scheduler = Scheduler(cold)
    calls = [scheduler.add(prompt, max_tokens=1, speculation=OFF) for prompt in prompts]
    finish(scheduler)
    for role, context in cold.ensemble.contexts.items():
        common = len(ids[0][role]) - 30
        assert all(i[role][:common] == ids[0][role][:common] for i in ids) and common > 40
        decoded = context.decoded - before[role]
        assert common < decoded < common + WIDTH * 30
        reused = [call.answer().timing.reused_tokens[role] for call in calls]
        assert reused[0] == 0 and all(count >= common for count in reused[1:])


def test_a_long_prompt_holds_nobody_up(cold: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(cold, prefill=16)
    short = scheduler.add(question("Lima"), max_tokens=60, ignore_end=True, speculation=OFF)
    while not (short.stream and short.stream.answer().tokens):
        scheduler.step()
    long = scheduler.add(question("Rome", SYSTEM), max_tokens=2, speculation=OFF)
    sizes: list[int] = []
    decode = Context.decode

    def watched(context: Context, spans: Sequence[Span], *more: Any) -> Any:
        sizes.append(sum(len(span.tokens) for span in spans))
        return decode(context, spans, *more)

    monkeypatch.setattr(Context, "decode", watched)
    came: list[int] = []
    while not long.ended:
        came.append(sum(call is short for call, _ in scheduler.step()))
    assert max(sizes) == 16 and came == [1] * len(came)
    assert (
        len(came) > max(len(ids) for ids in cold.tokenize(question("Rome", SYSTEM)).values()) / 16
    )
    scheduler.close()


def test_a_prompt_that_is_scored_holds_nobody_up(cold: Emulator) -> None:
    text = " ".join(PLACES) * 3
    options: dict[str, Any] = {"raw": True, "max_tokens": 2, "logprobs": True}
    options |= {"prompt_logprobs": True, "sampling": Sampling(temperature=0.0)}
    wanted = cold.generate(text, **options)
    assert wanted.prompt is not None and len(wanted.prompt.tokens) > 100
    scheduler = Scheduler(cold, parallel=3, prefill=32)
    running = scheduler.add("Hello", speculation=OFF, max_tokens=200, ignore_end=True)
    scheduler.step()
    scored = scheduler.add(text, **options)
    left = scheduler.add(text, **options)
    short = scheduler.add("Hi", max_tokens=1)
    steps = 0
    while scored.stream is None:
        came = [call for call, _ in scheduler.step()]
        assert came.count(running) == 1
        steps += 1
        if steps == 2:
            scheduler.cancel(left)
    assert steps > 3 and short.ended  # it did not wait for the scores
    while not scored.ended:
        scheduler.step()
    assert str(scored.answer()) == str(wanted)
    found = scored.answer().prompt
    assert found is not None and found.tokens == wanted.prompt.tokens
    np.testing.assert_allclose(found.logprobs, wanted.prompt.logprobs, atol=1e-5)
    scheduler.close()
    assert not cold.ensemble.running


def test_places_go_round(cold: Emulator) -> None:
    """Who has the fewest places gets the next: by client, then by request, then by age."""
    scheduler = Scheduler(cold, parallel=2)

    def ask(owner: str, request: int) -> Call:
        return scheduler.add("Hello", owners=(owner, request), max_tokens=3, speculation=OFF)

    def order() -> list[Call]:
        return [call for _ in range(999) for call, _ in scheduler.step() if call.ended]

    much, other = [ask("a", i // 4) for i in range(12)], [ask("b", 0) for _ in range(2)]
    found = order()
    assert {*found[:2]} == {much[0], other[0]} and other[1] in found[2:4]
    assert len(found) == 14 and {*found[-3:]} <= {*much}
    much, single = [ask("a", 0) for _ in range(6)], ask("a", 1)
    assert {*order()[:2]} == {much[0], single}


def test_a_call_that_is_refused_ends_alone(cold: Emulator) -> None:
    scheduler = Scheduler(cold)
    good = scheduler.add(question("Lima"), max_tokens=4)
    long = scheduler.add(question("Lima " * 600), max_tokens=4)
    odd = scheduler.add(
        question("Lima"), recipe=Recipe.interpolate({"tuned": 0.5, "plain": 0.5}), max_tokens=4
    )
    came = scheduler.step()
    assert {id(call) for call, step in came if step is None} == {id(long), id(odd)}
    finish(scheduler)
    assert len(good.answer().tokens) == 4
    with pytest.raises(PromptError, match="its context holds 512"):
        long.answer()
    with pytest.raises(UsageError, match="needs the role"):
        odd.answer()


def test_cancelled_calls_keep_what_has_come(cold: Emulator) -> None:
    scheduler = Scheduler(cold, parallel=2)
    first, second, third, fourth = (
        scheduler.add(question(place), max_tokens=12, ignore_end=True) for place in PLACES[:4]
    )
    while not (first.stream and len(first.stream.answer().tokens) >= 3):
        scheduler.step()
    scheduler.cancel(first)
    scheduler.cancel(third)
    scheduler.cancel(first)
    finish(scheduler)
    assert first.answer().finish_reason is None and len(first.answer().tokens) >= 3
    assert len(second.answer().tokens) == len(fourth.answer().tokens) == 12
    with pytest.raises(UsageError, match="has not begun"):
        third.answer()
    assert not cold.ensemble.running


def test_gaps_are_closed(cold: Emulator) -> None:
    lengths = (2, 30, 2, 30, 30)
    scheduler = Scheduler(cold)
    calls = [
        scheduler.add(question(p), max_tokens=n, ignore_end=True, sampling=Sampling(seed=n))
        for p, n in zip(PLACES, lengths, strict=False)
    ]
    while not (calls[0].ended and calls[2].ended):
        scheduler.step()
    scheduler.step()
    slots = sorted(call.stream.sequence.slot for call in calls if call.stream and not call.ended)
    assert slots == [0, 1, 2] and cold.ensemble.free == [3, 4]
    finish(scheduler)
    for call, place, length in zip(calls, PLACES, lengths, strict=False):
        alone = cold.generate(
            question(place), max_tokens=length, ignore_end=True, sampling=Sampling(seed=length)
        )
        assert call.answer().tokens == alone.tokens


@pytest.mark.parametrize("fails_after", range(0, 40, 3))
def test_an_interrupt_anywhere_loses_nothing(
    fails_after: int, cold: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "speculation": Speculation(length=2)}
    scheduler = Scheduler(cold, parallel=3, prefill=32)
    calls = [
        scheduler.add(question(p, SYSTEM), sampling=Sampling(seed=1), **options) for p in PLACES[:5]
    ]
    decode, count = Context.decode, 0

    def breaks(context: Context, spans: Sequence[Span], *more: Any) -> Any:
        nonlocal count
        count += 1
        if count == fails_after + 1:
            raise KeyboardInterrupt
        return decode(context, spans, *more)

    monkeypatch.setattr(Context, "decode", breaks)
    with pytest.raises(KeyboardInterrupt):
        finish(scheduler)
    finish(scheduler)
    monkeypatch.undo()
    for call, place in zip(calls, PLACES, strict=False):
        alone = cold.generate(question(place, SYSTEM), sampling=Sampling(seed=1), **options)
        assert call.answer().tokens == alone.tokens


@pytest.fixture(scope="module")
def texts(wide: Emulator) -> dict[str, tuple[int, ...]]:
    """What each place is answered alone, at 16 tokens."""
    return {p: wide.generate(question(p), **_plain(p)).tokens for p in PLACES}


def _plain(place: str) -> dict[str, Any]:
    seeded = Sampling(temperature=1.0, seed=PLACES.index(place))
    return {"sampling": seeded, "max_tokens": 16, "ignore_end": True}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_coming_and_going(
    data: st.DataObject, wide: Emulator, texts: dict[str, tuple[int, ...]]
) -> None:
    parallel, prefill = data.draw(st.integers(1, WIDTH)), data.draw(st.integers(1, 40))
    # Hypothesis may end an example at any draw: what runs must then be closed.
    with Scheduler(wide, parallel=parallel, prefill=prefill) as scheduler:
        calls: list[tuple[str, Call]] = []
        for _ in range(data.draw(st.integers(1, 30))):
            action = data.draw(st.sampled_from(["add", "step", "step", "cancel"]))
            if action == "add":
                place = data.draw(st.sampled_from(PLACES))
                drafts = Speculation(length=data.draw(st.sampled_from([0, 1, 3])))
                call = scheduler.add(question(place), speculation=drafts, **_plain(place))
                calls.append((place, call))
            elif action == "step":
                scheduler.step()
            elif calls:
                scheduler.cancel(data.draw(st.sampled_from(calls))[1])
        stopped = {id(call) for _, call in calls if call.ended}
        finish(scheduler)
        for place, call in calls:
            if call.stream is not None:
                tokens = call.answer().tokens
                assert tokens == texts[place][: len(tokens)]
                assert len(tokens) == 16 or id(call) in stopped
        assert not wide.ensemble.running


def test_bad_settings_are_refused(wide: Emulator) -> None:
    for options in ({"parallel": 0}, {"parallel": WIDTH + 1}, {"prefill": 0}):
        with pytest.raises(UsageError):
            Scheduler(wide, **options)


def test_a_real_model(smollm2: Any) -> None:
    """SmolLM2, whose kernels round differently by the number of rows: it begins as alone."""
    files = dict.fromkeys(("base", "tuned", "reference"), smollm2)
    with Emulator.from_files(**files, n_ctx=256, n_seq_max=3, threads=1) as emulator:
        scheduler = Scheduler(emulator)
        greedy: dict[str, Any] = {
            "sampling": Sampling(temperature=0.0),
            "max_tokens": 5,
            "speculation": OFF,
        }
        asked = ["What is the capital of France?", "Name the largest planet.", "What is 2 + 2?"]
        calls = [scheduler.add(prompt, recipe=Recipe.upscale(), **greedy) for prompt in asked]
        formed = scheduler.add(asked[0], grammar='root ::= "In " [A-Z][a-z]+ "."', **greedy)
        finish(scheduler)
        alone = [emulator.generate(prompt, **greedy).text for prompt in asked]
    assert formed.answer().text.startswith("In ")
    assert [call.answer().text for call in calls] == alone and len(set(alone)) == 3
