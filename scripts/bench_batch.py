"""Times many answers at once: against one after another, and against llama.cpp without us.

Usage: python scripts/bench_batch.py [--shapes 1b,1b,1b | --demo] [--widths 1,4,8,16,32] [--json]

Two tables. "Decoding": rounds of n running answers, no prompts and no drafts, beside bare
llama_decode calls of n rows in n sequences for the same models at the same positions: what
llama.cpp itself gains from n sequences, and how much of that is left. "Whole answers": prompts with
a common beginning, decoding and ends, through the scheduler with n places, against the same
prompts by `generate` one after another, without drafts and with drafts of automatic length.
Rounds and bare decodes alternate; "scaling kept" is our gain over llama.cpp's, from pairs, with 95%
bootstrap intervals. Whole answers are timed in turn, and ratios taken within a turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import machine, one_line, say, show_machine
from numpy.typing import NDArray
from random_models import folder, random_trio
from small_models import demo_files

from eftlocal import Emulator, Sampling, Speculation
from eftlocal.llama import Span, default_threads
from eftlocal.scheduler import Scheduler
from eftlocal.speculation.settings import OFF

SHARED = "Answer in one sentence. Say only what you are sure of, and name no source. " * 2
PLACES = ("Toulouse", "Lima", "Oslo", "Quito", "Lyon", "Dakar", "Bonn", "Rome")
DRAFTS = {"plain": OFF, "drafts": Speculation()}


def prompts(count: int) -> list[list[Any]]:
    system = {"role": "system", "content": SHARED}
    return [
        [system, {"role": "user", "content": f"{i}: in which country is {PLACES[i % 8]}?"}]
        for i in range(count)
    ]


def options_of(index: int, tokens: int, drafts: Speculation, ends: bool) -> dict[str, Any]:
    return {
        "sampling": Sampling(temperature=0.7, seed=index),
        "max_tokens": tokens,
        "ignore_end": not ends,
        "speculation": drafts,
    }


# Decoding -----------------------------------------------------------------------------------------


def pairs_of(emulator: Emulator, width: int, steps: int) -> list[tuple[float, float]]:
    """Seconds of rounds of `width` answers, each with those of bare decodes in its place."""
    scheduler = Scheduler(emulator, parallel=width, prefill=1 << 16)
    for i, prompt in enumerate(prompts(width)):
        scheduler.add(prompt, **options_of(i, steps + 8, OFF, ends=False))
    found = []
    with scheduler:
        while scheduler.reading or scheduler.waiting:
            scheduler.step()
        for step in range(steps + 1):
            if step % 2:
                bare, ours = _bare(emulator, width), _timed(scheduler.step)
            else:
                ours, bare = _timed(scheduler.step), _bare(emulator, width)
            found.append((ours, bare))
    return found[1:]  # the first warms up


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _bare(emulator: Emulator, width: int) -> float:
    """Seconds of the decodes of a round, with nothing made of their rows."""
    seconds = 0.0
    for context in emulator.ensemble.contexts.values():
        spans = [Span(slot, [5 + slot], 1) for slot in range(width)]
        held = [len(context.tokens(slot)) for slot in range(width)]
        seconds += _timed(partial(context.decode, spans))
        for slot in range(width):
            context.rewind(slot, held[slot])
    return seconds


def decoding(emulator: Emulator, widths: Sequence[int], steps: int, turns: int) -> dict[int, Any]:
    pairs: dict[int, list[tuple[float, float]]] = {n: [] for n in widths}
    for turn in range(turns):
        for n in widths:
            pairs[n] += pairs_of(emulator, n, steps)
        say(f"decoding, turn {turn + 1} of {turns}")
    rng = np.random.default_rng(0)
    first = np.array(pairs[widths[0]])
    found = {}
    for n in widths:
        each = np.array(pairs[n])
        drawn, drawn_first = (
            rows[rng.integers(0, len(rows), (2000, len(rows)))] for rows in (each, first)
        )
        scale = n / widths[0]
        gain = scale * np.median(drawn_first, axis=1) / np.median(drawn, axis=1)
        ratio = np.median(drawn[..., 1] / drawn[..., 0], axis=1)
        one = np.median(drawn_first[..., 1] / drawn_first[..., 0], axis=1)
        found[n] = {
            "pairs": len(each),
            "tokens_per_second": float(n / np.median(each[:, 0])),
            "bare_tokens_per_second": float(n / np.median(each[:, 1])),
            "ours": _interval(gain[:, 0]),
            "llama_cpp": _interval(gain[:, 1]),
            "scaling_kept": _interval(ratio / one),
        }
    return found


def _interval(drawn: NDArray[np.float64]) -> list[float]:
    """Median and the bounds of 95% of bootstrapped medians."""
    return [float(q) for q in np.percentile(drawn, [50.0, 2.5, 97.5])]


# Whole answers ------------------------------------------------------------------------------------


def in_turn(
    emulator: Emulator, asked: Sequence[Any], tokens: int, drafts: Speculation, ends: bool
) -> Any:
    emulator.ensemble.clear()
    began = time.perf_counter()
    count = 0
    for i, prompt in enumerate(asked):
        count += len(emulator.generate(prompt, **options_of(i, tokens, drafts, ends)).tokens)
    return count / (time.perf_counter() - began)


def at_once(
    emulator: Emulator,
    asked: Sequence[Any],
    tokens: int,
    drafts: Speculation,
    ends: bool,
    width: int,
) -> float:
    emulator.ensemble.clear()
    began = time.perf_counter()
    scheduler = Scheduler(emulator, parallel=width)
    calls = [
        scheduler.add(prompt, **options_of(i, tokens, drafts, ends))
        for i, prompt in enumerate(asked)
    ]
    while scheduler:
        scheduler.step()
    count = sum(len(call.answer().tokens) for call in calls)
    return count / (time.perf_counter() - began)


def whole(
    emulator: Emulator, widths: Sequence[int], lines: int, tokens: int, turns: int, ends: bool
) -> dict[str, Any]:
    asked = prompts(lines)
    found: dict[str, Any] = {name: {n: [] for n in widths} for name in DRAFTS}
    rates: dict[str, Any] = {name: {"in turn": [], **{n: [] for n in widths}} for name in DRAFTS}
    for turn in range(turns):
        for name, drafts in DRAFTS.items():
            alone = in_turn(emulator, asked, tokens, drafts, ends)
            rates[name]["in turn"].append(alone)
            for n in widths:
                rate = at_once(emulator, asked, tokens, drafts, ends, n)
                rates[name][n].append(rate)
                found[name][n].append(rate / alone)
        say(f"whole answers, turn {turn + 1} of {turns}")
    return {"ratio": found, "tokens_per_second": rates}


def benchmark(files: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    facts = machine()
    threads = options.threads or (1 if options.demo else default_threads())
    with Emulator.from_files(
        **files,
        n_ctx=options.n_ctx,
        n_seq_max=max(options.widths),
        threads=threads,
    ) as emulator:
        emulator.measure()
        return {
            "machine": facts,
            "files": {role: str(path) for role, path in files.items()},
            "threads": threads,
            "decoding": decoding(emulator, options.widths, options.steps, options.turns),
            "whole": whole(
                emulator,
                options.widths,
                options.lines,
                options.tokens,
                options.whole_turns,
                ends=options.demo,
            ),
        }


def _middle(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{float(np.median(values)):.2f} [{min(values):.2f}, {max(values):.2f}]"


def show(report: Mapping[str, Any]) -> None:
    show_machine(report["machine"])
    print(", ".join(Path(path).name for path in report["files"].values()), end="")
    print(f", {report['threads']} threads")
    heads = ("tokens/s", "ours, times one", "llama.cpp, times one", "scaling kept")
    print(f"\n{'Decoding, answers':>20}" + "".join(f"{head:>24}" for head in heads))
    for n, found in report["decoding"].items():
        cells = [f"{found['tokens_per_second']:.1f}"]
        for key in ("ours", "llama_cpp", "scaling_kept"):
            middle, low, high = found[key]
            cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
        print(f"{n:>20}" + "".join(f"{cell:>24}" for cell in cells))
    for name, ratios in report["whole"]["ratio"].items():
        rates = report["whole"]["tokens_per_second"][name]
        print(f"\nWhole answers, {name}: {float(np.median(rates['in turn'])):.1f} tokens/s in turn")
        for n, values in ratios.items():
            rate = float(np.median(rates[n]))
            print(f"{n:>22}{rate:>22.1f}{_middle(values):>22} times as fast")


def main() -> int:
    def numbers(text: str) -> list[int]:
        return sorted({int(part) for part in text.split(",")})

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shapes", default="1b,1b,1b", help="base,tuned,reference")
    parser.add_argument("--demo", action="store_true", help="the demo trio instead")
    parser.add_argument("--quantization", default="Q4_0")
    parser.add_argument("--folder", type=Path, help="where random models are kept")
    parser.add_argument("--widths", type=numbers, default=[1, 4, 8, 16, 32])
    parser.add_argument("--steps", type=int, default=16, help="rounds timed (decoding)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--lines", type=int, default=32, help="prompts (whole answers)")
    parser.add_argument("--tokens", type=int, default=32, help="of each whole answer, at most")
    parser.add_argument("--whole-turns", type=int, default=1)
    parser.add_argument("--n-ctx", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with one_line("bench_batch"):
        if options.demo:
            files = demo_files()
        else:
            files = random_trio(options.shapes, options.quantization, folder(options.folder))
        report = benchmark(files, options)
    if options.json:
        print(json.dumps(report))
    else:
        show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
