"""A conversation goes on: seconds to the first token with a kept cache, and without.

Usage: python scripts/bench_resume.py [--shapes 1b,1b,1b] [--tokens 3000] [--turns 7]

In each turn a conversation of so many tokens, and 16 that are new, is answered up to the first
token: read from the beginning; with its caches loaded from a file that the system has still in
memory; and, where the system lets go of it (POSIX), from the disk itself. Before that the caches
are written, once until the disk has them and once as the chat does it. Ratios are taken within a
turn; medians with 95% bootstrap intervals.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from benchmark import machine, one_line, say, show_machine
from random_models import folder, random_trio
from small_models import NO_SMOLLM2, demo_files, smollm2_file

from eftlocal import Defaults, Emulator, Sampling, Speculation
from eftlocal.errors import UsageError
from eftlocal.logits.recipe import TRIO
from eftlocal.saved_state import SavedState, read, save
from eftlocal.study.statistics import Interval, median

NEW = 16
DEFAULTS = Defaults(sampling=Sampling(temperature=0.0), speculation=Speculation(length=0))


def model_files(options: argparse.Namespace) -> Mapping[str, Path]:
    if options.shapes is not None:
        return random_trio(options.shapes, options.quantization, folder(options.cache))
    if options.models == "demo":
        return demo_files()
    file = smollm2_file()
    if file is None:
        raise UsageError(NO_SMOLLM2)
    return dict.fromkeys(TRIO, file)


def first_token(
    emulator: Emulator, prompt: list[int], path: Path | None = None
) -> tuple[float, float]:
    """Seconds until caches that held nothing are loaded, and until the first token."""
    emulator.ensemble.clear()
    began = time.perf_counter()
    if path is not None:
        emulator.load_state(path)
    loaded = time.perf_counter() - began
    stream = emulator.stream(prompt, max_tokens=1)
    next(stream)
    took = time.perf_counter() - began
    held = min(stream.timing.reused_tokens.values())
    stream.close()
    if (held > 0) is not (path is not None):
        raise UsageError(f"{held} tokens were held: this measures something else")
    return loaded, took


def written(
    emulator: Emulator, past: list[int], path: Path, *, durable: bool
) -> tuple[float, SavedState]:
    """Seconds, and what was written of a conversation that is read before."""
    ids = dict.fromkeys(emulator.roles, past)
    sequence = read(emulator.ensemble, ids, emulator.defaults.recipe)
    began = time.perf_counter()
    state = save(emulator.ensemble, emulator.identity(), sequence, path, durable=durable)
    return time.perf_counter() - began, state


def let_go(path: Path) -> None:
    """So that the system reads the file from the disk again."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def benchmark(options: argparse.Namespace) -> None:
    files = model_files(options)
    show_machine(machine())
    ids = np.random.default_rng(0).integers(5, 1000, options.tokens + NEW).tolist()
    past = ids[: options.tokens + 1]  # a prompt's last token is not read
    turns: list[dict[str, float]] = []
    loading = {
        "n_ctx": len(ids) + 16,
        "threads": options.threads,
        "flash_attention": options.flash_attention,
        "trust": True,
    }
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as where,
        Emulator.from_files(**files, defaults=DEFAULTS, **loading) as emulator,
    ):
        path = Path(where) / "talk.state"
        first_token(emulator, ids[:64])  # warms up
        for _ in range(options.turns):
            turn = {"read anew": first_token(emulator, ids)[1]}
            turn["written"], _ = written(emulator, past, path, durable=False)
            turn["written, on disk"], state = written(emulator, past, path, durable=True)
            turn["loaded"], turn["resumed"] = first_token(emulator, ids, path)
            if hasattr(os, "posix_fadvise"):
                let_go(path)
                turn["resumed, off disk"] = first_token(emulator, ids, path)[1]
            turns.append(turn)
            say(", ".join(f"{name} {seconds:.2f} s" for name, seconds in turn.items()))
    print(f"{options.shapes or options.models}: {state}")
    anew = np.array([turn["read anew"] for turn in turns])
    for name in turns[0]:
        seconds = np.array([turn[name] for turn in turns])
        show(name, median(seconds), median(anew / seconds) if "resumed" in name else None)


def show(name: str, seconds: Interval, ratio: Interval | None) -> None:
    line = f"{name:<20}{seconds.value:>8.3f} s [{seconds.low:.3f}, {seconds.high:.3f}]"
    if ratio is not None:
        line += f"   {ratio.value:.1f} [{ratio.low:.1f}, {ratio.high:.1f}] times as fast as anew"
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", default="smollm2", choices=("smollm2", "demo"))
    parser.add_argument("--shapes", help="of random models in their place, as in 1b,1b,1b")
    parser.add_argument("--quantization", default="Q4_0", help="of random models")
    parser.add_argument("--cache", type=Path, help="folder of random models (default: the user's)")
    parser.add_argument(
        "--folder", type=Path, help="where the file is written (default: temporary)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: physical cores)")
    parser.add_argument("--flash-attention", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--tokens", type=int, default=3000, help="of the conversation")
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    with one_line("bench_resume"):
        if options.tokens < 64 or options.turns < 1:
            raise UsageError("--tokens must be 64 or more, and --turns 1 or more")
        benchmark(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
