"""What a task is: its items, what is measured of an answer, and how that is summed up.

A task of one's own is a Python file with a class `TASK`, a subclass of `Task`:

    class Haiku(Task):
        name = "haiku"
        about = "poems of three lines"
        metrics = {"three_lines": Metric("answers that have three lines", is_share=True)}

        def items(self):
            return tuple(Item.chat(f"Write a haiku about {what}.") for what in ("rain", "a cat"))

        def judge(self, item, answer):
            return {"three_lines": float(len(answer.text.strip().splitlines()) == 3)}

    TASK = Haiku
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from eftlocal.answer import Answer
from eftlocal.decoding.score import TextLogprobs
from eftlocal.prompt.messages import Message, transcript
from eftlocal.request import Prompt


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Attributes:
        about: in words.
        is_share: between 0 and 1.
        over: another value of each item, which the sum over items is divided by; empty divides by
            the number of items. So a mean over tokens is one over all tokens, not over texts.
        exponential: e to that power is what is shown.
        role: without which there is nothing to measure.
        less_is_better: as of a loss.
    """

    about: str
    is_share: bool = False
    over: str = ""
    exponential: bool = False
    role: str = ""
    less_is_better: bool = False


@dataclass(frozen=True)
class Item:
    """One thing that is asked of every model.

    Attributes:
        prompt: what the models are asked.
        text: the same for people.
        gold: right answers; empty where none is known.
        raw: the prompt is text to go on with, without a chat template.
        special: special tokens' texts in it are those tokens.
        texts: that are scored after the prompt, as choices or right answers are; a blank between
            the two has to be in them.
        alone: the texts are scored by themselves, without the prompt.
        groups: parts of the whole that are also shown by themselves.
        data: what the task needs to judge an answer; what it depends on is in `digest`.
    """

    prompt: Prompt
    text: str
    gold: tuple[str, ...] = ()
    raw: bool = False
    special: bool = False
    texts: tuple[str, ...] = ()
    alone: bool = False
    groups: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def chat(cls, question: str, system: str | None = None, **more: Any) -> Item:
        """A question of the user, after a system prompt where there is one."""
        asked = Message(role="user", content=question)
        first = () if system is None else (Message(role="system", content=system),)
        messages = (*first, asked)
        return cls(messages, transcript(messages), **more)

    @property
    def has_system(self) -> bool:
        """Whether the conversation has a system message."""
        return any(isinstance(part, dict) and part["role"] == "system" for part in self.prompt)


@dataclass(frozen=True)
class Options:
    """What a task may be told on the command line; None leaves it to the task.

    Attributes:
        offline: nothing may be downloaded; every task is told.
    """

    data: Path | None = None
    split: str | None = None
    shots: int | None = None
    system: str | None = None
    raw: bool = False
    special: bool = False
    run_code: bool = False
    samples: int | None = None
    offline: bool = False


class Task:
    """A task; its subclasses say the rest.

    Attributes:
        name: on the command line and in files.
        about: in one line.
        takes: the names of the `Options` that it heeds; others are refused. Without "split" of
            its own, the items are halved by what they ask.
        metrics: of an answer or of scored texts, by name; the first is the one that counts most.
        generates: answers are generated; otherwise texts are only scored.
        greedy: temperature 0, unless the user says otherwise.
        max_tokens: of an answer, unless the user says otherwise.
        stop: strings that end an answer.
        samples: answers to each item.
        large: the file of a large tuned model that is there to compare with.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    takes: ClassVar[Collection[str]] = ("samples",)
    metrics: Mapping[str, Metric] = {}
    generates: bool = True
    greedy: bool = True
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    samples: int = 1
    large: Path | None = None

    def __init__(self, options: Options) -> None:
        self.options = options
        self.samples = options.samples or self.samples

    def items(self) -> Sequence[Item]:
        """Everything that is asked.

        Raises:
            UsageError, PromptError: the data cannot be read; where, and what to do.
        """
        raise NotImplementedError

    def judge(self, item: Item, answer: Answer) -> Mapping[str, float]:
        """Metrics of one answer, by name. Those it does not measure may be absent."""
        del item, answer
        return {}

    def judge_texts(self, item: Item, scored: Sequence[TextLogprobs]) -> Mapping[str, float]:
        """Metrics of the item's `texts`, scored in their order."""
        del item, scored
        return {}

    def gather(self, samples: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """One value of each metric from those of an item's answers: their mean."""
        names = dict.fromkeys(name for one in samples for name in one)
        found = {name: [one[name] for one in samples if name in one] for name in names}
        return {name: sum(values) / len(values) for name, values in found.items()}
