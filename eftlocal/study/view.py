"""An inspection to look at: coloured text, a table of tokens, JSON, an HTML page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from eftlocal.logits.recipe import BASE
from eftlocal.study.inspection import (
    AGREED,
    COMBINATION,
    LEVELS,
    NOBODY,
    InspectedToken,
    Inspection,
    Measure,
    level,
    measure_of,
    measures_of,
)
from eftlocal.study.page import render
from eftlocal.study.report import plain, table
from eftlocal.study.verdict import named, tally, verdicts
from eftlocal.terminal_text import printable

SHORT = {COMBINATION: "combined", "reference": "ref."}
# By level. Color is never the only sign. Ink is set with its paper, so that both are readable on
# dark and light terminals.
_UP = ("", "#ffe0b8", "#ffb866", "#ff9447")
_DOWN = ("", "#d4e6ff", "#9cc7ff", "#6fb0ff")
_LINES = ("", "", "underline ", "bold underline ")
_DIGITS = 5  # of a probability on the page: enough to show, and half the size
_MARKS = (("", ""), ("", ""), ("‹", "›"), ("«", "»"))


def heat(found: Inspection, measure: Measure) -> Text:
    """The answer with every token shaded, and marked from the second level on."""
    text = Text()
    for token, value in zip(found.tokens, measure.values(found).tolist(), strict=True):
        text.append_text(_marked(printable(token.label), value))
    return text


def legend(measure: Measure) -> Text:
    """What shades and marks mean."""
    text = Text(f"{measure.name}: ")
    text.append_text(Text("below 0.1"))
    for step in LEVELS:
        text.append(", ")
        text.append_text(_marked(f"from {step:g}", step))
    if measure.signed:
        text.append("; lost: ")
        text.append_text(_marked("to -0.3", -0.3))
    return text


def token_table(found: Inspection, measure: Measure, tokens: Sequence[InspectedToken]) -> Table:
    """A row a token: the measure, its probability and rank everywhere, the verdict."""
    values, said = measure.values(found), verdicts(found)
    headers = ["#", "token", measure.name.replace("-", "\n", 1)]
    headers += [f"p {SHORT.get(name, name)}" for name in found.distributions]
    headers += [*(f"rank {role}" for role in found.sides), "verdict"]
    rows = (
        [
            str(token.index),
            quoted(token.label),
            f"{values[token.index]:.3f}",
            *(f"{token.probabilities[name]:.3f}" for name in found.distributions),
            *(f"{token.ranks[role]:,}" for role in found.sides),
            said[token.index].words,
        ]
        for token in tokens
    )
    return table(headers, rows, texts=(1, len(headers) - 1))


def quoted(text: str) -> str:
    """In quotes, with everything that is not plainly visible written as an escape."""
    return repr(text)


def winner_label(winner: str) -> str:
    """Who won, in a table."""
    return {AGREED: "all agree", NOBODY: "nobody's"}.get(winner, SHORT.get(winner, winner))


def summary(found: Inspection, measure: Measure) -> str:
    """The figures that matter most, in a few lines."""
    n, values = len(found), measure.values(found)
    counts = Counter(found.won)
    won = ", ".join(f"{winner_label(name)} {count / n:.0%}" for name, count in counts.most_common())
    lines = [
        tally(verdicts(found)),
        f"{n} tokens, mean {measure.name} {values.mean():.3f} ({measure.about})",
        f"whose first choice: {won}",
    ]
    if BASE in found.sides and len(found.sides) > 1:
        shifts = found.shifts(BASE)
        shares = ", ".join(f"{name} {count / n:.0%}" for name, count in shifts.items())
        lines.append(f"by rank in the base: {shares} (1; 2 or 3; above)")
    return "\n".join(lines)


def most_moved(found: Inspection, measure: Measure, top: int) -> list[InspectedToken]:
    """The tokens of greatest measure, by absolute value; ties in the order of the text."""
    values = [0.0 if math.isnan(v) else abs(v) for v in measure.values(found).tolist()]
    order = sorted(range(len(found)), key=lambda i: -values[i])
    return [found.tokens[i] for i in order[:top]]


def as_data(found: Inspection) -> dict[str, Any]:
    """Everything, token by token; ready for `report.plain`."""
    measures, said = measures_of(found), verdicts(found)
    values = {measure.name: measure.values(found).tolist() for measure in measures}
    return {
        "prompt": found.prompt,
        "answer": found.text,
        "preset": found.preset or None,
        "recipe": str(found.recipe),
        "weights": dict(found.recipe.weights),
        "seed": found.seed,
        "finish_reason": found.finish_reason,
        "distributions": list(found.distributions),
        "sides": list(found.sides),
        "measures": {measure.name: measure.about for measure in measures},
        "won": dict(Counter(found.won)),
        "shifts": {role: found.shifts(role) for role in found.sides},
        "means": {name: sum(v) / len(v) for name, v in values.items()},
        "tally": tally(said),
        "tokens": [
            {
                "index": token.index,
                "token": token.token,
                "text": token.text,
                "label": token.label,
                "control": token.control,
                "won": token.won,
                "verdict": {
                    "kind": verdict.kind,
                    "by": list(verdict.by),
                    "text": f"{named(token.label)}: {verdict}",
                },
                "probability": token.probabilities,
                "logprob": token.logprobs,
                "rank": token.ranks,
                "measures": {name: v[token.index] for name, v in values.items()},
                "candidates": {
                    name: [c._asdict() for c in some] for name, some in token.candidates.items()
                },
                "spelled": {role: list(pieces) for role, pieces in token.spelled.items()},
            }
            for token, verdict in zip(found.tokens, said, strict=True)
        ],
    }


def page(found: Inspection, measure: str | None = None) -> str:
    """The answer as an HTML page; `measure` (by name) is the one it shows first."""
    known = measures_of(found)
    more = {
        "first": measure_of(known, measure).name,
        "signed": [of.name for of in known if of.signed],
    }
    return render("inspection", data=plain(as_data(found) | more, digits=_DIGITS))


def _marked(shown: str, value: float) -> Text:
    reached = level(value)
    before, after = _MARKS[reached]
    if reached > 1 and value < 0:
        before += "-"
    body = shown.rstrip("\n")
    breaks = shown[len(body) :]
    if reached and breaks:  # a line break that was moved must be seen
        body += "↵" * len(breaks)
    paper = (_DOWN if value < 0 else _UP)[reached]
    style = f"{_LINES[reached]}#000000 on {paper}" if reached else ""
    return Text(before + body + after, style=style).append(breaks)
