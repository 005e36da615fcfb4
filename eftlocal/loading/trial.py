"""The first load of a file that nothing vouches for, tried in a child process.

A header check cannot know all that llama.cpp's native code trips over, and Python cannot catch a
crash. So a child does with a new file what the program will do with it; only its death tells.

What passed has an empty file in the cache folder, named by a key: of the header's bytes, size,
times and inode of every part, and of the build of llama.cpp. So nothing is ever read back: what is
in the folder can be missing, never wrong.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eftlocal import llama
from eftlocal.child_process import ChildDiedError, ChildProcess
from eftlocal.child_service import MEMORY_EXIT
from eftlocal.disk import cache_folder
from eftlocal.errors import ModelFileError
from eftlocal.gguf_file.header import Header
from eftlocal.loading.attention import with_attention
from eftlocal.loading.host import host_memory_free
from eftlocal.loading.placement import RoleNeeds, gib
from eftlocal.loading.roles import RoleSource
from eftlocal.loading.trial_child import BATCH, DECODING, LOADING, NO_MEMORY, READING, SHORT
from eftlocal.selftest import crash_name
from eftlocal.terminal_text import one_line

Checking = Callable[[str, float], None]
"""Called with a file's name and the share of its first load that is done, 0.0 to 1.0."""

_N_CTX = 4096  # tokens of the large context, where the model was trained for as many
_THREADS, _PER_THREAD = 8, 1 << 28  # at most so many, one for so many bytes of weights
_TOTAL = 10  # times the longest step
_ENVIRONMENT = {
    "GGML_NO_BACKTRACE": "1",  # or a crash starts a debugger
    "MALLOC_ARENA_MAX": "2",  # each thread's own would take address space
    "CUDA_VISIBLE_DEVICES": "-1",
    "HIP_VISIBLE_DEVICES": "-1",
}
_CRASHES = {
    "SIGSEGV": "segmentation fault",
    "SIGBUS": "bus error",
    "SIGILL": "illegal instruction",
    "SIGFPE": "division by zero",
    "SIGABRT": "abort",
}
_FOLDER = re.compile(r"^\S*[/\\](?=[^/\\ ]+:\d+: )")  # in which llama.cpp was compiled
_ADVICE = (
    "download it again; a file that you know to be good loads with --trust (in Python trust=True)"
)
MOST = 2000  # files remembered; those that were not used for the longest time are forgotten
_FORMAT = 1


@dataclass(frozen=True)
class Limits:
    """What a trial may take.

    Time without progress: `stall_s`, and where all weights are read (loading, decoding) the files'
    size / `bytes_per_s` more. Time in all: ten times that.

    Memory, beyond what the process has at the beginning of a step: `margin`, and
    - loading: the files, mapped; the weights once more where they are repacked; 16 times the
      headers (vocabularies become hash tables);
    - decoding: the cache, four times the buffers that are planned, and twice the adapters.
    What is not mapped is never more than what the host has left.

    Attributes:
        bytes_per_s: of the slowest disk, or network, that a model is loaded from.
    """

    stall_s: float = 60.0
    bytes_per_s: float = 20e6
    margin: int = 1 << 30


@dataclass(frozen=True)
class Candidate:
    """A model, and the adapters that are to be put on it, one at a time."""

    model: Header
    adapters: Sequence[Header] = ()
    repacked: bool = True


