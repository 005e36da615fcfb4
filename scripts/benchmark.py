"""What all benchmarks do alike: the machine that figures belong to, progress, and faults."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil

from eftlocal import llama
from eftlocal.errors import EftlocalError
from eftlocal.study import machine as study


def machine() -> dict[str, Any]:
    """The machine and how busy it is: figures mean little on one that does other work."""
    return {
        **study.machine(),
        "threads_default": llama.default_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load_average": psutil.getloadavg()[0],
    }


def show_machine(facts: Mapping[str, Any]) -> None:
    """The head of what a benchmark prints."""
    busy, load, cores = facts["busy_percent"], facts["load_average"], facts["cores"]
    if busy > study.BUSY:
        print(
            f"warning: the machine is busy ({busy:.0f}% of {cores} cores in use before the "
            "measurement): expect slower and noisier figures"
        )
    print(f"{facts['system']}, {cores} cores, load average {load:.1f}")
    print(f"llama.cpp: {facts['llama_system_info']}")


def say(text: str) -> None:
    """Progress, beside the figures."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextmanager
def one_line(name: str) -> Iterator[None]:
    """What goes wrong in this block is one line and an exit code."""
    try:
        yield
    except (EftlocalError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
