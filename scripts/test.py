"""Set the checkout up, then run all its checks: lint, format, types, tests.

Standard library only. `--extra NAME` goes to set-up (`--extra tune` for the tests that need torch),
other arguments to pytest, which runs in several processes unless they say otherwise (`-n 0` for
one). All checks run, even after one has failed; the exit code is that of the first failure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BINARIES = ROOT / ".venv" / ("Scripts" if sys.platform == "win32" else "bin")
MOST_WORKERS = 4  # each loads the test models for itself


def steps(pytest_arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(name, command) of each check."""
    workers = ["-n", str(min(os.cpu_count() or 1, MOST_WORKERS)), "--dist", "worksteal"]
    python = str(BINARIES / ("python.exe" if sys.platform == "win32" else "python"))
    return [
        ("ruff check", [python, "-m", "ruff", "check", "."]),
        ("ruff format", [python, "-m", "ruff", "format", "--check", "."]),
        ("mypy", [python, "-m", "mypy"]),
        ("pytest", [python, "-m", "pytest", *workers, *pytest_arguments]),
    ]


def run(name: str, command: Sequence[str]) -> int:
    print(f"== {name}", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def run_all(checks: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[str, int]]:
    """(name, exit code) of each; the last two side by side, what the first of them says last."""
    *first, (beside, command), last = checks
    codes = [(name, run(name, each)) for name, each in first]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said) as other:
            code = run(*last)
        said.seek(0)
        print(f"== {beside}\n{said.read().decode(errors='replace').rstrip()}", flush=True)
    return [*codes, (beside, other.returncode), (last[0], code)]


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        usage="%(prog)s [--extra NAME] [arguments of pytest]",
    )
    parser.add_argument("--extra", action="append", default=[], help="also install this extra")
    options, arguments = parser.parse_known_args(given)
    extras = [word for extra in ("test", *options.extra) for word in ("--extra", extra)]
    setup = [sys.executable, str(ROOT / "scripts" / "setup.py"), *extras]
    if code := run("set-up", setup):
        return code
    failed = [(name, code) for name, code in run_all(steps(arguments)) if code]
    for name, code in failed:
        print(f"FAILED: {name} (exit code {code})", flush=True)
    return failed[0][1] if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
