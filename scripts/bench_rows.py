"""Times decodes of n = 1 to 17 rows, and prompts, by quantization and threads; side by side too.

Usage: python scripts/bench_rows.py [--shape 8b] [--small 1b] [--quantizations Q4_0,Q4_K_M,Q8_0]

Where k + 1 rows cost little more than one, drafts pay. A quantization may be any of
scripts/random_gguf.py, or all. "Side by side" is two contexts decoding at
once, each with half of the threads, against one after the other with all of them: base beside
reference (both verify), and base beside as many single-row decodes of the tuned model (drafting
ahead while the base verifies). Above 1 it pays. Both ways are timed in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import machine, one_line, say, show_machine
from random_gguf import QUANTIZATIONS, SHAPES
from random_models import folder, random_file, require

from eftlocal.errors import UsageError
from eftlocal.gguf_file.header import read_header
from eftlocal.llama import Context, Model, Span, default_threads
from eftlocal.loading.loader import is_repacked

ROWS = tuple(range(1, 18))
BESIDE = (1, 2, 3, 4, 5, 8, 9)  # rows of the side by side table
PAST = 64  # tokens before the timed rows; for more see bench_attention.py


def load(path: Path) -> Model:
    """As the program loads it: not mapped where the CPU copies most of the weights."""
    return Model(path, mapped=not is_repacked(read_header(path)))


def context(options: argparse.Namespace, model: Model, threads: int) -> Context:
    """Holds the tokens that stand before the timed ones."""
    made = Context(
        model,
        n_ctx=max(256, PAST + max(ROWS), options.prompt),
        n_batch=max(512, options.prompt),
        n_rows=max(ROWS),
        n_threads=threads,
    )
    made.decode([Span(0, [0] * PAST, 0)])
    return made


def decode(made: Context, rows: int) -> None:
    """Leaves the cache as it was."""
    past = len(made.tokens(0))
    made.decode([Span(0, [0] * rows, rows)])
    made.rewind(0, past)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(work: Sequence[Callable[[], object]], budget: float, most: int) -> np.ndarray:
    """(times, len(work)) seconds, each in turn, until the budget is spent; the first is warm-up."""
    found: list[list[float]] = []
    began = time.perf_counter()
    while len(found) < 2 or (len(found) <= most and time.perf_counter() - began < budget):
        found.append([seconds(each) for each in work])
    return np.array(found[1:])


def prefill(made: Context, tokens: int) -> None:
    """A prompt in one call, after an empty cache."""
    made.clear(0)
    made.decode([Span(0, [0] * tokens, 1)])


def rows_table(options: argparse.Namespace, where: Path) -> list[dict[str, Any]]:
    """Median and least milliseconds by number of rows, one line per type and threads."""
    lines = []
    for quantization in options.quantizations:
        path = random_file(where, options.shape, quantization, 0)
        with load(path) as model:
            for threads in options.threads:
                say(f"{quantization}, {threads} threads")
                with context(options, model, threads) as made:
                    work = [lambda n=n, made=made: decode(made, n) for n in ROWS]
                    times = in_turn(work, options.seconds, options.times) * 1000.0
                    prompt = in_turn(
                        [lambda made=made: prefill(made, options.prompt)], options.seconds / 4, 4
                    )
                lines.append(
                    {
                        "shape": options.shape,
                        "quantization": quantization,
                        "threads": threads,
                        "bytes": path.stat().st_size,
                        "times": len(times),
                        "median_ms": dict(zip(ROWS, np.median(times, axis=0), strict=True)),
                        "least_ms": dict(zip(ROWS, times.min(axis=0), strict=True)),
                        "prompt_tokens_per_second": options.prompt / float(np.median(prompt)),
                    }
                )
    return lines


def beside_table(options: argparse.Namespace, where: Path) -> dict[str, Any]:
    """One after the other over side by side, ratio by ratio; above 1, side by side is faster."""
    quantization, threads = options.quantizations[0], max(options.threads)
    half = max(1, threads // 2)
    with ExitStack() as stack:

        def role(shape: str, seed: int) -> tuple[Context, Context]:
            model = stack.enter_context(load(random_file(where, shape, quantization, seed)))
            whole = stack.enter_context(context(options, model, threads))
            return whole, stack.enter_context(context(options, model, half))

        (base, base_half), (small, small_half) = role(options.shape, 0), role(options.small, 1)
        pool = stack.enter_context(ThreadPoolExecutor(2))

        def both(first: Callable[[], object], second: Callable[[], object]) -> None:
            future = pool.submit(first)
            second()
            future.result()

        def drafts(made: Context, count: int) -> None:
            for _ in range(count):
                decode(made, 1)

        lines = []
        for n in BESIDE:
            say(f"side by side, {n} rows")
            work: list[Callable[[], object]] = [
                lambda n=n: (decode(base, n), decode(small, n)),
                lambda n=n: both(lambda: decode(base_half, n), lambda: decode(small_half, n)),
                lambda n=n: (decode(base, n), drafts(small, n)),
                lambda n=n: both(lambda: decode(base_half, n), lambda: drafts(small_half, n)),
            ]
            times = in_turn(work, options.seconds, options.times) * 1000.0
            medians = np.median(times, axis=0)
            verify, ahead = times[:, 0] / times[:, 1], times[:, 2] / times[:, 3]
            lines.append(
                {
                    "rows": n,
                    "times": len(times),
                    "verify_one_after_other_ms": medians[0],
                    "verify_side_by_side_ms": medians[1],
                    "verify_gain": float(np.median(verify)),
                    "drafts_one_after_other_ms": medians[2],
                    "drafts_side_by_side_ms": medians[3],
                    "drafts_gain": float(np.median(ahead)),
                }
            )
    return {
        "shapes": [options.shape, options.small],
        "quantization": quantization,
        "threads": threads,
        "threads_each": half,
        "rows": lines,
    }


def show(report: dict[str, Any]) -> None:
    facts, lines = report["machine"], report["rows"]
    show_machine(facts)
    print(f"\n{lines[0]['shape']}: median ms of a decode of one row, then n rows over one;")
    print("x: threads; prompt: tokens a second of a prompt")
    print(f"{'':<16}{'MiB':>7}{1:>8}" + "".join(f"{n:>6}" for n in ROWS[1:]) + f"{'prompt':>8}")
    for line in lines:
        one, *more = (line["median_ms"][n] for n in ROWS)
        name, mib = f"{line['quantization']} x{line['threads']}", line["bytes"] / 2**20
        times = f"{one:>8.4g}" + "".join(f"{ms / one:>6.2f}" for ms in more)
        print(f"{name:<16}{mib:>7,.0f}{times}{line['prompt_tokens_per_second']:>8.4g}")
    if beside := report["side_by_side"]:
        print(
            f"\nside by side ({' and '.join(beside['shapes'])}, {beside['quantization']}): "
            f"{beside['threads_each']} + {beside['threads_each']} threads against "
            f"{beside['threads']}; above 1 it pays"
        )
        print(f"{'n':>3}{'both verify n rows, ms':>26}{'gain':>7}{'verify n, draft n, ms':>26}")
        for line in beside["rows"]:
            pairs = [
                f"{line[f'{part}_one_after_other_ms']:.4g} -> {line[f'{part}_side_by_side_ms']:.4g}"
                for part in ("verify", "drafts")
            ]
            print(
                f"{line['rows']:>3}{pairs[0]:>26}{line['verify_gain']:>7.2f}"
                f"{pairs[1]:>26}{line['drafts_gain']:>7.2f}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="8b", help="of the base")
    parser.add_argument("--small", default="1b", help="of the other role; '' leaves it out")
    parser.add_argument("--quantizations", default="Q4_0,Q4_K_M,Q8_0", help="or all")
    parser.add_argument("--threads", help="as in 1,2 (default: half and all physical cores)")
    parser.add_argument("--cache", type=Path, help="folder of random models (default: the user's)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each line of a table")
    parser.add_argument("--times", type=int, default=15, help="most times each is timed")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the timed prompt")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    with one_line("bench_rows"):
        _check(options)
        where = folder(options.cache)
        report = {
            "machine": machine(),
            "rows": rows_table(options, where),
            "side_by_side": beside_table(options, where) if options.small else None,
        }
    print(json.dumps(report, indent=2)) if options.json else show(report)
    return 0


def _check(options: argparse.Namespace) -> None:
    given = options.quantizations
    options.quantizations = list(QUANTIZATIONS) if given == "all" else given.split(",")
    require(*options.quantizations, option=f"--quantizations {given}")
    if options.prompt < 1:
        raise UsageError(f"--prompt {options.prompt}: give 1 or more tokens")
    if options.small and options.small not in SHAPES:
        raise UsageError(f"--small {options.small}: use one of {', '.join(SHAPES)}")
    every = default_threads()
    given = options.threads or ",".join(map(str, sorted({max(1, every // 2), every})))
    try:
        options.threads = [int(part) for part in given.split(",")]
    except ValueError:
        options.threads = []
    if not options.threads or min(options.threads) < 1:
        raise UsageError(f"--threads {given}: give numbers of 1 or more, as in 1,2")


if __name__ == "__main__":
    sys.exit(main())
