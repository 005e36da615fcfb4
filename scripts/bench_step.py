"""Times one EFT step against bare llama_decode calls on the same contexts, and shows the memory.

Usage: python scripts/bench_step.py [--shapes 1b,1b,1b | --base F --tuned F --reference F] [--json]

A step is a round without drafts: each role decodes one token, then combine and draw. Its partner
is the sum of one bare llama_decode (and the wait for its logits) per role. Both decode the same
token at the same position, in turn, so that noise hits them alike; the ratio is taken pair by pair.
Without files, models of the given shapes are written with random weights and kept.
Their rows are flatter than trained ones, so filters that look at one role cost more there.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import psutil
from bench_combine import summary
from benchmark import machine, one_line, show_machine
from numpy.typing import NDArray
from random_models import folder, random_trio

from eftlocal import Emulator
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.sequence import Choice, RunningSequence
from eftlocal.defaults import Defaults
from eftlocal.errors import UsageError
from eftlocal.llama import Check, Context, Span, default_threads
from eftlocal.logits.recipe import TRIO, Recipe
from eftlocal.logits.recipe_text import parse_recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.study.statistics import median

GOAL = 1.03  # with models of 1B size or more
MIB = 1 << 20


class BufferSizes(logging.Handler):
    """Bytes that llama.cpp says it allocated, by purpose and kind of buffer."""

    _LINE = re.compile(r"(\S+)\s+(model|KV|RS|compute|output)\s+buffer size\s*=\s*([\d.]+) MiB")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if line := self._LINE.search(record.getMessage()):
            kind, purpose, mib = line.groups()
            self.found[f"{purpose} {kind}"] += round(float(mib) * MIB)


class Stopwatch:
    """Seconds spent in the decode of some contexts since the last reset."""

    def __init__(self, contexts: Sequence[Context]) -> None:
        self.seconds = 0.0
        for context in contexts:
            self._watch(context)

    def _watch(self, context: Context) -> None:
        decode = context.decode

        def timed(spans: Sequence[Span], check: Check | None = None) -> NDArray[np.float32]:
            began = time.perf_counter()
            rows = decode(spans, check)
            self.seconds += time.perf_counter() - began
            return rows

        context.decode = timed  # type: ignore[method-assign]


class Pair:
    """A step and its bare partner, at one position of the same contexts; both leave no trace."""

    def __init__(self, rounds: Rounds, sequence: RunningSequence) -> None:
        self.rounds, self.sequence = rounds, sequence
        self.contexts = [rounds.ensemble.contexts[role] for role in sequence.recipe.roles]
        self.held = [len(context.tokens(sequence.slot)) for context in self.contexts]
        self.stopwatch = Stopwatch(self.contexts)
        self.token = (llama_cpp.llama_token * 1)()
        self.batch = llama_cpp.llama_batch_get_one(self.token, 1)

    def set_token(self, token: int) -> None:
        self.token[0] = token
        self.sequence.choices[:] = [Choice(token)]

    def step(self) -> tuple[float, float]:
        """Seconds of a step, and those of them that its decodes took."""
        self.stopwatch.seconds = 0.0
        began = time.perf_counter()
        self.rounds([self.sequence])
        seconds = time.perf_counter() - began
        for context, held in zip(self.contexts, self.held, strict=True):
            context.rewind(self.sequence.slot, held)
        self.set_token(self.token[0])
        return seconds, self.stopwatch.seconds

    def bare(self) -> float:
        """Seconds of the same decodes, called directly."""
        handles = [context.handle for context in self.contexts]
        codes = []
        began = time.perf_counter()
        for handle in handles:
            codes.append(llama_cpp.llama_decode(handle, self.batch))
            llama_cpp.llama_get_logits(handle)
        seconds = time.perf_counter() - began
        for handle, held in zip(handles, self.held, strict=True):
            memory = llama_cpp.llama_get_memory(handle)
            llama_cpp.llama_memory_seq_rm(memory, self.sequence.slot, held, -1)
        if any(codes):
            raise RuntimeError(f"llama_decode gave {codes}")
        return seconds


def measure_time(
    emulator: Emulator, recipe: Recipe, sampling: Sampling, n_past: int, pairs: int
) -> dict[str, Any]:
    """Milliseconds of steps and bare decodes, and the ratio of the two pair by pair."""
    rng = np.random.default_rng(0)
    ensemble = emulator.ensemble
    ordinary = ensemble.vocab_size * 3 // 4  # special tokens stand last
    prompt = [int(token) for token in rng.integers(0, ordinary, n_past)]
    sequence = ensemble.open(dict.fromkeys(TRIO, prompt), recipe=recipe, sampling=sampling)
    emulator.rounds([sequence])
    pair = Pair(emulator.rounds, sequence)
    steps, decodes, bares = [], [], []
    for at in range(pairs + 2):
        pair.set_token(int(rng.integers(0, ordinary)))
        if at % 2:
            bare = pair.bare()
            step, decode = pair.step()
        else:
            step, decode = pair.step()
            bare = pair.bare()
        if at >= 2:  # the first two warm up
            steps.append(step * 1000.0)
            decodes.append(decode * 1000.0)
            bares.append(bare * 1000.0)
    ensemble.close(sequence)
    ratio = median(np.array(steps) / np.array(bares))
    rest = np.array(steps) - np.array(decodes)
    return {
        "pairs": pairs,
        "ratio": ratio.value,
        "ratio_interval_95": [ratio.low, ratio.high],
        "step_ms": summary(steps),
        "bare_ms": summary(bares),
        "decode_in_step_ms": summary(decodes),
        "combine_and_draw_ms": summary(list(rest)),
        "combine_and_draw_share": float(np.median(rest / np.array(steps))),
    }


def resident() -> dict[str, int]:
    """Bytes of this process in memory now, those of them mapped from files, and the peak."""
    info = psutil.Process().memory_info()
    found = {"rss": info.rss}
    if hasattr(info, "shared"):
        found["rss_mapped_files"] = info.shared
    if peak := getattr(info, "peak_wset", None):
        found["rss_peak"] = peak
    elif sys.platform == "darwin":
        import resource

        found["rss_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    elif line := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
        # Not ru_maxrss, which on Linux begins at what the parent process had.
        found["rss_peak"] = int(line.group(1)) * 1024
    return found


def benchmark(files: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Loads the trio as a user would, then measures time and memory."""
    recipe = parse_recipe(options.recipe).stabilise(delta_top_p=options.delta_top_p)
    sampling = Sampling(temperature=options.temperature)
    threads = options.threads or default_threads()
    facts = machine()
    buffers, log = BufferSizes(), logging.getLogger("eftlocal.llama")
    log.setLevel(logging.INFO)
    log.addHandler(buffers)
    before = resident()
    began = time.perf_counter()
    with Emulator.from_files(
        **files,
        n_ctx=options.n_ctx,
        threads=threads,
        defaults=Defaults(recipe),
    ) as emulator:
        loading = time.perf_counter() - began
        log.removeHandler(buffers)
        log.setLevel(logging.WARNING)
        loaded = resident()
        timing = measure_time(emulator, recipe, sampling, options.n_past, options.pairs)
        after = resident()
        models = {
            role: {
                "file": str(files[role]),
                "bytes": files[role].stat().st_size,
                "parameters": llama_cpp.llama_model_n_params(model.handle),
                "description": model.description,
            }
            for role, model in emulator.models.items()
        }
        vocab = emulator.ensemble.vocab_size
    total = sum(file.stat().st_size for file in {path.resolve() for path in files.values()})
    return {
        "machine": facts,
        "models": models,
        "settings": {
            "recipe": str(recipe),
            "temperature": sampling.temperature,
            "threads": threads,
            "n_past": options.n_past,
            "n_ctx": options.n_ctx,
            "vocab": vocab,
        },
        "goal": GOAL,
        "load_seconds": loading,
        "time": timing,
        "memory": {
            "files": total,
            "before": before,
            "loaded": loaded,
            "after": after,
            "buffers": dict(buffers.found),
        },
    }


