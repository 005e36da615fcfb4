"""Times combining, filtering and drawing, of this checkout and of OTHER, another one, in turn.

Usage: python scripts/bench_combine.py [OTHER] [--vocab N ...] [--model FILE [FILE FILE]] [--json]

For every setting: one row as a round runs it (Step, then draw); a round of nine rows, all of which
are accepted; and a token that comes out where a round drafts eight and each is accepted with the
probability given, the drafter's distributions included. For the default setting also each stage by
itself. Microseconds on one thread: medians, and of the ratio to OTHER, pair by pair, with
95% bootstrap intervals. Rows are taken in turn, as many as do not fit into a core's own caches.
Between real decodes caches are colder still: see bench_step.py.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from benchmark import machine, one_line, show_machine
from numpy.typing import NDArray

from eftlocal import llama
from eftlocal.errors import UsageError
from eftlocal.logits.recipe import TRIO
from eftlocal.study.statistics import median

Rows = dict[str, NDArray[np.float32]]
"""A row of logits (vocab,) float32 per role."""

HERE = Path(__file__).resolve().parents[1]
VOCABS = (49_152, 128_256, 262_144)
ACCEPTANCES = (0.6, 0.8, 0.9)
DRAFTS = 8
N_ROWS = 2 * (DRAFTS + 1)  # sets of rows taken in turn
ANSWER_TOKENS = 200  # different tokens already in the answer, for the penalties
# name: limits of the delta, dials of sampling, and what else: a share of tokens that a mask allows,
# the number of most probable tokens told
SETTINGS: dict[str, tuple[dict[str, float], dict[str, Any], dict[str, float]]] = {
    "default": ({}, {}, {}),
    "delta_top_p 0.95": ({"delta_top_p": 0.95}, {}, {}),
    "plausibility 0.1": ({"plausibility": 0.1}, {}, {}),
    "delta_clip 5": ({"delta_clip": 5.0}, {}, {}),
    "unsure_below 0.9": ({"unsure_below": 0.9}, {}, {}),
    "greedy": ({}, {"temperature": 0.0}, {}),
    "temperature 1": ({}, {"temperature": 1.0}, {}),
    "temperature 1.5": ({}, {"temperature": 1.5}, {}),
    "no filter": ({}, {"temperature": 1.0, "top_p": 1.0}, {}),
    "top_k 40": ({}, {"top_k": 40, "top_p": 1.0}, {}),
    "min_p 0.05": ({}, {"min_p": 0.05, "top_p": 1.0}, {}),
    "repeat_penalty 1.1": ({}, {"repeat_penalty": 1.1}, {}),
    "mask of 1%": ({}, {}, {"mask": 0.01}),
    "mask of 99%": ({}, {}, {"mask": 0.99}),
    "logprobs, top 5": ({}, {}, {"top": 5}),
}


class Version:
    """The numbers of a checkout: its modules in `eftlocal.logits`, imported beside any others."""

    def __init__(self, checkout: Path) -> None:
        ours = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
        sys.path.insert(0, str(checkout))
        try:
            self._modules = list(self._imported(checkout))
        finally:
            sys.path.remove(str(checkout))
            for name in [name for name in sys.modules if _is_ours(name)]:
                del sys.modules[name]
            sys.modules.update(ours)
        # Newer ones can leave candidates open that a draw does not depend on.
        self.loose = {"to_draw": True} if hasattr(self.Candidates, "settled") else {}

    def _imported(self, checkout: Path) -> Iterator[ModuleType]:
        for file in sorted((checkout / "eftlocal" / "logits").glob("*.py")):
            module = importlib.import_module(f"eftlocal.logits.{file.stem}")
            if not Path(module.__file__ or "").is_relative_to(checkout):
                raise UsageError(f"{checkout} is no checkout: {module.__file__} was imported")
            yield module

    def __getattr__(self, name: str) -> Any:
        for module in self._modules:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)


def _is_ours(name: str) -> bool:
    return name == "eftlocal" or name.startswith("eftlocal.")


class Round:
    """What a round does with its rows, by one version, at one setting."""

    def __init__(self, version: Version, rows: Sequence[Rows], setting: str) -> None:
        limits, dials, self.more = SETTINGS[setting]
        self.version, self.rows, vocab = version, rows, len(rows[0]["base"])
        self.recipe = version.Recipe.upscale().stabilise(**limits)
        self.sampling = version.Sampling(**dials)
        self.combine, self.filter = version.Combiner(vocab), version.Filters(vocab)
        self.step, self.draft_step = version.Step(self.combine), version.Step(self.combine)
        rng = np.random.default_rng(1)
        used = rng.choice(vocab, min(ANSWER_TOKENS, vocab), replace=False)
        self.counts = {int(t): 2 for t in used} if self.sampling.counting else {}
        self.mask = rng.random(vocab) < self.more["mask"] if "mask" in self.more else None
        self.scratch = np.empty(vocab, dtype=np.float32)

    def row(self, at: int) -> int:
        """One token of the combination."""
        rows = self.rows[at % len(self.rows)]
        row, found = self.step(
            rows, self.recipe, self.sampling, self.counts, self.mask, **self.version.loose
        )
        token: int = self.version.draw(found, 1, at)
        if "top" in self.more:
            self.version.top_logprobs(row, int(self.more["top"]), self.scratch)
            self.version.token_logprob(row, token, self.scratch)
        return token

    def whole(self, at: int) -> None:
        """A round whose drafts are all accepted, without the drafting."""
        for position in range(DRAFTS + 1):
            self.row(at + position)

    def draft(self, at: int) -> None:
        """One draft token."""
        _, found = self.draft_step(
            self.rows[at % len(self.rows)],
            self.recipe.drafter,
            self.sampling,
            self.counts,
            self.mask,
            **self.version.loose,
        )
        assert found.confidence > 0.0
        self.version.draw(found, 1, at)

    def drafted(self, at: int, accepted: int) -> None:
        """A round that drafts and judges until a draft is refused."""
        for position in range(DRAFTS):
            self.draft(at + position)
        for position in range(accepted + 1):
            self.row(at + position)

    def stages(self, at: int) -> dict[str, float]:
        """Microseconds of each stage of one row."""
        rows, marks = self.rows[at % len(self.rows)], [time.perf_counter_ns()]
        row = self.combine(rows, self.recipe)
        marks.append(time.perf_counter_ns())
        found = self.filter(row, self.sampling, **self.version.loose)
        marks.append(time.perf_counter_ns())
        self.version.draw(found, 1, at)
        marks.append(time.perf_counter_ns())
        return dict(zip(("combine", "filter", "draw"), np.diff(marks) / 1000.0, strict=True))


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
        for role in TRIO:
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
    for role, file, skip in zip(TRIO, itertools.cycle(files), skips, strict=False):
        with llama.Model(file) as model:
            tokens = model.tokenize(text)[: 64 + count]
            if len(tokens) < 48 + count:
                raise UsageError(f"the text has {len(tokens)} tokens; it must have {48 + count}")
            with llama.Context(model, n_ctx=len(tokens)) as context:
                rows = context.decode([llama.Span(0, tokens[skip:], count)])
                per_role[role] = [row.copy() for row in rows]
    vocab = min(len(rows[0]) for rows in per_role.values())
    return [{role: per_role[role][i][:vocab] for role in TRIO} for i in range(count)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and 90th percentile."""
    return {"median": float(np.median(values)), "p90": float(np.percentile(values, 90))}


