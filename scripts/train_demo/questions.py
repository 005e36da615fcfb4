"""The held-out questions with their gold answers, as shipped in questions.json.

`validation` may be used for choices, `test` for the final numbers only. No subject of either occurs
in fine-tuning; the family "person" and every second question's phrasing do not either.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from facts import (
    HELD_OUT_QUESTION,
    QUESTIONS,
    STATEMENTS,
    Fact,
    correct_answers,
    plain,
    render,
    warm,
)


@dataclass(frozen=True)
class Question:
    """One question; `accepted` lists every answer of the warm style that counts as exact."""

    split: str
    family: str
    held_out_phrasing: bool
    question: str
    value: str
    warm: str
    accepted: tuple[str, ...]
    plain: str


def select(facts: list[Fact], split: str, each: int) -> list[Question]:
    """At most `each` questions a family, the phrasings by turns."""
    rng, out = random.Random(7), []
    for family in STATEMENTS:
        pool = [f for f in facts if f.family == family and f.split == split]
        for i, fact in enumerate(rng.sample(pool, min(each, len(pool)))):
            held_out = i % 2 == 1
            known = QUESTIONS[family][i // 2 % len(QUESTIONS[family])]
            question = render(HELD_OUT_QUESTION[family] if held_out else known, fact)
            accepted = tuple(sorted(correct_answers(fact, "warm")))
            gold = (fact.value, warm(fact), accepted, plain(fact))
            out.append(Question(split, family, held_out, question, *gold))
    return out


def write(path: Path, questions: list[Question]) -> None:
    """One question a line, inside a JSON array."""
    lines = ",\n".join(json.dumps(asdict(q), ensure_ascii=False) for q in questions)
    path.write_text(f"[\n{lines}\n]\n", "utf-8")


def read(path: Path, split: str) -> list[Question]:
    """The questions of one split."""
    rows = json.loads(path.read_text("utf-8"))
    return [Question(**{**row, "accepted": tuple(row["accepted"])}) for row in rows
            if row["split"] == split]  # fmt: skip
