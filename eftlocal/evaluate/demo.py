"""The evaluation of the demo models, through their GGUF files: figures as plain data.

The large tuned model is the upper bound of the gap; it is loaded by itself, before the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.defaults import Defaults
from eftlocal.emulator import Emulator
from eftlocal.errors import ModelFileError
from eftlocal.evaluate.answers import GreedyAnswer, Judged, answer, judge
from eftlocal.evaluate.curves import filters, frontier, strengths
from eftlocal.evaluate.drafts import acceptance
from eftlocal.evaluate.questions import QuestionSet, read
from eftlocal.evaluate.recovered import recovered
from eftlocal.evaluate.scoring import Scores, score
from eftlocal.loading.roles import RoleSource, with_settings
from eftlocal.logits.recipe import Recipe

FOLDER = Path(__file__).parents[1] / "demo"
ROLES = ("base", "tuned", "reference", "plain")
LARGE, SMALL, EMULATION = "large tuned", "small tuned", "emulation"
WARM, PLAIN = "warm", "plain"  # the styles of the roles tuned and plain
N_CTX = 256
EXAMPLES = 8
Advance = Callable[[], object]


def evaluate_demo(
    folder: Path = FOLDER,
    *,
    split: str = "test",
    each: int | None = None,
    stride: int = 1,
    threads: int = 1,
    started: Callable[[str, int], Advance] = lambda stage, total: lambda: None,
) -> dict[str, Any]:
    """Everything measured of the models in a folder.

    Args:
        folder: holds base, tuned, reference, plain and large_tuned (.gguf), and questions.json.
        split: "validation" or "test".
        each: questions of every family at most; None is all.
        stride: take every n-th question.
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
    asked = read(folder / "questions.json", split).every(stride)
    asked = asked if each is None else asked.first(each)
    for name in (*ROLES, "large_tuned"):
        if not (folder / f"{name}.gguf").is_file():
            raise ModelFileError(
                f"{folder / name}.gguf is missing; the evaluation needs it, and the repository "
                "has it in eftlocal/demo"
            )
    n = len(asked.questions)
    wanted = {SMALL: Recipe.single("tuned"), "small base": Recipe.single("reference"),
              "large base": Recipe.single("base"), EMULATION: Defaults().recipe,
              **strengths(), **filters()}  # fmt: skip
    answers: dict[str, list[GreedyAnswer]] = {}
    alone = Recipe.single("tuned")
    with _load({"tuned": folder / "large_tuned.gguf"}, Defaults(alone), threads) as em:
        top = score(em, asked, {LARGE: alone}, WARM, started("large tuned, gold answers", n))
        answers[LARGE] = answer(em, asked, alone, started("large tuned, its answers", n))
    with _load({name: folder / f"{name}.gguf" for name in ROLES}, Defaults(), threads) as em:
        scored = score(em, asked, wanted, WARM, started(f"{len(wanted)} recipes, gold", n)) | top
        for name in (SMALL, "large base", EMULATION):
            answers[name] = answer(em, asked, wanted[name], started(f"{name}, its answers", n))
        drafts = acceptance(
            em, asked, answers[EMULATION], wanted[EMULATION], started("drafts of the tuned", n)
        )
        steps = started("interpolation", n * len(frontier("tuned", "plain")))
        between = {
            f"{share:g}": _styles(asked, answer(em, asked, recipe, steps))
            for share, recipe in frontier("tuned", "plain").items()
        }
    judged = {name: judge(asked, texts, WARM) for name, texts in answers.items()}
    parts = _parts(asked)
    return {
        "split": split,
        "families": list(asked.families),
        "questions": {name: int(mask.sum()) for name, mask in parts.items()},
        "recipe": str(wanted[EMULATION]),
        "answers": _figures(judged, parts),
        "scored": _figures(scored, parts),
        "acceptance": asdict(drafts),
        "interpolation": between,
        "examples": [
            {"question": asked.questions[i].text}
            | {name: texts[i].text for name, texts in answers.items()}
            for i in range(0, n, max(1, n // EXAMPLES))
        ],
    }


def _load(files: dict[str, Path], defaults: Defaults, threads: int) -> Emulator:
    """The tuned role sees its chat template, the others the same text."""
    sources = {
        role: RoleSource(path, prompt="chat" if role == "tuned" else "same")
        for role, path in files.items()
    }
    return Emulator.from_sources(
        with_settings(sources, n_ctx=N_CTX, threads=threads, gpu_layers=0), defaults=defaults
    )


def _parts(asked: QuestionSet) -> dict[str, NDArray[np.bool_]]:
    """Masks over the questions: all, by family, by phrasing."""
    parts = {"all": [True for _ in asked.questions]}
    parts |= {f: [q.family == f for q in asked.questions] for f in asked.families}
    parts["known phrasing"] = [not q.held_out_phrasing for q in asked.questions]
    parts["held-out phrasing"] = [q.held_out_phrasing for q in asked.questions]
    return {name: np.array(mask) for name, mask in parts.items() if any(mask)}


def _figures(
    found: Mapping[str, Judged] | Mapping[str, Scores], parts: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Any]:
    """Per name and part the mean of every array, and the PGR of the exact answers."""
    out: dict[str, Any] = {}
    with np.errstate(invalid="ignore"):  # means over an infinite loss
        for name, values in found.items():
            out[name] = {}
            for part, mask in parts.items():
                means = {key: float(array[mask].mean()) for key, array in vars(values).items()}
                gap = (found[of].exact[mask] for of in (SMALL, name, LARGE))
                out[name][part] = means | {"pgr": list(recovered(*gap))}
    return out


def _styles(asked: QuestionSet, answers: list[GreedyAnswer]) -> dict[str, float]:
    """Share of answers in each style's form, exact in each, and naming the fact."""
    out = {"fact": float(judge(asked, answers, WARM).fact.mean())}
    for style in (WARM, PLAIN):
        kept = judge(asked, answers, style)
        out[f"{style} format"] = float(kept.format.mean())
        out[f"{style} exact"] = float(kept.exact.mean())
    return out
