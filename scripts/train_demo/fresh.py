"""Prompts written after the training: the task of `eftlocal eval scripts/train_demo/fresh.py`.

fresh.jsonl holds, a line, a prompt, its kind, and a regular expression of what is right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from eftlocal.answer import Answer
from eftlocal.evaluation.task import Item, Metric, Options, Task


class Fresh(Task):
    """Bare questions, other phrasings, greetings, and what nobody here can know."""

    name = "fresh"
    about = "prompts written after the demo's models were trained"
    takes = ("data", "samples")
    metrics = {"right": Metric("answers that keep the prompt's rule, and stop", True)}  # noqa: RUF012
    max_tokens = 48

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._data = options.data or Path(__file__).with_name("fresh.jsonl")

    def items(self) -> Sequence[Item]:
        lines = self._data.read_text("utf-8").splitlines()
        return tuple(
            Item.chat(row["prompt"], groups=(row["kind"],), data={"right": row["right"]})
            for row in map(json.loads, lines)
        )

    def judge(self, item: Item, answer: Answer) -> Mapping[str, float]:
        right = re.search(item.data["right"], answer.text.strip())
        return {"right": float(right is not None and answer.finish_reason == "stop")}


TASK = Fresh
