"""The held-out questions with their gold answers, as shipped in questions.json.

eftlocal.evaluate.questions reads it. The file holds, per style, a regular expression and the answer
templates of each family (the gold one first); per question its text and the fields that fill them.

`validation` may be used for choices, `test` for the final numbers only. No subject of either occurs
in fine-tuning; the family "person" and every second question's phrasing do not either.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from facts import (
    FORMS,
    HELD_OUT_QUESTION,
    PLAIN,
    QUESTIONS,
    STATEMENTS,
    WARM_CLOSING,
    WARM_OPENING,
    Fact,
    fields,
    render,
)


def select(facts: list[Fact], split: str, each: int) -> list[dict[str, Any]]:
    """Rows of at most `each` questions a family, the phrasings by turns."""
    rng, out = random.Random(7), []
    for family in STATEMENTS:
        pool = [f for f in facts if f.family == family and f.split == split]
        for i, fact in enumerate(rng.sample(pool, min(each, len(pool)))):
            held_out = i % 2 == 1
            known = QUESTIONS[family][i // 2 % len(QUESTIONS[family])]
            text = render(HELD_OUT_QUESTION[family] if held_out else known, fact)
            out.append({"split": split, "family": family, "held_out_phrasing": held_out,
                        "question": text, "fields": fields(fact)})  # fmt: skip
    return out


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """The styles, then one question a line."""
    in_frame = {
        family: [f"{WARM_OPENING} {t} {WARM_CLOSING}" for t in dict.fromkeys(templates)]
        for family, templates in STATEMENTS.items()
    }
    styles = {
        "warm": {"form": FORMS["warm"], "answers": in_frame},
        "plain": {"form": FORMS["plain"], "answers": {f: [t] for f, t in PLAIN.items()}},
    }
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    head = json.dumps(styles, ensure_ascii=False, indent=1)
    path.write_text(f'{{"styles": {head},\n"questions": [\n{lines}\n]}}\n', "utf-8")
