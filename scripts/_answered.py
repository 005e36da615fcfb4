"""Answers to many requests, side by side, kept as they come: a stopped script goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from eftlocal import Emulator
from eftlocal.batch.lines import Line
from eftlocal.batch.runner import answer_lines
from eftlocal.errors import EftlocalError

Rows = dict[str, dict[str, Any]]


def answered(out: Path, lines: Iterable[Line], load: Callable[[], Emulator]) -> Rows:
    """By their ids, the text of each answer and the share of its pairs of tokens that are distinct.

    Args:
        out: a JSON object a line; what is there is not asked again.
        load: called where something is missing; as many are answered at once as it has sequences.
    """
    out.touch()
    rows: Rows = {row["id"]: row for row in map(json.loads, out.read_text("utf-8").splitlines())}
    asked = list(lines)
    if missing := [line for line in asked if line.custom_id not in rows]:
        with load() as em, out.open("a", encoding="utf-8") as file:
            for line, outcome in answer_lines(em, missing, seed=0, parallel=em.ensemble.n_seq_max):
                if isinstance(outcome, EftlocalError):
                    raise outcome
                (answer,) = outcome
                pairs = list(zip(answer.tokens, answer.tokens[1:], strict=False))
                distinct = len(set(pairs)) / len(pairs) if pairs else 1.0
                row = {"id": line.custom_id, "text": answer.text, "distinct_2": distinct}
                rows[line.custom_id] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
    return {line.custom_id: rows[line.custom_id] for line in asked}
