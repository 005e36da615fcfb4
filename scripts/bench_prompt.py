"""Time to the first token of a long prompt: three models against the base alone, in turn.

Usage: python scripts/bench_prompt.py [--tokens 2000] [--variants 512,128,128+beside] [--turns 3]

A variant is how many tokens are decoded in one call (n_batch); `+beside` reads the roles' prompts
side by side, with as many threads each as there are cores for it. In each turn every
variant reads the prompt with all roles, and the base reads it alone: ratios are taken within a
turn, to the first variant and to the base alone under the same variant. Medians with 95% bootstrap
intervals. The models are of given shapes, with random weights, as in bench_step.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from benchmark import machine, one_line, show_machine
from random_models import folder, random_trio

from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.passes import most_rows
from eftlocal.decoding.rounds import Rounds
from eftlocal.errors import UsageError
from eftlocal.llama import Context, Model, default_threads
from eftlocal.loading.loader import prepare
from eftlocal.loading.roles import RoleSource
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.study.statistics import Interval, median

TRIO, ALONE = Recipe.upscale(), Recipe.single("base")


class Reader:
    """Reads prompts in one way."""

    def __init__(
        self, name: str, models: Mapping[str, Model], n_ctx: int, threads: int, stack: ExitStack
    ) -> None:
        size, _, beside = name.partition("+")
        if not size.isdecimal() or beside not in ("", "beside"):
            raise UsageError(f"--variants: {name} is none; give 128 or 128+beside")
        self.name = name
        contexts = {
            role: stack.enter_context(
                Context(
                    model,
                    n_ctx=n_ctx,
                    n_batch=int(size),
                    n_rows=most_rows(1),
                    n_threads=max(1, threads // len(models)) if beside else threads,
                )
            )
            for role, model in models.items()
        }
        pool = stack.enter_context(ThreadPoolExecutor(len(models))) if beside else None
        vocab_size = min(model.vocab_size for model in models.values())
        self.ensemble = Ensemble(
            contexts, vocab_size=vocab_size, pool=pool, side_by_side=bool(beside)
        )
        self.rounds = Rounds(self.ensemble)

    def seconds(self, prompt: list[int], recipe: Recipe) -> float:
        """Until the first token, from empty caches."""
        self.ensemble.clear()
        prompts = dict.fromkeys(self.ensemble.contexts, prompt)
        began = time.perf_counter()
        sequence = self.ensemble.open(prompts, recipe=recipe, sampling=Sampling())
        self.rounds([sequence])
        took = time.perf_counter() - began
        self.ensemble.close(sequence)
        return took


def show(name: str, seconds: Interval, *ratios: tuple[str, Interval]) -> None:
    line = f"{name:<22}{seconds.value:>8.2f} s"
    for label, ratio in ratios:
        line += f"   {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of {label}"
    print(line, flush=True)


def benchmark(files: Mapping[str, Path], options: argparse.Namespace) -> None:
    """Prints a line for each variant, with all roles and with the base alone."""
    show_machine(machine())
    n_ctx, threads = options.tokens + 256, options.threads or default_threads()
    sources = {role: RoleSource(file, n_ctx=n_ctx) for role, file in files.items()}
    prepare(sources, trust=True)  # refuses what does not fit
    prompt = [int(t) for t in np.random.default_rng(0).integers(0, 1000, options.tokens)]
    with ExitStack() as stack:
        models = {r: stack.enter_context(Model(f, mapped=False)) for r, f in files.items()}
        readers = [
            Reader(name, models, n_ctx, threads, stack) for name in options.variants.split(",")
        ]
        for reader in readers:
            reader.seconds(prompt[:64], TRIO)  # warms up
        turns: dict[tuple[str, str], list[float]] = {}
        for _ in range(options.turns):
            for reader in readers:
                for what, recipe in (("trio", TRIO), ("base alone", ALONE)):
                    took = reader.seconds(prompt, recipe)
                    turns.setdefault((reader.name, what), []).append(took)
    first = readers[0].name
    for (name, what), seconds in turns.items():
        before = np.array(seconds) / turns[first, what]
        alone = np.array(seconds) / turns[name, "base alone"]
        ratios = [(f"{first}'s", median(before))] if name != first else []
        ratios += [("the base alone", median(alone))] if what == "trio" else []
        show(f"{name}, {what}", median(seconds), *ratios)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shapes", default="1b,1b,1b", help="of random models, as in 8b,1b,1b")
    parser.add_argument("--quantization", default="Q4_0", help="one, or base=Q4_K_M,tuned=Q8_0,...")
    parser.add_argument("--cache", type=Path, help="folder of random models (default: the user's)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: physical cores)")
    parser.add_argument("--tokens", type=int, default=2000, help="of the prompt")
    parser.add_argument("--variants", default="512,128", help="the first is compared with")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with one_line("bench_prompt"):
        if options.tokens < 64 or options.turns < 1:
            raise UsageError("--tokens must be 64 or more, and --turns 1 or more")
        files = random_trio(options.shapes, options.quantization, folder(options.cache))
        benchmark(files, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
