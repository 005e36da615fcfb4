"""What a sweep asks: prompts of a file, or the demo's held-out questions, perhaps with answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eftlocal.emulator import Prompt
from eftlocal.errors import EftlocalError, PromptError
from eftlocal.evaluate.questions import QuestionSet, read
from eftlocal.prompt.messages import Message, read_records, validate_messages, validate_prompt

_KEYS = ("id", "prompt", "messages", "gold")


@dataclass(frozen=True)
class Item:
    """One prompt.

    Attributes:
        prompt: what the models are asked.
        text: the same for people.
        gold: right answers, the first one scored; empty where none is known.
        asked: the demo's question by itself, with its styles; None for other prompts.
        raw: the prompt is text to go on with, without a chat template.
        special: special tokens' texts in it are those tokens.
    """

    prompt: Prompt
    text: str
    gold: tuple[str, ...] = ()
    asked: QuestionSet | None = None
    raw: bool = False
    special: bool = False


def demo_items(path: Path, split: str) -> tuple[Item, ...]:
    """The questions of one split of a file of questions."""
    asked = read(path, split)
    return tuple(
        Item(question.text, question.text, asked=QuestionSet(split, (question,), asked.forms))
        for question in asked.questions
    )


def file_items(
    path: Path, *, system: str | None = None, raw: bool = False, special: bool = False
) -> tuple[Item, ...]:
    """One prompt a line; of a .jsonl file, one object a line; empty lines do not count.

    An object has "prompt" (a string) or "messages" (a conversation), and may have "gold" (a right
    answer, or a list of them) and "id", which is not looked at.

    Args:
        system: a system prompt before each.
        raw: go on with each prompt as it stands.
        special: special tokens' texts in it are those tokens.

    Raises:
        UsageError: the file cannot be read.
        PromptError: it is not UTF-8, holds no prompt, or a line is something else; which one.
    """

    def item(where: str, record: dict[str, Any]) -> Item:
        try:
            return _item(record, system, raw, special)
        except EftlocalError as error:
            raise PromptError(f"{where}: {error}") from None

    return tuple(item(*line) for line in read_records(path, _KEYS))


def _item(record: dict[str, Any], system: str | None, raw: bool, special: bool) -> Item:
    if ("prompt" in record) == ("messages" in record):
        raise PromptError('give one of "prompt" and "messages"')
    given = record.get("gold", [])
    gold = [given] if isinstance(given, str) else given
    if not isinstance(gold, list) or not all(isinstance(g, str) and g.strip() for g in gold):
        raise PromptError("gold: give a right answer, or a list of them")
    for answer in gold:
        validate_prompt(answer)
    if "messages" in record:
        if raw:
            raise PromptError('--raw goes with "prompt", not with "messages"')
        messages = validate_messages(record["messages"])
        if system is not None and any(m["role"] == "system" for m in messages):
            raise PromptError("it has a system message; leave out --system")
    else:
        if not isinstance(record["prompt"], str):
            raise PromptError("prompt: a string is needed")
        text = validate_prompt(record["prompt"])
        if raw:
            return Item(text, text, tuple(gold), raw=True, special=special)
        messages = [Message(role="user", content=text)]
    if system is not None:
        messages = [Message(role="system", content=system), *messages]
    return Item(messages, _shown(messages), tuple(gold))


def _shown(messages: Sequence[Message]) -> str:
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)


def spread(items: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """At most so many, evenly spread over all."""
    if limit is None or limit >= len(items):
        return tuple(items)
    return tuple(items[i * len(items) // limit] for i in range(limit))


def digest(items: Sequence[Item]) -> str:
    """Of prompts, right answers and their order."""
    told = [
        [
            item.prompt,
            [item.raw, item.special] if item.special else item.raw,
            list(item.gold),
            [dict(q.answers) | {"value": q.value} for q in item.asked.questions]
            if item.asked
            else None,
        ]
        for item in items
    ]
    text = json.dumps(told, ensure_ascii=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_of(seed: int, index: int) -> int:
    """The seed of one prompt, at every point the same: points differ in their dials only."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)
