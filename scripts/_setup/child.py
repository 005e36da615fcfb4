"""Other programs: quick questions, and long jobs with a log file and signs of life.

A long job runs in a process group of its own, so that Ctrl-C or a kill leaves no compiler behind.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .report import say

# macOS says "not permitted" of a group whose last members wait to be buried.
_GONE = (ProcessLookupError, PermissionError)
WINDOWS = sys.platform == "win32"
_NINJA_STEP = re.compile(rb"^\s*\[(\d+)/(\d+)\]", re.MULTILINE)
_MAKE_STEP = re.compile(rb"^\s*\[ *(\d+)%\]", re.MULTILINE)
# Settings of the caller's shell that would aim pip or Python at another place than .venv.
_MISLEADING = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")


@dataclass(frozen=True)
class Answer:
    """What a program answered; code 127 when it is missing or does not come back."""

    code: int
    out: str


def ask(command: Sequence[str], *, stdin: str = "", timeout: float = 20.0) -> Answer:
    """Run a quick question; stdout and stderr together."""
    try:
        done = subprocess.run(
            list(command),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Answer(127, "")
    return Answer(done.returncode, done.stdout)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment without what would lead pip or Python astray, plus `extra`."""
    env = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    env.update({"PYTHONNOUSERSITE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"})
    env.update(extra or {})
    return env


def work(
    command: Sequence[str],
    *,
    log: Path,
    label: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    beat: float = 20.0,
) -> int:
    """Run a long job, its output appended to `log`, a line of progress every `beat` seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("ab") as sink:
        sink.write(f"\n$ {subprocess.list2cmdline(list(command))}\n".encode())
        sink.flush()
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=clean_environment() if env is None else dict(env),
            cwd=cwd,
            start_new_session=not WINDOWS,
        )
        try:
            while (code := _wait(child, beat)) is None:
                elapsed = int(time.monotonic() - started)
                step = progress(tail(log))
                say(f"  {label}: {elapsed // 60}:{elapsed % 60:02d} elapsed{step}")
            return code
        finally:
            if child.poll() is None:
                kill_tree(child)


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def kill_tree(child: subprocess.Popen[bytes]) -> None:
    """End a job together with everything it started."""
    if sys.platform == "win32":
        ask(["taskkill", "/F", "/T", "/PID", str(child.pid)])
        child.wait()
        return
    # Ninja runs each compiler in a group of its own and ends them when asked, but not when killed.
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, how)
        except _GONE:
            break
        if _group_ended(child, 10.0):
            break
    child.wait()


def _group_ended(child: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether every process of the child's group is gone, within so many seconds."""
    if sys.platform == "win32":
        return True
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        child.poll()  # a dead leader counts as there until it is waited for
        try:
            os.killpg(child.pid, 0)
        except _GONE:
            return True
        time.sleep(0.05)
    return False


def tail(log: Path, size: int = 65536) -> bytes:
    """The last `size` bytes of a log."""
    with log.open("rb") as source:
        source.seek(0, os.SEEK_END)
        source.seek(max(0, source.tell() - size))
        return source.read()


def progress(log_end: bytes) -> str:
    """`, step 93 of 193` from the last line that ninja or make wrote about it, or nothing."""
    if steps := _NINJA_STEP.findall(log_end):
        return f", step {int(steps[-1][0])} of {int(steps[-1][1])}"
    if percents := _MAKE_STEP.findall(log_end):
        return f", {int(percents[-1])}%"
    return ""
