"""`eftlocal serve` as a child process, for scripts that ask it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil

_LOADED = 300.0  # seconds for a model to be loaded


@dataclass(frozen=True)
class Serving:
    """A server that is ready.

    Attributes:
        url: without the /v1.
    """

    url: str
    process: psutil.Popen

    def memory(self) -> dict[str, int]:
        """Bytes that the server and its engine hold."""
        return {name: int(one.memory_info().rss) for name, one in self._processes()}

    def worked(self) -> dict[str, float]:
        """Seconds of a processor that each has used."""
        return {name: float(sum(one.cpu_times()[:2])) for name, one in self._processes()}

    def _processes(self) -> list[tuple[str, Any]]:
        return [("server", self.process), *(("engine", c) for c in self.process.children())]


@contextmanager
def serving(*options: str) -> Iterator[Serving]:
    """A server of these options of `eftlocal serve`, on a free port; it ends with the block."""
    command = [sys.executable, "-m", "eftlocal", "serve", "--port", "0", *options]
    with started(command, r"http://\S+?(?=/v1)", "/health") as server:
        yield server


@contextmanager
def started(command: list[str], address: str, path: str) -> Iterator[Serving]:
    """A server's process; it says where it listens, in text that the pattern finds.

    Args:
        address: that pattern; or the address itself, of a server that does not say it.
        path: answers with 200 once the server is ready.
    """
    says = "\\" in address
    out = subprocess.PIPE if says else subprocess.DEVNULL
    process = psutil.Popen(command, stdout=out, text=True)
    try:
        line = process.stdout.readline() if says else address
        found = re.search(address, line)
        if found is None:
            raise RuntimeError(f"{command[0]} said {line!r} and no address")
        _wait(found[0] + path, process)
        yield Serving(found[0], process)
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait(url: str, process: psutil.Popen) -> None:
    end = time.monotonic() + _LOADED
    while True:
        try:
            with urlopen(url, timeout=10):
                return
        except (URLError, ConnectionError) as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{url} does not come: {error}") from None
        time.sleep(0.1)
