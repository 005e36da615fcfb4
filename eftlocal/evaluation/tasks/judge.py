"""Open prompts, whose answers have no right one: they are generated for a judge to compare.

The forms of a prompt's line are those in which such prompts are published: OpenAI's messages,
MT-bench's turns (Zheng et al. 2023), HH's conversations (Bai et al. 2022), ELI5's titles (Fan et
al. 2019).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eftlocal.answer import Answer
from eftlocal.errors import PromptError, UsageError
from eftlocal.evaluation.task import Item, Metric, Task
from eftlocal.prompt.messages import (
    Message,
    read_records,
    transcript,
    validate_messages,
    validate_prompt,
)

_KEYS = ("prompt", "messages", "turns", "chosen", "question", "title")
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]*")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class Open(Task):
    """Prompts of a file."""

    name = "judge"
    about = "open prompts, whose answers a judge compares"
    takes = ("data", "system", "samples")
    metrics: Mapping[str, Metric] = {"characters": Metric("length of the answer, in characters")}

    def items(self) -> Sequence[Item]:
        """One of each line; a "category" is a group."""
        path = self.options.data
        if path is None:
            raise UsageError(f"{self.name} asks the prompts of a file; name one with --data")
        return tuple(self._item(*line) for line in read_records(path, None))

    def judge(self, item: Item, answer: Answer) -> dict[str, float]:
        """The length alone: what an answer is worth only a judge says."""
        del item
        return {"characters": float(len(answer.text))}

    def _item(self, where: str, record: dict[str, Any]) -> Item:
        try:
            messages = tuple(_messages(record))
            system, category = self.options.system, record.get("category")
            if system is not None:
                if any(message["role"] == "system" for message in messages):
                    raise PromptError("it has a system message; leave out --system")
                messages = (Message(role="system", content=system), *messages)
        except PromptError as error:
            raise PromptError(f"{where}: {error}") from None
        groups = (category,) if isinstance(category, str) else ()
        return Item(messages, transcript(messages), groups=groups)


def _messages(record: dict[str, Any]) -> list[Message]:
    """The conversation of a line, without the answer that may end it."""
    given = [key for key in _KEYS if record.get(key) is not None]
    if not given:
        raise PromptError(f"no prompt; give one of {', '.join(_KEYS)}")
    key = given[0]
    value = record[key]
    if key == "messages":
        messages = validate_messages(value)
    elif not isinstance(text := _first(value) if key == "turns" else value, str):
        raise PromptError(f"{key}: give a text")
    elif key == "chosen" or text.startswith("\n\nHuman:"):
        messages = _conversation(text)
    else:
        more = record.get("selftext") if key == "title" else None
        text = f"{text}\n\n{more}" if isinstance(more, str) and more.strip() else text
        messages = [Message(role="user", content=validate_prompt(text))]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] != "user":
        raise PromptError(f"{key}: nobody asks anything")
    return messages


def _first(turns: object) -> object:
    return turns[0] if isinstance(turns, list) and turns else None


def _conversation(text: str) -> list[Message]:
    """HH's form: turns that begin with "Human:" or "Assistant:" after an empty line."""
    before, *parts = _TURN.split(text)
    if before.strip() or not parts:
        raise PromptError('a conversation of this form begins with "Human: ..."')
    turns = zip(parts[::2], parts[1::2], strict=True)
    return validate_messages([{"role": _ROLES[who], "content": said} for who, said in turns])


TASK = Open
