"""Model files written again in another type, by llama.cpp's quantizer in a child process.

The quantizer tells nothing and cannot be stopped; a child can be killed, and its file is seen to
grow. A file appears under its name only whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eftlocal.child_process import ChildDiedError, ChildProcess
from eftlocal.disk import beside, lock_beside, readable, sync_folder
from eftlocal.errors import ModelFileError, UsageError
from eftlocal.gguf_file.check import checked_model
from eftlocal.gguf_file.header import Header
from eftlocal.hub.local import store
from eftlocal.llama.quantize import quantized
from eftlocal.loading.trial import key_of
from eftlocal.loading.weight_types import (
    bytes_as,
    main_type,
    name_without_type,
    outer_types,
    weights_by_type,
)

_SILENT_S = 120.0  # that may pass between two lines of the child
_SPARE = 64 << 20  # bytes left free on the disk

_child = ChildProcess(
    "eftlocal.loading.requantize_child",
    tuple,
    purpose="quantizing",
    longest=lambda: 1 << 16,
)


@dataclass(frozen=True)
class Copy:
    """A file that is to be a model in another type.

    Attributes:
        source: what it is made from.
        output: the type asked for the output matrix; None leaves it to `outer_types`.
        path: its place. The name says what it was made from, so a file that is there is right.
        size: bytes that it will have, about.
    """

    source: Header
    type: str
    output: str | None
    path: Path
    size: int

    @classmethod
    def of(cls, source: Header, type_: str, output: str | None = None) -> Copy:
        """The copy that the models folder has, or will have."""
        made_from = f"{key_of(source) or source.path} {outer_types(source, type_, output)}"
        mark = hashlib.sha256(made_from.encode()).hexdigest()[:8]
        name = f"{name_without_type(source)}-{type_}-{mark}.gguf"
        return cls(source, type_, output, folder() / name, bytes_as(source, type_, output))

    @property
    def is_there(self) -> bool:
        return self.path.is_file()


def folder() -> Path:
    """Where copies are kept: in the models folder."""
    return store() / "optimized"


def is_copy(path: Path) -> bool:
    """Whether a file is one of those that `write` made."""
    return path.parent.resolve() == folder().resolve()


def remove(path: Path) -> int:
    """Deletes a copy. Returns the bytes freed.

    Raises:
        UsageError: another process is writing it, or the system refuses.
    """
    try:
        lock = lock_beside(path, UsageError(f"{path}: another process writes it; wait for it"))
        try:
            freed = path.stat().st_size
            path.unlink()
            beside(path, ".part").unlink(missing_ok=True)  # of a process that was killed
        finally:
            lock.release()
        beside(path, ".lock").unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot remove {path}: {error.strerror or error}") from None
    return freed


def check_space(copies: Iterable[Copy]) -> None:
    """Refuses what the disk has no room for, before any work.

    Raises:
        UsageError: with the numbers.
    """
    needed = sum(copy.size for copy in copies if not copy.is_there)
    top = folder().absolute()
    there = next(place for place in (top, *top.parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if needed and needed + _SPARE > free:
        raise UsageError(
            f"{folder()}: {readable(needed)} to write and only {readable(free)} free; make room, "
            "or set EFTLOCAL_MODELS to a folder on another disk"
        )


def write(copy: Copy, threads: int, progress: Callable[[int], object]) -> None:
    """Writes a copy, unless it is there.

    Args:
        progress: called with the bytes written.

    Raises:
        ModelFileError: llama.cpp cannot read the source, or died of it; the disk is full.
        UsageError: another process writes the same file, or the folder cannot be written.
    """
    if copy.is_there:
        return
    target, part = copy.path, beside(copy.path, ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_beside(target, UsageError(f"{target}: another process writes it; wait for it"))
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from None
    try:
        if copy.is_there:  # by another process, just now
            return
        part.unlink(missing_ok=True)  # of a process that was killed
        _quantize(copy, part, threads, progress)
        if main_type(checked_model(part)) != copy.type:
            raise ModelFileError(f"{part}: did not become {copy.type}; its shape may not allow it")
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
        lock.release()


def seconds_of(copy: Copy, threads: int) -> float:
    """What writing a copy takes, about: by the speed of the quantizer on a few rows."""
    weights = weights_by_type(copy.source, copy.type, copy.output)
    sample = np.random.default_rng(0).standard_normal((64, 1024), np.float32)
    seconds = 0.0
    for type_, count in weights.items():
        began = time.perf_counter()
        quantized(sample, type_)
        seconds += (time.perf_counter() - began) * count / sample.size
    return seconds / threads


def _quantize(copy: Copy, part: Path, threads: int, progress: Callable[[int], object]) -> None:
    output, embedding = outer_types(copy.source, copy.type, copy.output)
    request = {
        "source": str(copy.source.path.absolute()),
        "target": str(part.absolute()),
        "type": copy.type,
        "output": output,
        "embedding": embedding,
        "threads": threads,
    }

    def on_progress(line: dict[str, Any]) -> float:
        progress(int(line["progress"]))
        return _SILENT_S

    try:
        fault = str(_child.ask(request, _SILENT_S, on_progress)["fault"])
    except ChildDiedError as died:
        fault = f"{copy.source.path}: llama.cpp's quantizer died ({died})"
        if died.words:
            fault += f": {died.words.splitlines()[-1]}"
    if fault:
        if (free := shutil.disk_usage(part.parent).free) < _SPARE:
            raise UsageError(
                f"{part.parent}: the disk is full ({readable(free)} left); make room for "
                f"{readable(copy.size)} and run it again: files that are done are kept"
            )
        raise ModelFileError(fault)
