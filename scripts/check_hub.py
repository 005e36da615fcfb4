"""Shows what `eftlocal models pull` makes of a hub that is hostile, broken or slow.

Usage: .venv/bin/python scripts/check_hub.py [PART ...] [--only TEXT] [--interrupts N] [--seed S]

cases       every case of tests/hub_attacks.py (those whose names hold --only): the command runs in
            a process of its own against servers on 127.0.0.1. Right are the exit code and the one
            line of the error; few requests; no token but at the hub's own address; an end within
            time; nothing written but the models and their checksums
interrupts  --interrupts (60) downloads are interrupted by SIGINT at random moments, while
            they wait for names, answers, listings and bytes: each ends within three seconds
            with exit code 130 and one line, and a last run goes on to the whole file

Without a PART it does both. The exit code is 1 if anything was not as it should be.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hostile_hub import CONTENT, SIZE, TOKEN, WHOLE, Attacked, Case, Request, attacked_by, preset
from hub_attacks import CASES

PARTS = ("cases", "interrupts")
AT_ONCE = 8
LONGEST = 150.0  # seconds of a case: six tries, waits of half a minute, six seconds of dripping
OURS = (("cache", "checksums"), ("cache", "last-error.json"))
LATEST = 3.0  # seconds after SIGINT
PULL = [sys.executable, "-m", "eftlocal", "models", "pull", "attacked"]


def environment(folder: Path, endpoint: str) -> dict[str, str]:
    """All that a user has, in the folder; times of a second instead of ten."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "EFTLOCAL_"))}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder / "home"),
        "EFTLOCAL_MODELS": str(folder / "store"),
        "EFTLOCAL_CONFIG": str(folder / "config"),
        "EFTLOCAL_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hf"),
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_ETAG_TIMEOUT": "1",
        "NO_PROXY": "*",
    }


def prepare(case: Case, folder: Path) -> Path:
    """What lies there before; the folder that nothing may be written into."""
    outside = folder / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    if case.before is not None:
        case.before(folder / "store", outside)
    (folder / "config").mkdir()
    (folder / "config" / "models.toml").write_text(preset(case), encoding="utf-8")
    return outside


def faults(case: Case, attacked: Attacked, run: subprocess.CompletedProcess[str]) -> Iterator[str]:
    """What was not right with a run, as far as its output and the servers tell."""
    lines = run.stderr.splitlines()
    said = [line for line in lines if line.startswith("eftlocal: ")]
    if "Traceback" in run.stderr:
        yield "a traceback"
    if run.returncode != (case.code if case.says else 0):
        yield f"exit code {run.returncode}"
    if len(said) != bool(case.says) or (said and lines[-1] != said[0]):
        yield f"{len(said)} lines of error"
    elif said and not re.search(case.says, said[0]):
        yield "another line than expected"
    if not run.stderr.replace("\n", "").isprintable():
        yield "bytes that drive a terminal"
    if len(attacked.requests) > case.requests:
        yield f"{len(attacked.requests)} requests instead of {case.requests}"
    if any(seen.token for seen in attacked.requests if seen.host == "other"):
        yield "THE TOKEN WENT TO ANOTHER SERVER"
    if TOKEN in run.stderr + run.stdout:
        yield "the token is shown"


def written(folder: Path, outside: Path) -> Iterator[str]:
    """What a run wrote where it should not have."""
    if [(p.name, p.is_file() and p.read_bytes()) for p in outside.iterdir()] != [
        ("precious", b"kept")
    ]:
        yield "something outside the models folder was changed"
    models = [p for p in folder.joinpath("store").rglob("*.gguf") if p.is_file()]
    if any(path.read_bytes() not in WHOLE for path in models):
        yield "a file of wrong bytes was kept"
    for path in folder.rglob("*"):
        place = path.relative_to(folder).parts
        ours = place[0] in ("store", "config", "outside") or place[:2] in OURS
        if path.is_file() and not ours:
            yield f"wrote {path.relative_to(folder)}"
        if path.is_file() and path.parent != outside and TOKEN.encode() in path.read_bytes():
            yield f"the token is in {path.relative_to(folder)}"


