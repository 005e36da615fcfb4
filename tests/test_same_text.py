"""The same question, the same text: asked again, beside others, with drafts and without.

Fake models whose rows depend on the kernel, as real ones' do, ask it exactly; random weights show
that real kernels are as they were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_models import FakeModel, fake_context, fake_emulator
from processor import not_with_amx
from random_gguf import write_random_model

from eftlocal import Answer, Defaults, Emulator, Recipe, Sampling, Speculation
from eftlocal.errors import UsageError
from eftlocal.loading.loader import prepare
from eftlocal.loading.roles import RoleSource
from eftlocal.scheduler import Scheduler
from eftlocal.speculation.costs import Costs, Curve
from eftlocal.speculation.widths import Widths, measure, measured

ROLES = ("base", "tuned", "reference")
SHARED = [f"{'The beginning that all share. ' * 3}{i} {'and more ' * i}?" for i in range(4)]
APART = [f"{letter * 90} and so on" for letter in "ABC"]
KEPT = Widths(frozenset({1, 2, 3}), frozenset({1, 2, 3}))
DRAFTS = (1, 2, 4, 16, Speculation(source="lookup"), "auto")
MOST = 12  # tokens of an answer


def blocks(tokens: int, past: int) -> int:
    """Kernels that take four rows at once, or sixty-four; and one for a row after many tokens."""
    return (tokens >= 4) + (tokens >= 64) + 3 * (tokens == 1 and past >= 200)


def costs() -> Costs:
    """Of decodes by which three rows are padded to four."""
    curve = {n: 1.0 + 0.2 * n - 0.5 * (n % 4 == 0) for n in range(1, 18)}
    return Costs({role: Curve(curve) for role in ROLES})


def ask(emulator: Emulator, questions: Sequence[str], **options: Any) -> list[tuple[int, ...]]:
    options = {"speculation": 0, "max_tokens": MOST} | options
    return [
        emulator.generate(question, sampling=Sampling(seed=i), **options).tokens
        for i, question in enumerate(questions)
    ]


def from_nothing(emulator: Emulator, questions: Sequence[str]) -> list[tuple[int, ...]]:
    found = []
    for i, question in enumerate(questions):
        emulator.ensemble.clear()
        answer = emulator.generate(
            question, sampling=Sampling(seed=i), speculation=0, max_tokens=MOST
        )
        found.append(answer.tokens)
    return found


def side_by_side(
    emulator: Emulator, questions: Sequence[str], prefill: int | None, **options: Any
) -> Any:
    scheduler = Scheduler(emulator, prefill=prefill)
    options = {"speculation": 0, "max_tokens": MOST} | options
    calls = [
        scheduler.add(question, sampling=Sampling(seed=i), **options)
        for i, question in enumerate(questions)
    ]
    while scheduler:
        scheduler.step()
    return [call.answer().tokens for call in calls]


@pytest.mark.parametrize("length", [0, 4])
@pytest.mark.parametrize("question", [SHARED[0], APART[0] * 2])
def test_a_prompt_asked_again(question: str, length: int) -> None:
    emulator = fake_emulator(kernel=blocks)
    first = ask(emulator, [question], speculation=length)
    assert ask(emulator, [question], speculation=length) == first
    assert ask(fake_emulator(kernel=blocks), [question], speculation=length) == first


def test_a_text_scored_again() -> None:
    emulator = fake_emulator(kernel=blocks)
    first = emulator.logprobs("and so on", prompt=APART[0])
    assert (emulator.logprobs("and so on", prompt=APART[0]).logprobs == first.logprobs).all()


@pytest.mark.parametrize("length", [2, 6])
def test_drafts_of_a_given_length_in_another_process(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time that a call took, and no look at another number of rows, changes the kernels."""

    def made() -> list[Any]:
        emulator = fake_emulator(kernel=blocks)
        emulator.rounds.planner.use(costs())
        return ask(emulator, [*SHARED, *APART], speculation=length)

    first = made()
    monkeypatch.setattr(Curve, "look", lambda *_: False)
    monkeypatch.setattr(Curve, "observe", lambda *_: None)
    assert made() == first


