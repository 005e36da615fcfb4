"""Measure the moods over alpha and lambda on held-out prompts, and draw the curves.

Every prompt is answered at every point, side by side; goes on where it was stopped. words.py says
which mood an answer is in. Writes moods.json, docs/moods-curves.svg and the tables of
docs/moods.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(Path(__file__).parent)]

from _answered import Rows, answered
from data import HELD_OUT, all_prompts, answers
from words import Classifier

import eftlocal
from eftlocal import Emulator, Recipe, Sampling
from eftlocal.batch.lines import Line
from eftlocal.request import Request
from eftlocal.study.plot import curve, panels, save
from eftlocal.study.report import interval
from eftlocal.study.statistics import Interval, mean
from eftlocal.tuning.examples import is_held_out

MOODS = ("calm", "happy")
PLAIN = "plain"
ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
SHARES = (0.25, 0.5, 0.75)
FILTERS = {"delta_top_p": 0.95, "plausibility": 0.1, "delta_clip": 2.0, "unsure_below": 0.6}
FILTERED = (-1.0, 2.0)  # alphas, of the calm mood
TOKENS = 24
SIDE_BY_SIDE = 24  # as many as there are points


class Point(NamedTuple):
    """Dials: lambda of the calm mood, alpha, and one of the filters or none."""

    share: float
    alpha: float
    limit: str = ""

    def recipe(self) -> Recipe:
        shares = {"calm": self.share, "happy": 1.0 - self.share}
        made = Recipe.mix(shares, self.alpha, dict.fromkeys(MOODS, "base"))
        return replace(made, **{self.limit: FILTERS[self.limit]}) if self.limit else made


POINTS = (
    *(Point(calm, alpha) for calm in (1.0, 0.0) for alpha in ALPHAS if alpha),
    Point(1.0, 0.0),  # whatever lambda is
    *(Point(calm, 1.0) for calm in SHARES),
    *(Point(1.0, alpha, limit) for limit in FILTERS for alpha in FILTERED),
)
NOTHING = Point(1.0, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for the answers")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="of the page and picture")
    parser.add_argument("--limit", type=int, help="prompts (default: all)")
    parser.add_argument("--threads", type=int, help="of llama.cpp (default: one a core)")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)

    def load() -> Emulator:
        return eftlocal.load("moods", n_ctx=256, n_seq_max=SIDE_BY_SIDE, threads=arguments.threads)

    plain = answered(folder / "plain.jsonl", lines(False, [NOTHING], arguments.limit), load)
    rows = answered(folder / "answers.jsonl", lines(True, POINTS, arguments.limit), load)
    report = measured(plain, rows)
    (folder / "moods.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draw(report, arguments.docs / "moods-curves.svg")
    page = arguments.docs / "moods.md"
    before, mark, rest = page.read_text("utf-8").partition("<!-- curves -->\n")
    _, end, after = rest.partition("<!-- end -->\n")
    page.write_text(f"{before}{mark}\n{tables(report)}\n{end}{after}", encoding="utf-8")


def prompts_of(*, held_out: bool) -> list[str]:
    """In an order that says nothing of them, so that the first ones may stand for all."""
    chosen = [prompt for prompt in all_prompts() if is_held_out(prompt, HELD_OUT) == held_out]
    return sorted(chosen, key=lambda prompt: sha256(prompt.encode()).digest())


def lines(held_out: bool, points: Sequence[Point], limit: int | None) -> Iterator[Line]:
    """The requests, prompt by prompt."""
    greedy = Sampling(temperature=0.0)
    for prompt in prompts_of(held_out=held_out)[:limit]:
        for point in points:
            asked = Request((prompt,), recipe=point.recipe(), sampling=greedy, max_tokens=TOKENS)
            yield Line(0, json.dumps([prompt, *point]), asked)


def measured(plain: Rows, rows: Rows) -> dict[str, Any]:
    """The shares of answers in each mood at every point, with intervals over the prompts."""
    taught, unseen = (
        {
            mood: [t for p, t in answers(mood).items() if is_held_out(p, HELD_OUT) == held_out]
            for mood in MOODS
        }
        for held_out in (False, True)
    )
    at: dict[Point, list[Mapping[str, Any]]] = {}
    for key, row in rows.items():
        at.setdefault(Point(*json.loads(key)[1:]), []).append(row)
    classify = Classifier({**taught, PLAIN: [row["text"] for row in plain.values()]})
    unseen[PLAIN] = [row["text"] for row in at[NOTHING]]
    right = {c: mean([float(classify(t) == c) for t in of]) for c, of in unseen.items()}
    return {
        "classifier": {c: {"right": right[c], "n": len(unseen[c])} for c in right},
        "points": [
            {**point._asdict(), "n": len(at[point]), **_shares(at[point], classify)}
            for point in POINTS
        ],
    }


def _shares(rows: Sequence[Mapping[str, Any]], classify: Classifier) -> dict[str, Interval]:
    classes = [classify(row["text"]) for row in rows]
    shares = {c: mean([float(found == c) for found in classes]) for c in (*MOODS, PLAIN)}
    return {**shares, "distinct_2": mean([row["distinct_2"] for row in rows])}


def along(report: Mapping[str, Any], mood: str, limit: str = "") -> list[dict[str, Any]]:
    """The points of one mood alone, under one filter or none, over alpha."""
    share = float(mood == "calm")
    found = [
        point
        for point in report["points"]
        if point["limit"] == limit and (point["share"] == share or not point["alpha"])
    ]
    return sorted(found, key=lambda point: point["alpha"])


def between(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points from one mood to the other, at alpha 1."""
    found = [p for p in report["points"] if p["alpha"] == 1 and not p["limit"]]
    return sorted(found, key=lambda point: point["share"])


