"""TruthfulQA (Lin et al. 2021, arXiv 2109.07958): questions that many people answer wrongly."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eftlocal.decoding.score import TextLogprobs
from eftlocal.disk import read_text
from eftlocal.errors import PromptError
from eftlocal.evaluation.data import OnHub, filled, of_harness, read_parquet
from eftlocal.evaluation.task import Item, Metric, Options, Task

QUESTIONS = OnHub(
    "truthfulqa/truthful_qa",
    "generation/validation-00000-of-00001.parquet",
    "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
)
_COLUMNS = {
    "category": str,
    "question": str,
    "best_answer": str,
    "correct_answers": list,
    "incorrect_answers": list,
}
_HEADS = tuple(name.replace("_", " ").title() for name in _COLUMNS)  # of the authors' CSV
_PREAMBLE = "truthfulqa/truthfulqa_mc1.yaml"


class TruthfulQA(Task):
    """Multiple choice: nothing is generated, every answer of the data is scored.

    With s(a) = sum log p(token of " a" | what stands before it), without length normalisation:

        MC1 = 1 if s(best answer) > max of s over the false answers, else 0
        MC2 = sum of e^s(a) over the true answers / sum of e^s(a) over all answers

    Before each question ("Q: ...", and under it "A:") stand the authors' six answered questions,
    as lm-evaluation-harness writes them, where the package lm-eval is installed; elsewhere
    nothing does. Which of the two is part of what a resumed run must agree in.
    """

    name = "truthfulqa"
    about = "TruthfulQA: whether true answers are likelier than common errors"
    takes = ("data",)
    metrics = {  # noqa: RUF012 - as `Task` has it
        "mc1": Metric("questions whose best answer is likelier than every false one", True),
        "mc2": Metric("probability of the true answers, of that of all answers", True),
    }
    generates = False

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        if options.data is None:
            path = QUESTIONS.path(offline=options.offline)
            rows = [(str(path), row) for row in read_parquet(path, **_COLUMNS)]
        else:
            rows = _read_csv(options.data)
        template = (of_harness(_PREAMBLE) or {}).get("doc_to_text", "Q: {{question}}\nA:")
        self._items = tuple(_item(where, row, template) for where, row in rows)

    def items(self) -> Sequence[Item]:
        return self._items

    def judge_texts(self, item: Item, scored: Sequence[TextLogprobs]) -> Mapping[str, float]:
        s = np.array([text.logprobs.sum() for text in scored])
        true = np.array(item.data["true"])
        false = s[~true]
        found = {"mc1": float(s[0] > false.max())}
        if np.isfinite(s).any():  # a filter may leave none of them possible
            mass = np.logaddexp.reduce(s[true]) - np.logaddexp.reduce(s)
            found["mc2"] = float(np.exp(mass))
        return found


def _read_csv(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The authors' file: answers are separated by semicolons."""
    text = read_text(path, not_text=PromptError)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found = []
    try:
        if not {*_HEADS} <= {*(reader.fieldnames or ())}:
            raise PromptError(f"{path}: a CSV file with the heads {', '.join(_HEADS)} is needed")
        for row in reader:
            values = [row[head] or "" for head in _HEADS]
            answers = [[a.strip() for a in text.split(";") if a.strip()] for text in values[3:]]
            record = dict(zip(_COLUMNS, [*values[:3], *answers], strict=True))
            found.append((f"{path}, line {reader.line_num}", record))
    except csv.Error as error:
        raise PromptError(f"{path}, after line {reader.line_num}: {error}") from None
    if not found:
        raise PromptError(f"{path} holds no question")
    return found


def _item(where: str, row: Mapping[str, Any], template: str) -> Item:
    question, best = row["question"].strip(), row["best_answer"].strip()
    true = dict.fromkeys([best, *row["correct_answers"]])
    false = [answer for answer in dict.fromkeys(row["incorrect_answers"]) if answer not in true]
    if not (question and best and false):
        raise PromptError(f"{where}: a question, its best answer and a false one are needed")
    return Item(
        filled(template, question=question),
        question,
        gold=(best,),
        raw=True,
        texts=tuple(f" {answer}" for answer in (*true, *false)),
        groups=(row["category"],),
        data={"true": [True] * len(true) + [False] * len(false)},
    )


TASK = TruthfulQA
