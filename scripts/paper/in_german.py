"""A task: whether questions in English are answered in German."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from eftlocal.answer import Answer
from eftlocal.evaluation.task import Item, Metric, Task

_GERMAN = r"der|die|das|und|ist|nicht|ein|eine|sie|mit|von|auf|im|es|für|zu|sind|oder|kann|wird"
_WORD = re.compile(rf"\b(?:{_GERMAN})\b", re.IGNORECASE)
_MANY = 3  # of these words; "die" alone is English, too
_QUESTIONS = (
    *("How do I get better at running?", "Why is the sky blue?", "What is a good breakfast?"),
    *("How do I learn to play the guitar?", "What should I do on a rainy day?", "What is money?"),
    *("Why do cats sleep so much?", "How do I write a letter to my boss?", "What is a poem?"),
    *("Where do rivers come from?", "How can I save money?", "Why do leaves fall in autumn?"),
)


class InGerman(Task):
    """Function words tell the language."""

    name = "in_german"
    about = "questions in English: are they answered in German?"
    metrics: Mapping[str, Metric] = {"german": Metric("answers in German", is_share=True)}

    def items(self) -> Sequence[Item]:
        return tuple(Item.chat(question) for question in _QUESTIONS)

    def judge(self, item: Item, answer: Answer) -> Mapping[str, float]:
        del item
        return {"german": float(len(_WORD.findall(answer.text)) >= _MANY)}


TASK = InGerman
