"""The evaluation of the demo models, through their GGUF files: figures as plain data.

The large tuned model is the upper bound of the gap; it is loaded by itself, before the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group

from eftlocal.defaults import Defaults
from eftlocal.emulator import Emulator
from eftlocal.errors import ModelFileError
from eftlocal.logits.recipe import Recipe
from eftlocal.study.answers import (
    Advance,
    GreedyAnswer,
    Scores,
    Verdicts,
    acceptance,
    answer,
    judge,
    nothing,
    score,
)
from eftlocal.study.plot import curve, panels, save
from eftlocal.study.questions import FOLDER, PLAIN, WARM, QuestionSet, read
from eftlocal.study.report import interval, table, titled
from eftlocal.study.statistics import gap_recovered

ROLES = ("base", "tuned", "reference", "plain")
LARGE, SMALL, EMULATION = "large tuned", "small tuned", "emulation"
N_CTX = 256
EXAMPLES = 8
_HEADS = {"fact_nll": "fact", "format_nll": "format", "pgr": "PGR [95%]"}

_UP = Recipe.upscale()
RECIPES = {
    SMALL: Recipe.single("tuned"),
    "small base": Recipe.single("reference"),
    "large base": Recipe.single("base"),
    EMULATION: Defaults().recipe,
    # Up-scaling over beta and proxy-tuning over alpha; at 1 the two are the same.
    **{f"beta {b:g}": Recipe.upscale(b) for b in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)},
    **{f"alpha {a:g}": Recipe.proxy(a) for a in (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)},
    # beta = 1 under each stabiliser of the delta.
    **{f"delta top-p {p:g}": _UP.stabilise(delta_top_p=p) for p in (0.9, 0.95, 0.99, 0.999)},
    **{f"plausibility {q:g}": _UP.stabilise(plausibility=q) for q in (0.1, 0.01, 0.001)},
    **{f"delta clip {c:g}": _UP.stabilise(delta_clip=c) for c in (2.0, 4.0, 8.0)},
}
# Interpolation between the two tuned roles, by the share of the first.
BLENDS = {
    f"{share:g}": Recipe.interpolate({"tuned": share, "plain": 1.0 - share})
    for share in (0.0, 0.25, 0.5, 0.75, 1.0)
}


def evaluate_demo(
    folder: Path = FOLDER,
    *,
    split: str = "test",
    each: int | None = None,
    threads: int = 1,
    started: Callable[[str, int], Advance] = lambda stage, total: nothing,
) -> dict[str, Any]:
    """Everything measured of the models in a folder.

    Args:
        folder: holds base, tuned, reference, plain and large_tuned (.gguf), and questions.json.
        split: "validation" or "test".
        each: questions of every family at most; None is all.
        started: called with a stage's name and number of steps; what it returns, after each.

    Returns:
        split, families and questions (a count a family); "answers" (greedy: exact, format,
        stopped, fact, PGR), "scored" (gold answer: exact, fact_nll and format_nll in nats,
        PGR), each by name and part ("all", a family, a phrasing); "acceptance" of drafts;
        "interpolation" by lambda; "examples". NaN and inf stand where there is no number.

    Raises:
        UsageError: no such split, or questions.json is missing or torn.
        ModelFileError: a model file is missing.
    """
    asked = read(folder / "questions.json", split)
    asked = asked if each is None else asked.first(each)
    for name in (*ROLES, "large_tuned"):
        if not (folder / f"{name}.gguf").is_file():
            raise ModelFileError(
                f"{folder / name}.gguf is missing; the evaluation needs it (the repository has it "
                "in eftlocal/demo)"
            )
    n = len(asked.questions)
    answers: dict[str, list[GreedyAnswer]] = {}
    alone = Recipe.single("tuned")
    settings: dict[str, Any] = {"n_ctx": N_CTX, "threads": threads, "gpu_layers": 0}
    roles: dict[str, Any] = {name: folder / f"{name}.gguf" for name in ROLES}
    large = folder / "large_tuned.gguf"
    with Emulator.from_files(tuned=large, defaults=Defaults(alone), **settings) as em:
        top = score(em, asked, {LARGE: alone}, WARM, started("large tuned, gold answers", n))
        answers[LARGE] = answer(em, asked, alone, started("large tuned, its answers", n))
    with Emulator.from_files(**roles, **settings) as em:
        scored = score(em, asked, RECIPES, WARM, started(f"{len(RECIPES)} recipes, gold", n)) | top
        for name in (SMALL, "large base", EMULATION):
            answers[name] = answer(em, asked, RECIPES[name], started(f"{name}, its answers", n))
        emulation, steps = RECIPES[EMULATION], started("drafts of the tuned", n)
        drafts = acceptance(em, asked, answers[EMULATION], emulation, steps)
        steps = started("interpolation", n * len(BLENDS))
        between = {
            share: _styles(asked, answer(em, asked, recipe, steps))
            for share, recipe in BLENDS.items()
        }
    judged = {name: judge(asked, texts, WARM) for name, texts in answers.items()}
    parts = _parts(asked)
    return {
        "split": split,
        "families": list(asked.families),
        "questions": {name: int(mask.sum()) for name, mask in parts.items()},
        "recipe": str(emulation),
        "answers": _figures(judged, parts),
        "scored": _figures(scored, parts),
        "acceptance": drafts._asdict(),
        "interpolation": between,
        "examples": [
            {"question": asked.questions[i].text}
            | {name: texts[i].text for name, texts in answers.items()}
            for i in range(0, n, max(1, n // EXAMPLES))
        ],
    }


def _parts(asked: QuestionSet) -> dict[str, NDArray[np.bool_]]:
    """Masks over the questions: all, by family, by phrasing."""
    parts = {"all": [True for _ in asked.questions]}
    parts |= {f: [q.family == f for q in asked.questions] for f in asked.families}
    parts["known phrasing"] = [not q.held_out_phrasing for q in asked.questions]
    parts["held-out phrasing"] = [q.held_out_phrasing for q in asked.questions]
    return {name: np.array(mask) for name, mask in parts.items() if any(mask)}


def _figures(
    found: Mapping[str, Verdicts] | Mapping[str, Scores], parts: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Any]:
    """Per name and part the mean of every array, and the PGR of the exact answers."""
    out: dict[str, Any] = {}
    with np.errstate(invalid="ignore"):  # means over an infinite loss
        for name, values in found.items():
            out[name] = {}
            for part, mask in parts.items():
                means = {key: float(array[mask].mean()) for key, array in vars(values).items()}
                gap = (found[of].exact[mask] for of in (SMALL, name, LARGE))
                out[name][part] = means | {"pgr": list(gap_recovered(*gap))}
    return out


def _styles(asked: QuestionSet, answers: list[GreedyAnswer]) -> dict[str, float]:
    """Share of answers in each style's form, exact in each, and naming the fact."""
    out = {"fact": float(judge(asked, answers, WARM).fact.mean())}
    for style in (WARM, PLAIN):
        kept = judge(asked, answers, style)
        out[f"{style} format"] = float(kept.format.mean())
        out[f"{style} exact"] = float(kept.exact.mean())
    return out


