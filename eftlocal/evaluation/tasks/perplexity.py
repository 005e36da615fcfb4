"""Any text: how well the models predict it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from eftlocal.decoding.score import TextLogprobs
from eftlocal.disk import read_text
from eftlocal.errors import PromptError, UsageError
from eftlocal.evaluation.data import prompt_at, read_lines
from eftlocal.evaluation.task import Item, Metric, Options, Task

LONGEST = 2_000  # characters of a part
_SHOWN = 200  # of it to people


class Perplexity(Task):
    """The texts of a .jsonl file, objects with "text", each by itself; or the parts of a text.

    With p_i the probability of token i after those before it in its part, over all parts:

        perplexity = exp(-sum log p_i / number of tokens)
        bits per byte = -sum log2 p_i / number of their bytes

    The first token of a part where no BOS stands before it has no p_i, and counts in neither
    number. Perplexities are comparable only between models of one vocabulary, bits per byte
    between any.
    """

    name = "perplexity"
    about = "any text, and how well the models predict it"
    takes = ("data",)
    metrics = {  # noqa: RUF012 - as `Task` has it
        "perplexity": Metric(
            "exponential of the mean loss of a token",
            over="n",
            exponential=True,
            less_is_better=True,
        ),
        "bits_per_byte": Metric("loss in bits, of all bytes", over="bytes", less_is_better=True),
    }
    generates = False

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        if options.data is None:
            raise UsageError("perplexity: give the file of the text: --data FILE")
        self._path = options.data

    def items(self) -> Sequence[Item]:
        if self._path.suffix.lower() == ".jsonl":
            lines = read_lines(self._path, text=str)
            texts = [prompt_at(at, line["text"]) for at, line in lines if line["text"].strip()]
        else:
            texts = list(parts(read_text(self._path, not_text=PromptError)))
        found = tuple(
            Item(text, _beginning(text), raw=True, texts=(text,), alone=True)
            for text in texts
            if text.strip()
        )
        if not found:
            raise PromptError(f"{self._path} holds no text")
        return found

    def judge_texts(self, item: Item, scored: Sequence[TextLogprobs]) -> Mapping[str, float]:
        (text,) = scored
        known = ~np.isnan(text.logprobs)
        loss = -float(text.logprobs[known].sum())
        return {
            "perplexity": loss,
            "n": float(known.sum()),
            "bits_per_byte": loss / math.log(2),
            "bytes": float(sum(len(p) for p, k in zip(text.pieces, known, strict=True) if k)),
        }


def parts(text: str, longest: int = LONGEST) -> Iterator[str]:
    """The text in parts of at most so many characters, which end where a paragraph does; a longer
    paragraph is cut at the last white space that fits, or where none does, anywhere."""
    start = 0
    while start < len(text):
        part = text[start : start + longest]
        if start + longest < len(text):
            ends = [m.end() for m in re.finditer(r"\n\s*\n", part)]
            ends = ends or [m.end() for m in re.finditer(r"\s", part)]
            part = part[: ends[-1]] if ends else part
        yield part
        start += len(part)


def _beginning(text: str) -> str:
    told = text.strip()
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]}..."


TASK = Perplexity
