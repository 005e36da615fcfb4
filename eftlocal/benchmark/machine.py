"""The machine that figures belong to."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import psutil

from eftlocal import llama

BUSY = 10.0  # per cent of all cores at work before a measurement


def machine() -> dict[str, Any]:
    """System, processor, devices, llama.cpp's build, and how busy it is now (takes 0.5 s)."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "devices": [d.description for d in llama.devices() if d.kind in ("gpu", "igpu")],
        "llama_system_info": llama.system_info(),
        "busy_percent": psutil.cpu_percent(interval=0.5),
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()
