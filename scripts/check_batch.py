"""Shows that `eftlocal batch` loses nothing when it is killed, and that its memory is flat.

Usage: .venv/bin/python scripts/check_batch.py [PART ...] [--kills N] [--lines N] [--seed S]

kills   a greedy run of --lines lines (3,000) on the demo trio is killed with SIGKILL at --kills
        (100) random moments, from the first millisecond of the process to the middle of decoding,
        gone on with each time, and compared with a run that nobody disturbed: every id once, texts
        equal
memory  peak memory and seconds of the check (--dry-run), and until the first row, at 1,000, 10,000
        and 100,000 lines (or up to --lines)

Without a PART it does both. Kernels round differently where other lines are decoded beside one, so
texts may part where two tokens are about as probable: such near-ties are told with the gap between
the two. The exit code is 1 if an id is missing or twice, or a difference is no near-tie.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import eftlocal
from eftlocal import Emulator
from eftlocal.decoding.score import text_rows
from eftlocal.evaluation.questions import FOLDER, SPLITS, read

PARTS = ("kills", "memory")
RUN = [sys.executable, str(Path(__file__).with_name("run_batch.py"))]
GREEDY = ["--temperature", "0", "--max-tokens", "24"]
NEAR = 0.05  # nats between two tokens that rounding may exchange
FIRST_ROWS = 20
PATIENCE = 600.0  # seconds
Row = dict[str, Any]


def questions(count: int) -> Iterator[str]:
    """So many different ones; the demo's held-out questions first."""
    asked = [q.text for split in SPLITS for q in read(FOLDER / "questions.json", split).questions]
    asked = list(dict.fromkeys(asked))
    for i in range(count):
        again, place = divmod(i, len(asked))
        yield asked[place] if not again else f"{again}: {asked[place]}"


def write(path: Path, count: int) -> dict[str, str]:
    """An input of so many lines; its prompts by id."""
    prompts = {f"question-{i}": text for i, text in enumerate(questions(count))}
    with path.open("w", encoding="utf-8") as file:
        for custom_id, prompt in prompts.items():
            line = {"custom_id": custom_id, "prompt": prompt, "logprobs": True}
            file.write(json.dumps(line) + "\n")
    return prompts


def say(text: str) -> None:
    print(text, flush=True)


# Kills --------------------------------------------------------------------------------------------


@dataclass
class Tries:
    """What the kills met."""

    early: int = 0  # before the process wrote a row
    decoding: int = 0
    torn: int = 0  # of these: in the middle of writing one
    left_over: int = 0  # children that outlived their parent by a second


