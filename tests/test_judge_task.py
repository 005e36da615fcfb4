"""Open prompts, in the forms in which they are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eftlocal.errors import PromptError, UsageError
from eftlocal.evaluation.task import Item, Options
from eftlocal.evaluation.tasks.judge import Open

HELLO = [{"role": "user", "content": "Hello?"}]


def items(path: Path, *records: Any, system: str | None = None) -> list[Item]:
    data = path / "open.jsonl"
    data.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return list(Open(Options(data=data, system=system)).items())


def test_every_form_becomes_a_conversation_that_ends_with_a_question(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "Hi."}
    found = items(
        tmp_path,
        {"prompt": "Hello?", "answers": ["Hi."]},
        {"messages": HELLO},
        {"messages": [*HELLO, answer]},
        {"question_id": 81, "category": "writing", "turns": ["Hello?", "And now?"]},
        {"chosen": "\n\nHuman: Hello?\n\nAssistant: Hi.", "rejected": "\n\nHuman: Hello?"},
        {"prompt": "\n\nHuman: Hello?\n\nAssistant:"},
        {"title": "Hello?", "selftext": ""},
        {"question": "Hello?", "category": "greetings"},
    )
    assert [list(item.prompt) for item in found] == [HELLO] * 8
    assert [item.text for item in found] == ["Hello?"] * 8
    assert [item.groups for item in found if item.groups] == [("writing",), ("greetings",)]


def test_of_a_conversation_only_the_last_answer_is_left_out(tmp_path: Path) -> None:
    (item,) = items(
        tmp_path,
        {
            "chosen": "\n\nHuman: One.\nTwo.\n\nThree.\n\nAssistant: I see.\n\nHuman: So?"
            "\n\nAssistant: Human: is a word\n\nthat I know."
        },
        system="Be kind.",
    )
    assert list(item.prompt) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One.\nTwo.\n\nThree."},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "So?"},
    ]


def test_a_title_goes_before_its_text(tmp_path: Path) -> None:
    (item,) = items(tmp_path, {"title": "Why is it blue?", "selftext": "The sky."})
    assert item.text == "Why is it blue?\n\nThe sky."


def test_a_file_of_text_has_a_prompt_a_line(tmp_path: Path) -> None:
    data = tmp_path / "open.txt"
    data.write_text("One?\n\nTwo?\n", encoding="utf-8")
    assert [item.text for item in Open(Options(data=data)).items()] == ["One?", "Two?"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"text": "Hello?"}, "no prompt; give one of prompt, messages, turns"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": 3}, "prompt: give a text"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"question": "\ud800"}, "not valid text"),
        ({"turns": []}, "turns: give a text"),
        ({"turns": "Hello?"}, "turns: give a text"),
        ({"chosen": "Hello?"}, "a conversation of this form begins with"),
        ({"chosen": "\n\nAssistant: Hi."}, "chosen: nobody asks anything"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages: nobody asks anything"),
        ({"messages": "Hello?"}, "messages: a list is needed"),
        (["Hello?"], "not an object"),
    ],
)
def test_a_line_that_is_none_is_named(record: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=said) as caught:
        items(tmp_path, {"prompt": "x"}, record)
    assert "open.jsonl, line 2: " in str(caught.value)


def test_a_system_prompt_is_given_once(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="line 1: it has a system message"):
        items(tmp_path, {"messages": [{"role": "system", "content": "x"}, *HELLO]}, system="y")


def test_it_needs_a_file() -> None:
    with pytest.raises(UsageError, match="name one with --data"):
        Open(Options()).items()
