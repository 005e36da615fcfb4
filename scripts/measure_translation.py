"""What translation between vocabularies costs in answers: exact answers of the demo's questions.

    .venv/bin/python scripts/measure_translation.py --pair NAME=DIR [--pair ...] [--limit N]

DIR holds tuned.gguf and reference.gguf, trained like the demo's own pair but with another tokenizer
(`scripts/train_demo/run.py --pair`). For each pair and method: exact answers (greedy, by the
probabilities of gold answers) of proxy-tuning over the demo's base at alpha 1 and at the alpha
that is best on the validation questions, and the gap recovered of what the demo's own pair
recovers there; 95% intervals over questions, drawn together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eftlocal import Emulator, Recipe
from eftlocal.evaluation.questions import FOLDER
from eftlocal.evaluation.run import spread
from eftlocal.evaluation.task import Options
from eftlocal.evaluation.tasks.demo import Demo
from eftlocal.settings import TRANSLATIONS
from eftlocal.study.statistics import gap_recovered, mean

ALPHAS = (0.4, 0.6, 0.8, 1.0, 1.25, 1.5)
Exact = dict[float, NDArray[np.float64]]


def measured(folder: Path, method: str, limit: int | None) -> Iterator[tuple[str, Exact]]:
    """The exact answers of both splits, (questions,) of 0 and 1 by alpha; alpha 0 is the base."""
    alphas = (0.0, *ALPHAS)
    recipes = [Recipe.proxy(alpha) for alpha in alphas]
    files = {role: folder / f"{role}.gguf" for role in ("tuned", "reference")}
    with Emulator.from_files(
        base=FOLDER / "base.gguf", **files, translation=method, n_ctx=256, threads=1
    ) as em:
        for split in ("validation", "test"):
            demo, exact = Demo(Options(split=split)), []
            for item in spread(demo.items(), limit):
                found = em.logprobs_under(item.texts[0], recipes, prompt=item.prompt, ending=True)
                exact.append([demo.judge_texts(item, [one])["gold"] for one in found])
            yield split, dict(zip(alphas, np.array(exact).T, strict=True))


def row(name: str, method: str, own: dict[str, Exact], same: dict[str, Exact] | None) -> str:
    """A row of the table."""
    best = max(ALPHAS, key=lambda alpha: own["validation"][alpha].mean())
    cells = [name, method]
    for alpha in dict.fromkeys((1.0, best)):
        value, low, high = mean(own["test"][alpha])
        cells.append(f"{alpha:g}: {value:.3f} [{low:.3f}, {high:.3f}]")
    if best == 1.0:
        cells.append("")
    if same is not None:
        ours = max(ALPHAS, key=lambda alpha: same["validation"][alpha].mean())
        base = own["test"][0.0]
        share = gap_recovered(base, own["test"][best], same["test"][ours])
        cells.append(f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--limit", type=int, help="so many questions of each split")
    given = parser.parse_args()
    print(
        "| pair | method | alpha 1 | best alpha | of the same vocabulary |\n|---|---|---|---|---|"
    )
    same = dict(measured(FOLDER, "prefix", given.limit))
    print(row("demo", "same vocabulary", same, None), flush=True)
    for each in given.pair:
        name, _, folder = each.partition("=")
        if not (Path(folder) / "tuned.gguf").is_file():
            sys.exit(f"measure_translation: --pair {each}: there is no tuned.gguf in {folder}")
        for method in TRANSLATIONS:
            own = dict(measured(Path(folder), method, given.limit))
            print(row(name, method, own, same), flush=True)


if __name__ == "__main__":
    main()
