"""What the sandbox keeps apart, tried for real before any generated code is run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.evaluation.sandbox import run

_MEMORY = 256 << 20  # bytes

# What a program must not be able to do, in words, and one that tries to. It is called with what
# `_bait` gives, and returns what it got hold of.
_ATTEMPTS = {
    "reach the network": """
import socket
def attempt(port, name, **_):
    reached = []
    for family, address in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, "\\0" + name)):
        try:
            with socket.socket(family) as tried:
                tried.settimeout(1)
                tried.connect(address)
                reached.append(str(address))
        except OSError:
            pass
    return reached
""",
    "read and write files outside": """
import os
def attempt(secret, new, **_):
    opened = []
    for path, mode in ((secret, "rb"), (new, "wb"), (os.__file__, "r+b"), ("/new", "wb")):
        try:
            open(path, mode).close()
            opened.append(path)
        except OSError:
            pass
    return opened
""",
    "signal other processes": """
import os, signal
def attempt(victim, **_):
    try:
        os.kill(victim, signal.SIGKILL)
        return [victim]
    except ProcessLookupError:
        return []
""",
    "read the environment": """
import os
def attempt(variables, **_):
    import ctypes
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return [name for name in variables if name in os.environ or getenv(name.encode())]
""",
    "start other processes": """
import os, time
def attempt(**_):
    started = []
    for _ in range(50):
        try:
            started.append(os.fork())
        except OSError:
            break
        if not started[-1]:
            time.sleep(5)
            os._exit(0)
    return started
""",
    "have more memory than its limit": """
def attempt(memory, **_):
    try:
        return [len(bytearray(memory))]
    except MemoryError:
        return []
""",
}
_ENDLESS = "def attempt():\n    while True: pass"


def prove() -> None:
    """Tries to do, in the sandbox, what generated code must not do; takes a second.

    Raises:
        UsageError: there is no sandbox here, or it does not hold; which attempt shows it.
    """
    control = run("def attempt(): return 4", "attempt", "assert candidate() == 4", **_limits(20))
    if not control.passed:
        raise UsageError(f"the sandbox for generated code does not work here: {control.why}")
    with _bait() as (given, unharmed):
        for what, program in _ATTEMPTS.items():
            check = f"got = candidate(**{given!r})\nassert got == [], got"
            outcome = run(program, "attempt", check, **_limits(20))
            if not outcome.passed or not unharmed():
                raise _leaky(what, outcome.why)
    if not run(_ENDLESS, "attempt", "candidate()", **_limits(0.3)).why.startswith("stopped"):
        raise _leaky("run without end", "")


def _limits(seconds: float) -> dict[str, Any]:
    return {"seconds": seconds, "memory": _MEMORY}


def _leaky(what: str, why: str) -> UsageError:
    return UsageError(
        f"generated code is not run: the sandbox does not show that it cannot {what}"
        f"{f' ({why})' if why else ''}; run it on another machine"
    )


@contextmanager
def _bait() -> Iterator[tuple[dict[str, Any], Any]]:
    """What the attempts are after, and a function that says whether all of it is unharmed."""
    name = f"eftlocal-{os.getpid()}-{os.urandom(8).hex()}"
    sleeper = (sys.executable, "-S", "-c", "input()")
    with (
        tempfile.TemporaryDirectory(prefix="eftlocal-") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as unnamed,
        subprocess.Popen(sleeper, stdin=subprocess.PIPE) as victim,
    ):
        unnamed.bind("\0" + name)
        unnamed.listen()
        secret, new = Path(folder, "secret"), Path(folder, "new")
        secret.touch()
        given = {
            "port": server.getsockname()[1],
            "name": name,
            "secret": str(secret),
            "new": str(new),
            "victim": victim.pid,
            "variables": list(os.environ),
            "memory": _MEMORY,
        }
        try:
            yield given, lambda: victim.poll() is None and not new.exists()
        finally:
            victim.kill()
