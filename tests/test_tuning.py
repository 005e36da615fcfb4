"""Tuning: examples as they come from a file, what is held out, and the ids they are trained as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal import Emulator
from eftlocal.errors import EftlocalError, PromptError, UsageError
from eftlocal.tuning.examples import Example, is_held_out, read_examples, split
from eftlocal.tuning.tokens import encode


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
