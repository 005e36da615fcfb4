"""What the trial of a new file costs: a known file, and a new one against its plain load.

Usage: python scripts/check_trial.py [--repeat 7] [MODEL.gguf ...]

Without files: the demo's base, SmolLM2-135M (of the test dependencies) and a random 1B, each as a
copy that nothing vouches for. A plain load goes up to the first token of an answer. All figures are
medians, and ratios those of paired runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from random_models import folder as models_folder
from random_models import random_file
from small_models import demo_files, smollm2_file

import eftlocal
from eftlocal import Emulator, Speculation
from eftlocal.gguf_file.header import read_header
from eftlocal.loading import trial as trials
from eftlocal.loading.loader import is_vouched
from eftlocal.loading.trial import Candidate, shared

KNOWN_MS = 20.0  # what a known file may cost
PROMPT = "In which country is Toulouse?"


def seconds(work: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def plain(path: Path) -> None:
    """A load up to the first token of an answer, without a trial."""
    with Emulator.from_files(tuned=path, trust=True, defaults=TUNED) as emulator:
        emulator.generate(PROMPT, raw=True, max_tokens=1, speculation=Speculation(0))


TUNED = eftlocal.Defaults(eftlocal.Recipe.single("tuned"))


def door(candidates: list[Candidate]) -> None:
    """What `prepare` asks beside its checks of the header, which --trust makes too."""
    shared.require(candidates, vouched=is_vouched)


def measure(path: Path, repeat: int) -> bool:
    """Prints one line; whether a known file cost less than KNOWN_MS."""
    plains, news, starts, knowns = [], [], [], []
    for _ in range(repeat):
        plains.append(seconds(plain, path))
        candidates = [Candidate(read_header(path))]
        shared.child.close()
        for taken in (starts, news):
            shutil.rmtree(trials.folder(), ignore_errors=True)
            taken.append(seconds(door, candidates))
        knowns.extend(1e3 * seconds(door, candidates) for _ in range(5))
    ratio = statistics.median(new / load for new, load in zip(news, plains, strict=True))
    first = statistics.median(new / load for new, load in zip(starts, plains, strict=True))
    cost = statistics.median(knowns)
    print(
        f"{path.name:24} {path.stat().st_size / 1e6:8.1f} MB  "
        f"plain load {statistics.median(plains):7.3f} s  "
        f"trial {statistics.median(news):7.3f} s = {ratio:5.2f} x  "
        f"with python's start {statistics.median(starts):7.3f} s = {first:5.2f} x  "
        f"known {cost:6.2f} ms",
        flush=True,
    )
    return cost < KNOWN_MS


@contextmanager
def standard_files(folder: Path) -> Iterator[list[Path]]:
    """Copies of the demo's base and of SmolLM2, and a random 1B that is kept for the next time."""
    files = [shutil.copy(demo_files()["base"], folder / "demo-base.gguf")]
    if smol := smollm2_file():
        files.append(shutil.copy(smol, folder / "smollm2-135m-q4_1.gguf"))
    yield [*files, random_file(models_folder(), "1b", "Q4_0", 0)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["EFTLOCAL_CACHE"] = name
        with standard_files(Path(name)) as standard:
            good = [measure(path, options.repeat) for path in options.files or standard]
        shared.child.close()
    print("known files: " + ("all" if all(good) else "NOT all") + f" under {KNOWN_MS:g} ms")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
