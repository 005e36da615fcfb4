"""Times decodes of n = 1 to 17 rows by quantization type and threads, and roles side by side.

Usage: python scripts/bench_rows.py [--shape 8b] [--small 1b] [--quantizations Q4_0,Q4_K,Q8_0]

Where k + 1 rows cost little more than one, drafts pay. "Side by side" is two contexts decoding at
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
import platformdirs
from bench_combine import machine
from random_gguf import QUANTIZATIONS, SHAPES, write_random_model

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.llama import Context, Model, Span, default_threads, repacked_types

ROWS = tuple(range(1, 18))
BESIDE = (1, 2, 3, 4, 5, 8, 9)  # rows of the side by side table
PAST = 64  # tokens that stand before the timed ones


def random_file(folder: Path, shape: str, quantization: str, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"random-{shape}-{quantization}-{seed}.gguf"
    if not path.is_file():
        print(f"writing {path}", file=sys.stderr)
        write_random_model(path, shape, quantization, seed)
    return path


def load(path: Path, quantization: str) -> Model:
    return Model(path, mapped=quantization not in repacked_types())


def context(model: Model, threads: int) -> Context:
    made = Context(model, n_ctx=256, n_batch=PAST, n_threads=threads)
    made.decode([Span(0, [0] * PAST, 0)])
    return made


def decode(made: Context, rows: int) -> None:
    """Leaves the cache as it was."""
    made.decode([Span(0, [0] * rows, rows)])
    made.rewind(0, PAST)


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


def rows_table(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Median and least milliseconds by number of rows, one line per type and threads."""
    lines = []
    for quantization in options.quantizations:
        path = random_file(folder, options.shape, quantization, 0)
        with load(path, quantization) as model:
            for threads in options.threads:
                print(f"{quantization}, {threads} threads", file=sys.stderr, flush=True)
                with context(model, threads) as made:
                    work = [lambda n=n, made=made: decode(made, n) for n in ROWS]
                    times = in_turn(work, options.seconds, options.times) * 1000.0
                lines.append(
                    {
                        "shape": options.shape,
                        "quantization": quantization,
                        "threads": threads,
                        "bytes": path.stat().st_size,
                        "times": len(times),
                        "median_ms": dict(zip(ROWS, np.median(times, axis=0), strict=True)),
                        "least_ms": dict(zip(ROWS, times.min(axis=0), strict=True)),
                    }
                )
    return lines


def beside_table(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One after the other over side by side, ratio by ratio; above 1, side by side is faster."""
    quantization, threads = options.quantizations[0], max(options.threads)
    half = max(1, threads // 2)
    with ExitStack() as stack:

        def role(shape: str, seed: int) -> tuple[Context, Context]:
            path = random_file(folder, shape, quantization, seed)
            model = stack.enter_context(load(path, quantization))
            whole = stack.enter_context(context(model, threads))
            return whole, stack.enter_context(context(model, half))

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
            print(f"side by side, {n} rows", file=sys.stderr, flush=True)
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
    for warning in facts["warnings"]:
        print(f"warning: {warning}")
    print(f"{facts['system']}, {facts['cores']} cores\nllama.cpp: {facts['llama_system_info']}")
    heads = [f"{line['quantization']} x{line['threads']}" for line in lines]
    print(f"\n{lines[0]['shape']}: median ms of a decode of n rows, and over one row (threads: x)")
    print(f"{'n':>3}" + "".join(f"{head:>17}" for head in heads))
    for n in ROWS:
        cells = [
            f"{line['median_ms'][n]:>10.4g}{line['median_ms'][n] / line['median_ms'][1]:>7.2f}"
            for line in lines
        ]
        print(f"{n:>3}" + "".join(cells))
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
    parser.add_argument("--quantizations", default="Q4_0,Q4_K,Q8_0")
    parser.add_argument("--threads", help="as in 1,2 (default: half and all physical cores)")
    parser.add_argument("--cache", type=Path, help="folder of random models (default: the user's)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each line of a table")
    parser.add_argument("--times", type=int, default=15, help="most times each is timed")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    try:
        _check(options)
        folder = options.cache or platformdirs.user_cache_path("eftlocal") / "benchmarks"
        report = {
            "machine": machine(),
            "rows": rows_table(options, folder),
            "side_by_side": beside_table(options, folder) if options.small else None,
        }
    except (EftlocalError, OSError) as error:
        print(f"bench_rows: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    print(json.dumps(report, indent=2)) if options.json else show(report)
    return 0


def _check(options: argparse.Namespace) -> None:
    options.quantizations = options.quantizations.split(",")
    if not set(options.quantizations) <= set(QUANTIZATIONS):
        raise UsageError(
            f"--quantizations {','.join(options.quantizations)}: use {', '.join(QUANTIZATIONS)}"
        )
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
