"""What an evaluation costs beside the batch runner, on the same prompts: ratios of paired runs.

    .venv/bin/python scripts/bench_eval.py [--prompts 1000] [--parallel 1,8] [--turns 5]

The demo's test questions (or those of --data), greedy, each answered once by the emulation; one
emulator for both. The evaluation judges each answer and writes its rows as `eftlocal eval` does,
the batch writes those of `eftlocal batch`. Turn by turn, in changing order.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from eftlocal.batch.job import Batch, Job
from eftlocal.emulator import Emulator
from eftlocal.evaluation.grid import Point
from eftlocal.evaluation.run import Results, lacking, manifest, run, spread
from eftlocal.evaluation.session import task_defaults
from eftlocal.evaluation.task import Item, Options
from eftlocal.evaluation.tasks.demo import Demo
from eftlocal.sources import Sources
from eftlocal.study.report import interval
from eftlocal.study.statistics import median

Clocks = tuple[float, float]


def _clocks() -> Clocks:
    return time.perf_counter(), time.process_time()


def _since(began: Clocks) -> Clocks:
    now = _clocks()
    return now[0] - began[0], now[1] - began[1]


def evaluated(
    em: Emulator, sources: Sources, task: Demo, items: tuple[Item, ...], out: Path, parallel: int
) -> Clocks:
    """Seconds of an evaluation, by the clock and of the CPU."""
    began = _clocks()
    point = Point({}, sources.defaults.recipe, sources.defaults.sampling)
    with Results(out, manifest(sources, task, items, 0)) as results:
        missing = lacking([point], items, 1, results)
        done = sum(1 for _ in run(em, task, items, missing, results, seed=0, parallel=parallel))
    assert done == len(items)
    return _since(began)


def batched(em: Emulator, sources: Sources, lines: Path, out: Path, parallel: int) -> Clocks:
    """Seconds of a batch, by the clock and of the CPU."""
    began = _clocks()
    job = Job(str(lines), str(out), sources, parallel=parallel)
    with Batch(job) as batch, batch.open_output() as output:
        done = sum(batch.run(em, output))
    assert done == len(lines.read_bytes().splitlines())
    return _since(began)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--parallel", default="1,8", help="answers at once, as in 1,8")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    task = Demo(Options(split="test"))
    asked = spread(task.items(), given.prompts)
    items = tuple(replace(item, texts=()) for item in asked)  # nothing but answers
    sources = Sources.of_preset("demo", offline=True, threads=given.threads, trust=True)
    sources = replace(sources, defaults=task_defaults(task, sources.defaults, None))
    print(f"{len(items)} prompts, {given.threads} thread(s), {given.turns} turns")
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "in.jsonl"
        lines.write_text("".join(json.dumps({"prompt": i.text}) + "\n" for i in items), "utf-8")
        for parallel in map(int, given.parallel.split(",")):
            with sources.load(n_seq_max=parallel) as em:
                ratios = []
                for turn in range(given.turns + 1):
                    outs = [Path(folder) / f"{parallel}-{turn}-{kind}.jsonl" for kind in "eb"]
                    seconds = [(0.0, 0.0)] * 2
                    for which in (0, 1) if turn % 2 else (1, 0):
                        if which == 0:
                            seconds[0] = evaluated(em, sources, task, items, outs[0], parallel)
                        else:
                            seconds[1] = batched(em, sources, lines, outs[1], parallel)
                    if turn:  # the first warms up
                        ratios.append([a / b for a, b in zip(*seconds, strict=True)])
                passed, used = ([of[i] for of in ratios] for i in (0, 1))
                print(
                    f"{parallel} at once: evaluation / batch {interval(median(passed), '.3f')} of "
                    f"time, {interval(median(used), '.3f')} of CPU time; "
                    f"last {seconds[0][0]:.2f} / {seconds[1][0]:.2f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
