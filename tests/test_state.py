"""Caches saved and loaded again: the same rows as without, and what does not match is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PLAIN, THREADS
from fake_models import fake_emulator
from fuzzing.tiny_models import write_tiny_model
from numpy.typing import NDArray
from random_gguf import random_deltas, write_adapter

from eftlocal import Emulator, Recipe, Sampling
from eftlocal.errors import EngineError, UsageError
from eftlocal.llama import Context, Model, Span
from eftlocal.loading.roles import RoleSource

TOKENS = [3 + 7 * i % 50 for i in range(40)]
GREEDY = Sampling(temperature=0.0)
LONG = "Tell me about the river, the hills beside it and the people who live there. " * 4


def filled(context: Context, slot: int, tokens: Sequence[int] = TOKENS) -> None:
    for start in range(0, len(tokens), 16):
        context.decode([Span(slot, tokens[start : start + 16], 0)])


def next_rows(context: Context, slot: int) -> NDArray[np.float32]:
    """(3, vocab) float32, of three tokens more, one call each."""
    return np.stack([context.decode([Span(slot, [token], 1)])[0].copy() for token in (5, 9, 7)])


# One context ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["llama", "gemma3", "gpt-oss", "phi3", "gpt2", "mamba", "lfm2"])
@pytest.mark.parametrize("sequences", [1, 3])
def test_a_state_gives_the_same_rows(tmp_path: Path, arch: str, sequences: int) -> None:
    """Sliding windows of 16 tokens, recurrent and hybrid models too, from any slot to any."""
    settings: Any = {"n_ctx": 64, "n_batch": 16, "n_seq_max": sequences, "n_threads": THREADS}
    with Model(write_tiny_model(tmp_path / "tiny.gguf", arch)) as model:
        with Context(model, **settings) as context:
            filled(context, sequences - 1)
            state = context.state(sequences - 1)
            assert len(state) == context.state_size(sequences - 1) > 0
            want = next_rows(context, sequences - 1)
        with Context(model, **settings) as context:
            for slot in {0, sequences // 2}:
                filled(context, slot, TOKENS[:7])  # what was there goes
                context.set_state(slot, TOKENS, state)
                assert list(context.tokens(slot)) == TOKENS
                assert np.array_equal(next_rows(context, slot), want)


@pytest.mark.parametrize(
    "kinds",
    [
        {"cache_type_k": "q8_0", "cache_type_v": "q4_0"},
        {"cache_type_v": "bf16"},
        {"flash_attention": "off"},
        {"cache_type_k": "f32", "cache_type_v": "f32"},
    ],
    ids=str,
)
def test_every_kind_of_cache(tiny_files: dict[str, Path], kinds: dict[str, Any]) -> None:
    settings: Any = {"n_ctx": 64, "n_batch": 16, "n_threads": THREADS, **kinds}
    with Model(tiny_files["base"]) as model:
        with Context(model, **settings) as context:
            filled(context, 0)
            state, want = context.state(0), next_rows(context, 0)
        with Context(model, **settings) as context:
            context.set_state(0, TOKENS, state)
            assert np.array_equal(next_rows(context, 0), want)


def test_a_copy_that_is_still_to_be_made(tiny_files: dict[str, Path]) -> None:
    """llama.cpp copies with the next decode, and writes before that what was there."""
    with (
        Model(tiny_files["base"]) as model,
        Context(model, n_ctx=64, n_batch=16, n_seq_max=4, n_threads=THREADS) as context,
    ):
        filled(context, 0)
        want = next_rows(context, 0)
        context.rewind(0, len(TOKENS))
        context.copy(0, 1)
        state = context.state(1)
        context.clear(2)
        context.set_state(2, TOKENS, state)
        assert np.array_equal(next_rows(context, 2), want)
        # Neither is it made over what was loaded meanwhile, nor from that.
        filled(context, 3, TOKENS[::-1])
        state = context.state(0)
        context.copy(3, 1)
        context.set_state(1, TOKENS, state)
        assert np.array_equal(next_rows(context, 1), want)
        context.copy(0, 3)
        context.set_state(0, TOKENS[:1], one_token(context, 2))
        assert np.array_equal(next_rows(context, 3), want)


def one_token(context: Context, slot: int) -> NDArray[np.uint8]:
    context.clear(slot)
    context.decode([Span(slot, TOKENS[:1], 0)])
    return context.state(slot)


def test_a_full_context_has_a_state(tiny_files: dict[str, Path]) -> None:
    with (
        Model(tiny_files["base"]) as model,
        Context(model, n_ctx=48, n_seq_max=2, n_threads=THREADS) as context,
    ):
        context.decode([Span(0, (TOKENS * 2)[:48], 0)])
        context.copy(0, 1)
        state = context.state(1)
        context.set_state(0, (TOKENS * 2)[:48], state)
        assert len(context.tokens(0)) == len(context.tokens(1)) == 48


def test_what_llama_cpp_refuses_leaves_an_empty_sequence(tiny_files: dict[str, Path]) -> None:
    with (
        Model(tiny_files["base"]) as model,
        Context(model, n_ctx=64, n_batch=16, n_threads=THREADS) as context,
        Context(model, n_ctx=64, n_seq_max=2, n_threads=THREADS) as other,
    ):
        filled(context, 0)
        state, want = context.state(0), next_rows(context, 0)
        context.clear(0)
        assert context.state_size(0) == len(context.state(0)) == 0
        filled(other, 0, TOKENS[:16])
        for bad in (state[:-1], state[:100], np.zeros(500, np.uint8), other.state(0)):
            with pytest.raises(EngineError, match="refused a state"):
                context.set_state(0, TOKENS, bad)
            assert not context.tokens(0)
        for tokens in (TOKENS[:-1], [*TOKENS, 1]):
            with pytest.raises(EngineError, match="refused a state"):
                context.set_state(0, tokens, state)
        context.set_state(0, TOKENS, state)
        assert np.array_equal(next_rows(context, 0), want)


# An emulator ------------------------------------------------------------------------------------


def trio(files: dict[str, Path], **options: Any) -> Emulator:
    return Emulator.from_files(**files, **{"n_ctx": 512, "threads": THREADS, **options})


def decoded(emulator: Emulator) -> dict[str, int]:
    """Tokens that each role has decoded since it was loaded."""
    return {role: context.decoded for role, context in emulator.ensemble.contexts.items()}


def conversation(emulator: Emulator, text: str = LONG) -> list[Any]:
    """A turn, answered."""
    messages: list[Any] = [{"role": "user", "content": text}]
    answer = emulator.chat(messages, sampling=GREEDY, max_tokens=12, speculation="off")
    return [*messages, {"role": "assistant", "content": answer.text}]


def asked(emulator: Emulator, messages: list[Any]) -> tuple[str, dict[str, int], dict[str, int]]:
    """What is answered to the next question, tokens of the prompt, and how many were held."""
    turn = [*messages, {"role": "user", "content": "And where is that?"}]
    answer = emulator.chat(turn, sampling=GREEDY, max_tokens=12, speculation="off")
    return answer.text, dict(answer.timing.prompt_tokens), dict(answer.timing.reused_tokens)


@pytest.fixture(scope="module")
def saved(
    demo_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Any], tuple[str, dict[str, int], dict[str, int]]]:
    """A file of a conversation of the demo, and how that goes on."""
    path = tmp_path_factory.mktemp("saved") / "talk.state"
    with trio(demo_files) as emulator:
        with pytest.raises(UsageError, match="there is nothing to save yet"):
            emulator.save_state(path)
        messages = conversation(emulator)
        told = emulator.save_state(path)
        assert told.size == path.stat().st_size and set(told.tokens) == set(demo_files)
        assert min(told.tokens.values()) > 60
        assert "a token takes" in str(told) and " in base, " in str(told)
        return path, messages, asked(emulator, messages)


def test_another_process_goes_on_with_what_is_new(
    demo_files: dict[str, Path], saved: tuple[Path, list[Any], Any]
) -> None:
    path, messages, want = saved
    with trio(demo_files) as emulator:
        told = emulator.load_state(path)
        before = decoded(emulator)
        assert asked(emulator, messages) == want
        for role, count in decoded(emulator).items():
            assert count - before[role] <= 12 + want[1][role] - want[2][role]
            assert want[2][role] >= told.tokens[role] - 12


def test_smollm2_says_the_same(smollm2: Path, tmp_path: Path) -> None:
    files = dict.fromkeys(("base", "tuned", "reference"), smollm2)
    with trio(files, defaults=PLAIN) as emulator:
        messages = conversation(emulator, "Where does the river end?")
        emulator.save_state(tmp_path / "a")
        want = asked(emulator, messages)
    with trio(files, defaults=PLAIN) as emulator:
        emulator.load_state(tmp_path / "a")
        assert asked(emulator, messages) == want


def test_reproducible_texts_stay_so(tiny_files: dict[str, Path], tmp_path: Path) -> None:
    """Read at once or gone on with: with reproducible the text is that of a fresh start."""
    options: Any = {"n_ctx": 256, "reproducible": True}
    with trio(tiny_files, **options) as emulator:
        messages = conversation(emulator)
        emulator.save_state(tmp_path / "a")
        emulator.ensemble.clear()
        want, _, nothing = asked(emulator, messages)
        assert not any(nothing.values())
    with trio(tiny_files, **options) as emulator:
        emulator.load_state(tmp_path / "a")
        text, _, held = asked(emulator, messages)
        assert text == want and min(held.values()) > 60
    with (
        trio(tiny_files, n_ctx=256, cache_type_v="bf16") as emulator,
        pytest.raises(UsageError, match="was saved with reproducible on of base; now it is off"),
    ):
        emulator.load_state(tmp_path / "a")


def test_a_prompt_is_read_and_saved(demo_files: dict[str, Path], tmp_path: Path) -> None:
    prompt: list[Any] = [{"role": "user", "content": LONG}]
    with trio(demo_files) as emulator:
        told = emulator.save_state(tmp_path / "a", prompt)
        lengths = {role: len(ids) for role, ids in emulator.tokenize(prompt).items()}
        assert told.tokens == {role: n - 1 for role, n in lengths.items()}
        read = emulator.save_state(tmp_path / "raw", "Once upon a time", raw=True)
        assert max(read.tokens.values()) < 20
        with pytest.raises(UsageError, match="raw is of a prompt; give prompt, too"):
            emulator.save_state(tmp_path / "b", raw=True)
    with trio(demo_files) as emulator:
        emulator.load_state(tmp_path / "a")
        before = decoded(emulator)
        answer = emulator.chat(prompt, max_tokens=1)
        assert answer.timing.reused_tokens == told.tokens
        assert max(n - before[role] for role, n in decoded(emulator).items()) < 8


def test_what_has_lost_its_place_is_not_saved(demo_files: dict[str, Path], tmp_path: Path) -> None:
    with trio(demo_files) as emulator:
        conversation(emulator)
        emulator.logprobs(" a bird.", prompt="What is a finch?")
        with pytest.raises(UsageError, match="caches have been used for something else"):
            emulator.save_state(tmp_path / "a")
        emulator.generate(LONG, max_tokens=4)
        emulator.ensemble.clear()
        with pytest.raises(UsageError, match="there is nothing to save"):
            emulator.save_state(tmp_path / "a")


def test_roles_that_a_recipe_does_not_need_hold_nothing(
    demo_files: dict[str, Path], tmp_path: Path
) -> None:
    with trio(demo_files) as emulator:
        emulator.generate(LONG, recipe=Recipe.single("base"), max_tokens=4)
        told = emulator.save_state(tmp_path / "a")
        assert told.tokens["base"] > 60 and told.tokens["tuned"] == told.tokens["reference"] == 0
        emulator.generate("Something else.", max_tokens=2)
        assert emulator.load_state(tmp_path / "a").tokens == told.tokens
        assert not emulator.ensemble.contexts["tuned"].tokens(0)
        answer = emulator.generate(LONG, sampling=GREEDY, max_tokens=4)
    with trio(demo_files) as emulator:
        assert emulator.generate(LONG, sampling=GREEDY, max_tokens=4).text == answer.text


def test_a_loaded_conversation_takes_no_other_place(
    demo_files: dict[str, Path], tmp_path: Path
) -> None:
    with trio(demo_files, n_seq_max=3) as emulator:
        first = conversation(emulator)
        emulator.save_state(tmp_path / "a")
        second = conversation(emulator, "What is a finch? " * 12)
        emulator.load_state(tmp_path / "a")
        for messages in (first, second):
            _, prompt, held = asked(emulator, messages)
            assert all(held[role] > prompt[role] - 30 for role in held)


def test_a_stream_that_runs_is_left_alone(demo_files: dict[str, Path], tmp_path: Path) -> None:
    with trio(demo_files, n_seq_max=2) as emulator:
        emulator.save_state(tmp_path / "a", LONG)
        want = emulator.generate("What is a finch?", sampling=GREEDY, max_tokens=12).tokens
        stream = emulator.stream("What is a finch?", sampling=GREEDY, max_tokens=12)
        first = next(stream)
        emulator.load_state(tmp_path / "a")
        emulator.save_state(tmp_path / "b")  # of the stream, so far
        assert (first.token, *(step.token for step in stream)) == want


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_ctx": 256}, "was saved with n_ctx 512 of base; now it is 256"),
        ({"cache_type_k": "q8_0"}, "was saved with cache_type_k f16 of base; now it is q8_0"),
        ({"n_seq_max": 2}, "was saved with n_seq_max 1 of base; now it is 2"),
        ({"flash_attention": "off"}, "was saved with flash_attention auto of base; now it is off"),
        (
            {"rope_freq_base": {"tuned": 5e5}},
            "was saved with rope_freq_base unset of tuned; now it is 500000.0",
        ),
        ({"reproducible": True}, "was saved with cache_type_v f16 of base; now it is bf16"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_does_not_match_is_named(
    demo_files: dict[str, Path],
    saved: tuple[Path, list[Any], Any],
    options: dict[str, Any],
    says: str,
) -> None:
    with trio(demo_files, **options) as emulator, pytest.raises(UsageError, match=says):
        emulator.load_state(saved[0])


def test_exchanged_and_changed_files_are_named(
    demo_files: dict[str, Path], saved: tuple[Path, list[Any], Any], tmp_path: Path
) -> None:
    other = {**demo_files, "tuned": demo_files["reference"], "reference": demo_files["tuned"]}
    with (
        trio(other) as emulator,
        pytest.raises(UsageError, match="was saved with another model file of tuned"),
    ):
        emulator.load_state(saved[0])
    base = Path(shutil.copy2(demo_files["base"], tmp_path))
    with trio({**demo_files, "base": base}) as emulator:
        emulator.load_state(saved[0])  # the same file elsewhere
    with trio({**demo_files, "base": base}) as emulator:
        base.touch()
        with pytest.raises(UsageError, match="was changed after it was loaded; load it again"):
            emulator.load_state(saved[0])
    with (
        trio({**demo_files, "base": base}, trust=True) as emulator,
        pytest.raises(UsageError, match="was saved with another model file of base"),
    ):
        emulator.load_state(saved[0])


def test_an_adapter_is_bound(tiny_files: dict[str, Path], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter.gguf", random_deltas("tiny"))
    plain = {role: RoleSource(path, n_ctx=256, threads=1) for role, path in tiny_files.items()}
    tuned = {**plain, "tuned": replace(plain["tuned"], lora=adapter)}
    with Emulator.from_sources(tuned, defaults=PLAIN) as emulator:
        emulator.generate(LONG, max_tokens=2)
        emulator.save_state(tmp_path / "a")
    half = {**tuned, "tuned": replace(tuned["tuned"], lora_scale=0.5)}
    for other in (plain, half):
        with (
            Emulator.from_sources(other, defaults=PLAIN) as emulator,
            pytest.raises(UsageError, match="was saved with another LoRA adapter of tuned"),
        ):
            emulator.load_state(tmp_path / "a")


def test_a_damaged_file_is_refused_and_the_next_answer_is_right(
    demo_files: dict[str, Path], saved: tuple[Path, list[Any], Any], tmp_path: Path
) -> None:
    path, messages, want = saved
    whole = path.read_bytes()
    damaged = tmp_path / "a"
    with trio(demo_files) as emulator:
        for at in (0, 30, len(whole) // 2, len(whole) - 40):
            damaged.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(UsageError):
                emulator.load_state(damaged)
        damaged.write_bytes(whole[:-5])
        with pytest.raises(UsageError, match="is damaged or cut off"):
            emulator.load_state(damaged)
        assert not any(context.tokens(0) for context in emulator.ensemble.contexts.values())
        emulator.load_state(path)
        assert asked(emulator, messages) == want


# Fake models, whose rows depend on every token before them ---------------------------------------


@pytest.fixture
def fakes() -> Iterator[tuple[Emulator, Emulator]]:
    with fake_emulator() as one, fake_emulator() as other:
        yield one, other


def test_tokens_are_the_same_with_and_without(
    fakes: tuple[Emulator, Emulator], tmp_path: Path
) -> None:
    one, other = fakes
    prompt = "where is that river"
    first = one.generate(prompt, raw=True, max_tokens=9, sampling=Sampling(seed=3))
    one.save_state(tmp_path / "a")
    other.load_state(tmp_path / "a")
    longer = prompt + first.text + " and then"
    options: Any = {"raw": True, "max_tokens": 20, "sampling": Sampling(seed=4)}
    want, got = one.generate(longer, **options), other.generate(longer, **options)
    assert got.tokens == want.tokens
    assert got.timing.reused_tokens == want.timing.reused_tokens


def test_tokens_outside_the_vocabulary_and_beyond_a_context_are_refused(
    fakes: tuple[Emulator, Emulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = fakes
    one.generate("where", raw=True, max_tokens=3)
    context = one.ensemble.contexts["tuned"]
    context._tokens[0][-1] = -1
    one.save_state(tmp_path / "a")
    with pytest.raises(UsageError, match="is damaged"):
        other.load_state(tmp_path / "a")
    context._tokens[0][-1] = context.model.vocab_size
    one.save_state(tmp_path / "a")
    with pytest.raises(UsageError, match="is damaged"):
        other.load_state(tmp_path / "a")
    context._tokens[0][-1] = 3
    one.save_state(tmp_path / "a")
    monkeypatch.setattr(other.ensemble.contexts["tuned"], "n_ctx", 2)
    with pytest.raises(UsageError, match="is damaged"):
        other.load_state(tmp_path / "a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
def test_what_may_not_be_written_is_refused_before_anything_is_read(
    fakes: tuple[Emulator, Emulator], tmp_path: Path
) -> None:
    """A file takes the place of what is there: not of a device, a link or a model."""
    emulator, _ = fakes
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "model").write_bytes(b"GGUF....")
    names = sorted(path.name for path in tmp_path.iterdir())
    for name in ("", "pipe", "link", "model", "no folder/a"):
        with pytest.raises(UsageError, match=r"^path: "):
            emulator.save_state(tmp_path / name, "where is that river", raw=True)
    assert not any(decoded(emulator).values())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
