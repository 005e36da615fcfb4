"""The results of a sweep on disk: one JSON object a line, appended as answers are ready.

A manifest stands beside it. A crash at any moment can tear the last line at most; it is dropped
when the sweep goes on. One process at a time writes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from eftlocal.closing import Closing
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.sweep.manifest import Manifest, differences

_TOLD = 6  # differences named when a sweep is refused


@dataclass(frozen=True)
class Record:
    """One answer.

    Attributes:
        point: key of the grid's point.
        prompt: index of the prompt.
        dials: those of the point, as plain data, for whoever reads the file.
        values: metric to value; inf is null in the file.
    """

    point: str
    prompt: int
    dials: Mapping[str, Any]
    seed: int
    text: str
    finish_reason: str
    values: Mapping[str, float]


class Journal(Closing):
    """Opens or begins the file of a sweep.

    Args:
        path: of the results; the manifest is path + ".manifest.json".
        manifest: of the sweep that is to be run.

    Attributes:
        records: (point, prompt) to what is done.

    Raises:
        UsageError: the file holds another sweep (the line says what differs), something else, or
            is in use; or it cannot be written.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self._manifest = path.with_name(path.name + ".manifest.json")
        self.records: dict[tuple[str, int], Record] = {}
        lock = FileLock(path.with_name(path.name + ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"{path}: another sweep is writing it; wait for it") from None
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
        self._lock = lock
        try:
            self._check(manifest)
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._read()
        except OSError as error:
            lock.release()
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
        except BaseException:
            lock.release()
            raise

    def add(self, record: Record) -> None:
        """Appends an answer; once this returns, no crash loses it.

        Raises:
            EftlocalError: the disk refuses; what was done before is kept.
        """
        fields = vars(record) | {"dials": dict(record.dials), "values": _written(record.values)}
        line = json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            view = memoryview(line)
            while view:
                view = view[self._file.write(view) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise EftlocalError(
                f"{self.path}: {error.strerror or error}; what is done is kept, so make room and "
                "run the same command again"
            ) from None
        self.records[record.point, record.prompt] = record

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def _check(self, manifest: Manifest) -> None:
        there = self.path.exists() and self.path.stat().st_size > 0
        try:
            then = json.loads(self._manifest.read_text("utf-8"))
        except FileNotFoundError:
            then = None
        except ValueError:
            then = {}
        if there and not isinstance(then, dict):
            raise UsageError(
                f"{self.path} has no {self._manifest.name} beside it, so it may be no sweep; "
                "give another --out"
            )
        if there and (faults := differences(then, manifest)):
            more = [f"and {len(faults) - _TOLD} more"] if len(faults) > _TOLD else []
            raise UsageError(
                f"{self.path} holds another sweep: {'; '.join(faults[:_TOLD] + more)}. "
                "Give another --out"
            )
        if not there:
            whole = self._manifest.with_name(self._manifest.name + ".part")
            whole.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
            whole.replace(self._manifest)

    def _read(self) -> None:
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].split(b"\n")[:-1]
        end = 0
        for number, line in enumerate(lines, 1):
            try:
                record = _parsed(line)
            except (ValueError, LookupError, TypeError, AttributeError):
                if number < len(lines):
                    raise UsageError(
                        f"{self.path}, line {number}: not a result of a sweep; give another --out"
                    ) from None
                break  # a crash of the machine can leave a last line of zeros
            self.records[record.point, record.prompt] = record
            end += len(line) + 1
        self._file.truncate(end)
        self._file.seek(end)


def _written(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _parsed(line: bytes) -> Record:
    fields = json.loads(line)
    values = {n: math.inf if v is None else float(v) for n, v in fields["values"].items()}
    return Record(
        point=str(fields["point"]),
        prompt=int(fields["prompt"]),
        dials=dict(fields["dials"]),
        seed=int(fields["seed"]),
        text=str(fields["text"]),
        finish_reason=str(fields["finish_reason"]),
        values=values,
    )
