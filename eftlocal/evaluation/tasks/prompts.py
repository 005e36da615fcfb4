"""Prompts of one's own from a file, with right answers where it has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eftlocal.answer import Answer
from eftlocal.decoding.score import TextLogprobs
from eftlocal.errors import EftlocalError, PromptError, UsageError
from eftlocal.evaluation.mentions import mentions
from eftlocal.evaluation.task import Item, Metric, Options, Task
from eftlocal.prompt.messages import (
    Message,
    read_records,
    transcript,
    validate_messages,
    validate_prompt,
)

_KEYS = ("id", "prompt", "messages", "gold")


class Prompts(Task):
    """Prompts, one a line; of a .jsonl file, one object a line; empty lines do not count.

    An object has "prompt" (a string) or "messages" (a conversation), and may have "gold" (a right
    answer, or a list of them) and "id", which is not looked at.
    """

    name = "prompts"
    about = "prompts of a file, with right answers where it has them"
    takes = ("data", "system", "raw", "special", "samples")
    greedy = False

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        if options.data is None:
            raise UsageError("give the file of prompts: eftlocal eval FILE, or --data FILE")
        self._items = file_items(
            options.data, system=options.system, raw=options.raw, special=options.special
        )
        if any(item.gold for item in self._items):
            self.metrics = {
                "exact": Metric("answers that are a right one word for word, and stop", True),
                "fact": Metric("answers with a right answer as whole words", True),
                "gold_nll": Metric(
                    "negative log-likelihood of a right answer, nats", less_is_better=True
                ),
            }

    def items(self) -> Sequence[Item]:
        return self._items

    def judge(self, item: Item, answer: Answer) -> Mapping[str, float]:
        if not item.gold:
            return {}
        text, gold = answer.text.strip(), [right.strip() for right in item.gold]
        return {
            "exact": float(answer.finish_reason == "stop" and text in gold),
            "fact": float(any(mentions(text, right) for right in gold)),
        }

    def judge_texts(self, item: Item, scored: Sequence[TextLogprobs]) -> Mapping[str, float]:
        return {"gold_nll": -float(scored[0].logprobs.sum())} if scored else {}


def file_items(
    path: Path, *, system: str | None = None, raw: bool = False, special: bool = False
) -> tuple[Item, ...]:
    """The prompts of a file, as the task says.

    Args:
        system: a system prompt before each.
        raw: continue each prompt as it is.
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
    right: dict[str, Any] = {"gold": tuple(gold), "texts": tuple(gold[:1])}
    if "messages" in record:
        if raw:
            raise PromptError('--raw goes with "prompt", not with "messages"')
        messages = tuple(validate_messages(record["messages"]))
        if system is not None:
            if any(m["role"] == "system" for m in messages):
                raise PromptError("it has a system message; leave out --system")
            messages = (Message(role="system", content=system), *messages)
        return Item(messages, transcript(messages), **right)
    if not isinstance(record["prompt"], str):
        raise PromptError("prompt: give a string")
    text = validate_prompt(record["prompt"])
    if raw:
        return Item(text, text, raw=True, special=special, **right)
    return Item.chat(text, system, **right)


TASK = Prompts
