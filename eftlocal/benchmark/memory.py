"""The most memory that this process has held, and what devices have given out."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import psutil

from eftlocal import llama


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
