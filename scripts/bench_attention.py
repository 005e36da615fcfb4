"""Times rows after texts, and prompts, with llama.cpp's flash attention and without it, in turn.

Usage: python scripts/bench_attention.py [--model 1b] [--rows 1,4,8,15] [--past 256,1000,2000,3000]
       [--caches f16,f16:bf16,q8_0] [--n-batch 512,256,128] [--prompt 1000] [--turns 7]

Each line is one call with flash attention, the same call without it, and how many times as fast
that is; ratios are taken within a turn, medians with 95% bootstrap intervals. A cache is f16, or
f16:bf16 for keys and values of two types; a quantized V cache needs flash attention. Prompts are
read from empty caches in calls of n_batch tokens, and compared with flash attention and the first
of these numbers. With one thread the time is what the process took of the processor, so that other
programs disturb it less.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from bench_rows import decode, load
from benchmark import machine, one_line, say, show_machine
from random_gguf import SHAPES
from random_models import folder, random_file, require
from small_models import NO_SMOLLM2, smollm2_file

from eftlocal.errors import UsageError
from eftlocal.gguf_file.parser import block_of
from eftlocal.llama import Context, Model, Span
from eftlocal.settings import CACHE_TYPES
from eftlocal.study.statistics import Interval, median

ON, OFF = "on", "off"
SMOLLM2 = "smollm2"


def kinds(cache: str) -> tuple[str, str]:
    """Types of the K and of the V cache."""
    k, _, v = cache.partition(":")
    return k, v or k


def ways(cache: str) -> list[str]:
    return [ON] if block_of(kinds(cache)[1])[0] > 1 else [ON, OFF]


def context(
    options: argparse.Namespace, model: Model, n_ctx: int, n_batch: int, cache: str, flash: str
) -> Context:
    k, v = kinds(cache)
    return Context(
        model,
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_rows=max(options.rows),
        n_threads=options.threads,
        cache_type_k=k,
        cache_type_v=v,
        flash_attention=flash,
    )


def fill(made: Context, length: int) -> None:
    """Reads tokens until the cache holds so many, in calls that end at multiples of n_batch."""
    while (held := len(made.tokens(0))) < length:
        count = min(made.n_batch - held % made.n_batch, length - held)
        made.decode([Span(0, [5] * count, 0)])


def read(made: Context, length: int) -> None:
    """A prompt, from an empty cache."""
    made.clear(0)
    fill(made, length)


def times(options: argparse.Namespace, work: list[Callable[[], object]]) -> np.ndarray:
    """(turns, len(work)) milliseconds, each in turn, after a warm-up."""
    clock = time.process_time if options.threads == 1 else time.perf_counter
    found = []
    for _ in range(options.turns + 1):
        marks = [clock()]
        for each in work:
            each()
            marks.append(clock())
        found.append(np.diff(marks) * 1000.0)
    return np.array(found[1:])


def rows(options: argparse.Namespace, model: Model) -> None:
    """A line for each cache, number of tokens before, and number of rows."""
    n_ctx = max(options.past) + max(options.rows)
    print(f"\n{'cache':<12}{'after':>6}{'rows':>6}{'on, ms':>10}{'off, ms':>10}   times as fast")
    for cache in options.caches:
        with ExitStack() as stack:
            both = [
                stack.enter_context(context(options, model, n_ctx, 512, cache, way))
                for way in ways(cache)
            ]
            for past in options.past:
                say(f"{cache}, after {past} tokens")
                for made in both:
                    fill(made, past)
                for n in options.rows:
                    took = times(options, [partial(decode, made, n) for made in both])
                    print(f"{cache:<12}{past:>6}{n:>6}" + _line(took), flush=True)


def _line(took: np.ndarray) -> str:
    told = "".join(f"{each:>10.4g}" for each in np.median(took, axis=0))
    return told + (f"   {_of(median(took[:, 0] / took[:, 1]))}" if took.shape[1] > 1 else "")


def prompts(options: argparse.Namespace, model: Model) -> None:
    """A line for each length of a prompt, n_batch, and way."""
    cache = options.caches[0]
    print(f"\n{'prompt':<12}{'n_batch':>8}{'flash':>6}{'ms':>10}   times as fast as the first")
    cases = [(n_batch, way) for n_batch in options.n_batch for way in ways(cache)]
    for length in options.prompt:
        say(f"a prompt of {length} tokens")
        with ExitStack() as stack:
            made = [
                stack.enter_context(context(options, model, length, n_batch, cache, way))
                for n_batch, way in cases
            ]
            took = times(options, [partial(read, each, length) for each in made])
        for i, (n_batch, way) in enumerate(cases):
            ratio = _of(median(took[:, 0] / took[:, i])) if i else ""
            ms = np.median(took[:, i])
            print(f"{length:<12}{n_batch:>8}{way:>6}{ms:>10.5g}   {ratio}", flush=True)


def _of(ratio: Interval) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def file(options: argparse.Namespace) -> Path:
    if options.model != SMOLLM2:
        return random_file(folder(options.cache), options.model, options.quantization, 0)
    if (found := smollm2_file()) is None:
        raise UsageError(NO_SMOLLM2)
    return found


def numbers(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",") if part})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    shapes = (SMOLLM2, *SHAPES)
    parser.add_argument("--model", choices=shapes, default=SMOLLM2, help="or of random weights")
    parser.add_argument("--quantization", default="Q4_0", help="of a random model")
    parser.add_argument("--cache", type=Path, help="folder of random models (default: the user's)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: physical cores)")
    parser.add_argument("--caches", default="f16", help="types of KV caches, as in f16,f16:bf16")
    parser.add_argument("--rows", type=numbers, default="1,4,8,15")
    parser.add_argument("--past", type=numbers, default="256,1000,2000,3000", help="tokens before")
    parser.add_argument("--prompt", type=numbers, default="1000", help="tokens; '' leaves it out")
    parser.add_argument("--n-batch", type=numbers, default="512,256,128", help="of prompts")
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    with one_line("bench_attention"):
        _check(options)
        with load(file(options)) as model:
            show_machine(machine())
            rows(options, model)
            prompts(options, model)
    return 0


def _check(options: argparse.Namespace) -> None:
    require(options.quantization, option=f"--quantization {options.quantization}")
    options.caches = options.caches.split(",")
    options.n_batch = options.n_batch[::-1]
    if unknown := {kind for cache in options.caches for kind in kinds(cache)} - set(CACHE_TYPES):
        raise UsageError(f"--caches: {min(unknown)} is none of {', '.join(CACHE_TYPES)}")
    given = (options.turns, *options.rows, *options.past, *options.n_batch, *options.prompt)
    if min(given) < 1 or not (options.rows and options.past and options.n_batch):
        raise UsageError("--rows, --past, --n-batch and --turns: give 1 or more")


if __name__ == "__main__":
    sys.exit(main())
