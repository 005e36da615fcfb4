"""docs/papers.md, made of experiments.toml, page.md and the figures in results/."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figures import EXPERIMENTS, HERE, TOLD, WARNING, kept, table

from eftlocal.output_file import write_whole
from eftlocal.study.plot import curve, panels, save
from eftlocal.study.statistics import Interval

REVERSE = "reverse-demo"


def write(docs: Path) -> None:
    """Writes papers.md and reverse.svg."""
    write_whole(docs / "papers.md", page())
    if reverse := kept().get((REVERSE, None)):
        draw(reverse, docs / "reverse.svg")


def page() -> str:
    """docs/papers.md."""
    there = kept()
    parts = [(HERE / "page.md").read_text("utf-8")]
    for paper, title in TOLD["papers"].items():
        parts.append(f"## {title}\n")
        own = [of for of in EXPERIMENTS.values() if of["paper"] == paper]
        parts += [_section(of, there.get((of["name"], None))) for of in own]
    parts.append(f"## Stand-in runs\n\nThat every path works. **{WARNING.capitalize()}.**\n")
    for (name, stand_in), result in there.items():
        if stand_in:
            said = f"`{name}`, stand-in `{stand_in}`"
            own = table(EXPERIMENTS[name], result, beside=False)
            parts.append(f"### {said}\n\n{own}")
    return "\n".join(parts)


def _section(experiment: Mapping[str, Any], result: Mapping[str, Any] | None) -> str:
    name, of = experiment["name"], TOLD["models"][experiment["models"]]
    told = [f"{role} `{m['file'].removeprefix('hf:')}`" for role, m in of.items() if "file" in m]
    asked = shlex.join([experiment["task"], *experiment["words"]])
    lines = [f"### {name}\n", f"{experiment['where'][0].upper()}{experiment['where'][1:]}.\n"]
    lines += [f"- Models: {'; '.join(told)}", f"- Task and dials: `eftlocal eval {asked}`"]
    lines += [f"- Data: `--data`, {experiment['data']}"] if "data" in experiment else []
    source = TOLD["sources"].get(experiment.get("source"), "no figures could be read")
    lines += [f"- Published: {source}"] if name != REVERSE else []
    lines += [] if result else ["- Measured: not yet"]
    lines += [f"- {experiment['note']}"] if "note" in experiment else []
    typed = f"python scripts/paper/run.py {name} --out DIR"
    typed += " --data FILE" if "data" in experiment else ""
    typed += " -- --judge URL --judge-model NAME" if experiment["task"] == "judge" else ""
    lines += ["", f"```text\n{typed}\n```", ""]
    shown = table(experiment, result)
    picture = "\n![The forms of the answers over alpha](reverse.svg)\n"
    shown = f"\n{shown}" if shown else ""
    return "\n".join(lines) + shown + (picture if result and name == REVERSE else "")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """The shares over alpha."""
    picture, (forms, facts) = panels(2, height=3.4)
    rows = {row: of for row, of in result["rows"].items() if row.startswith("alpha ")}
    for axes, names in (
        (forms, ("plain_format", "format")),
        (facts, ("fact", "plain_exact", "exact")),
    ):
        for name in names:
            found = [Interval(*of[name]) for of in rows.values()]
            curve(axes, [float(row.split()[1]) for row in rows], found, name.replace("_", " "))
        axes.set_xlabel("alpha of (small plain - small warm), on the large warm model")
        axes.set_ylim(-0.03, 1.03)
        axes.legend(fontsize="small")
    save(picture, path)
