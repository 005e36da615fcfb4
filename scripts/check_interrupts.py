"""Shows that Ctrl-C ends `eftlocal run` cleanly at any moment of its life.

Usage: .venv/bin/python scripts/check_interrupts.py [--runs N] [--seed S] [VERB ...]

A run of the demo is interrupted at --runs (500) random moments, from the first line of
eftlocal/__main__.py to its end. What comes before that line is Python's own start, in which Python
prints a traceback of its own. Every second interrupt goes to the whole process group, as a
terminal's Ctrl-C does. An end is right if the exit code is 130 (or that of a finished run), stderr
is `eftlocal: stopped` (or what a finished run says), and nothing but the program's own text came.
The exit code is 1 if any was not.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import eftlocal

VERB = ["run", "In which country is Toulouse?", "--temperature", "0"]
# Python runs the module's own source, which says so in its first statement.
_START = """
import os, sys
import eftlocal
path = os.path.join(os.path.dirname(eftlocal.__file__), "__main__.py")
source = open(path, encoding="utf-8").read()
begun = source.replace("\\ntry:\\n", "\\ntry:\\n    __import__('os').write({fd}, b'x')\\n", 1)
assert begun != source
exec(compile(begun, path, "exec"), {{"__name__": "__main__", "__package__": "eftlocal"}})
"""
_FIGURES = re.compile(r"(?:\d+ tokens in [^\n]+\n)?(?:eftlocal: stopped\n)?")
PATIENCE = 120.0  # seconds


def begin(arguments: list[str]) -> subprocess.Popen[bytes]:
    """The program, just before its first line."""
    ours, theirs = os.pipe()
    root = Path(eftlocal.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _START.format(fd=theirs), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tui")])},
        pass_fds=[theirs],
        start_new_session=True,
    )
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    return process


def interrupted(arguments: list[str], after: float, *, group: bool) -> tuple[int, str]:
    """Exit code and stderr of a run that gets SIGINT so many seconds after its first line."""
    process = begin(arguments)
    time.sleep(after)
    if process.poll() is None:
        (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors.decode("utf-8", "replace")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", nargs="*", help="what to run (default: run, on the demo)")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    arguments = options.verb or VERB
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    times = []
    for _ in range(3):
        began = time.monotonic()
        process = begin(arguments)
        process.communicate(timeout=PATIENCE)
        times.append(time.monotonic() - began)
    life = max(times)
    finished = process.returncode
    print(f"an undisturbed run takes {min(times):.2f} to {life:.2f} s", flush=True)
    chance, found, wrong = random.Random(options.seed), Counter[str](), 0
    for number in range(options.runs):
        after = chance.uniform(0, life)
        code, errors = interrupted(arguments, after, group=number % 2 == 1)
        right = code in (130, finished) and (options.verb or _FIGURES.fullmatch(errors))
        right = right and (code == finished or errors.endswith("eftlocal: stopped\n"))
        right = right and "Traceback" not in errors
        found["stopped" if code == 130 else "finished" if code == finished else f"code {code}"] += 1
        if not right:
            wrong += 1
            print(f"after {after:.4f} s: code {code}, stderr {errors[-2000:]!r}", flush=True)
    told = ", ".join(f"{count} {what}" for what, count in found.most_common())
    print(f"{options.runs} interrupts: {told}; {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
