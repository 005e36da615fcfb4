"""Which of a preset's files are on this machine, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eftlocal import hub
from eftlocal.presets.file_ref import FileRef
from eftlocal.presets.schema import Preset, RoleFile


@dataclass(frozen=True)
class FileState:
    """A preset's file: where it is on this machine (None: nowhere), its bytes if known."""

    label: str
    ref: FileRef
    path: Path | None
    size: int | None

    @classmethod
    def of(cls, label: str, ref: FileRef) -> FileState:
        path = hub.locate(ref)
        size = ref.size
        if path is not None:
            size = sum((path.parent / Path(s.file).name).stat().st_size for s in hub.shards(ref))
        elif size is None and isinstance(ref, RoleFile):
            size = ref.approx_size
        return cls(label, ref, path, size)

    def as_json(self) -> dict[str, Any]:
        where = {"repo": self.ref.repo, "file": self.ref.file, "revision": self.ref.revision}
        path = None if self.path is None else str(self.path)
        return {**where, "size": self.size, "downloaded": path is not None, "path": path}


def states_of(preset: Preset) -> list[FileState]:
    return [FileState.of(label, ref) for label, ref in preset.files().items()]


def total_size(states: Sequence[FileState]) -> int | None:
    """Bytes of all files together; None where one is unknown."""
    sizes = [state.size for state in states]
    return sum(size for size in sizes if size is not None) if None not in sizes else None


def here(states: Sequence[FileState]) -> Literal["yes", "no", "part"]:
    """Whether the files are on this machine; "part" if only some are, or are unfinished."""
    if all(state.path for state in states):
        return "yes"
    begun = any(state.path or (state.ref.repo and hub.stored_bytes(state.ref)) for state in states)
    return "part" if begun else "no"
