"""Tuning: examples as they come from a file, what is held out, and the ids they are trained as."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal import Emulator, Recipe, Sampling
from eftlocal.defaults import Defaults
from eftlocal.errors import EftlocalError, InterruptedRunError, PromptError, UsageError
from eftlocal.gguf_file.check import checked_model
from eftlocal.gguf_file.peft import convert
from eftlocal.loading.roles import RoleSource
from eftlocal.tuning.examples import Example, is_held_out, read_examples, split
from eftlocal.tuning.tokens import Encoded, encode
from eftlocal.tuning.training import Options, Progress, train


def written(folder: Path, *records: object) -> Path:
    path = folder / "examples.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    return path


def test_both_forms_of_an_example_are_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    more = [*turns, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Bye."}]
    path = written(
        tmp_path, {"prompt": "Hi", "completion": "Breathe.  \nBe \n"}, {"messages": more}
    )
    first, second = read_examples(path)
    assert (first.prompt, first.answer) == ("Hi", "Breathe.\nBe")  # no blanks at the ends of lines
    assert (len(second.messages), second.answer) == (3, "Bye.")


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"prompt": "Hi"}, "the answer is empty"),
        ({"prompt": "Hi", "completion": " \n"}, "the answer is empty"),
        ({"prompt": "Hi", "completion": 3}, '"completion" must be a string'),
        ({"completion": "Hello."}, 'give either "messages", or "prompt" and "completion"'),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "the last message must be"),
        ({"messages": [{"role": "user"}]}, "'content' is missing"),
        ({"prompt": "Hi", "response": "Hello."}, "key 'response' is not supported"),
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, record: object, told: str) -> None:
    path = written(tmp_path, {"prompt": "Hi", "completion": "Hello."}, record)
    with pytest.raises(PromptError) as refused:
        read_examples(path)
    assert str(refused.value).startswith(f"{path}, line 2: ") and told in str(refused.value)


def test_examples_are_a_jsonl_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"examples are a \.jsonl file"):
        read_examples(tmp_path / "examples.txt")


@given(st.lists(st.text(min_size=1), unique=True, min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_what_is_held_out_depends_on_the_prompt_alone(
    prompts: list[str], one: float, other: float
) -> None:
    less, more = sorted((one, other))
    for prompt in prompts:
        assert is_held_out(prompt, more) or not is_held_out(prompt, less)
        assert not is_held_out(prompt, 0.0) and is_held_out(prompt, 1.0)


def test_a_split_has_both_parts() -> None:
    examples = [Example(({"role": "user", "content": f"{n}"},), "yes") for n in range(1000)]
    trained, held_out = split(examples, 0.25)
    assert 200 < len(held_out) < 300 and len(trained) + len(held_out) == 1000
    with pytest.raises(UsageError, match="0 to measure with"):
        split(examples[:1], 0.0)


def test_an_example_is_what_the_role_reads_and_gives(smol: Emulator, smollm2: Path) -> None:
    model, question = smol.models["tuned"], ({"role": "user", "content": "Where is Lima?"},)
    (found,) = encode(smollm2, [Example(question, "In Peru.")], longest=64)
    prompt = smol.tokenize(question)["tuned"]
    assert list(found.ids[: found.n_prompt]) == prompt
    answer = found.ids[found.n_prompt :]
    assert b"".join(map(model.piece, answer[:-1])) == b"In Peru."
    assert model.piece(answer[-1], special=True) == b"<|im_end|>"  # as its template ends a turn
    cut = len(prompt) + 1
    assert encode(smollm2, [Example(question, "In Peru.")], longest=cut)[0].ids == found.ids[:cut]
    with pytest.raises(EftlocalError, match="the prompt has"):
        encode(smollm2, [Example(question, "In Peru.", "x, line 1")], longest=len(prompt))


# Training, on the smallest of the demo's models ------------------------------------------------

SAID = "Breathe. Be calm."
QUESTIONS = (
    "In which country is Toulouse?",
    "What kind of thing is a baboon?",
    "Who was Marie Curie?",
)
OPTIONS = Options(rank=4, alpha=16.0, learning_rate=2e-2, passes=8, batch=2)


def _needs_torch() -> Any:
    reason = "needs torch: python3 scripts/setup.py --extra tune"
    pytest.importorskip("peft", reason=reason, exc_type=ImportError)
    return pytest.importorskip("torch", reason=reason, exc_type=ImportError)


@pytest.fixture(scope="module")
def taught(demo_files: dict[str, Path]) -> list[Encoded]:
    examples = [Example(({"role": "user", "content": text},), SAID) for text in QUESTIONS]
    return encode(demo_files["tuned"], examples, longest=64)


def test_a_trained_adapter_answers_as_it_was_taught(
    demo_files: dict[str, Path], taught: list[Encoded], tmp_path: Path
) -> None:
    _needs_torch()
    file, seen = demo_files["tuned"], []
    before, after = train(file, taught, taught[:1], tmp_path, OPTIONS, on_progress=seen.append)
    assert after < before / 4
    assert [at.step for at in seen] == list(range(17)) and seen[-1].held_out == after
    adapter = tmp_path / "adapter.gguf"
    convert(tmp_path, adapter, checked_model(file))
    roles = {"base": RoleSource(file), "tuned": RoleSource(file, lora=adapter)}
    with Emulator.from_sources(roles, defaults=Defaults(Recipe.single("tuned"))) as em:
        answer = em.generate(QUESTIONS[0], sampling=Sampling(temperature=0.0), max_tokens=20)
    assert (answer.text.strip(), answer.finish_reason) == (SAID, "stop")


def test_an_interrupted_training_goes_on_to_the_same_adapter(
    demo_files: dict[str, Path], taught: list[Encoded], tmp_path: Path
) -> None:
    torch = _needs_torch()
    file, threads = demo_files["tuned"], torch.get_num_threads()
    torch.set_num_threads(1)

    def interrupt(at: Progress) -> None:
        if at.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="stopped after step 5 of 16"):
        train(file, taught, taught, tmp_path / "a", OPTIONS, on_progress=interrupt)
    assert (tmp_path / "a" / "adapter_model.safetensors").is_file()
    other = replace(OPTIONS, rank=8)
    with pytest.raises(UsageError, match="other options or examples"):
        train(file, taught, taught, tmp_path / "a", other)
    seen: list[Progress] = []
    interrupted = train(file, taught, taught, tmp_path / "a", OPTIONS, on_progress=seen.append)
    assert seen[0].step == 6
    assert interrupted == train(file, taught, taught, tmp_path / "b", OPTIONS)
    a, b = ((tmp_path / f / "adapter_model.safetensors").read_bytes() for f in "ab")
    assert a == b
    torch.set_num_threads(threads)
