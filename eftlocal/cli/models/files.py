"""Which of a preset's files are on this machine, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eftlocal import hub
from eftlocal.presets.schema import FileRef, Preset, RoleFile


@dataclass(frozen=True)
class FileState:
    """A preset's file.

    Attributes:
        path: where it is on this machine; None if it is not.
        size: bytes, if known.
        checked: whether a checksum vouches for a downloaded file; None for others.
        sha256: what was recorded of a downloaded file that is one and not in parts.
    """

    label: str
    ref: FileRef
    path: Path | None
    size: int | None
    checked: bool | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, label: str, ref: FileRef) -> FileState:
        path = hub.locate(ref)
        size, checked, sha256 = ref.size, None, None
        if path is not None:
            files = [path.parent / Path(shard.file).name for shard in hub.shards(ref)]
            size = sum(file.stat().st_size for file in files if file.is_file())
            if ref.repo is not None:
                checked = all(map(hub.vouched, files))
                record = hub.recall(path) if len(files) == 1 else None
                sha256 = record.sha256 if record is not None else None
        elif size is None and isinstance(ref, RoleFile):
            size = ref.approx_size
        return cls(label, ref, path, size, checked, sha256)

    def as_json(self) -> dict[str, Any]:
        where = {"repo": self.ref.repo, "file": self.ref.file, "revision": self.ref.revision}
        here = {"downloaded": self.path is not None, "checked": self.checked, "sha256": self.sha256}
        return {**where, "size": self.size, **here, "path": self.path and str(self.path)}

    def checked_text(self) -> str:
        """What there is to say of the checksum; nothing of a file that was not downloaded."""
        return {True: "checked", False: "not checked", None: ""}[self.checked]


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
