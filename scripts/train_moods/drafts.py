"""What drafts bring to the moods: accepted ones, and CPU time against plain emulation, in turn.

The calm mood at several alphas, greedy, on held-out prompts; one thread, so that CPU time is that
of the work whatever else the machine does.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(Path(__file__).parent)]

from measure import Point, prompts_of

import eftlocal
from eftlocal import Emulator, Recipe, Sampling, Speculation
from eftlocal.study.report import interval
from eftlocal.study.statistics import mean, ratios_of_sums

ALPHAS = (0.5, 1.5, 2.0)
LENGTHS = (0, 2, 4)
TOKENS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=12, help="of those held out (default: 12)")
    prompts = prompts_of(held_out=True)[: parser.parse_args().prompts]
    with eftlocal.load("moods", n_ctx=256, threads=1) as em:
        em.measure()  # else the first draft pays for it
        for alpha in ALPHAS:
            show(em, alpha, prompts)


def show(em: Emulator, alpha: float, prompts: list[str]) -> None:
    """A line for each draft length; a prompt's plain answer and drafted ones follow one another."""
    recipe = Point(1.0, alpha).recipe()
    costs: dict[int, list[float]] = {length: [] for length in LENGTHS}
    drafts: dict[int, list[tuple[int, int]]] = {length: [] for length in LENGTHS}
    for i, prompt in enumerate(prompts):
        first = i % len(LENGTHS)
        for length in (*LENGTHS[first:], *LENGTHS[:first]):
            seconds, tokens, judged, accepted = answer(em, prompt, recipe, length)
            costs[length].append(seconds / tokens)
            drafts[length].append((judged, accepted))
    plain = interval(mean([1 / cost for cost in costs[0]]), ".1f")
    print(f"alpha {alpha:g}: plain {plain} tokens a CPU-second")
    for length in LENGTHS[1:]:
        judged, accepted = zip(*drafts[length], strict=True)
        (share,) = ratios_of_sums(judged, [[a] for a in accepted])
        (speed,) = ratios_of_sums(costs[length], [[plain] for plain in costs[0]])
        print(
            f"  drafts of {length}: {interval(share)} accepted, speed over plain {interval(speed)}"
        )


def answer(em: Emulator, prompt: str, recipe: Recipe, length: int) -> tuple[float, int, int, int]:
    """CPU seconds after the prompt was read, tokens, drafts judged and drafts accepted."""
    asked = {"recipe": recipe, "sampling": Sampling(temperature=0.0)}
    em.ensemble.clear()
    em.generate(prompt, max_tokens=1, speculation="off", **asked)
    began = time.process_time()
    found = em.generate(
        prompt, max_tokens=TOKENS, speculation=Speculation(length, source="model"), **asked
    )
    seconds = time.process_time() - began
    drafts = found.speculation
    return seconds, len(found.tokens), sum(drafts.tried), sum(drafts.accepted)


if __name__ == "__main__":
    main()
