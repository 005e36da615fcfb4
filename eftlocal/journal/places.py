"""Where a file of rows may be, and files that are replaced whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from eftlocal.errors import UsageError
from eftlocal.hub.disk import beside


def check_place(path: Path) -> Path:
    """Refuses what cannot become or go on being a file of rows; nothing is written.

    Returns:
        The file itself where `path` is a link to it.

    Raises:
        UsageError: it is a folder or a device, its folder is missing, or it may not be written.
    """
    try:
        real = path.resolve()
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file in it")
        if not real.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}; make it first")
        if path.exists():  # a pipe's link leads to no name, and yet it is there
            if not path.is_file():
                raise UsageError(f"{path} is a pipe or a device, not a file; name a file")
            real.open("r+b").close()
        elif not os.access(real.parent, os.W_OK):
            raise UsageError(f"cannot write {path}: nothing may be written in {real.parent}")
    except OSError as error:
        raise cannot_write(path, error) from None
    return real


def cannot_write(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write {path}: {error.strerror or error}")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends; an exception leaves the old.

    Whenever the process or the machine stops, `path` is the old file or the new one, whole.
    """
    part = beside(path, ".part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
        sync_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder outlast a power failure; Windows cannot be asked to."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
