"""Tuning: examples as they come from a file, what is held out, and the ids they are trained as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal import Emulator
from eftlocal.errors import PromptError, UsageError
from eftlocal.loading.roles import RoleSource
from eftlocal.tuning.examples import Example, is_held_out, read_examples, split
from eftlocal.tuning.tokens import encode


def written(folder: Path, *lines: object, name: str = "examples.jsonl") -> Path:
    path = folder / name
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_every_form_of_an_example_is_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    more = [*turns, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Bye."}]
    path = written(
        tmp_path,
        {"prompt": "Hi", "completion": "Breathe.  \r\nBe \n"},
        "",
        {"messages": more, "kind": "x"},
        {"prompt": "Yes?", "response": "Yes."},
        {"messages": turns},
        {"prompt": "Hi", "response": "Hello. "},
    )
    found = read_examples(path)
    assert not found.faults
    first, second, third, fourth = found.examples
    assert (first.prompt, first.answer) == ("Hi", "Breathe.\nBe")  # no blanks at the ends of lines
    assert (len(second.messages), second.answer) == (3, "Bye.")
    assert (third.answer, fourth.answer, fourth.where) == ("Yes.", "Hello.", f"{path}, line 5")
    assert found.notes == (
        "there before, so taken once: line 6",
        "blanks around an answer or its lines taken away: line 1",
        "not read, beside prompt and answer: kind",
    )


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_a_table_is_read_as_a_spreadsheet_writes_it(tmp_path: Path, sign: str) -> None:
    rows = ["\ufeffPrompt|Response|note", '"Say ""a""|\nb"|"one\ntwo"|x', "c|d|", "", "|e|", "f|g"]
    path = written(tmp_path, *(row.replace("|", sign) for row in rows), name="examples.csv")
    found = read_examples(path)
    assert [(e.prompt, e.answer, e.line) for e in found.examples] == [
        (f'Say "a"{sign}\nb', "one\ntwo", 2),
        ("c", "d", 5),
    ]
    empty, short = map(str, found.faults)
    assert empty == f'{path}, line 7: no text under "prompt"'
    assert short.startswith(f"{path}, line 8: has 2 cells, and the first line 3")


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"must name the columns.*it has question, response"):
        read_examples(written(tmp_path, "question,response", "a,b", name="e.csv"))
    torn = read_examples(written(tmp_path, "prompt,response", "a,b", 'c,"d', name="e.csv"))
    assert len(torn.examples) == 1 and "line 3: not CSV" in str(torn.faults[0])
    with pytest.raises(PromptError, match="holds no example"):
        read_examples(written(tmp_path, "prompt,response", name="e.csv"))


BAD: list[tuple[object, str]] = [
    ({"prompt": "Hi"}, 'give "prompt" and "response"'),
    ({"prompt": "Hi", "completion": " \n"}, 'no text under "completion"'),
    ({"prompt": "Hi", "response": 3}, '"response" must be a string'),
    ({"prompt": "Hi", "response": "a", "completion": "a"}, 'give "prompt" and "response"'),
    ({"prompt": " ", "response": "a"}, 'no text under "prompt"'),
    ({"completion": "Hello."}, 'give "prompt" and "response"'),
    ({"messages": [{"role": "user", "content": "Hi"}]}, "the last message must be"),
    ({"messages": [{"role": "user"}]}, "'content' is missing"),
    ('{"prompt": "Hi", "response": "\\ud800"}', "unpaired surrogate"),
    ("nope", "not JSON"),
    ("[]", "not an object"),
]


def test_every_line_that_is_no_example_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "Hi", "response": "Hello."}, *(line for line, _ in BAD))
    found = read_examples(path)
    assert len(found.examples) == 1 and len(found.faults) == len(BAD)
    for n, (fault, (_, told)) in enumerate(zip(found.faults, BAD, strict=True), 2):
        assert str(fault).startswith(f"{path}, line {n}: ") and told in str(fault)


def test_examples_are_a_file_of_a_known_kind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a file named \.jsonl, \.csv or \.tsv"):
        read_examples(tmp_path / "examples.txt")


@given(st.lists(st.text(min_size=1), unique=True, min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_what_is_held_out_depends_on_the_prompt_alone(
    prompts: list[str], one: float, other: float
) -> None:
    less, more = sorted((one, other))
    for prompt in prompts:
        assert is_held_out(prompt, more) or not is_held_out(prompt, less)
        assert not is_held_out(prompt, 0.0) and is_held_out(prompt, 1.0)


@given(st.lists(st.sampled_from("abcdefg"), min_size=4).filter(lambda p: len({*p}) > 3))
def test_a_prompt_is_on_one_side_only(prompts: list[str]) -> None:
    said = [Example(({"role": "user", "content": p},), f"{n}") for n, p in enumerate(prompts)]
    for share in (0.0, 0.5, 1.0):
        trained, held_out = split(said, share)
        assert sorted(map(repr, (*trained, *held_out))) == sorted(map(repr, said))
        one, other = {e.prompt for e in trained}, {e.prompt for e in held_out}
        assert one and len(other) >= 3 and not one & other


def test_a_split_takes_the_share() -> None:
    examples = [Example(({"role": "user", "content": f"{n}"},), "yes") for n in range(1000)]
    trained, held_out = split(examples, 0.25)
    assert 200 < len(held_out) < 300 and len(trained) + len(held_out) == 1000
    with pytest.raises(UsageError, match="3 different prompts are too few"):
        split(examples[:3], 0.5)


def test_an_example_is_what_the_role_reads_and_gives(smol: Emulator, smollm2: Path) -> None:
    model, question = smol.models["tuned"], ({"role": "user", "content": "Where is Lima?"},)
    source, example = RoleSource(smollm2), Example(question, "In Peru.", "x", 1)
    (found,) = encode(source, [example], longest=64).encoded
    prompt = smol.tokenize(question)["tuned"]
    assert list(found.ids[: found.n_prompt]) == prompt
    answer = found.ids[found.n_prompt :]
    assert b"".join(map(model.piece, answer[:-1])) == b"In Peru."
    assert model.piece(answer[-1], special=True) == b"<|im_end|>"  # as its template ends a turn
    cut = encode(source, [example], longest=len(prompt) + 1)
    assert cut.encoded[0].ids == found.ids[: len(prompt) + 1] and cut.cut == [1]
    none = encode(source, [example], longest=len(prompt))
    assert not none.encoded and str(none.faults[0]).startswith("x, line 1: the prompt has")