def tables(figures: dict[str, Any]) -> Iterator[Group]:
    """Answers, recipes, families and phrasings, interpolation."""
    answers, scored, parts = figures["answers"], figures["scored"], figures["questions"]

    def by(title: str, rows: Mapping[str, Mapping[str, Any]], *keys: str, first: str = "") -> Group:
        heads = (_HEADS.get(key, key) for key in keys)
        cells = ([name, *(_cell(found[key]) for key in keys)] for name, found in rows.items())
        return titled(title, table((first, *heads), cells))

    yield by(
        f"Greedy answers to {parts['all']} {figures['split']} questions",
        {name: of["all"] for name, of in answers.items()},
        *("exact", "format", "stopped", "fact", "pgr"),
    )
    yield by(
        "Gold answers: exact match by argmax, negative log-likelihood in nats",
        {name: of["all"] for name, of in scored.items()},
        *("exact", "fact_nll", "format_nll", "pgr"),
    )
    names = (SMALL, "large base", EMULATION, LARGE)
    exact = {
        part: {name: answers[name][part]["exact"] for name in names}
        | {"n": str(n), "pgr": answers[EMULATION][part]["pgr"]}
        for part, n in parts.items()
    }
    yield by("By family and phrasing: exact greedy answers", exact, "n", *names, "pgr")
    three = (SMALL, EMULATION, LARGE)
    kept = {
        part: {
            name: f"{answers[name][part]['format']:.3f}"
            f"{scored[name][part]['fact_nll']:5.2f}{scored[name][part]['format_nll']:6.2f}"
            for name in three
        }
        for part in parts
    }
    yield by(
        "By family and phrasing: right format (share), loss of fact and format tokens (nats)",
        kept,
        *three,
    )
    yield by(
        "Interpolation: lambda is the weight of the tuned role, 1 - lambda that of plain",
        figures["interpolation"],
        *("fact", "warm format", "warm exact", "plain format", "plain exact"),
        first="lambda",
    )


def _cell(found: str | float | list[float]) -> str:
    """A text as it is, a share or a loss, a PGR with its interval."""
    if isinstance(found, list):
        return interval(found, none="no gap")
    return found if isinstance(found, str) else f"{found:.3f}"


def summary(figures: dict[str, Any]) -> str:
    """The figures that matter most, in three lines."""
    drafts = figures["acceptance"]
    return (
        f"emulation ({figures['recipe']}):\n"
        f"PGR {_cell(figures['answers'][EMULATION]['all']['pgr'])} between {SMALL} and {LARGE}\n"
        f"drafts of the {SMALL} model accepted, over {drafts['tokens']} tokens: "
        f"{drafts['agreement']:.3f} greedy, {drafts['overlap']:.3f} sampled (mean of 1 - TV)"
    )


def plot(figures: dict[str, Any], path: Path) -> None:
    """The strength curves and the interpolation frontier as a picture."""
    picture, (left, right) = panels(2)
    scored = {name: parts["all"]["exact"] for name, parts in figures["scored"].items()}
    for dial, at_zero in (("beta", "small tuned"), ("alpha", "large base")):
        points = {0.0: scored[at_zero], 1.0: scored["beta 1"]} | {
            float(name.removeprefix(dial)): exact
            for name, exact in scored.items()
            if name.startswith(f"{dial} ")
        }
        curve(left, sorted(points), [points[x] for x in sorted(points)], dial)
    for name, line in ((LARGE, "--"), (SMALL, ":")):
        left.axhline(scored[name], linestyle=line, color="gray", label=name)
    left.set(xlabel="strength", ylabel="exact gold answers", title="Strength of the delta")
    between = figures["interpolation"]
    for key in ("fact", "warm format", "plain format"):
        curve(right, [float(x) for x in between], [of[key] for of in between.values()], key)
    right.set(xlabel="lambda", ylabel="share of answers", title="Between two tuned models")
    for axes in (left, right):
        axes.set_ylim(0, 1.02)
        axes.legend()
    save(picture, path)