def tables(report: Mapping[str, Any]) -> str:
    """All figures in Markdown."""
    judged = [[c, interval(of["right"]), str(of["n"])] for c, of in report["classifier"].items()]
    parts = [markdown(["answers", "put in their class", "of"], judged)]
    for mood, other in (MOODS, MOODS[::-1]):
        columns = [mood, PLAIN, other, "distinct_2"]
        rows = [_row(f"{p['alpha']:g}", p, columns) for p in along(report, mood)]
        parts.append(markdown([f"alpha, {mood} alone", *_named(columns)], rows))
    columns = ["calm", "happy", PLAIN, "distinct_2"]
    rows = [_row(f"{p['share']:g}", p, columns) for p in between(report)]
    parts.append(markdown(["lambda of calm, alpha 1", *_named(columns)], rows))
    columns = ["calm", PLAIN, "happy", "distinct_2"]
    rows = [
        _row(f"{p['alpha']:g}, {_option(limit) if limit else 'no filter'}", p, columns)
        for alpha in FILTERED
        for limit in ("", *FILTERS)
        for p in along(report, "calm", limit)
        if p["alpha"] == alpha
    ]
    parts.append(markdown(["alpha, calm alone", *_named(columns)], rows))
    return "\n".join(parts)


def _option(limit: str) -> str:
    return f"`--{limit.replace('_', '-')} {FILTERS[limit]:g}`"


def _named(columns: Sequence[str]) -> list[str]:
    return [*("distinct pairs" if c == "distinct_2" else c for c in columns), "prompts"]


def _row(first: str, point: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    return [first, *(_cell(point[c]) for c in columns), str(point["n"])]


def _cell(found: Sequence[float]) -> str:
    """Without an interval where all prompts have one value."""
    return interval(found) if found[1] < found[2] else f"{found[0]:.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(report: Mapping[str, Any], path: Path) -> None:
    """A panel for each mood over alpha, one over lambda, one of how much is said twice."""
    picture, (calm, happy, mixed, said) = panels(4, columns=2, width=5, height=3.4)
    for axes, mood in ((calm, "calm"), (happy, "happy")):
        axes.set_title(f"answers that are {mood}")
        _over_alpha(axes, along(report, mood), mood, f"{mood}, no filter")
        axes.set_xlabel("alpha")
    for i, (name, value) in enumerate(FILTERS.items(), 1):
        of = along(report, "calm", name)
        xs = [point["alpha"] + 0.05 * i for point in of]  # beside one another
        found = [Interval(*point["calm"]) for point in of]
        curve(calm, xs, found, f"{name} {value:g}", joined=False)
    calm.legend(fontsize="small")
    mixed.set_title("answers in each mood, alpha 1")
    line = between(report)
    for mood in MOODS:
        xs = [point["share"] for point in line]
        curve(mixed, xs, [Interval(*point[mood]) for point in line], mood)
    mixed.set_xlabel("lambda of calm (the rest is happy)")
    mixed.legend(fontsize="small")
    said.set_title("distinct pairs of tokens in an answer")
    for mood in MOODS:
        _over_alpha(said, along(report, mood), "distinct_2", mood)
    said.set_xlabel("alpha")
    said.legend(fontsize="small")
    for axes in (calm, happy, mixed):
        axes.set_ylim(-0.03, 1.03)
    save(picture, path)


def _over_alpha(axes: Any, line: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    found = [Interval(*point[key]) for point in line]
    curve(axes, [point["alpha"] for point in line], found, label)


if __name__ == "__main__":
    main()
