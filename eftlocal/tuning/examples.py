"""Prompts with the answers they should get: read from a file, checked, some of them held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eftlocal.errors import PromptError, UsageError
from eftlocal.prompt.messages import (
    Message,
    read_records,
    text_of,
    transcript,
    validate_messages,
    validate_prompt,
)

_KEYS = ("prompt", "completion", "messages", "id")


@dataclass(frozen=True)
class Example:
    """A conversation up to what is to be answered, and the answer.

    Attributes:
        where: it stands, as in "FILE, line 3".
    """

    messages: tuple[Message, ...]
    answer: str
    where: str = ""

    @property
    def prompt(self) -> str:
        return transcript(self.messages)


def read_examples(path: Path) -> list[Example]:
    """The examples of a JSONL file, in its order.

    A line is {"prompt": ..., "completion": ...}, or {"messages": [...]} whose last message is the
    assistant's. Blanks at the ends of an answer's lines are taken away: a model tuned on them
    learns little else, because nothing is as easy to predict.

    Raises:
        UsageError: the file cannot be read, or is no JSONL file.
        PromptError: a line is no example, or the file holds none; names the line.
    """
    if path.suffix.lower() != ".jsonl":
        raise UsageError(f'{path}: examples are a .jsonl file of {{"prompt", "completion"}}')
    return [_example(where, record) for where, record in read_records(path, _KEYS)]


def _example(where: str, record: dict[str, Any]) -> Example:
    if ("messages" in record) == ("prompt" in record):
        raise PromptError(f'{where}: give either "messages", or "prompt" and "completion"')
    if "messages" in record:
        try:
            messages = validate_messages(record["messages"])
        except PromptError as error:
            raise PromptError(f"{where}: {error}") from None
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise PromptError(f"{where}: the last message must be the assistant's, after another")
        answer = messages.pop()["content"]
    else:
        messages = [Message(role="user", content=validate_prompt(text_of(where, record)))]
        answer = record.get("completion", "")
        if not isinstance(answer, str):
            raise PromptError(f'{where}: "completion" must be a string')
    answer = "\n".join(line.rstrip() for line in answer.splitlines()).strip()
    if not answer:
        raise PromptError(f"{where}: the answer is empty")
    return Example(tuple(messages), answer, where)


def is_held_out(prompt: str, share: float) -> bool:
    """Whether a prompt belongs to those that are never trained on.

    It depends on its text alone, so files that share prompts hold the same ones out.

    Args:
        share: of all prompts, 0 to 1.
    """
    hashed = hashlib.blake2b(prompt.strip().encode(), digest_size=8, person=b"eftlocal tuning")
    return int.from_bytes(hashed.digest(), "big") < share * 2**64


def split(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """The examples to train on, and those held out, by their prompts.

    Raises:
        UsageError: one of both is empty.
    """
    trained = [e for e in examples if not is_held_out(e.prompt, share)]
    held_out = [e for e in examples if is_held_out(e.prompt, share)]
    if not trained or not held_out:
        raise UsageError(
            f"{len(examples)} examples give {len(trained)} to train on and {len(held_out)} to "
            "measure with; give more examples, or hold out another share"
        )
    return trained, held_out
