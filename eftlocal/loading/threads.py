"""How many CPU threads this machine has use for."""

from __future__ import annotations

import os

from eftlocal.errors import UsageError


def usable_cpus() -> int:
    """Logical CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def check_threads(threads: int | None, name: str = "threads") -> None:
    """Refuses more threads than CPUs: they wait for one another, and a token can take seconds.

    Raises:
        UsageError: it says how many CPUs there are.
    """
    most = usable_cpus()
    if threads is not None and threads > most:
        cpus = "1 CPU" if most == 1 else f"{most} CPUs"
        raise UsageError(f"{name} is {threads}; this machine has {cpus}: give 1 to {most}")