def show(report: Mapping[str, Any]) -> None:
    facts, timing, memory = report["machine"], report["time"], report["memory"]
    show_machine(facts)
    for role, model in report["models"].items():
        size = f"{model['parameters'] / 1e9:.2f}B parameters, {model['bytes'] / MIB:,.0f} MiB"
        print(f"{role:<10}{model['description']}, {size}")
    print(", ".join(f"{name} {value}" for name, value in report["settings"].items()))
    print(f"\n{'milliseconds':<34}{'median':>9}{'p90':>9}")
    for name, label in (
        ("step_ms", "EFT step"),
        ("decode_in_step_ms", "  its decodes"),
        ("combine_and_draw_ms", "  combine, draw, bookkeeping"),
        ("bare_ms", "bare decodes"),
    ):
        print(f"{label:<34}{timing[name]['median']:>9.2f}{timing[name]['p90']:>9.2f}")
    low, high = timing["ratio_interval_95"]
    met = "met" if timing["ratio"] <= GOAL else "missed"
    if min(model["parameters"] for model in report["models"].values()) < 1e9:
        met = "a smaller model is among these"
    print(
        f"step over bare decodes: {timing['ratio']:.4f} (95% {low:.4f} to {high:.4f}, "
        f"{timing['pairs']} pairs), goal {GOAL} from 1B on: {met}; "
        f"combine and draw are {timing['combine_and_draw_share']:.1%} of a step"
    )
    print(f"\n{'MiB':<34}")
    rows = {
        "files": memory["files"],
        "process before loading": memory["before"]["rss"],
        f"process loaded (in {report['load_seconds']:.1f} s)": memory["loaded"]["rss"],
        "process after the steps": memory["after"]["rss"],
        "  of it mapped files": memory["after"].get("rss_mapped_files"),
        "peak": memory["after"].get("rss_peak"),
        **{f"llama.cpp: {name}": size for name, size in memory["buffers"].items()},
    }
    for label, size in rows.items():
        if size is not None:
            print(f"{label:<34}{size / MIB:>9,.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for role in TRIO:
        parser.add_argument(f"--{role}", type=Path, help=f"GGUF that plays {role}")
    parser.add_argument("--shapes", default="1b,1b,1b", help="of random models, as in 3b,1b,1b")
    parser.add_argument("--quantization", default="Q4_0", help="one, or base=Q4_0,tuned=Q8_0,...")
    parser.add_argument("--cache", type=Path, help="folder of random models (default: the user's)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: physical cores)")
    parser.add_argument("--recipe", default="upscale", help="a name, or weights base=1,tuned=...")
    parser.add_argument("--delta-top-p", type=float, help="the nucleus filter of the delta")
    parser.add_argument("--temperature", type=float, default=Sampling().temperature)
    parser.add_argument("--n-past", type=int, default=128, help="tokens before the timed one")
    parser.add_argument("--n-ctx", type=int, default=4096, help="context, for the memory")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of step and bare decodes")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    if options.pairs < 1 or not 1 <= options.n_past < options.n_ctx - 1:
        parser.error("--pairs must be 1 or more, and --n-past from 1 to below --n-ctx")
    with one_line("bench_step"):
        files = {role: path for role in TRIO if (path := getattr(options, role)) is not None}
        if not files:
            files = random_trio(options.shapes, options.quantization, folder(options.cache))
        elif len(files) < len(TRIO):
            raise UsageError("give --base, --tuned and --reference, or none of them")
        report = benchmark(files, options)
    print(json.dumps(report, indent=2)) if options.json else show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
