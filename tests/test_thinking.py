"""Thinking in answers: found in a text, in a stream, in a prompt; and what later prompts hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eftlocal import Emulator
from eftlocal.errors import PromptError
from eftlocal.presets.schema import RoleFile
from eftlocal.prompt.answer_marks import AnswerMarks
from eftlocal.prompt.messages import Message, validate_messages
from eftlocal.prompt.render import RolePrompt, render_roles
from eftlocal.thinking import KINDS, Marks, kinds_in, opened_by, parts

THINK = KINDS[0]
OPENED = Marks("<think>", "</think>", opened=True)


def split(
    text: str, marks: Marks | None = None, *, ended: bool = True
) -> tuple[str | None, str, bool]:
    found = parts(text, marks, ended=ended)
    thinking = None if found.thinking is None else text[found.thinking]
    return thinking, text[found.answer], found.open


@pytest.mark.parametrize(
    ("text", "marks", "thinking", "answer", "unfinished"),
    [
        ("Lima.", None, None, "Lima.", False),
        ("", None, None, "", False),
        ("\n<think>\nHm.\n</think>\n\nLima.", None, "Hm.\n", "Lima.", False),
        ("<think></think>Lima.", None, "", "Lima.", False),
        ("<think>\n\n</think>\n\nLima.", None, "", "Lima.", False),
        ("<think>Hm", None, "Hm", "", True),
        ("Hm.\n</think>\n\nLima.", OPENED, "Hm.\n", "Lima.", False),
        ("Hm.", OPENED, "Hm.", "", True),
        ("<think>Hm.</think>A", OPENED, "Hm.", "A", False),
        ("Hm.</think>A", None, None, "Hm.</think>A", False),
        ("The mark <think> opens it.", None, None, "The mark <think> opens it.", False),
        ("<think>a</think>b <think>c</think>", None, "a", "b <think>c</think>", False),
        ("[THINK]Hm.[/THINK]A", None, "Hm.", "A", False),
        ("<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>A<|END_RESPONSE|>",
         None, "Hm.", "A", False),
        ("<|START_RESPONSE|>A<|END_RESPONSE|>", None, None, "A", False),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A",
         None, "Hm.", "A", False),
        ("<|channel|>final<|message|>A", None, None, "A", False),
        ("Here is my thought process: Hm.\n\nHere is my response: A", None, "Hm.\n\n", "A", False),
        ("~~Hm.~~A", Marks("~~", "~~"), "Hm.", "A", False),
    ],
)  # fmt: skip
def test_parts(
    text: str, marks: Marks | None, thinking: str | None, answer: str, unfinished: bool
) -> None:
    assert split(text, marks) == (thinking, answer, unfinished)


PIECES = [
    *(mark for kind in KINDS for mark in (kind.opens, kind.closes, *kind.wraps)),
    *("<", "<thi", "</", "Hm", " ", "\n", "[", "Here is", "a"),
]


@given(
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.sampled_from([None, OPENED, Marks("~", "~")]),
)
def test_parts_only_grow_while_a_text_comes(text: str, marks: Marks | None) -> None:
    whole = split(text, marks)
    shown = ("", "")
    for end in range(len(text) + 1):
        thinking, answer, _ = split(text[:end], marks, ended=False)
        assert (thinking or "").startswith(shown[0])
        assert answer.startswith(shown[1])
        shown = (thinking or "", answer)
    assert (whole[0] or "").startswith(shown[0])
    assert whole[1].startswith(shown[1])


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("<|im_start|>assistant\n<think>\n", OPENED),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", None),
        ("<|im_start|>assistant\n", None),
        ("What does <think> mean?\n", None),
    ],
)
def test_a_prompt_that_opens_the_thinking(prompt: str, found: Marks | None) -> None:
    assert opened_by(prompt) == found


# Small templates of each kind of model that thinks.
_TURNS = "{% for m in messages %}{{ m.role }}: "
_END = "\n{% endfor %}assistant:"
FIELD = (
    _TURNS
    + "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    + "{{ m.content }}"
    + _END
)
OTHER_FIELD = _TURNS + "{% if m.thinking %}({{ m['thinking'] }}){% endif %}{{ m.content }}" + _END
STRIPS = _TURNS + "{{ m.content.split('</think>')[-1] }}" + _END
OPENS = STRIPS + "<think>\n"
KEEPS = _TURNS + "{{ m.content }}" + _END + "{# <think> #}"
KNOWS_NOTHING = _TURNS + "{{ m.content }}" + _END

TALK = [
    Message(role="user", content="Capital?"),
    Message(role="assistant", content="\n\nLima.", reasoning_content="\nHm.\n"),
    Message(role="user", content="Sure?"),
]


@pytest.mark.parametrize(
    ("template", "earlier"),
    [
        (FIELD, "<think>\nHm.\n</think>Lima."),
        (OTHER_FIELD, "(\nHm.\n)Lima."),
        (STRIPS, "\n\nLima."),
        (OPENS, "\n\nLima."),
        (KEEPS, "<think>\nHm.\n</think>\n\nLima."),
        (KNOWS_NOTHING, "Lima."),
    ],
)
def test_what_a_later_prompt_holds_of_it(template: str, earlier: str) -> None:
    role = RolePrompt(format=template)
    text = str(render_roles(TALK, {"tuned": role})["tuned"])
    assert text.startswith(f"user: Capital?\nassistant: {earlier}\nuser: Sure?\nassistant:")


def test_roles_of_plain_text_do_not_see_it() -> None:
    roles = {"tuned": RolePrompt(format=FIELD), "base": RolePrompt(format="plain")}
    texts = render_roles(TALK, roles)
    assert "Hm." in str(texts["tuned"])
    assert "Hm." not in str(texts["base"])
    assert "Assistant:\nLima.\n" in str(texts["base"])


def test_marks_that_are_special_tokens_are_not_written_into_a_message() -> None:
    role = RolePrompt(format=KEEPS, special_texts=frozenset(["<think>", "</think>"]))
    text = str(render_roles(TALK, {"tuned": role})["tuned"])
    assert "assistant: Lima.\n" in text


def test_the_kinds_that_a_template_knows() -> None:
    assert kinds_in(STRIPS) == [THINK]
    assert kinds_in(KNOWS_NOTHING) == []


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "Hi", "reasoning_content": "Hm."},
        {"role": "assistant", "content": "Hi", "reasoning_content": ["Hm."]},
        {"role": "assistant", "content": "Hi", "reasoning_content": "\ud800"},
    ],
)
def test_thinking_of_others_is_refused(message: object) -> None:
    with pytest.raises(PromptError, match="reasoning_content"):
        validate_messages([message])


def test_thinking_of_an_assistant_is_taken() -> None:
    given_ = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."}
    assert validate_messages([given_]) == [given_]
    assert validate_messages([{**given_, "reasoning_content": None}])[0].keys() == {
        "role",
        "content",
    }


def test_a_stream_knows_that_its_prompt_opened_the_thinking(tiny_files: dict[str, Path]) -> None:
    with Emulator.from_files(
        **tiny_files, prompts={"tuned": OPENS}, n_ctx=256, threads=1
    ) as emulator:
        with emulator.stream("Hi", max_tokens=2) as stream:
            assert stream.marks == OPENED
            for _ in stream:
                continue
        answer = stream.answer()
        assert answer.parts.open
        assert answer.parts.answer == slice(len(answer.text), len(answer.text))
        with emulator.stream("Hi <think>", raw=True, max_tokens=2) as stream:
            assert stream.marks == OPENED
        with emulator.stream("Hi", raw=True, max_tokens=2) as stream:
            assert stream.marks is None


class Control:
    """A model in whose vocabulary the marks are control tokens."""

    TEXTS = ("[THINK]", "[/THINK]", "[INST]", "Hm")

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return self.TEXTS[token].encode() if special or token == 3 else b""

    def tokenize(self, text: str, **_: object) -> list[int]:
        return [self.TEXTS.index(text)]

    def special_tokens(self) -> list[int]:
        return [0, 1, 2]


def test_control_tokens_that_mark_thinking_are_written() -> None:
    model: Any = Control()
    magistral = AnswerMarks(model, "tuned", RolePrompt(format="{{ '[THINK]' }}"))
    assert b"".join(map(magistral.piece, (0, 3, 1, 2))) == b"[THINK]Hm[/THINK]"
    other = AnswerMarks(model, "tuned", RolePrompt(format="{{ 'x' }}"))
    assert b"".join(map(other.piece, (0, 3, 1, 2))) == b"Hm"


def test_a_preset_says_other_marks() -> None:
    model: Any = Control()
    marks = AnswerMarks(model, "tuned", RolePrompt(format="plain", thinking=("[INST]", "Hm")))
    assert marks.of({"tuned": [3]}) == Marks("[INST]", "Hm")
    assert marks.of({"tuned": [3, 2]}) == Marks("[INST]", "Hm", opened=True)
    assert marks.piece(2) == b"[INST]"
    role = RoleFile(file="x.gguf", thinking=["~", "~~"])  # type: ignore[arg-type]  # of TOML
    assert role.thinking == ("~", "~~")
    for wrong in ([], ["~"], ["", "~"], "~", [1, 2]):
        with pytest.raises(ValidationError):
            RoleFile(file="x.gguf", thinking=wrong)  # type: ignore[arg-type]
