"""Times inspecting a text against scoring the same text: what the view of influence costs.

Usage: python scripts/bench_inspect.py [--preset demo | --base F --tuned F --reference F] [--json]

Scoring is `Emulator.logprobs`, inspecting is `influence.inspect` with its records made. Both decode
the same tokens with the same roles in the same chunks, in turn and in changing order, so that noise
hits them alike; the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmark import machine, one_line

import eftlocal
from eftlocal import Emulator
from eftlocal.errors import UsageError
from eftlocal.logits.recipe import TRIO
from eftlocal.study.benchmark import BUILT_IN
from eftlocal.study.influence import inspect
from eftlocal.study.statistics import median

GOAL = 0.10  # with the vocabulary of a real model
PROMPT = "Tell me about weather, code, interviews, glaciers and parcels."


def text_of(emulator: Emulator, count: int) -> str:
    """A text of about `count` tokens, whole characters."""
    model = emulator.models["tuned"]
    ids = model.tokenize(" ".join(BUILT_IN))
    ids = (ids * (count // len(ids) + 1))[:count]
    return b"".join(model.piece(token) for token in ids).decode("utf-8", "ignore")


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(emulator: Emulator, tokens: int, pairs: int) -> dict[str, Any]:
    text = text_of(emulator, tokens)

    def scored() -> int:
        return len(emulator.logprobs(text, prompt=PROMPT, recipe="upscale").tokens)

    def inspected() -> int:
        return len(inspect(emulator, PROMPT, text, recipe="upscale").tokens)

    count = scored()  # the first of each also warms caches
    assert inspected() == count
    found: list[tuple[float, float]] = []
    for i in range(pairs):
        if i % 2:
            other = seconds(inspected)
            found.append((seconds(scored), other))
        else:
            found.append((seconds(scored), seconds(inspected)))
    return {
        "tokens": count,
        "vocabulary": emulator.ensemble.vocab_size,
        "pairs": pairs,
        "score_us_per_token": median([1e6 * a / count for a, _ in found])._asdict(),
        "inspect_us_per_token": median([1e6 * b / count for _, b in found])._asdict(),
        "added": median([b / a - 1.0 for a, b in found])._asdict(),
        "goal": GOAL,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--preset", default="demo")
    for role in TRIO:
        parser.add_argument(f"--{role}", metavar="GGUF")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    files = {role: getattr(options, role) for role in TRIO if getattr(options, role)}
    engine = {"n_ctx": options.tokens + 256, "threads": options.threads}
    with one_line("bench_inspect"):
        if files and set(files) != set(TRIO):
            raise UsageError("give --base, --tuned and --reference, or none of them")
        emulator = (
            Emulator.from_files(**engine, **files)
            if files
            else eftlocal.load(options.preset, **engine)
        )
        with emulator:
            found = measure(emulator, options.tokens, options.pairs)
    if options.json:
        print(json.dumps({"machine": machine(), **found}, indent=2))
        return 0

    def line(key: str, scale: float = 1.0, unit: str = "") -> str:
        values = [scale * found[key][end] for end in ("value", "low", "high")]
        return "{:.1f}{u} [95% {:.1f} to {:.1f}]".format(*values, u=unit)

    print(f"{found['tokens']} tokens of {found['vocabulary']:,}, {found['pairs']} pairs (medians)")
    print(f"scoring     {line('score_us_per_token')} us a token")
    print(f"inspecting  {line('inspect_us_per_token')} us a token")
    print(f"added       {line('added', 100, '%')}; the goal is at most {GOAL:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