def check(case: Case) -> tuple[bool, str]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, attacked_by(case) as attacked:
        folder = Path(name)
        outside = prepare(case, folder)
        try:
            run = subprocess.run(
                PULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LONGEST,
                env=environment(folder, attacked.endpoint()),
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return False, f"WRONG {case.name}: no end within {LONGEST:g} s"
        found = [*faults(case, attacked, run), *written(folder, outside)]
    said = (run.stderr.splitlines() or ["done"])[-1].replace(name, "")
    figures = f"{len(attacked.requests)} requests, {time.monotonic() - began:.1f} s"
    verdict = f"WRONG ({'; '.join(found)})" if found else "right"
    return not found, f"{verdict}  {case.name}: {figures}: {said[:160]}"


def cases(only: str) -> bool:
    chosen = [case for case in CASES if only in case.name]
    right = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for good, line in pool.map(check, sorted(chosen, key=lambda case: not case.slow)):
            right += good
            print(line, flush=True)
    print(f"\n{right} of {len(chosen)} cases are right")
    return right == len(chosen)


def at_a_snail_s_pace(request: Request) -> None:
    """HEAD takes a while, and so does the file."""
    if request.head and not request.blob:
        time.sleep(0.3)
        request.promise()
    elif request.blob:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        span = f"bytes {start}-{SIZE - 1}/{SIZE}" if start else None
        told = {"Content-Range": span, "Content-Length": str(SIZE - start)}
        request.say(206 if start else 200, told)
        for at in range(start, SIZE, 1024):
            request.raw(CONTENT[at : at + 1024])
            time.sleep(0.03)  # so that no run is done before it is interrupted
    else:
        request.rightly()


def interrupt(case: Case, folder: Path, endpoint: str, after: float) -> str:
    """Start a download and interrupt it; what was wrong, or nothing."""
    child = subprocess.Popen(
        PULL, stderr=subprocess.PIPE, text=True, env=environment(folder, endpoint), cwd=folder
    )
    try:
        child.wait(after)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGINT)
    else:
        return ""  # it was done before
    sent = time.monotonic()
    try:
        _, stderr = child.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        child.kill()
        return f"{case.name}, after {after:.2f} s: no end"
    took = time.monotonic() - sent
    lines = [line for line in stderr.splitlines() if "trying again in" not in line]
    wrong = []
    if child.returncode != 130:
        wrong.append(f"exit code {child.returncode}")
    if not lines or lines[-1] != "eftlocal: stopped" or "Traceback" in stderr:
        wrong.append(f"said {stderr!r}")
    if took > LATEST:
        wrong.append(f"took {took:.1f} s")
    return f"{case.name}, after {after:.2f} s: {'; '.join(wrong)}" if wrong else ""


def interrupts(count: int, seed: int) -> bool:
    choose = random.Random(seed)
    slow = [case for case in CASES if case.slow and case.endpoint == "{hub}"]
    snail = Case("a slow download", at_a_snail_s_pace, "", requests=1000)
    wrong, kept, largest = [], 0, 0
    for number in range(count):
        case = snail if number % 2 else replace(choose.choice(slow), requests=1000)
        with tempfile.TemporaryDirectory() as name, attacked_by(case) as attacked:
            folder, endpoint = Path(name), attacked.endpoint()
            prepare(case, folder)
            told = interrupt(case, folder, endpoint, choose.uniform(0.5, 3.0))
            if case is snail:
                part = folder / "store/owner/models/main/model.gguf.part"
                size = part.stat().st_size if part.exists() else 0
                kept, largest = kept + bool(size), max(largest, size)
                run = subprocess.run(
                    PULL, capture_output=True, env=environment(folder, endpoint), cwd=folder
                )
                file = folder / "store/owner/models/main/model.gguf"
                whole = file.is_file() and file.read_bytes() == CONTENT
                sent = [s.headers.get("Range") for s in attacked.requests if s.path == "/blob"]
                if run.returncode or not whole or (size and f"bytes={size}-" not in sent):
                    told += f" and a download of {size} kept bytes did not go on"
        if told:
            wrong.append(told)
            print(f"WRONG {told}", flush=True)
    print(
        f"{count - len(wrong)} of {count} interrupts are right; {kept} left a part, of up to "
        f"{largest} bytes, from which the next run went on"
    )
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="cases, interrupts")
    parser.add_argument("--only", default="", help="cases whose names hold this text")
    parser.add_argument("--interrupts", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part}; the parts are {', '.join(PARTS)}")
    chosen = options.parts or PARTS
    right = "cases" not in chosen or cases(options.only)
    if "interrupts" in chosen:
        right = interrupts(options.interrupts, options.seed) and right
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
