"""What of a preset's files is not on this machine, and whether there is room for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from eftlocal.disk import readable
from eftlocal.errors import DownloadError
from eftlocal.hub.local import disk_errors, locate, store, stored_bytes
from eftlocal.presets.schema import FileRef, RoleFile


@dataclass(frozen=True)
class Missing:
    """Files of the hub that are not on this machine.

    Attributes:
        refs: each once.
        size: bytes that are still to come, by what the preset says; None where it says nothing.
        begun: bytes of them that are here already.
    """

    refs: tuple[FileRef, ...]
    size: int | None
    begun: int

    @classmethod
    def of(cls, files: Iterable[FileRef]) -> Missing:
        """Those of a preset's files; a file of a path is never downloaded. A file of which the
        checksum is pinned and was never compared is read whole."""
        refs = {str(ref): ref for ref in files if ref.repo is not None and locate(ref) is None}
        sizes = [size_of(ref) for ref in refs.values()]
        begun = sum(stored_bytes(ref) for ref in refs.values())
        known = [size for size in sizes if size is not None]
        size = max(0, sum(known) - begun) if len(known) == len(sizes) else None
        return cls(tuple(refs.values()), size, begun)

    def __bool__(self) -> bool:
        return bool(self.refs)


def size_of(ref: FileRef) -> int | None:
    """Bytes of a file by what its preset says."""
    return ref.size or (ref.approx_size if isinstance(ref, RoleFile) else None)


def free_space() -> int:
    """Bytes that are free on the disk of the models folder.

    Raises:
        DownloadError: the disk cannot be asked.
    """
    top = store().absolute()
    folder = next((place for place in (top, *top.parents) if place.is_dir()), top)
    with disk_errors(folder):
        return shutil.disk_usage(folder).free


def check_room(needed: int) -> None:
    """Raises DownloadError where so many bytes do not fit beside the models."""
    if needed > (free := free_space()):
        raise DownloadError(
            f"{store()}: {readable(needed)} to download and only {readable(free)} free; "
            "make room, or set EFTLOCAL_MODELS to a folder on another disk"
        )
