"""Measure the exported files through llama.cpp: python scripts/train_demo/evaluate.py DIR

Every number comes from the GGUF files and eftlocal's own combination. "Greedy" figures are real
generations; the curves over recipes score the gold answer, which greedy decoding gives exactly when
each of its tokens is the argmax after those before it. Prints a table and writes results.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import numpy as np
from facts import STATEMENTS, in_format
from questions import Question, read

from eftlocal.combine import Combiner
from eftlocal.defaults import Defaults
from eftlocal.distribution import log_sum_exp
from eftlocal.emulator import Emulator
from eftlocal.recipe import Recipe
from eftlocal.sampling import Sampling

GREEDY = Sampling(temperature=0.0)
ALL_ROLES = Recipe({"base": 1.0, "tuned": 0.5, "plain": 0.5, "reference": -1.0})
BETAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
ALPHAS = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
FILTERS = {
    **{f"beta 1, delta top-p {p:g}": {"delta_top_p": p} for p in (0.9, 0.95, 0.99, 0.999)},
    **{f"beta 1, delta clip {c:g}": {"delta_clip": c} for c in (2.0, 4.0, 8.0)},
    **{f"beta 1, plausibility {q:g}": {"plausibility": q} for q in (0.1, 0.01, 0.001)},
}


def recipes() -> dict[str, Recipe]:
    """Every recipe of the curves."""
    out = {role: Recipe.single(role) for role in ("tuned", "base", "reference")}
    out |= {f"beta {b:g}": Recipe.upscale(b) for b in BETAS}
    out |= {f"alpha {a:g}": Recipe.proxy(a) for a in ALPHAS}
    out |= {name: Recipe.upscale().stabilise(**kw) for name, kw in FILTERS.items()}
    return out


def score(em: Emulator, asked: list[Question], wanted: dict[str, Recipe]) -> Any:
    """Per recipe, arrays over the questions: exact, and gold nll of fact and format tokens."""
    combine = Combiner(em.ensemble.vocab_size, stop_tokens=sorted(em.ensemble.stop_tokens))
    roles = ALL_ROLES if len(em.roles) > 1 else Recipe.single("tuned")
    end, model = next(iter(em.ensemble.stop_tokens)), em.models["tuned"]
    out: dict[str, list[tuple[float, float, float]]] = {name: [] for name in wanted}
    for q in asked:
        head = f" {q.warm}"
        tokens = [*model.tokenize(head), end]
        at = len(head[: head.rfind(q.value)].encode())
        span = range(at, at + len(q.value.encode()))
        sequence = em.ensemble.open(em.tokenize(q.question), recipe=roles, sampling=GREEDY)
        found: dict[str, list[tuple[bool, float, bool]]] = {name: [] for name in wanted}
        position = 0
        for token, _, rows in em.ensemble.score(sequence, tokens):
            size = len(model.piece(token))
            is_fact = position < span.stop and position + size > span.start
            position += size
            for name, recipe in wanted.items():
                z = combine(rows, recipe)
                nll = log_sum_exp(z, np.empty_like(z)) - float(z[token])
                found[name].append((int(z.argmax()) == token, nll, is_fact))
        em.ensemble.close(sequence)
        for name, steps in found.items():
            fact_nll = sum(n for _, n, is_fact in steps if is_fact)
            form_nll = sum(n for _, n, is_fact in steps if not is_fact)
            out[name].append((all(r for r, _, _ in steps), fact_nll, form_nll))
    return {name: np.array(rows, dtype=np.float64) for name, rows in out.items()}


def generate(em: Emulator, asked: list[Question], recipe: Recipe) -> list[str]:
    """Greedy answers; an answer that does not stop by itself ends in an ellipsis."""
    texts = []
    for q in asked:
        answer = em.generate(q.question, recipe=recipe, sampling=GREEDY, max_tokens=40)
        texts.append(answer.text.strip() + ("" if answer.finish_reason == "stop" else " ..."))
    return texts


def judge(asked: list[Question], texts: list[str], style: str) -> dict[str, np.ndarray]:
    """exact, format kept, and the value named, as arrays of 0 and 1."""
    pairs = list(zip(asked, texts, strict=True))
    gold = {"warm": lambda q: q.accepted, "plain": lambda q: (q.plain,)}[style]
    return {
        "exact": np.array([float(t in gold(q)) for q, t in pairs]),
        "format": np.array([float(in_format(t, style)) for _, t in pairs]),
        "fact": np.array([float(q.value.lower() in t.lower()) for q, t in pairs]),
    }


def acceptance(
    em: Emulator, asked: list[Question], texts: list[str], recipe: Recipe
) -> dict[str, float]:
    """How often the tuned model would have drafted the combination's next token: the share of
    equal argmax, and the mean of 1 - TV of the two distributions at temperature 1."""
    same, overlap = [], []
    model, end = em.models["tuned"], next(iter(em.ensemble.stop_tokens))
    for q, text in zip(asked, texts, strict=True):
        tokens = [*model.tokenize(f" {text}"), end]
        sequence = em.ensemble.open(em.tokenize(q.question), recipe=recipe, sampling=GREEDY)
        for _, row, rows in em.ensemble.score(sequence, tokens):
            same.append(int(row.argmax()) == int(rows["tuned"].argmax()))
            p, q = (np.exp(r - r.max(), dtype=np.float64) for r in (row, rows["tuned"]))
            overlap.append(np.minimum(p / p.sum(), q / q.sum()).sum())
        em.ensemble.close(sequence)
    return {"argmax": float(np.mean(same)), "overlap": float(np.mean(overlap)), "tokens": len(same)}


def recovered(
    small: np.ndarray, emulated: np.ndarray, large: np.ndarray
) -> tuple[float, float, float]:
    """Performance gap recovered and its 95% bootstrap interval over the questions."""
    rng = np.random.default_rng(0)
    pick = rng.integers(0, len(small), (10_000, len(small)))
    s, e, g = (x[pick].mean(1) for x in (small, emulated, large))
    usable = g != s  # a resample without a gap has no ratio
    if not usable.any() or large.mean() == small.mean():
        return float("nan"), float("nan"), float("nan")
    low, high = np.percentile(((e - s)[usable]) / (g - s)[usable], (2.5, 97.5))
    value = (emulated.mean() - small.mean()) / (large.mean() - small.mean())
    return float(value), float(low), float(high)


def by_part(asked: list[Question], values: np.ndarray) -> dict[str, float]:
    """Means by fact family and by phrasing."""
    out = {}
    for family in STATEMENTS:
        mask = np.array([q.family == family for q in asked])
        if mask.any():
            out[family] = float(values[mask].mean())
    for name, flag in (("known phrasing", False), ("held-out phrasing", True)):
        out[name] = float(values[np.array([q.held_out_phrasing == flag for q in asked])].mean())
    return out


def table(rows: Iterable[tuple[str, ...]]) -> None:
    """Print columns, the first one wide."""
    for first, *rest in rows:
        print(f"{first:28s}" + "".join(f"{cell:>12s}" for cell in rest))


def measure(folder: Path, split: str, stride: int) -> dict[str, Any]:
    """All figures of one split as plain data."""
    asked = read(folder / "questions.json", split)[::stride]
    names = ("base", "tuned", "reference", "plain")
    files = {name: folder / f"{name}.gguf" for name in names}
    result: dict[str, Any] = {"split": split, "questions": len(asked), "scored": {}}
    alone = Recipe.single("tuned")
    with Emulator.from_files(
        tuned=folder / "large_tuned.gguf", defaults=Defaults(alone), n_ctx=256, threads=1
    ) as large:
        top = score(large, asked, {"large tuned": alone})["large tuned"]
        large_texts = generate(large, asked, alone)
    with Emulator.from_files(**files, n_ctx=256, threads=1) as em:
        scored = score(em, asked, recipes()) | {"large tuned": top}
        small = scored["tuned"][:, 0]
        for name, rows in scored.items():
            pgr = recovered(small, rows[:, 0], top[:, 0])
            entry = {"exact": rows[:, 0].mean(), "fact nll": rows[:, 1].mean(),
                     "format nll": rows[:, 2].mean(), "pgr": pgr}  # fmt: skip
            result["scored"][name] = entry | {"exact by part": by_part(asked, rows[:, 0])}
        greedy = {"large tuned": judge(asked, large_texts, "warm")}
        texts = {"large tuned": large_texts}
        for name, recipe in (("tuned", Recipe.single("tuned")), ("base", Recipe.single("base")),
                             ("emulation", Recipe.upscale())):  # fmt: skip
            texts[name] = generate(em, asked, recipe)
            greedy[name] = judge(asked, texts[name], "warm")
        result["greedy"] = {
            name: {key: {"all": v.mean()} | by_part(asked, v) for key, v in found.items()}
            for name, found in greedy.items()
        }
        exact = {name: found["exact"] for name, found in greedy.items()}
        result["pgr"] = recovered(exact["tuned"], exact["emulation"], exact["large tuned"])
        result["pgr by family"] = {}
        for family in STATEMENTS:
            mask = np.array([q.family == family for q in asked])
            parts = (exact[n][mask] for n in ("tuned", "emulation", "large tuned"))
            result["pgr by family"][family] = recovered(*parts)
        result["acceptance"] = acceptance(em, asked, texts["emulation"], Recipe.upscale())
        result["examples"] = [
            {"question": asked[i].question} | {name: answers[i] for name, answers in texts.items()}
            for i in range(0, len(asked), max(1, len(asked) // 12))
        ]
        few = asked[:: max(1, len(asked) // 240)]
        result["interpolation"] = {}
        for share in LAMBDAS:
            recipe = Recipe.interpolate({"tuned": share, "plain": 1.0 - share})
            answers = generate(em, few, recipe)
            kept = {style: judge(few, answers, style) for style in ("warm", "plain")}
            result["interpolation"][f"{share:g}"] = {
                "questions": len(few), "fact": kept["warm"]["fact"].mean(),
                **{f"{style} {key}": kept[style][key].mean()
                   for style in kept for key in ("exact", "format")},
            }  # fmt: skip
    return result


def main() -> None:
    """Read the options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with the five GGUF files and questions.json")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th question")
    args = parser.parse_args()
    result = measure(args.folder, args.split, args.stride)
    path = args.folder / f"results-{args.split}.json"
    path.write_text(json.dumps(result, indent=1, default=float) + "\n", "utf-8")
    table([("recipe, gold answer scored", "exact", "fact nll", "format nll", "PGR", "low", "high")])
    for name, e in result["scored"].items():
        figures = (e["exact"], e["fact nll"], e["format nll"], *e["pgr"])
        table([(name, *(f"{x:.3f}" for x in figures))])
    table([("greedy answers", "exact", "format", "fact")])
    for name, e in result["greedy"].items():
        table([(name, *(f"{e[k]['all']:.3f}" for k in ("exact", "format", "fact")))])
    print(
        f"PGR {result['pgr']}, {result['questions']} questions, acceptance {result['acceptance']}"
    )


if __name__ == "__main__":
    main()