def timed(call: Callable[..., object], *arguments: int) -> float:
    """Microseconds."""
    began = time.perf_counter_ns()
    call(*arguments)
    return (time.perf_counter_ns() - began) / 1000.0


def compared(turns: Sequence[Sequence[float]]) -> dict[str, Any]:
    """From (turns, versions) microseconds: medians, and the ratio of the first to the last."""
    found: dict[str, Any] = {"us": [float(np.median(one)) for one in zip(*turns, strict=True)]}
    if len(turns[0]) > 1:
        ratio = median([turn[0] / turn[-1] for turn in turns])
        found["ratio"] = [ratio.value, ratio.low, ratio.high]
    return found


def measure(
    versions: Sequence[Version], rows: Sequence[Rows], setting: str, repeats: int
) -> dict[str, Any]:
    """One setting, all versions in turn on the same rows."""
    rounds = [Round(version, rows, setting) for version in versions]
    rng = np.random.default_rng(2)

    def turns(*calls: Callable[..., object]) -> dict[str, Any]:
        """Each version's call at the same places, the first of them changing."""
        found = []
        for at in range(-2, repeats):  # two warm up
            arguments = (at * (DRAFTS + 1), *([int(accepted[at])] if drafting else []))
            order = list(enumerate(calls))[:: 1 if at % 2 else -1]
            us = {i: timed(call, *arguments) for i, call in order}
            share = (accepted[at] + 1) if drafting else per
            found.append([us[i] / share for i in range(len(calls))])
        return compared(found[2:])

    drafting, per, accepted = False, 1, np.zeros(repeats, dtype=int)
    result = {"setting": setting, "1 row": turns(*(r.row for r in rounds))}
    per = DRAFTS + 1
    result[f"{per} rows"] = turns(*(r.whole for r in rounds))
    drafting = True
    for acceptance in ACCEPTANCES:
        accepted = np.minimum(rng.geometric(1.0 - acceptance, repeats) - 1, DRAFTS)
        result[f"a token at {acceptance:g}"] = turns(*(r.drafted for r in rounds))
    if setting == "default":
        each = []
        for at in range(repeats):  # each version is the first at a row as often as the others
            turn = {i: rounds[i].stages(at) for i in range(len(rounds))[:: 1 if at % 2 else -1]}
            each.append([turn[i] for i in range(len(rounds))])
        result["stages"] = {
            stage: compared([[one[stage] for one in turn] for turn in each]) for stage in each[0][0]
        }
    return result