def start(source: Path, output: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [*RUN, str(source), str(output), "--quiet", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {said.decode(errors='replace')}")


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def undisturbed(source: Path, output: Path) -> tuple[float, float]:
    """Runs to the end. Returns the seconds until the first row, and those after it."""
    began = time.monotonic()
    process = start(source, output, *GREEDY)
    while process.poll() is None and not size(output):
        time.sleep(0.002)
    first = time.monotonic()
    finish(process)
    return first - began, time.monotonic() - first


def longest_life(kills: int, to_first_row: float, decoding: float) -> float:
    """Seconds such that, killed at random moments up to these, the runs together decode most of
    what there is, and do not come to its end."""
    share = 0.7 * decoding / kills  # what a life should decode: later^2 / 2 (to_first_row + later)
    return to_first_row + share + float((share**2 + 2 * share * to_first_row) ** 0.5)


def killed(source: Path, output: Path, kills: int, longest: float, chance: random.Random) -> Tries:
    tries = Tries()
    for done in range(kills):
        before = size(output)
        process = start(source, output, *GREEDY)
        time.sleep(chance.uniform(0.001, longest))
        children = psutil.Process(process.pid).children() if process.poll() is None else []
        process.kill()
        _, said = process.communicate(timeout=PATIENCE)
        if process.returncode != -signal.SIGKILL:
            if process.returncode:
                raise SystemExit(f"exit code {process.returncode}: {said.decode()}")
            say(f"  it was finished at the kill {done + 1} of {kills}")
            break
        if size(output) > before:
            tries.decoding += 1
            tries.torn += not output.read_bytes().endswith(b"\n")
        else:
            tries.early += 1
        tries.left_over += sum(map(alive, psutil.wait_procs(children, timeout=1.0)[1]))
    return tries


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def rows_of(output: Path) -> tuple[dict[str, Row], int]:
    """Rows by id, and how many ids came again."""
    rows, twice = dict[str, Row](), 0
    for line in output.read_text("utf-8").splitlines():
        row = json.loads(line)
        twice += row["custom_id"] in rows
        rows[row["custom_id"]] = row["response"]["body"]["choices"][0]
    return rows, twice


def pieces(row: Row) -> list[bytes]:
    return [bytes(token["bytes"]) for token in row["logprobs"]["content"]]


def gap(emulator: Emulator, prompt: str, one: list[bytes], other: list[bytes]) -> tuple[int, float]:
    """The first place where two answers differ, and by how much one of the tokens there is more
    probable than the other, in nats."""
    ensemble = emulator.ensemble
    ids = {emulator.piece(i): i for i in reversed(range(ensemble.vocab_size))}
    end = min(ensemble.stop_tokens)
    place = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    a, b = (ids[answer[place]] if place < len(answer) else end for answer in (one, other))
    begun = [ids[piece] for piece in one[:place]]
    prompts, recipe = emulator.tokenize(prompt), emulator.defaults.recipe
    *_, (_, row, _) = text_rows(ensemble, prompts, [*begun, a], recipe=recipe)
    found = [max(row[list(ensemble.stop_tokens)]) if i == end else row[i] for i in (a, b)]
    return place, float(abs(found[0] - found[1]))


def compare(prompts: dict[str, str], whole: Path, broken: Path) -> bool:
    (wanted, _), (got, twice) = rows_of(whole), rows_of(broken)
    missing = prompts.keys() - got.keys()
    unknown = got.keys() - prompts.keys()
    say(f"  {len(got)} ids: {len(missing)} missing, {twice} twice, {len(unknown)} unknown")
    fine = not (missing or twice or unknown)
    unequal = [i for i in prompts if i in got and got[i]["message"] != wanted[i]["message"]]
    say(f"  {len(got) - len(unequal)} texts equal, {len(unequal)} not")
    if unequal:
        with eftlocal.load("demo") as emulator:
            for i in unequal:
                place, nats = gap(emulator, prompts[i], pieces(wanted[i]), pieces(got[i]))
                near = nats <= NEAR
                fine = fine and near
                kind = "a near-tie" if near else "NO near-tie"
                say(f"  {i}: {kind}, token {place + 1}, {nats:.4f} nats apart")
    return fine


def check_kills(folder: Path, lines: int, kills: int, seed: int) -> bool:
    source, whole, broken = (folder / f"{name}.jsonl" for name in ("in", "whole", "broken"))
    prompts = write(source, lines)
    finish(start(source, folder / "costs.jsonl", *GREEDY, "--limit", "2"))  # measured once
    first, decoding = undisturbed(source, whole)
    longest = longest_life(kills, first, decoding)
    say(
        f"kills: {lines} lines; first row after {first:.2f} s, last {decoding:.1f} s later; "
        f"killed at up to {longest:.2f} s"
    )
    began = time.monotonic()
    tries = killed(source, broken, kills, longest, random.Random(seed))
    there = len(whole_lines(broken))
    finish(start(source, broken, *GREEDY))
    say(
        f"  {tries.early + tries.decoding} kills in {time.monotonic() - began:.0f} s: "
        f"{tries.early} before a row, {tries.decoding} later ({tries.torn} in a row); {there} rows "
        f"were there after the last; {tries.left_over} processes left over"
    )
    return compare(prompts, whole, broken) and not tries.left_over


def whole_lines(output: Path) -> list[bytes]:
    """The lines of a file that may end in a torn one."""
    return output.read_bytes().split(b"\n")[:-1] if output.exists() else []


# Memory -------------------------------------------------------------------------------------------


def measured(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Waits. Returns the exit status, and the peak of its memory in MiB."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return process.returncode, used.ru_maxrss / unit


def check_memory(folder: Path, most: int) -> bool:
    say("memory, MiB at the most    of the check        until the first rows")
    fine = True
    for lines in [n for n in (1_000, 10_000, 100_000, 1_000_000) if n <= most]:
        source, output = folder / f"{lines}.jsonl", folder / f"{lines}.out.jsonl"
        write(source, lines)
        began = time.monotonic()
        code, checked = measured(start(source, output, *GREEDY, "--dry-run"))
        seconds = time.monotonic() - began
        began = time.monotonic()
        process = start(source, output, *GREEDY)
        while process.poll() is None and not size(output):
            time.sleep(0.005)
        first = time.monotonic() - began
        while process.poll() is None and len(whole_lines(output)) < min(FIRST_ROWS, lines):
            time.sleep(0.02)
        process.kill()
        running = measured(process)[1]
        fine = fine and code == 0 and size(output) > 0
        say(
            f"{lines:>9} lines  {checked:>12.0f} MiB, {seconds:.1f} s  {running:>12.0f} MiB, "
            f"{first:.1f} s"
        )
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--lines", type=int, help="default: 3,000 for kills, 100,000 for memory")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    fine = True
    with tempfile.TemporaryDirectory() as name:
        if "kills" in parts:
            fine &= check_kills(Path(name), options.lines or 3_000, options.kills, options.seed)
        if "memory" in parts:
            fine &= check_memory(Path(name), options.lines or 100_000)
    say("as it should be" if fine else "NOT as it should be")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
