"""Generated Python code, run where it can do no harm.

Every program has a fresh process in Linux namespaces of its own: no network, no other process, no
file but Python's library and the system's, all read-only, beside an empty /tmp in memory that is
gone with it. It has no environment, no capability and one thread: it may start neither processes
nor threads. So RLIMIT_AS bounds its memory, and what checks it has as much again; /tmp is at most
16 MiB, and seccomp refuses memory that no limit counts (`sandbox_child.py`). It ends at a deadline,
with all that belongs to it. It is not proof against a fault of the kernel; for code that is out
to find one, take a virtual machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from eftlocal.errors import UsageError


@dataclass(frozen=True)
class Outcome:
    """How a program did.

    Attributes:
        passed: the check came to its end.
        why: it did not; empty where it did.
    """

    passed: bool
    why: str = ""


def run(program: str, entry: str, check: str, *, seconds: float, memory: int) -> Outcome:
    """Runs a program and what checks it, apart from each other.

    Args:
        program: Python source that defines the function `entry`.
        check: Python source, trusted, that calls `candidate` as that function and raises where an
            answer is wrong. Arguments and answers are plain data, and copies.
        seconds: of the wall clock, from the start to the end of the check; of CPU time, one more.
        memory: bytes, of the program; most of Python's own 30 MB are among them.

    Raises:
        UsageError: the sandbox cannot be made here; nothing of the program was run.
    """
    if sys.platform != "linux":
        raise UsageError("generated code is only run in a sandbox, and that works on Linux alone")
    from eftlocal.evaluation import sandbox_child  # on Linux alone

    source = Path(sandbox_child.__file__).read_text(encoding="utf-8")
    given = json.dumps({"program": program, "entry": entry, "check": check}).encode()
    with tempfile.TemporaryDirectory(prefix="eftlocal-") as folder:
        limits = (str(seconds), str(memory), str(os.getpid()), folder)
        with subprocess.Popen(
            # From the command line: its own folder would be a place to import from.
            [sys.executable, "-B", "-s", "-S", "-c", source, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},  # the same program does the same each time
            start_new_session=True,
        ) as child:
            try:
                told, words = child.communicate(given)
            finally:
                child.kill()  # and with it all that is in it
    if child.returncode == sandbox_child.LATE:
        return Outcome(False, f"stopped after {seconds:g} s")
    if not told.startswith(sandbox_child.READY):
        last = words.decode(errors="replace").strip().splitlines()[-1:]
        raise UsageError(
            "no sandbox for generated code can be made here: "
            f"{last[0] if last else 'its process ended'}; it needs Linux 5.12 or newer and the "
            "right to make namespaces, which most containers withhold"
        )
    verdict = told.removeprefix(sandbox_child.READY)
    if not verdict:
        return Outcome(False, "the check was ended")
    why = json.loads(verdict)
    return Outcome(why is None, why or "")
