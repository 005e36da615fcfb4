"""An inspection, or a survey of many, as plain data for JSON and as tables for the screen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from eftlocal.influence.inspection import InspectedToken, Inspection
from eftlocal.influence.measures import Measure, measures_of
from eftlocal.influence.sides import COMBINATION
from eftlocal.influence.winner import AGREED, NOBODY, SHARED
from eftlocal.logits.recipe import BASE

SHORT = {COMBINATION: "combined", "reference": "ref."}


def as_data(found: Inspection) -> dict[str, Any]:
    """Everything, token by token; what has no finite value is None."""
    measures = measures_of(found)
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
        "means": {name: _number(sum(v) / len(v)) for name, v in values.items()},
        "tokens": [
            {
                "index": token.index,
                "token": token.token,
                "text": token.text,
                "label": token.label,
                "control": token.control,
                "won": token.won,
                "probability": {n: _number(p) for n, p in token.probabilities.items()},
                "logprob": {n: _number(p) for n, p in token.logprobs.items()},
                "rank": token.ranks,
                "measures": {name: _number(v[token.index]) for name, v in values.items()},
                "candidates": {
                    name: [
                        {"token": c.token, "label": c.label, "probability": _number(c.probability)}
                        for c in some
                    ]
                    for name, some in token.candidates.items()
                },
            }
            for token in found.tokens
        ],
    }


def survey_data(figures: dict[str, Any]) -> dict[str, Any]:
    """A survey with its means as objects."""

    def plain(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return {key: _number(of) for key, of in value._asdict().items()}
        if isinstance(value, dict):
            return {key: plain(of) for key, of in value.items()}
        return [plain(of) for of in value] if isinstance(value, list) else value

    data: dict[str, Any] = plain(figures)
    return data


def summary(found: Inspection, measure: Measure) -> str:
    """The figures that matter most, in a few lines."""
    n, values = len(found), measure.values(found)
    counts = Counter(found.won)
    won = ", ".join(f"{_said(name)} {count / n:.0%}" for name, count in counts.most_common())
    lines = [
        f"{n} tokens, mean {measure.name} {values.mean():.3f} ({measure.about})",
        f"whose first choice: {won}",
    ]
    if BASE in found.sides and len(found.sides) > 1:
        shifts = found.shifts(BASE)
        shares = ", ".join(f"{name} {count / n:.0%}" for name, count in shifts.items())
        lines.append(f"against the base: {shares} (rank 1; 2 or 3; more)")
    return "\n".join(lines)


def most_moved(found: Inspection, measure: Measure, top: int) -> list[InspectedToken]:
    """The tokens of greatest measure, by absolute value; ties in the order of the text."""
    values = [0.0 if math.isnan(v) else abs(v) for v in measure.values(found).tolist()]
    order = sorted(range(len(found)), key=lambda i: -values[i])
    return [found.tokens[i] for i in order[:top]]


def token_table(found: Inspection, measure: Measure, tokens: Sequence[InspectedToken]) -> Table:
    """A row a token: the measure, its probability and rank everywhere, who won."""
    values = measure.values(found)
    names = [(SHORT.get(name, name), name) for name in found.distributions]
    headers = ["#", "token", measure.name.replace("-", "\n", 1)]
    headers += [f"p\n{short}" for short, _ in names] + [f"rank\n{r}" for r in found.sides]
    table = _table(*headers, "first\nchoice of", left=(1, len(headers)))
    for token in tokens:
        cells = [str(token.index), quoted(token.label), f"{values[token.index]:.3f}"]
        cells += [f"{token.probabilities[name]:.3f}" for _, name in names]
        cells += [f"{token.ranks[role]:,}" for role in found.sides]
        _row(table, *cells, _said(token.won))
    return table


def survey_tables(figures: dict[str, Any], top: int) -> Iterator[tuple[str, Table]]:
    """Each with its title: the classes of token, the tokens."""
    winners, measure = list(figures["all"]["won"]), figures["measure"]

    def cells(group: dict[str, Any], names: Sequence[str]) -> list[str]:
        shares = (f"{group['won'][name].value:.0%}" for name in names)
        return [f"{group['n']:,}", _interval(group["mean"]), *shares]

    said = [_said(name).replace(" ", "\n") for name in winners]
    table = _table("class of token", "n", f"{measure} [95%]", *said)
    for kind, group in figures["classes"].items():
        _row(table, kind, *cells(group, winners))
    _row(table, "all", *cells(figures["all"], winners))
    of = f"{figures['tokens']:,} tokens of {figures['answers']:,} answers"
    yield f"{of}: mean {measure}, and whose first choice they are", table

    roles = [name for name in winners if name not in (AGREED, SHARED, COMBINATION, NOBODY)]
    table = _table("token", "n", f"{measure} [95%]", *roles, "often in", fold="often in")
    for group in figures["most"][:top]:
        _row(table, quoted(group["label"]), *cells(group, roles), quoted(group["context"]))
    yield f"Tokens moved most, of those that occur at least {figures['least']} times", table


def quoted(text: str) -> str:
    """In quotes, with everything that is not plainly visible written as an escape."""
    return repr(text)


def _said(winner: str) -> str:
    return {AGREED: "all agree", NOBODY: "nobody's"}.get(winner, SHORT.get(winner, winner))


def _table(*headers: str, left: tuple[int, ...] = (0,), fold: str = "token") -> Table:
    table = Table(box=None, pad_edge=False)
    for i, header in enumerate(headers):
        justify: Any = "left" if i in left or header == fold else "right"
        table.add_column(Text(header), justify=justify, overflow="fold", no_wrap=header != fold)
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(cell) for cell in cells))


def _interval(mean: Any) -> str:
    if math.isnan(mean.low):
        return f"{mean.value:.2f}"
    return f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