@pytest.mark.parametrize("prefill", [None, 1000])
def test_what_a_batch_reads_between_rounds(prefill: int | None) -> None:
    emulator = fake_emulator(kernel=blocks, n_seq_max=3)
    alone = from_nothing(emulator, APART)
    emulator.ensemble.clear()
    assert side_by_side(emulator, APART, prefill) == alone


def test_a_role_that_comes_late_reads_as_if_it_had_been_there() -> None:
    """Its prompt's last token and the answer so far are no part of one call."""
    emulator = fake_emulator(kernel=lambda tokens, past: int(tokens > 1), n_batch=128)
    texts = []
    for early in (True, False):
        emulator.ensemble.clear()
        with_all = emulator.stream(
            "Where?", speculation=0, sampling=Sampling(temperature=0), recipe="upscale"
        )
        if not early:
            with_all.recipe = "base"
            with_all.recipe = "upscale"
        texts.append([next(with_all).token for _ in range(4)])
        with_all.close()
    assert texts[0] == texts[1]


@pytest.fixture(scope="module")
def expected() -> list[tuple[int, ...]]:
    return from_nothing(fake_emulator(kernel=blocks, widths=KEPT), SHARED)


@pytest.fixture
def kept() -> Emulator:
    """Keeps to one, two and three rows, and knows what they cost."""
    emulator = fake_emulator(kernel=blocks, widths=KEPT, n_seq_max=4)
    emulator.rounds.planner.use(costs())
    return emulator


@pytest.mark.parametrize("drafts", DRAFTS)
def test_reproducible_drafts(drafts: Any, kept: Emulator, expected: list[Any]) -> None:
    for _ in range(2):
        assert ask(kept, SHARED, speculation=drafts) == expected


@pytest.mark.parametrize("drafts", [0, 4, "auto"])
@pytest.mark.parametrize("prefill", [8, 50, 1000])
def test_reproducible_batches(
    drafts: Any, prefill: int, kept: Emulator, expected: list[Any]
) -> None:
    found = side_by_side(kept, [*SHARED, *SHARED], prefill, speculation=drafts)
    assert found[:4] == expected


def test_reproducible_after_anything(kept: Emulator, expected: list[Any]) -> None:
    """Answers broken off, dials turned and turned back, texts scored."""
    stream = kept.stream(SHARED[2], sampling=Sampling(seed=2), speculation=4, max_tokens=MOST)
    tokens = [next(stream).token for _ in range(5)]
    stream.recipe = "base"
    next(stream)
    stream.recipe = kept.defaults.recipe
    stream.close()
    assert tuple(tokens) == expected[2][:5]
    kept.logprobs("a text of some length", prompt=SHARED[1][:60])
    assert ask(kept, SHARED[::-1]) is not None
    assert [*ask(kept, SHARED)] == expected


def test_rejection_is_refused_with_drafts_alone(kept: Emulator) -> None:
    with pytest.raises(UsageError, match=r"draft_rule is rejection.*reproducible"):
        ask(kept, SHARED, speculation=Speculation(length=4, rule="rejection"))
    assert ask(kept, SHARED[:1], speculation=Speculation(length=0, rule="rejection"))


@pytest.mark.parametrize("n_seq_max", [1, 4])
@pytest.mark.parametrize(
    ("kernel", "rows", "reads"),
    [
        (lambda tokens, past: 0, {*range(1, 18)}, {*range(1, 18), 32, 64}),
        (lambda tokens, past: int(tokens >= 64), {*range(1, 18)}, {*range(1, 18), 32}),
        (lambda tokens, past: int(tokens >= 4), {1, 2, 3}, {1, 2, 3}),
        (lambda tokens, past: int(tokens > 1 and past > 256), {1}, {1}),
    ],
)
def test_measured_widths(kernel: Any, rows: set[int], reads: set[int], n_seq_max: int) -> None:
    model = FakeModel("base", kernel=kernel)
    context = fake_context(model, n_ctx=512, n_batch=64, n_seq_max=n_seq_max)
    found = measure(context)
    assert found == (frozenset(rows), frozenset(reads))
    assert not any(context.tokens(slot) for slot in range(n_seq_max))


def test_widths_are_kept_under_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    context = fake_context(FakeModel("base", kernel=blocks), n_ctx=256, n_batch=64)
    told: list[float] = []
    found = measured({"base": context}, "a-key", lambda role, share: told.append(share))
    assert told[-1] == 1.0 and found["base"].rows == {1}
    monkeypatch.setattr("eftlocal.speculation.widths.measure", lambda *_: pytest.fail("again"))
    assert measured({"base": context}, "a-key") == found