class Trial:
    """Tries what is new in one child process, which is kept from one load to the next."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.child = ChildProcess(
            "eftlocal.loading.trial_child",
            tuple,
            purpose="first loads",
            longest=lambda: 1 << 20,
            environment=_ENVIRONMENT,
        )

    def require(
        self,
        candidates: Iterable[Candidate],
        *,
        vouched: Callable[[Path], bool] = lambda path: False,
        checking: Checking | None = None,
    ) -> None:
        """Tries what is neither vouched for nor known, and remembers what passes.

        Args:
            vouched: whether a file needs no trial.

        Raises:
            ModelFileError: a file crashed the child, passed a limit, or was refused.
            EngineError: the child cannot be started.
        """
        for candidate in candidates:
            if new := _new(candidate, vouched):
                adapters = [adapter for adapter in candidate.adapters if adapter.path in new]
                self.run(replace(candidate, adapters=adapters), checking=checking)
                for path, key in _new(candidate, vouched).items():
                    if key is not None and key == new.get(path):  # it did not change meanwhile
                        remember(key)

    def run(self, candidate: Candidate, *, checking: Checking | None = None) -> None:
        """Tries one model with each of its adapters, known or not. Errors: see `require`."""
        model, limits = candidate.model, self.limits
        request = _request(candidate, limits)
        slow = round(limits.stall_s + request["mapped"] / limits.bytes_per_s, 1)
        began, total = time.monotonic(), float(round(_TOTAL * slow, 1))
        step, file, allowed = LOADING, str(model.path), slow

        def on_progress(line: dict[str, Any]) -> float:
            nonlocal step, file, allowed
            step, file = str(line["step"]), str(line["file"])
            if checking is not None:
                checking(model.path.name, _share(step, float(line["progress"])))
            allowed = limits.stall_s if step == READING else slow
            return min(allowed, max(0.0, began + total - time.monotonic()))

        try:
            reply = self.child.ask(request, slow, on_progress)
        except ChildDiedError as died:
            happened = _death(died, request["memory"][step])
            if died.timed_out and time.monotonic() - began > total:
                happened = f"was not done after {total:g} s"
            elif died.timed_out:
                happened = f"made no progress for {allowed:g} s"
            raise _refused(file, step, happened) from None
        if checking is not None:
            checking(model.path.name, 1.0)
        fault, message = reply["fault"], one_line(str(reply.get("message", "")), 400)
        if fault == "memory":
            self.child.close()  # what it still holds would be missing for the next file
            raise _refused(file, step, f"needed more than {gib(request['memory'][step])}")
        if fault == ModelFileError.__name__:  # it names the file, and what to do
            raise ModelFileError(message)
        if fault:
            raise _refused(file, step, f"failed ({message})")


shared = Trial()  # of this process


def _refused(file: str, step: str, happened: str) -> ModelFileError:
    return ModelFileError(
        f"{file}: its first load, in a child process, {happened} while {step}; {_ADVICE}"
    )


def _new(candidate: Candidate, vouched: Callable[[Path], bool]) -> dict[Path, str | None]:
    """The key of the model and of each adapter that nothing vouches for and that is not known."""
    keys: dict[Path, str | None] = {}
    if not all(map(vouched, candidate.model.files)):
        keys[candidate.model.path] = key_of(candidate.model)
    for adapter in candidate.adapters:
        if not all(map(vouched, adapter.files)):
            keys[adapter.path] = key_of(adapter, on=candidate.model)
    return {path: key for path, key in keys.items() if key is None or not is_known(key)}


def _request(candidate: Candidate, limits: Limits) -> dict[str, Any]:
    """What the child is asked for: see `trial_child.answer`."""
    model, free = candidate.model, host_memory_free()
    free = sys.maxsize if free is None else free
    weights = model.weight_bytes
    repacked = candidate.repacked and 2 * weights < free
    large = min(_N_CTX, model.n_ctx_train or _N_CTX)
    source = RoleSource(model.path, n_ctx=large, n_batch=BATCH)
    need = RoleNeeds.of("", source, model)
    if 4 * sum(need.cache) > free:
        need = RoleNeeds.of("", replace(source, n_ctx=(large := SHORT)), model)
    adapters = sum(adapter.file_size for adapter in candidate.adapters)
    loading = weights * repacked + 16 * sum(model.header_bytes)
    decoding = sum(need.cache) + 4 * need.on_cpu + 2 * adapters
    return {
        "model": str(model.path),
        "adapters": [str(adapter.path) for adapter in candidate.adapters],
        "repacked": repacked,
        "passes": weights < free,
        "n_ctx": large,
        "flash_attention": with_attention(source, model, on_cpu=True).flash_attention,
        "threads": min(llama.default_threads(), _THREADS, 1 + weights // _PER_THREAD),
        "mapped": model.file_size + adapters,
        "memory": {
            LOADING: model.file_size + min(loading, free) + limits.margin,
            READING: limits.margin,
            DECODING: min(decoding, free) + limits.margin,
        },
    }


def _share(step: str, share: float) -> float:
    return 0.8 * share if step == LOADING else 0.9


def _death(died: ChildDiedError, memory: int) -> str:
    """How the child ended by itself, as a clause."""
    if died.code == MEMORY_EXIT or any(words in died.words.lower() for words in NO_MEMORY):
        return f"needed more than {gib(memory)}"
    name = crash_name(died.code)
    if name == "SIGKILL":
        return "was killed by the system, most often for want of memory,"
    happened = _CRASHES.get(name, name or f"exit code {died.code}")
    if name == "SIGABRT" and died.words:
        last = died.words.splitlines()[-1]
        happened += f": {one_line(_FOLDER.sub('', last))}"
    return f"crashed llama.cpp ({happened})"


def key_of(header: Header, on: Header | None = None) -> str | None:
    """The key of a model, or of an adapter `on` a model; None when a file cannot be read."""
    told = hashlib.sha256(f"{_FORMAT} {llama.build()}".encode())
    files = [
        one
        for part in (header, on)
        if part
        for one in zip(part.files, part.header_bytes, strict=True)
    ]
    try:
        for path, length in files:
            with path.open("rb") as file:
                at = os.fstat(file.fileno())
                told.update(
                    f"\n{length} {at.st_size} {at.st_mtime_ns} {at.st_ctime_ns} "
                    f"{at.st_dev} {at.st_ino}\n".encode()
                )
                told.update(file.read(length))
    except OSError:
        return None
    return told.hexdigest()


def is_known(key: str) -> bool:
    """Whether the key was remembered."""
    path = folder() / key
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
    except OSError:
        return False
    with suppress(OSError):  # it was used: it is forgotten last
        os.utime(path)
    return True


def remember(key: str) -> None:
    """Keeps the key; a folder that cannot be written is no reason to fail."""
    with suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        (folder() / key).touch()
        kept = [entry for entry in os.scandir(folder()) if entry.is_file(follow_symlinks=False)]
        if len(kept) > MOST:
            kept.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
            for entry in kept[: len(kept) - MOST]:
                Path(entry.path).unlink(missing_ok=True)


def folder() -> Path:
    """Where keys are kept."""
    return cache_folder() / "tried"
