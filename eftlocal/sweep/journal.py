"""The results of a sweep on disk, answer by answer: a crash loses one answer at most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eftlocal.bases import Closing
from eftlocal.journal import journal
from eftlocal.journal.manifest import Manifest

_SWEEP = journal.Kind("sweep", "a result of a sweep", "give another --out")


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
        self.records: dict[tuple[str, int], Record] = {}
        self._file = journal.Journal(path, manifest, kind=_SWEEP, take=self._take)

    def add(self, record: Record) -> None:
        """Appends an answer; once this returns, no crash loses it.

        Raises:
            EftlocalError: the disk refuses; what was done before is kept.
        """
        changed = {"dials": dict(record.dials), "values": _written(record.values)}
        self._file.add(vars(record) | changed)
        self._file.sync()
        self.records[record.point, record.prompt] = record

    @property
    def rows(self) -> int:
        """Answers in the file: an interrupt may come between the write and what follows it."""
        return self._file.rows

    def close(self) -> None:
        self._file.close()

    def _take(self, row: Mapping[str, Any]) -> None:
        values = {n: math.inf if v is None else float(v) for n, v in row["values"].items()}
        record = Record(
            point=str(row["point"]),
            prompt=int(row["prompt"]),
            dials=dict(row["dials"]),
            seed=int(row["seed"]),
            text=str(row["text"]),
            finish_reason=str(row["finish_reason"]),
            values=values,
        )
        self.records[record.point, record.prompt] = record


def _written(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