def benchmark(
    checkouts: Sequence[Path],
    by_vocab: Mapping[int, Sequence[Rows]],
    source: str,
    settings: Sequence[str],
    repeats: int,
) -> dict[str, Any]:
    """Every setting at every vocabulary."""
    versions = [Version(checkout) for checkout in checkouts]
    return {
        "rows": source,
        "repeats": repeats,
        "compared": len(versions) > 1,
        "machine": machine(),
        "results": [
            {"vocab": vocab, **measure(versions, rows, setting, repeats)}
            for vocab, rows in by_vocab.items()
            for setting in settings
        ],
    }


def cell(found: Mapping[str, Any]) -> str:
    if "ratio" not in found:
        return f"{found['us'][0]:.0f}"
    value, low, high = found["ratio"]
    return f"{found['us'][0]:.0f} / {found['us'][-1]:.0f}: {value:.2f} [{low:.2f}, {high:.2f}]"


def show(report: Mapping[str, Any]) -> None:
    facts = report["machine"]
    show_machine(facts)
    print(f"numpy {facts['numpy']}")
    what = "this / other: ratio [95%]" if report["compared"] else "this checkout"
    print(
        f"{report['rows']} rows, {report['repeats']} turns; microseconds per row or token, {what}"
    )
    for line in report["results"]:
        print(f"vocabulary {line['vocab']:,}, {line['setting']}")
        for name, found in line.items():
            if isinstance(found, dict):
                for part, of_part in (found if name == "stages" else {name: found}).items():
                    print(f"    {part:<16}{cell(of_part)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", nargs="?", type=Path, help="another checkout to compare with")
    parser.add_argument("--vocab", type=int, nargs="+", default=VOCABS, help="of synthetic rows")
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=list(SETTINGS),
        metavar="SETTING",
        help="of a step: " + "; ".join(SETTINGS).replace("%", "%%"),
    )
    parser.add_argument("--repeats", type=int, default=30, help="turns of each figure")
    parser.add_argument("--model", type=Path, nargs="+", help="rows of this GGUF, or of three")
    parser.add_argument("--text", type=Path, help="what those models read (default: this script)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    if min(options.vocab) < 1024 or options.repeats < 2:
        parser.error("--vocab must be 1024 or more, and --repeats 2 or more")
    with one_line("bench_combine"):
        if options.other and not (options.other / "eftlocal" / "logits").is_dir():
            raise UsageError(f"{options.other} is no checkout: it has no eftlocal/logits")
        if options.model:
            text = (options.text or Path(__file__)).read_text(encoding="utf-8")
            rows, source = model_rows(options.model, text, N_ROWS), "real"
            by_vocab = {len(rows[0]["base"]): rows}
        else:
            by_vocab = {vocab: synthetic_rows(vocab, N_ROWS) for vocab in options.vocab}
            source = "synthetic"
        checkouts = [HERE, *([options.other.resolve()] if options.other else [])]
        report = benchmark(checkouts, by_vocab, source, options.settings, options.repeats)
    print(json.dumps(report, indent=2)) if options.json else show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
