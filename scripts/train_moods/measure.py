"""Measure the moods over alpha and lambda on held-out prompts, and draw the curves.

Runs `eftlocal sweep` (which goes on where it was stopped), then says of every answer which mood it
is in (words.py), and writes moods.json and moods.svg.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from data import HELD_OUT, all_prompts, answers
from words import Classifier

from eftlocal.study.plot import curve, panels, save
from eftlocal.study.statistics import Interval, mean
from eftlocal.tuning.examples import is_held_out

MOODS = ("calm", "happy")
PLAIN = "plain"
FILTERS = {"delta-top-p": "0.95", "plausibility": "0.1", "delta-clip": "2"}
COMMON = ("--preset", "moods", "--temperature", "0", "--max-tokens", "24")
CALM, HAPPY = "calm=1,happy=0", "calm=0,happy=1"


def sweeps(folder: Path) -> dict[str, tuple[Path, list[list[str]]]]:
    """Of each file of answers, its prompts and the grids that fill it."""
    held_out, trained = folder / "held_out.jsonl", folder / "trained.jsonl"
    filtered = [[f"--{name}", value] for name, value in FILTERS.items()]
    return {
        PLAIN: (trained, [["--alpha", "0"]]),  # what the classifier takes for no mood
        "calm": (held_out, [["--alpha", "-1:2:0.5", "--lambda", CALM]]),
        "lambda": (held_out, [["--lambda", "calm=0:1:0.25,happy=rest"]]),
        "happy": (held_out, [["--alpha", "-1,2", "--lambda", HAPPY]]),
        "filters": (held_out, [["--alpha", "-1,2", "--lambda", CALM, *f] for f in filtered]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for the prompts and answers")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "moods-curves.svg")
    parser.add_argument("--limit", type=int, help="prompts of each sweep (default: all)")
    parser.add_argument("--parallel", default="8", help="answers at once (default: 8)")
    parser.add_argument("--threads", help="of llama.cpp (default: one a core)")
    parser.add_argument("--only", help="the sweep of this name, and nothing else")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder)
    rows = {}
    chosen = sweeps(folder)
    if arguments.only:
        chosen = {arguments.only: chosen[arguments.only]}
    for name, (prompts, grids) in chosen.items():
        out = folder / f"{name}.jsonl"
        for grid in grids:
            command = ["sweep", "--prompts", str(prompts), *COMMON, *grid, "--out", str(out)]
            command += ["--parallel", arguments.parallel, "--metrics", "tokens"]
            command += ["--limit", str(arguments.limit)] if arguments.limit else []
            command += ["--threads", arguments.threads] if arguments.threads else []
            subprocess.run([sys.executable, "-m", "eftlocal", *command], check=True)
        rows[name] = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    if arguments.only:
        return
    report = measured(rows)
    (folder / "moods.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draw(report, arguments.picture)
    print(json.dumps(report["classifier"], indent=2))


def write_prompts(folder: Path) -> None:
    for name, wanted in (("held_out", True), ("trained", False)):
        chosen = [p for p in all_prompts() if is_held_out(p, HELD_OUT) == wanted]
        lines = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in chosen)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def measured(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The shares of answers in each mood, with intervals over the prompts."""
    people = {mood: answers(mood) for mood in MOODS}
    taught = {
        mood: [text for prompt, text in of.items() if not is_held_out(prompt, HELD_OUT)]
        for mood, of in people.items()
    }
    classify = Classifier({**taught, PLAIN: [row["text"] for row in rows["plain"]]})
    unseen = {
        mood: [text for prompt, text in of.items() if is_held_out(prompt, HELD_OUT)]
        for mood, of in people.items()
    }
    unseen[PLAIN] = [row["text"] for row in rows["calm"] if row["dials"]["alpha"] == 0]
    right = {c: mean([float(classify(t) == c) for t in of]) for c, of in unseen.items()}
    points = {name: _points(rows[name], classify) for name in rows if name != PLAIN}
    return {
        "classifier": {c: {"right": right[c], "n": len(unseen[c])} for c in right},
        "points": points,
    }


def _points(rows: Sequence[Mapping[str, Any]], classify: Classifier) -> list[dict[str, Any]]:
    """Of each point of a grid, the share of its answers in each class."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(json.dumps(row["dials"], sort_keys=True), []).append(row)
    return [
        {"dials": json.loads(dials), "n": len(of), **_shares(of, classify)}
        for dials, of in found.items()
    ]


def _shares(rows: Sequence[Mapping[str, Any]], classify: Classifier) -> dict[str, Interval]:
    classes = [classify(row["text"]) for row in rows]
    shares = {c: mean([float(found == c) for found in classes]) for c in (*MOODS, PLAIN)}
    pairs = [row["values"]["distinct_2"] for row in rows if "distinct_2" in row["values"]]
    return {**shares, "distinct_2": mean(pairs)}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """A panel for each mood over alpha, one over lambda, one of how much is said twice."""
    picture, (calm, happy, mixed, said) = panels(4, columns=2, width=5, height=3.4)
    points = report["points"]
    line = sorted(points["lambda"], key=lambda point: point["dials"]["lambda"]["calm"])
    # Alpha 0 is the plain model whatever lambda is, and lambda's end is alpha 1.
    nothing = [point for point in points["calm"] if point["dials"]["alpha"] == 0]
    whole = [{**line[0], "dials": {"alpha": 1.0}}]
    along = {"calm": points["calm"], "happy": [*points["happy"], *nothing, *whole]}
    for axes, mood in ((calm, "calm"), (happy, "happy")):
        axes.set_title(f"answers that are {mood}")
        _over_alpha(axes, along[mood], mood, f"{mood}, no filter")
        axes.set_xlabel("alpha")
    for i, (name, value) in enumerate(FILTERS.items(), 1):
        key = name.replace("-", "_")
        of = [point for point in points["filters"] if point["dials"].get(key) is not None]
        xs = [point["dials"]["alpha"] + 0.05 * i for point in of]  # beside one another
        curve(calm, xs, [Interval(*point["calm"]) for point in of], f"{name} {value}", joined=False)
    calm.legend(fontsize="small")
    mixed.set_title("answers in each mood, alpha 1")
    for mood in MOODS:
        xs = [point["dials"]["lambda"]["calm"] for point in line]
        curve(mixed, xs, [Interval(*point[mood]) for point in line], mood)
    mixed.set_xlabel("lambda of calm (the rest is happy)")
    mixed.legend(fontsize="small")
    said.set_title("distinct pairs of tokens in an answer")
    for mood in MOODS:
        _over_alpha(said, along[mood], "distinct_2", mood)
    said.set_xlabel("alpha")
    said.legend(fontsize="small")
    for axes in (calm, happy, mixed):
        axes.set_ylim(-0.03, 1.03)
    save(picture, path)


def _over_alpha(axes: Any, points: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    line = sorted(points, key=lambda point: point["dials"]["alpha"])
    found = [Interval(*point[key]) for point in line]
    curve(axes, [point["dials"]["alpha"] for point in line], found, label)


if __name__ == "__main__":
    main()
