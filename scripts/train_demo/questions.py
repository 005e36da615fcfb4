"""The held-out questions with their gold answers, as shipped in questions.json.

eftlocal.evaluation.questions reads it. The file holds, per style, a regular expression of the
whole answer, further rules of each family and its answer templates; per question its text and the
fields that fill them.

`validation` may be used for choices, `test` for the final numbers only. No subject of either occurs
in fine-tuning; the family "person" and every second question's phrasing do not either.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from behaviour import answers, form, rules
from facts import Fact, fields, render
from wording import FAMILIES, HELD_OUT_FAMILY, held_out, phrasings


def select(facts: list[Fact], split: str, each: int) -> list[dict[str, Any]]:
    """Rows of at most `each` questions a family, held-out and other phrasings by turns."""
    rng, out = random.Random(7), []
    for family, wording in FAMILIES.items():
        pool = [f for f in facts if f.family == family and f.split == split]
        for i, fact in enumerate(rng.sample(pool, min(each, len(pool)))):
            unseen = i % 2 == 1
            direct = rng.random() < 0.5
            known = wording.questions if direct else phrasings(family)
            text = render(rng.choice(held_out(family) if unseen else known), fact)
            out.append({"split": split, "family": family, "held_out_phrasing": unseen,
                        "question": text, "fields": fields(fact)})  # fmt: skip
    return out


def write(path: Path, rows: list[dict[str, Any]], warm: str = "warm") -> None:
    """The styles, then one question a line; `warm` is the style of the models named tuned."""
    styles = {
        name: {
            "form": form(style),
            "rules": {f: rules(style, f, f != HELD_OUT_FAMILY) for f in FAMILIES},
            "answers": {f: answers(style, f, f != HELD_OUT_FAMILY) for f in FAMILIES},
        }
        for name, style in (("warm", warm), ("plain", "plain"))
    }
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    head = json.dumps(styles, ensure_ascii=False, indent=1)
    path.write_text(f'{{"styles": {head},\n"questions": [\n{lines}\n]}}\n', "utf-8")
