"""Who is tried, within which limits, and what the death of a trial says."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eftlocal import llama
from eftlocal.child.process import ChildDiedError, ChildProcess
from eftlocal.child.service import MEMORY_EXIT
from eftlocal.errors import ModelFileError
from eftlocal.gguf_file.header import Header
from eftlocal.loading.host_memory import host_memory_free
from eftlocal.loading.placement import estimate, gib
from eftlocal.loading.trial import known
from eftlocal.loading.trial.child import BATCH, NO_MEMORY, SHORT
from eftlocal.selftest import crash_name
from eftlocal.terminal_text import one_line

Checking = Callable[[str, float], None]
"""Called with a file's name and the share of its first load that is done, 0.0 to 1.0."""

_N_CTX = 4096  # tokens of the large context, where the model was trained for as many
_THREADS, _PER_THREAD = 8, 1 << 28  # at most so many, one for so many bytes of weights
_LOADING, _QUICK = "loading", ("reading text",)  # the quick take no longer for larger weights
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
    "SIGKILL": "killed by the system, most often for want of memory",
}
_FOLDER = re.compile(r"^\S*[/\\](?=[^/\\ ]+:\d+: )")  # in which llama.cpp was compiled
_ADVICE = (
    "download it again; a file that you know to be good loads with --trust (in Python trust=True)"
)


@dataclass(frozen=True)
class Limits:
    """What a trial may take.

    A step that grows with the weights (loading, decoding) may go without progress for
    `stall_s` + file size / `bytes_per_s`, another one for `stall_s`; all of them together for ten
    times the longer. Memory: the files mapped, and once more if repacked; the caches; four times
    the planned buffers; `margin` and 16 bytes for each of the header.

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
            "eftlocal.loading.trial.child",
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
                        known.remember(key)

    def run(self, candidate: Candidate, *, checking: Checking | None = None) -> None:
        """Tries one model with each of its adapters, known or not. Errors: see `require`."""
        model, limits = candidate.model, self.limits
        size = model.file_size + sum(adapter.file_size for adapter in candidate.adapters)
        slow = limits.stall_s + size / limits.bytes_per_s
        end = time.monotonic() + _TOTAL * slow
        request = _request(candidate, limits)
        step, file, allowed = _LOADING, str(model.path), slow

        def on_progress(line: dict[str, Any]) -> float:
            nonlocal step, file, allowed
            step, file = str(line["step"]), str(line["file"])
            if checking is not None:
                checking(model.path.name, _share(step, float(line["progress"])))
            allowed = limits.stall_s if step in _QUICK else slow
            return min(allowed, end - time.monotonic())

        try:
            reply = self.child.ask(request, slow, on_progress)
        except ChildDiedError as died:
            happened = _death(died, allowed, request["memory"])
            raise _refused(file, step, happened) from None
        if checking is not None:
            checking(model.path.name, 1.0)
        fault, message = reply["fault"], one_line(str(reply.get("message", "")), 400)
        if fault == "memory":
            self.child.close()  # what it still holds would be missing for the next file
            raise _refused(file, step, f"needed more than {gib(request['memory'])}")
        if fault == ModelFileError.__name__:  # it names the file, and what to do
            raise ModelFileError(message)
        if fault:
            raise _refused(file, step, f"failed ({message})")


def _refused(file: str, step: str, happened: str) -> ModelFileError:
    return ModelFileError(
        f"{file}: its first load, tried in a child process, {happened} while {step}; {_ADVICE}"
    )


def _new(candidate: Candidate, vouched: Callable[[Path], bool]) -> dict[Path, str | None]:
    """The key of the model and of each adapter that nothing vouches for and that is not known."""
    keys: dict[Path, str | None] = {}
    if not all(map(vouched, candidate.model.files)):
        keys[candidate.model.path] = known.key_of(candidate.model)
    for adapter in candidate.adapters:
        if not all(map(vouched, adapter.files)):
            keys[adapter.path] = known.key_of(adapter, on=candidate.model)
    return {path: key for path, key in keys.items() if key is None or not known.is_known(key)}


def _request(candidate: Candidate, limits: Limits) -> dict[str, Any]:
    """What the child is asked for: see `child.answer`."""
    model, free = candidate.model, host_memory_free()
    free = sys.maxsize if free is None else free
    weights = model.weight_bytes
    repacked = candidate.repacked and 2 * weights < free
    large = min(_N_CTX, model.n_ctx_train or _N_CTX)
    need = estimate(model, n_ctx=large, n_batch=BATCH)
    if 4 * need.cache > free:
        need = estimate(model, n_ctx=(large := SHORT), n_batch=BATCH)
    header_bytes = sum(model.header_bytes)
    own = weights * repacked + need.cache + 4 * need.compute + 16 * header_bytes
    mapped = model.file_size + sum(2 * adapter.file_size for adapter in candidate.adapters)
    return {
        "model": str(model.path),
        "adapters": [str(adapter.path) for adapter in candidate.adapters],
        "repacked": repacked,
        "passes": weights < free,
        "n_ctx": large,
        "threads": min(llama.default_threads(), _THREADS, 1 + weights // _PER_THREAD),
        "memory": mapped + min(own, free) + limits.margin,
    }


def _share(step: str, share: float) -> float:
    return 0.8 * share if step == _LOADING else 0.9


def _death(died: ChildDiedError, seconds: float, memory: int) -> str:
    """What happened, as a clause."""
    if died.timed_out:
        return f"did not finish within {seconds:.0f} s"
    if died.code == MEMORY_EXIT or any(words in died.words.lower() for words in NO_MEMORY):
        return f"needed more than {gib(memory)}"
    name = "" if died.code is None else crash_name(died.code)
    happened = _CRASHES.get(name, name or f"exit code {died.code}")
    if name == "SIGABRT" and died.words:
        last = died.words.splitlines()[-1]
        happened += f": {one_line(_FOLDER.sub('', last))}"
    return f"crashed llama.cpp ({happened})"
