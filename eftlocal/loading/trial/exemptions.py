"""Which files need no trial: this program's own, those that a preset pins, those that passed one.

What passed has an empty file in the cache folder, named by a key: of the header's bytes, size,
times and inode of every part, and of the build of llama.cpp. So nothing is ever read back: what is
in the folder can be missing, never wrong.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

import eftlocal
from eftlocal import hub, llama
from eftlocal.cache_folder import cache_folder
from eftlocal.gguf_file.header import Header

MOST = 2000  # files remembered; those that were not used for the longest time are forgotten
_FORMAT = 1
_PACKAGE = Path(eftlocal.__file__).resolve().parent


def is_vouched(path: Path) -> bool:
    """Whether the file lies in this package, or has the checksum that a preset pins."""
    return _PACKAGE in path.resolve().parents or hub.pinned(path)


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
