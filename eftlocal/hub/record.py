"""What we know of a file's bytes: their SHA-256, and whether a checksum from elsewhere said so too.

Records lie in the cache folder, not beside the models: whoever hands over a folder of models
cannot hand over our word for them. A record holds for a file of that size, time and inode only.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eftlocal.cache_folder import cache_folder
from eftlocal.disk import hash_rest, open_regular, replace_text

_MOST_BYTES = 1 << 16  # of a record
_log = logging.getLogger(__name__)


class Record(BaseModel):
    """What was found when a file's bytes were last read whole.

    Attributes:
        path: the file, without symbolic links.
        sha256: of what was downloaded, or put there by hand.
        size, mtime_ns, inode: of the file that this holds for.
        checked: a checksum from the hub or from a preset was the same.
        pinned: a preset's was.
        changed: the file's bytes are no longer those of `sha256`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int
    mtime_ns: int
    inode: int
    checked: bool
    pinned: bool = False
    changed: bool = False
    commit: str | None = None

    def holds_for(self, path: Path) -> bool:
        found = path.stat()
        return (self.size, self.mtime_ns, self.inode) == _identity(found)


def vouched(path: str | os.PathLike[str]) -> bool:
    """Whether a checksum from the hub or from a preset vouches for the bytes at `path`.

    True if the whole file was hashed here, the checksum was the same, and the file has not been
    touched since. Nothing is read but a small record; a damaged one is False.
    """
    record = _that_holds(Path(path))
    return record is not None and record.checked


def pinned(path: str | os.PathLike[str]) -> bool:
    """The same, but by a preset's checksum alone.

    The hub's own says that a file came as it was uploaded, not that whoever uploaded it meant well.
    """
    record = _that_holds(Path(path))
    return record is not None and record.pinned


def _that_holds(path: Path) -> Record | None:
    record = recall(path)
    try:
        holds = record is not None and record.holds_for(path) and not record.changed
    except OSError:
        return None
    return record if holds else None


def recall(path: Path) -> Record | None:
    """What is recorded of `path`, whether it still holds or not."""
    real = os.path.realpath(path)
    try:
        with open_regular(_place(real)) as file:
            record = Record.model_validate_json(file.read(_MOST_BYTES))
    except (OSError, ValidationError):
        return None
    return record if record.path == real else None


def remember(
    path: Path,
    found: os.stat_result,
    sha256: str,
    *,
    checked: bool,
    pinned: bool = False,
    commit: str | None = None,
) -> Record:
    """Record the bytes of `path`; `found` is the state of the file that has them."""
    size, mtime_ns, inode = _identity(found)
    record = Record(
        path=os.path.realpath(path),
        sha256=sha256,
        size=size,
        mtime_ns=mtime_ns,
        inode=inode,
        checked=checked,
        pinned=pinned,
        commit=commit,
    )
    _write(record)
    return record


def examine(path: Path) -> Record:
    """Read a file whole that is not, or no longer, as recorded; what is recorded of it now."""
    known = recall(path)
    with open_regular(path, follow=True) as file:
        found = os.fstat(file.fileno())
        sha256 = hash_rest(file).hexdigest()
    if known is None:
        return remember(path, found, sha256, checked=False)
    size, mtime_ns, inode = _identity(found)
    seen = {"size": size, "mtime_ns": mtime_ns, "inode": inode, "changed": sha256 != known.sha256}
    record = known.model_copy(update=seen)
    if record.changed:
        _log.warning(
            "%s: has changed since it was downloaded (SHA-256 %s, was %s); it is not used",
            *(path, sha256, known.sha256),
        )
    _write(record)
    return record


def confirm(record: Record) -> None:
    """A preset's pin is the same as what was recorded."""
    _write(record.model_copy(update={"checked": True, "pinned": True}))


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino


def _place(real: str) -> Path:
    return (
        cache_folder() / "checksums" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
    )


def _write(record: Record) -> None:
    """Atomically. Without a record a file is only not vouched for, so this is no error."""
    place = _place(record.path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_text(place, record.model_dump_json())
    except OSError as error:
        _log.warning("%s: its checksum could not be recorded: %s", record.path, error.strerror)
