"""Times combining and drawing one token on one thread, beside a naive version with full sorts.

Usage: python scripts/bench_combine.py [--vocab 128256] [--model FILE [FILE FILE]] [--json]

Ours is what a round runs for one sequence: Step (Combiner, penalise, Filters) and draw. The naive
version is what one writes first: log-softmax of every role, argsort and cumsum of the whole row,
numpy's choice. Both get the same rows in turn, so that noise and cold caches hit them alike;
"alone" is ours by itself before that. Between real decodes caches are colder still: see
bench_step.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from eftlocal import llama
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.logits.candidates import Candidates
from eftlocal.logits.combine import Combiner
from eftlocal.logits.race import draw
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.logits.step import Step

Rows = dict[str, NDArray[np.float32]]
"""A row of logits (vocab,) float32 per role."""

ROLES = ("base", "tuned", "reference")
RECIPES = {
    "upscale": Recipe.upscale(),
    "delta_top_p 0.95": Recipe.upscale().stabilise(delta_top_p=0.95),
    "plausibility 0.1": Recipe.upscale().stabilise(plausibility=0.1),
    "delta_clip 5": Recipe.upscale().stabilise(delta_clip=5.0),
}
SAMPLINGS = {
    "default": Sampling(),
    "greedy": Sampling(temperature=0.0),
    "top_k 40": Sampling(top_k=40, top_p=1.0),
    "min_p 0.05": Sampling(min_p=0.05, top_p=1.0),
    "temperature 1": Sampling(temperature=1.0, top_p=1.0),
    "repeat_penalty 1.1": Sampling(repeat_penalty=1.1),
}
GOAL_US = 500.0  # at the default settings and a vocabulary of 128,256, on one core
ANSWER_TOKENS = 200  # different tokens already in the answer, for the penalties
N_ROWS = 16  # sets of rows taken in turn


def synthetic_rows(vocab: int, count: int, seed: int = 0) -> list[Rows]:
    """Rows that are shaped like those of trained models, drawn anew for each position.

    A bulk of N(-1, 2.2) logits carries a few hundred peaks. The highest stands 14 to 18 above the
    bulk, the r-th ln(r) lower (Zipf's law), so that the top-p 0.95 set holds tens of tokens for
    the combination at temperature 0.7, and hundreds or thousands for the tuned role alone at 1.
    The roles share most of it: their bulks correlate at 0.91, and each moves every peak by
    N(0, 0.6) of its own.
    """
    rng = np.random.default_rng(seed)
    n_peaks = min(300, vocab // 8)
    found = []
    for _ in range(count):
        shared = rng.normal(0.0, 2.1, vocab)
        peaks = rng.choice(vocab, n_peaks, replace=False)
        heights = rng.uniform(14.0, 18.0) - np.log(np.arange(1, n_peaks + 1))
        rows = {}
        for role in ROLES:
            row = -1.0 + shared + rng.normal(0.0, 0.66, vocab)
            row[peaks] = -1.0 + heights + rng.normal(0.0, 0.6, n_peaks)
            rows[role] = row.astype(np.float32)
        found.append(rows)
    return found


def model_rows(files: Sequence[Path], text: str, count: int) -> list[Rows]:
    """Rows of real models at the last positions of a text, cut to the smallest vocabulary.

    Three files play base, tuned, reference. One file plays all: the roles then see the text from
    its 1st, 17th and 33rd token on, so that their rows are alike but not equal.
    """
    if len(files) not in (1, 3):
        raise UsageError(f"--model takes one file or three, not {len(files)}")
    skips = (0, 16, 32) if len(files) == 1 else (0, 0, 0)
    per_role: dict[str, list[NDArray[np.float32]]] = {}
    for role, file, skip in zip(ROLES, itertools.cycle(files), skips, strict=False):
        with llama.Model(file) as model:
            tokens = model.tokenize(text)[: 64 + count]
            if len(tokens) < 48 + count:
                raise UsageError(f"the text has {len(tokens)} tokens; it must have {48 + count}")
            with llama.Context(model, n_ctx=len(tokens)) as context:
                rows = context.decode([llama.Span(0, tokens[skip:], count)])
                per_role[role] = [row.copy() for row in rows]
    vocab = min(len(rows[0]) for rows in per_role.values())
    return [{role: per_role[role][i][:vocab] for role in ROLES} for i in range(count)]


def log_softmax(row: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted: NDArray[np.float32] = row - row.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def weighted(rows: Rows, weights: Mapping[str, float]) -> NDArray[np.float32]:
    total = np.zeros_like(next(iter(rows.values())))
    for role, weight in weights.items():
        if weight:
            total += np.float32(weight) * rows[role]
    return total


def naive_step(
    rows: Rows,
    recipe: Recipe,
    sampling: Sampling,
    counts: Mapping[int, int],
    rng: np.random.Generator,
) -> tuple[int, int]:
    """One token by softmaxes and sorts of whole rows; also how many tokens it was drawn from."""
    logprobs = {role: log_softmax(rows[role]) for role in recipe.roles}
    z = weighted(logprobs, recipe.weights)
    if recipe.stabilised:
        anchor, judge = (weighted(logprobs, part) for part in (recipe.anchor, recipe.judge))
    if recipe.delta_top_p < 1.0 or recipe.delta_clip < math.inf:
        delta = np.clip(z - anchor, -recipe.delta_clip, recipe.delta_clip)
        order = np.argsort(-judge)
        reached = np.cumsum(np.exp(judge[order]))
        delta[order[np.searchsorted(reached, recipe.delta_top_p) + 1 :]] = 0.0
        z = anchor + delta
    mean = z[np.isfinite(z)].mean() if sampling.repeat_penalty != 1.0 else 0.0
    if recipe.plausibility > 0.0:
        z[judge < judge.max() + math.log(recipe.plausibility)] = -np.inf
    if sampling.repeat_penalty != 1.0:
        for token in counts:
            about = z[token] - mean
            factor = 1.0 / sampling.repeat_penalty if about > 0 else sampling.repeat_penalty
            z[token] = mean + about * factor
    if sampling.greedy:
        return int(np.argmax(z)), 1
    p = np.exp(log_softmax(z / np.float32(sampling.temperature)))
    order = np.argsort(-p)
    if sampling.top_k:
        order = order[: sampling.top_k]
    if sampling.top_p < 1.0:
        reached = np.cumsum(p[order])
        order = order[: np.searchsorted(reached, sampling.top_p * reached[-1]) + 1]
    if sampling.min_p > 0.0:
        order = order[p[order] >= sampling.min_p * p[order[0]]]
    kept = p[order].astype(np.float64)
    return int(rng.choice(order, p=kept / kept.sum())), int(np.count_nonzero(kept))


def measure(
    rows: Sequence[Rows], recipe: Recipe, sampling: Sampling, repeats: int
) -> dict[str, Any]:
    """Microseconds of ours alone, then of both versions in turn on the same rows."""
    vocab = len(rows[0]["base"])
    step = Step(Combiner(vocab))
    rng = np.random.default_rng(1)
    counts = {int(t): 2 for t in rng.choice(vocab, min(ANSWER_TOKENS, vocab), replace=False)}

    def candidates(at: int) -> Candidates:
        return step(rows[at % len(rows)], recipe, sampling, counts)[1]

    def naive(at: int) -> tuple[int, int]:
        return naive_step(rows[at % len(rows)], recipe, sampling, counts, rng)

    def ours(at: int) -> int:
        return draw(candidates(at), 1, at)

    def microseconds(version: Callable[[int], Any], at: int) -> float:
        began = time.perf_counter_ns()
        version(at)
        return (time.perf_counter_ns() - began) / 1000.0

    taken: dict[str, list[float]] = {
        "alone": [microseconds(ours, at) for at in range(repeats + 2)][2:],  # two warm up
        "ours": [],
        "naive": [],
    }
    for at in range(repeats):
        for name, version in (("ours", ours), ("naive", naive))[:: 1 if at % 2 else -1]:
            taken[name].append(microseconds(version, at))
    ratios = np.array(taken["naive"]) / np.array(taken["ours"])
    return {
        **{f"{name}_us": summary(values) for name, values in taken.items()},
        "naive_over_ours": float(np.median(ratios)),
        "candidates": {
            "ours": [int(np.isfinite(candidates(i).logits).sum()) for i in range(len(rows))],
            "naive": [naive(i)[1] for i in range(len(rows))],
        },
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and 90th percentile."""
    return {"median": float(np.median(values)), "p90": float(np.percentile(values, 90))}


def machine() -> dict[str, Any]:
    """The machine and how busy it is: figures mean little on one that does other work."""
    load, busy = psutil.getloadavg()[0], psutil.cpu_percent(interval=1.0)
    cores = os.cpu_count() or 1
    warnings = []
    if busy > 10.0:
        warnings.append(
            f"the machine is busy ({busy:.0f}% of {cores} cores in use before the measurement, "
            f"load average {load:.1f}): expect slower and noisier figures"
        )
    return {
        "system": platform.platform(),
        "cores": cores,
        "threads_default": llama.default_threads(),
        "llama_system_info": llama.system_info(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load_average": load,
        "cpu_percent": busy,
        "warnings": warnings,
    }


def benchmark(rows: Sequence[Rows], source: str, repeats: int) -> dict[str, Any]:
    """Every recipe with every sampling; microseconds."""
    facts = machine()
    results = [
        {"recipe": recipe_name, "sampling": name, **measure(rows, recipe, sampling, repeats)}
        for recipe_name, recipe in RECIPES.items()
        for name, sampling in SAMPLINGS.items()
    ]
    return {
        "vocab": len(rows[0]["base"]),
        "rows": source,
        "repeats": repeats,
        "goal_us": GOAL_US,
        "machine": facts,
        "results": results,
    }


def show(report: Mapping[str, Any]) -> None:
    facts = report["machine"]
    for warning in facts["warnings"]:
        print(f"warning: {warning}")
    print(f"{facts['system']}, {facts['cores']} cores, numpy {facts['numpy']}")
    print(
        f"vocabulary {report['vocab']:,}, {report['rows']} rows, {report['repeats']} pairs a line; "
        "microseconds for one token on one thread"
    )
    print(
        f"{'recipe':<18}{'sampling':<20}{'drawn from':>11}{'alone':>8}{'p90':>7}"
        f"{'in turn':>9}{'p90':>7}{'naive':>8}{'p90':>7}{'naive/ours':>12}"
    )
    for line in report["results"]:
        alone, ours, naive = line["alone_us"], line["ours_us"], line["naive_us"]
        drawn_from = np.median(line["candidates"]["ours"])
        print(
            f"{line['recipe']:<18}{line['sampling']:<20}{drawn_from:>11,.0f}"
            f"{alone['median']:>8.0f}{alone['p90']:>7.0f}{ours['median']:>9.0f}{ours['p90']:>7.0f}"
            f"{naive['median']:>8.0f}{naive['p90']:>7.0f}{line['naive_over_ours']:>12.1f}"
        )
    first = report["results"][0]
    median = first["alone_us"]["median"]
    met = "met" if median <= GOAL_US else "missed"
    print(
        f"default settings: {median:.0f} us alone, goal {GOAL_US:.0f} us: {met}; "
        f"{first['ours_us']['median']:.0f} us in turn with the naive version, caches cold"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--vocab", type=int, default=128256, help="size of the synthetic rows")
    parser.add_argument("--repeats", type=int, default=100, help="pairs of timings a line")
    parser.add_argument("--model", type=Path, nargs="+", help="rows of this GGUF, or of three")
    parser.add_argument("--text", type=Path, help="what those models read (default: this script)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    if options.vocab < 1024 or options.repeats < 1:
        parser.error("--vocab must be 1024 or more, and --repeats 1 or more")
    try:
        if options.model:
            text = (options.text or Path(__file__)).read_text(encoding="utf-8")
            rows, source = model_rows(options.model, text, N_ROWS), "real"
        else:
            rows, source = synthetic_rows(options.vocab, N_ROWS), "synthetic"
        report = benchmark(rows, source, options.repeats)
    except (EftlocalError, OSError) as error:
        print(f"bench_combine: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    print(json.dumps(report, indent=2)) if options.json else show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
