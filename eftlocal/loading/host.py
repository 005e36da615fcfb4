"""What this process may use of its host, within a container's limits: memory and CPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import psutil

from eftlocal.errors import UsageError

_UNLIMITED = 1 << 62  # bytes; cgroup v1 says "no limit" with a number next to 2^63


class _Files(NamedTuple):
    """What a version of cgroups calls a group's limit, its use and its reclaimable parts."""

    limit: str
    used: str
    cached: tuple[str, str]


_V1 = _Files(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
)
_V2 = _Files("memory.max", "memory.current", ("active_file", "inactive_file"))


def host_memory_free() -> int | None:
    """Bytes that can still be used without swapping, within a container's limit; None if unknown.

    Memory-mapped weights need not be resident, but a model that is read from disk at every
    token is of no use, so they count.
    """
    try:
        available = int(psutil.virtual_memory().available)
    except (OSError, RuntimeError, NotImplementedError):
        return None
    within = cgroup_free(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return available if within is None else min(available, within)


def cgroup_free(root: Path, membership: Path) -> int | None:
    """Bytes that the memory limits of cgroups leave this process, None where there is no limit.

    A machine may have both versions mounted (v2 at `root`, v1's memory controller at
    root/memory); the limits of a group and of all groups around it hold.

    Args:
        root: where cgroups are mounted.
        membership: the file that lists the process's groups, one `number:controllers:path` a line.
    """
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except (OSError, ValueError):
        return None  # not Linux
    groups = [line for line in lines if len(line) == 3]
    v1 = next((path for _, controllers, path in groups if "memory" in controllers.split(",")), "/")
    v2 = next(
        (path for number, controllers, path in groups if (number, controllers) == ("0", "")), "/"
    )
    limits = [
        *_limits(root / "memory", v1, _V1),
        *_limits(root, v2, _V2),
    ]
    return min(limits, default=None)


def _limits(root: Path, path: str, files: _Files) -> list[int]:
    """Bytes left by each limit, from the group at `path` outwards."""
    # Inside a container the path may be the host's, which is not seen here: the walk outwards
    # ends at the root, which then is the container's own group.
    group, limits = root / path.lstrip("/"), []
    while True:
        free = _left_by(group, files)
        if free is not None:
            limits.append(free)
        if group == root or root not in group.parents:
            return limits
        group = group.parent


def _left_by(group: Path, files: _Files) -> int | None:
    try:
        limit = int((group / files.limit).read_text())
        used = int((group / files.used).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None  # no limit here ("max"), or not readable
    if limit >= _UNLIMITED:
        return None
    cached = sum(int(stat.get(name, 0)) for name in files.cached)
    return max(0, limit - used + cached)


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
