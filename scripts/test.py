"""Set the checkout up, then run all its checks: lint, format, types, tests.

Standard library only. Arguments go to pytest, which runs in several processes unless they say
otherwise (`-n 0` for one). All checks run, even after one has failed; the exit code is that of the
first failure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BINARIES = ROOT / ".venv" / ("Scripts" if sys.platform == "win32" else "bin")
MOST_WORKERS = 4  # each loads the test models for itself


def steps(pytest_arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(name, command) of each check; pytest comes last, so that its summary ends the output."""
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


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], usage="%(prog)s [arguments of pytest]"
    )
    arguments = parser.parse_known_args(given)[1]
    setup = [sys.executable, str(ROOT / "scripts" / "setup.py"), "--extra", "test"]
    if code := run("set-up", setup):
        return code
    results = [(name, run(name, command)) for name, command in steps(arguments)]
    failed = [(name, code) for name, code in results if code]
    for name, code in failed:
        print(f"FAILED: {name} (exit code {code})", flush=True)
    return failed[0][1] if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
