"""`eftlocal batch` for one shard, as a process that a worker of a cluster starts and waits for."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from eftlocal.disk import beside
from eftlocal.errors import InterruptedRunError, UsageError

STOPPED = InterruptedRunError.exit_code
_FAILED = 10  # of a finished run with failed lines: this, and how many
_MOST_TOLD = 90  # codes above 125 are the shell's


def code_of(failed: int) -> int:
    """Of a run that came to its end."""
    return _FAILED + min(failed, _MOST_TOLD) if failed else 0


def failed_lines(code: int) -> int | None:
    """How many lines have no answer, up to 90; None where the run did not come to its end."""
    if code == 0:
        return 0
    return code - _FAILED if _FAILED < code <= _FAILED + _MOST_TOLD else None


_LOCK_SECONDS = 120.0  # a file server keeps the locks of a machine that died for about 90
# The empty path is the worker's folder, whose files are no modules of ours.
_PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    f"from {__name__} import follow_worker; follow_worker(); "
    "from eftlocal.cli.app import main; main()"
)


@dataclass(frozen=True)
class Shard:
    """What a worker is told; paths are absolute.

    Attributes:
        name: "1/4", or "" for the whole batch.
        options: of `eftlocal batch`.
        mark: a file in the folder of the output that shows a worker that it sees that folder.
        size: of the input in bytes.
        folder: that the options' paths are relative to.
        versions: packages that must be the same everywhere, or shards cannot be merged.
    """

    name: str
    source: Path
    output: Path
    options: tuple[str, ...]
    mark: Path
    size: int
    folder: Path
    versions: tuple[tuple[str, str], ...]

    @property
    def label(self) -> str:
        return f"shard {self.name}" if self.name else self.output.name

    @property
    def log(self) -> Path:
        return beside(self.output, ".log")


@dataclass(frozen=True)
class Outcome:
    """How a shard ended: its exit code, where, and the last line that it said."""

    code: int
    node: str
    seconds: float
    words: str

    @property
    def finished(self) -> bool:
        return failed_lines(self.code) is not None


class KilledError(Exception):
    """A signal or a crash ended a shard's process: another try resumes."""


def run_shard(shard: Shard) -> Outcome:
    """Runs a shard to its end, or says why this machine cannot.

    Raises:
        KilledError: its process was killed.
    """
    node, began = platform.node(), time.monotonic()
    if words := unfit(shard):
        return Outcome(UsageError.exit_code, node, 0.0, f"{node}: {words}")
    _wait_for_lock(beside(shard.output, ".lock"))
    with shard.log.open("ab") as log:
        log.write(f"-- {shard.label} on {node}\n".encode())
        log.flush()
        code = _run(shard, log)
        if code == STOPPED or not 0 <= code <= 255:  # on Windows a crash is a large number
            words = f"killed by signal {-code}" if code < 0 else f"killed or crashed ({code:#x})"
            log.write(f"-- {words}\n".encode())
            raise KilledError(f"{words} on {node}")
    return Outcome(code, node, time.monotonic() - began, last_line(shard.log))


def unfit(shard: Shard) -> str:
    """Why this machine cannot run the shard, or nothing."""
    shared = "put it on a file system that all machines share"
    if not shard.source.is_file():
        return f"there is no {shard.source} here; {shared}, under one path"
    if shard.source.stat().st_size != shard.size:
        return f"{shard.source} is another file here; {shared}"
    if not shard.mark.exists():
        return f"{shard.output.parent} is another folder here; {shared}"
    for package, wanted in shard.versions:
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "none"
        if found != wanted:
            return f"{package} {wanted} is needed, as where the run was started; here is {found}"
    return ""


def last_line(log: Path) -> str:
    """The last words of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    said = [words for line in lines if (words := line.strip())]
    return said[-1].removeprefix("eftlocal: ") if said else ""


def follow_worker() -> None:
    """Ends this process when its stdin does, which is when the worker has ended in any way.

    Ctrl-C in a terminal reaches all processes of it; what becomes of this one is the worker's.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    os.read(0, 1)  # sys.stdin.read() would hold a lock that the interpreter wants at its end
    os._exit(1)


def _run(shard: Shard, log: BinaryIO) -> int:
    part = ["--shard", shard.name] if shard.name else []
    child = subprocess.Popen(
        [
            *(sys.executable, "-c", _PROGRAM, "batch", str(shard.source), str(shard.output)),
            *(*part, *shard.options),
        ],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd=shard.folder if shard.folder.is_dir() else None,
    )
    try:
        return child.wait()
    finally:
        child.kill()


def _wait_for_lock(lock: Path) -> None:
    """Gives an earlier try the time to let go; whoever holds on then, the batch refuses."""
    with suppress(Timeout), FileLock(lock, timeout=_LOCK_SECONDS):
        return
