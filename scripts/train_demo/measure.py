"""What the shipped demo does: tables and pictures, each from runs of `eftlocal eval`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "paper")]

import figures
from figures import markdown

from eftlocal.logits.recipe import TRIO

MODELS = ("small tuned", "base", "emulation", "large tuned")
FAMILIES = ("city", "state", "kind", "person")
PHRASINGS = ("known phrasing", "held-out phrasing")
DIALS = (
    ("beta", "0.25,0.5,0.75,1,1.25,1.5,2"),
    ("alpha", "0.25,0.5,0.75,1.25,1.5,2"),
    ("delta-top-p", "0.9,0.95,0.99,0.999"),
    ("plausibility", "0.1,0.01,0.001"),
    ("delta-clip", "2,4,8"),
)
BASES = "base", "reference"
LIMIT = "--limit", "200"  # questions of a grid
CURVES = {
    "beta": ("--split", "test", *LIMIT, "--beta", "0:3:0.5", "--compare", "none"),
    "lambda": (
        *("--split", "test", *LIMIT, "--preset", "demo-blend", "--compare", "none"),
        *("--lambda", "tuned=0:1:0.25,plain=rest"),
    ),
}
Rows = Iterable[Sequence[str]]


class Measured:
    """Runs of `eftlocal eval` whose answers stay in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, task: str, *options: str, metrics: str = "all") -> dict[str, Any]:
        """The figures of a run, as `--json` prints them."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            print(f"measuring {name}", flush=True)
            command = [sys.executable, "-m", "eftlocal", "eval", task, *options, "--json"]
            command += ["--metrics", metrics, "--out", str(path.with_suffix(".jsonl"))]
            command += ["--threads", "1", "--parallel", "8"]
            found = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout
            path.write_bytes(found)
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return data


def cell(of: Mapping[str, float | None], form: str = ".2f", key: str = "mean") -> str:
    """A figure of an evaluation, with its interval."""
    return figures.cell([of[name] for name in (key, "low", "high")], form)


def trio(*files: Path) -> list[str]:
    """Options for base, tuned and reference."""
    return [
        word for role, file in zip(TRIO, files, strict=True) for word in (f"--{role}", str(file))
    ]


def points(data: Mapping[str, Any]) -> dict[str, Any]:
    """Points by model."""
    return {point["model"]: point for point in data["points"]}


def groups(data: Mapping[str, Any]) -> dict[str, Any]:
    """Groups by name, their models named as the points are: there the emulation is its recipe."""
    return {
        of["group"]: {**of, "models": {m if m in MODELS else "emulation": v for m, v in each}}
        for of in data["groups"]
        if (each := of["models"].items())
    }


def four_models(run: Measured) -> str:
    data = run("models", "demo", metrics="exact,format,fact")
    by_model, by_group = points(data), groups(data)

    def row(model: str) -> list[str]:
        metrics = by_model[model]["metrics"]
        means = [metrics[name]["mean"] for name in ("exact", "format", "fact")]
        means += [by_group[name]["models"][model]["mean"] for name in PHRASINGS]
        return [model, *(f"{mean:.3f}" for mean in means)]

    head = ["greedy answers", "exact", "format kept", "names the fact", *PHRASINGS]
    gap = cell(by_model["emulation"]["gap_recovered"]["exact"], key="value")
    told = f"\n{by_model['emulation']['n']} questions; gap recovered in exact answers {gap}.\n"
    return markdown(head, map(row, MODELS)) + told


def families(run: Measured) -> str:
    by_group = groups(run("models", "demo", metrics="exact,format,fact"))
    shown = ("small tuned", "emulation", "large tuned")
    rows = [
        [
            name,
            *(f"{by_group[name]['models'][model]['mean']:.3f}" for model in shown),
            cell(by_group[name]["gap_recovered"], key="value"),
        ]
        for name in FAMILIES
    ]
    return markdown(["family", *shown, "gap recovered"], rows)


def recipes(run: Measured) -> str:
    """Of questions for choices: no default is chosen by those of the final figures."""

    def rows() -> Rows:
        for dial, values in DIALS:
            asked = (f"--{dial}", values, "--split", "validation", *LIMIT, "--compare", "none")
            for point in run(f"{dial}-validation", "demo", *asked)["points"]:
                (value,) = point["dials"].values()
                shown = (cell(point["metrics"][name]) for name in ("exact", "format"))
                yield [f"{dial.replace('-', ' ')} {value:g}", *shown]

    return markdown(["recipe", "exact", "format kept"], rows())


def interpolation(run: Measured) -> str:
    data = run("lambda", "demo", *CURVES["lambda"])
    names = ("format", "plain_format", "tokens", "fact")
    rows = [
        [
            f"{point['dials']['lambda']['tuned']:g}",
            *(cell(point["metrics"][name], ".1f" if name == "tokens" else ".2f") for name in names),
        ]
        for point in data["points"]
    ]
    head = ["lambda of the warm one", "warm form", "plain form", "tokens of an answer"]
    return markdown([*head, "right fact"], rows)


def upscaling(run: Measured) -> str:
    data = run("beta", "demo", *CURVES["beta"])
    rows = [
        [
            f"{point['dials']['beta']:g}",
            *(cell(point["metrics"][name]) for name in ("exact", "format", "stopped")),
        ]
        for point in data["points"]
    ]
    return markdown(["beta", "exact", "format kept", "ended by itself"], rows)


def scales(run: Measured) -> str:
    """Observation 1 of Mitchell et al. 2023, on the models that name the fact twice."""
    folder = run.folder.parent / "twice"
    data = ("--data", str(folder / "questions.json"), "--split", "test", *LIMIT)
    small, large, *bases = (folder / f"{n}.gguf" for n in ("tuned", "large_tuned", *BASES))
    shown = "exact,format,form,fact"
    upward = (*trio(bases[0], small, bases[1]), "--large", str(large))
    up = points(run("up", "demo", *data, *upward, metrics=shown))
    lower = points(run("down", "demo", *data, *trio(bases[1], large, bases[0]), metrics=shown))
    found = {
        "small tuned": up["small tuned"],
        "up-scaling": up["emulation"],
        "down-scaling": lower["emulation"],
        "large tuned": up["large tuned"],
    }
    names = {"fact": "fact", "format": "all kept", "form": "form"}
    rows = [[model, *(cell(of["metrics"][name]) for name in names)] for model, of in found.items()]
    return markdown(["", *names.values()], rows)


def fresh(run: Measured) -> str:
    data = run("fresh", str(HERE / "fresh.py"), "--temperature", "0", metrics="right")
    models = ("small tuned", "base", "emulation")
    rows = [
        [f"{of['group']} ({of['n']})", *(cell(of["models"][m]) for m in models)]
        for of in groups(data).values()
    ]
    every = points(data)
    total = [cell(every[model]["metrics"]["right"]) for model in models]
    return markdown(["right", *models], [*rows, [f"all ({every['emulation']['n']})", *total]])


README, RECIPES = HERE / "README.md", ROOT / "docs" / "recipes.md"
TABLES: dict[Callable[[Measured], str], Path] = {
    four_models: README,
    families: README,
    recipes: README,
    scales: README,
    fresh: README,
    upscaling: RECIPES,
    interpolation: RECIPES,
}


def replaced(text: str, name: str, table: str) -> str:
    """A page with a table between its marks.

    Raises:
        ValueError: the page has no such marks.
    """
    head, mark, rest = text.partition(f"<!-- measured: {name} -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    if not mark or not end:
        raise ValueError(f"no marks for {name}")
    return f"{head}{mark}\n{table}\n{end}{tail}"


def write(out: Path) -> None:
    """Measures the shipped files and writes the tables and pictures."""
    run = Measured(out / "measured")
    for table, page in TABLES.items():
        told = table(run)
        page.write_text(replaced(page.read_text("utf-8"), table.__name__, told), "utf-8")
        print(f"{page.name}: {table.__name__}", flush=True)
    for name, options in CURVES.items():
        again = [sys.executable, "-m", "eftlocal", "eval", "demo", *options]
        again += ["--out", str(run.folder / f"{name}.jsonl"), "--threads", "1"]
        subprocess.run([*again, "--plot", str(ROOT / "docs" / f"{name}.svg")], check=True, cwd=ROOT)
    subprocess.run([sys.executable, ROOT / "scripts" / "picture.py", "demo"], check=True)