# Real kernels; random weights will do: their logits are compared bit for bit ----------------------


REAL = (
    "Where is Lima? " * 6,
    "Say why, and say it in a sentence. " * 12,
    "Where is Lima? " * 3 + "?",
)


@pytest.fixture(scope="module", params=["F16", "Q4_1", "Q4_K_M", "Q8_0"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / f"{request.param}.gguf"
    return write_random_model(path, "tiny", request.param)


def load(path: Path, **options: Any) -> Emulator:
    """The combination is no role, for each has a prompt of its own."""
    return Emulator.from_files(
        tuned=path,
        reference=path,
        prompts={"reference": "plain"},
        defaults=Defaults(Recipe.realign(1.5)),
        n_ctx=512,
        threads=1,
        trust=True,
        **options,
    )


def bits(answer: Answer) -> Any:
    return answer.tokens, answer.logprobs


def test_a_real_prompt_asked_again(quantized: Path) -> None:
    """Also of more than 63 tokens, which llama.cpp's CPU kernels read in tiles."""
    with load(quantized) as emulator:
        options: dict[str, Any] = {"logprobs": True, "speculation": 0, "max_tokens": MOST}
        for question in REAL[:2]:
            first = emulator.generate(question, sampling=Sampling(seed=1), **options)
            again = emulator.generate(question, sampling=Sampling(seed=1), **options)
            assert again.timing.reused_tokens != first.timing.reused_tokens
            assert bits(again) == bits(first)


@pytest.mark.parametrize(
    ("cache", "kept"), [({}, "bf16"), ({"k": "f32", "v": "f32"}, "f32"), ({"v": "q8_0"}, "q8_0")]
)
def test_a_chosen_cache_is_kept(cache: dict[str, str], kept: str, tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "a.gguf", "tiny", "Q8_0")
    types = {f"cache_type_{name}": kind for name, kind in cache.items()}
    prepared = prepare({"base": RoleSource(path, reproducible=True, **types)}, trust=True)  # type: ignore[arg-type]
    assert prepared.sources["base"].cache_type_v == kept


@not_with_amx
def test_slow_reading_is_told(quantized: Path) -> None:
    with load(quantized, reproducible=True) as emulator:
        told = [note for note in emulator.notes() if note.startswith("reproducible: ")]
    tokens = {"F16": "1 token", "Q4_K_M": "3 tokens"}.get(quantized.stem)
    assert bool(told) == (tokens is not None)
    assert all(f"the prompt of tuned and reference is read {tokens} a call" in x for x in told)


def test_reproducible_for_real(quantized: Path) -> None:
    with load(quantized, reproducible=True, n_seq_max=3) as emulator:

        def answers(**options: Any) -> list[Any]:
            asked = {"logprobs": True, "max_tokens": MOST} | options
            return [
                bits(emulator.generate(question, sampling=Sampling(seed=1), **asked))
                for question in REAL
            ]

        expected = []
        for question in REAL:
            emulator.ensemble.clear()
            options: dict[str, Any] = {"logprobs": True, "max_tokens": MOST, "speculation": 0}
            answer = emulator.generate(question, sampling=Sampling(seed=1), **options)
            expected.append(bits(answer))
        for drafts in (0, 2, 4, "auto"):
            assert answers(speculation=drafts) == expected
        for drafts, prefill in ((0, None), (4, 32)):
            scheduler = Scheduler(emulator, prefill=prefill)
            options = {"logprobs": True, "max_tokens": MOST, "speculation": drafts}
            calls = [
                scheduler.add(question, sampling=Sampling(seed=1), **options)
                for question in (*REAL, REAL[1])
            ]
            while scheduler:
                scheduler.step()
            assert [bits(call.answer()) for call in calls] == [*expected, expected[1]]
        begun: Any = [
            {"role": "user", "content": REAL[0]},
            {"role": "assistant", "content": "It is"},
        ]
        options = {"continue_last": True, "sampling": Sampling(seed=1), "max_tokens": MOST}
        drafted = emulator.generate(begun, speculation=4, **options)
        assert drafted.tokens == emulator.generate(begun, speculation=0, **options).tokens
