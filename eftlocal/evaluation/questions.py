"""Held-out questions with gold answers, and each style's answers and form, from one JSON file.

The file holds, per style, a regular expression of a whole answer (`form`), the answer templates of
each family (`answers`, the gold one first) and, where the form has further constraints, `rules`: of
each family, regular expressions by name, each found in an answer that keeps that constraint. Per
question it holds its text and the fields that fill the templates.
`validation` is for choices, `test` for final numbers only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eftlocal.disk import read_text
from eftlocal.errors import UsageError
from eftlocal.json_text import TextError, parse_json

FOLDER = Path(__file__).parents[1] / "demo"
SPLITS = ("validation", "test")
WARM, PLAIN = "warm", "plain"  # the styles of the demo's roles tuned and plain


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        family: the kind of fact asked for.
        held_out_phrasing: the wording never occurred in fine-tuning.
        text: what is asked.
        value: the fact, a part of every right answer.
        answers: style to every text that counts as exact, the gold answer first.
    """

    family: str
    held_out_phrasing: bool
    text: str
    value: str
    answers: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class QuestionSet:
    """Questions of one split, and per style the form that its answers keep.

    Attributes:
        forms: style to what a whole answer matches.
        rules: style to family to what is found in an answer, by the name of each constraint.
    """

    split: str
    questions: tuple[Question, ...]
    forms: Mapping[str, re.Pattern[str]]
    rules: Mapping[str, Mapping[str, Mapping[str, re.Pattern[str]]]]

    @property
    def families(self) -> tuple[str, ...]:
        """In the order of the questions."""
        return tuple(dict.fromkeys(q.family for q in self.questions))

    def kept(self, text: str, style: str, family: str) -> dict[str, bool]:
        """Which of a style's constraints an answer keeps, whatever it claims, by their names; the
        form of the whole is the first."""
        rules = self.rules[style].get(family, {})
        found = {name: rule.search(text) is not None for name, rule in rules.items()}
        return {"form": self.forms[style].fullmatch(text) is not None} | found

    def in_form(self, text: str, style: str, family: str) -> bool:
        """Whether an answer keeps all of a style's constraints."""
        return all(self.kept(text, style, family).values())

    def first(self, each: int) -> QuestionSet:
        """At most `each` questions of every family."""
        kept: list[Question] = []
        for family in self.families:
            kept += [q for q in self.questions if q.family == family][:each]
        return replace(self, questions=tuple(kept))


def read(path: Path, split: str) -> QuestionSet:
    """The questions of one split.

    Raises:
        UsageError: no such split, or the file is missing or not a file of questions.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; there are {' and '.join(SPLITS)}")
    text = read_text(path)
    try:
        data = parse_json(text)
        styles = data["styles"]
        return QuestionSet(
            split,
            tuple(_question(row, styles) for row in data["questions"] if row["split"] == split),
            {style: re.compile(of["form"]) for style, of in styles.items()},
            {style: _rules(of) for style, of in styles.items()},
        )
    except TextError as error:
        raise UsageError(f"{path} is not a file of the demo's questions: {error}") from None
    except (LookupError, AttributeError, TypeError, ValueError, re.error) as error:
        raise UsageError(f"{path} is not a file of the demo's questions: {error!r}") from None


def _rules(style: dict[str, Any]) -> dict[str, dict[str, re.Pattern[str]]]:
    return {
        family: {name: re.compile(rule) for name, rule in rules.items()}
        for family, rules in style.get("rules", {}).items()
    }


def _question(row: dict[str, Any], styles: dict[str, Any]) -> Question:
    fields, family = row["fields"], str(row["family"])
    return Question(
        family=family,
        held_out_phrasing=bool(row["held_out_phrasing"]),
        text=str(row["question"]),
        value=str(fields["v"]),
        answers={
            style: tuple(template.format(**fields) for template in of["answers"][family])
            for style, of in styles.items()
        },
    )
