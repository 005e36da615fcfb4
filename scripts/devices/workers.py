"""Workers on this machine's loopback: devices over RPC where there is no other machine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from devices.trios import WORKERS


@contextmanager
def workers(count: int) -> Iterator[None]:
    """So many of them for `Trio.placed`; their device is the CPU, with one thread each."""
    command = [sys.executable, "-m", "eftlocal", "worker", "--port", "0", "--threads", "1"]
    with ExitStack() as ended:
        for _ in range(count):
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            ended.callback(child.communicate)
            ended.callback(child.kill)
            assert child.stdout is not None
            found = re.search(r"worker at (\S+),", child.stdout.readline())
            if found is None:
                sys.exit("check_devices: `eftlocal worker` does not start")
            WORKERS.append(found[1])
        ended.callback(WORKERS.clear)
        yield
