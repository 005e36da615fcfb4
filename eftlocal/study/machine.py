"""The machine that figures belong to: what it is, the memory that this process held, its energy.

Energy comes from RAPL counters on Linux and from NVIDIA GPUs. Both count the whole device, whatever
runs on it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psutil

from eftlocal import llama

BUSY = 10.0  # per cent of all cores at work before a measurement
POWERCAP = Path("/sys/class/powercap")
_SAMPLED_MS = 100


def machine() -> dict[str, Any]:
    """System, processor, devices, llama.cpp's build, and how busy it is now (takes 0.5 s)."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "devices": [d.description for d in llama.devices() if d.is_gpu],
        "llama_system_info": llama.system_info(),
        "busy_percent": psutil.cpu_percent(interval=0.5),
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def peak_resident() -> int:
    """Bytes of main memory at the peak so far, those of mapped files among them."""
    if sys.platform == "linux":
        # Not ru_maxrss, which on Linux begins at what the parent process had.
        line = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
        return int(line.group(1)) * 1024 if line else psutil.Process().memory_info().rss
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def device_used() -> int:
    """Bytes in use on all GPUs, by whatever program."""
    gpus = (device for device in llama.devices() if device.kind == "gpu")
    return sum(device.memory_total - device.memory_free for device in gpus)


class Meter(Protocol):
    """A counter of joules."""

    name: str

    def joules(self) -> float:
        """Since some moment in the past."""
        ...


class Rapl:
    """The CPU packages, by Linux's powercap counters, which wrap around."""

    name = "CPU package (RAPL)"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = [(zone, _number(zone / "max_energy_range_uj")) for zone in zones]
        self._last = [_number(zone / "energy_uj") for zone in zones]
        self._total = 0

    @classmethod
    def find(cls, folder: Path = POWERCAP) -> Rapl | None:
        """None where there is no counter, or only root may read it."""
        try:
            # "intel-rapl:0" is a package (also on AMD), "intel-rapl:0:1" a part of it.
            zones = [p for p in sorted(folder.glob("intel-rapl:*")) if p.name.count(":") == 1]
            return cls(zones) if zones else None
        except (OSError, ValueError):
            return None

    def joules(self) -> float:
        for i, (zone, wraps_at) in enumerate(self._zones):
            now = _number(zone / "energy_uj")
            gained = now - self._last[i]
            self._total += gained if gained >= 0 else gained + wraps_at
            self._last[i] = now
        return self._total / 1e6


class Nvidia:
    """All NVIDIA GPUs: their power, told by nvidia-smi every 0.1 s, summed over time."""

    name = "GPU (nvidia-smi)"

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._watts: dict[str, float] = {}
        self._total, self._at = 0.0, time.perf_counter()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @classmethod
    @contextmanager
    def open(cls, program: str | None = None) -> Iterator[Nvidia | None]:
        """None where there is no nvidia-smi, or it tells no power."""
        program = program or shutil.which("nvidia-smi")
        ask = "--query-gpu=index,power.draw", "--format=csv,noheader,nounits"
        if program is None or not _tells_power(program, *ask):
            yield None
            return
        with subprocess.Popen(
            [program, *ask, f"--loop-ms={_SAMPLED_MS}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            meter = cls(process)
            try:
                yield meter
            finally:
                process.terminate()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            index, _, watts = line.partition(",")
            with self._lock:
                self._advance()
                try:
                    self._watts[index] = float(watts)
                except ValueError:  # "[N/A]" while a GPU changes its state
                    continue

    def _advance(self) -> None:
        now = time.perf_counter()
        self._total += sum(self._watts.values()) * (now - self._at)
        self._at = now

    def joules(self) -> float:
        with self._lock:
            self._advance()
            return self._total


@contextmanager
def meters() -> Iterator[list[Meter]]:
    """Every meter that this machine has; possibly none."""
    with ExitStack() as stack:
        found: list[Meter | None] = [Rapl.find(), stack.enter_context(Nvidia.open())]
        yield [meter for meter in found if meter is not None]


def _number(path: Path) -> int:
    return int(path.read_text("ascii"))


def _tells_power(*command: str) -> bool:
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return all(float(line.split(",")[1]) >= 0 for line in told.stdout.splitlines())
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return False
