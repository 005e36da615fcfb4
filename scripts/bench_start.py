"""How long the command takes to start: `--help`, and `run` on the demo.

    .venv/bin/python scripts/bench_start.py [OTHER] [--runs N]

The commands of this checkout and of OTHER, another one, are run in turn, so that other load on the
machine falls on both. Prints medians of the wall clock and of the CPU time (with that of child
processes), and the median ratio of a pair to OTHER with its 95% bootstrap interval.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eftlocal.study.statistics import median

HERE = Path(__file__).resolve().parents[1]
COMPILED = Path(tempfile.gettempdir()) / "eftlocal-bench-start"
VERBS = {
    "--help": ["--help"],
    "run": ["run", "In which country is Toulouse?", "--temperature", "0"],
}


def seconds(checkout: Path, arguments: list[str]) -> dict[str, float]:
    """Wall clock and CPU time of one run."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), f"{checkout}/tui"])}
    # Compiled files are kept, as they are where the program is installed.
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(COMPILED)}
    before, started = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "eftlocal", *arguments]
    subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=True)
    wall, after = time.perf_counter() - started, os.times()
    cpu = after.children_user + after.children_system
    return {"wall": wall, "CPU": cpu - before.children_user - before.children_system}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("other", nargs="?", type=Path, help="another checkout to compare with")
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    checkouts = [HERE, *([given.other.resolve()] if given.other else [])]
    for verb, arguments in VERBS.items():
        for checkout in checkouts:
            seconds(checkout, arguments)  # files are read and compiled
        turns = [[seconds(each, arguments) for each in checkouts] for _ in range(given.runs)]
        for clock in ("wall", "CPU"):
            own = median([turn[0][clock] for turn in turns])
            line = f"{verb}: {own.value:.3f} s {clock}"
            if given.other:
                other = median([turn[1][clock] for turn in turns])
                ratio = median([turn[0][clock] / turn[1][clock] for turn in turns])
                line += f", the other {other.value:.3f} s: {ratio.value:.2f} "
                line += f"[{ratio.low:.2f}, {ratio.high:.2f}]"
            print(line, flush=True)


if __name__ == "__main__":
    main()
