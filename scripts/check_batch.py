"""Kills a batch with SIGKILL again and again, lets it finish, and compares it with a whole run.

Usage: python scripts/check_batch.py [--kills 100] [--lines 2000] [--seed 0]
       python scripts/check_batch.py --check 1000,10000,100000

The demo preset answers greedily. The kills fall at random moments between the start of the
process and the middle of decoding; the same command then goes on. At the end every id must be
there once. Texts that differ from the run that nobody killed are reported with the gap of
log-probability between the two tokens at the first difference: only near-ties may differ, since
another number of rows in a decode rounds differently. The second form checks inputs of several
lengths without running them, and tells seconds and the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from eftlocal import load

PLACES = ("Toulouse", "Lima", "Oslo", "Quito", "Lyon", "Dakar", "Bonn", "Rome", "Nice", "Paris")
ASKS = (
    "In which country is {}?",
    "Where is {}?",
    "Tell me about {}.",
    "What language is said in {}?",
)
NEAR_TIE = 0.05  # nats
PROGRAM = [sys.executable, str(Path(__file__).with_name("run_batch.py"))]


def write_input(path: Path, lines: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for i in range(lines):
            asked = ASKS[i // 10 % 4].format(PLACES[i % 10]) + " " * (i // 40 % 3)
            file.write(json.dumps({"custom_id": f"id {i}", "prompt": asked}) + "\n")


def command(source: Path, output: Path) -> list[str]:
    options = ["--format", "plain", "--temperature", "0", "--max-tokens", "40"]
    return [*PROGRAM, str(source), str(output), *options, "--parallel", "8", "--quiet"]


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text("utf-8").splitlines()]


def kill_again_and_again(source: Path, output: Path, kills: int, seed: int) -> tuple[int, int]:
    """Returns the kills done and how many of them hit a run that was answering."""
    rng, done, answering = random.Random(seed), 0, 0
    longest = 3.0
    while done < kills:
        before = output.stat().st_size if output.exists() else 0
        child = subprocess.Popen(command(source, output), start_new_session=True)
        try:
            child.wait(timeout=rng.uniform(0.0, longest))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            done += 1
            answering += (output.stat().st_size if output.exists() else 0) > before
            continue
        if child.returncode:
            raise SystemExit(f"the run ended with exit code {child.returncode}")
        print(f"finished after {done} kills: give more --lines", file=sys.stderr)
        break
    subprocess.run(command(source, output), check=True)
    return done, answering


def gaps(whole: dict[str, str], other: dict[str, str], prompts: dict[str, str]) -> list[float]:
    """For each text that differs: nats between the tokens at the first difference."""
    found = []
    differing = [id_ for id_ in whole if whole[id_] != other.get(id_)]
    if not differing:
        return found
    with load("demo") as emulator:
        for id_ in differing:
            scored = [
                emulator.logprobs(text, prompt=prompts[id_])
                for text in (whole[id_], other.get(id_, ""))
            ]
            at = next(
                i
                for i, (a, b) in enumerate(zip(*(s.tokens for s in scored), strict=False))
                if a != b
            )
            found.append(abs(float(scored[0].logprobs[at] - scored[1].logprobs[at])))
    return found


def check_kills(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        source, whole, killed = (Path(folder) / n for n in ("in.jsonl", "whole.jsonl", "k.jsonl"))
        write_input(source, options.lines)
        subprocess.run(command(source, whole), check=True)
        done, answering = kill_again_and_again(source, killed, options.kills, options.seed)
        rows = rows_of(killed)
        times = Counter(row["custom_id"] for row in rows)
        prompts = {r["custom_id"]: r["prompt"] for r in map(json.loads, source.open("rb"))}
        missing = [id_ for id_ in prompts if id_ not in times]
        twice = [id_ for id_, count in times.items() if count > 1]
        texts = [{row["custom_id"]: row["text"] for row in r} for r in (rows_of(whole), rows)]
        differ = gaps(texts[0], texts[1], prompts)
    print(f"{done} kills, {answering} of them after new rows; {options.lines} lines")
    print(f"missing {len(missing)}, twice {len(twice)}, unknown {len(set(times) - set(prompts))}")
    print(f"texts that differ: {len(differ)}, gaps in nats: {[round(g, 4) for g in differ]}")
    bad = missing or twice or any(gap > NEAR_TIE for gap in differ)
    return 1 if bad or done < options.kills else 0


def check_input(counts: list[int]) -> int:

    print(f"{'lines':>10}{'MB':>10}{'seconds':>10}{'peak MB':>10}")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "in.jsonl"
            write_input(source, count)
            size = source.stat().st_size
            began = time.perf_counter()
            child = os.fork()
            if child == 0:
                output = str(source.with_name("out.jsonl"))
                os.execv(sys.executable, [*PROGRAM, str(source), output, "--dry-run"])
            _, code, used = os.wait4(child, 0)
            seconds = time.perf_counter() - began
            unit = 1.0 if sys.platform == "darwin" else 1024.0
            peak = used.ru_maxrss * unit / 1e6
            print(f"{count:>10}{size / 1e6:>10.1f}{seconds:>10.1f}{peak:>10.0f}")
            if code:
                return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--lines", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", help="lengths of inputs that are only checked")
    options = parser.parse_args()
    if options.check:
        return check_input([int(part) for part in options.check.split(",")])
    return check_kills(options)


if __name__ == "__main__":
    sys.exit(main())
