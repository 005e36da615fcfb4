"""What threads cost: the lock around a piece of native work, against a step of the demo.

    .venv/bin/python scripts/bench_lock.py

Prints the time of `Ensemble.alone` with nothing to do, of a plain step of the demo (the fastest
there is), and of the same steps taken by two threads in turn.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import eftlocal
from eftlocal import Emulator, Sampling, Speculation

CALL: dict[str, Any] = {
    "raw": True,
    "ignore_end": True,
    "sampling": Sampling(temperature=0.0),
    "speculation": Speculation(length=0),
}
TOKENS, TIMES = 200, 9


def seconds(work: Callable[[], object]) -> float:
    """Median of a few runs."""
    times = []
    for _ in range(TIMES):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def answers(em: Emulator) -> None:
    em.generate("Once upon a time", max_tokens=TOKENS, **CALL)


def in_threads(em: Emulator) -> None:
    threads = [threading.Thread(target=answers, args=(em,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with eftlocal.load("demo", n_seq_max=2, threads=1) as em:
        many = range(10_000)
        lock = seconds(lambda: [em.ensemble.alone(int) for _ in many]) / len(many)
        step = seconds(lambda: answers(em)) / TOKENS
        both = seconds(lambda: in_threads(em)) / (2 * TOKENS)
    print(f"lock {lock * 1e6:.2f} us, step {step * 1e6:.0f} us: {2 * lock / step:.2%} of it (two)")
    print(f"a step where two threads take turns: {both * 1e6:.0f} us, {both / step:.2f} times")


if __name__ == "__main__":
    main()
