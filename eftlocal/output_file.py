"""Files that are asked for: one rule for where they may be, and how whole ones are written.

A file is refused before the work that fills it. What is written whole is replaced whole or not at
all; what grows row by row is `journal`'s.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from eftlocal.disk import beside, replacing
from eftlocal.errors import UsageError
from eftlocal.presets.reading import builtin_path, user_path

STDOUT = "-"
BESIDE_ROWS = (".manifest.json", ".lock")  # what a file of rows has beside it
_ALSO_STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def is_stdout(path: Path) -> bool:
    """Whether the name means standard output: `-`, or a system's name for it."""
    return str(path) in (STDOUT, *_ALSO_STDOUT)


def check_outputs(
    outputs: Mapping[str, Path | None],
    inputs: Mapping[str, Path | None] | None = None,
    *,
    rows: Mapping[str, Path | None] | None = None,
    stdout: Collection[str] = (),
) -> None:
    """Refuses files to be written, before there is anything to write. Nothing is written.

    Args:
        outputs: written whole; by the option that names each, None if it was not given.
        inputs: files that are read, likewise.
        rows: files that grow row by row, which may be there, likewise.
        stdout: the options that may name standard output.

    Raises:
        UsageError: one is a folder, a device, a link, an input, a model, a file of presets or
            another output, or cannot be written; the line names the option.
    """
    taken = {option: path for option, path in (inputs or {}).items() if path is not None}
    growing = dict(rows or {})
    for option, path in {**growing, **outputs}.items():
        if path is None or (is_stdout(path) and option in stdout):
            continue
        try:
            if is_stdout(path):
                raise UsageError(f"{path} is standard output; name a file, as in ./name")
            if option in growing:
                check_place(path)
            else:
                _check_whole(path)
        except UsageError as error:
            raise UsageError(f"{option}: {error}") from None
        for other, file in taken.items():
            if _is_same(path, file):
                raise UsageError(f"{other} and {option} are the same file, {path}; give two")
            for suffix in BESIDE_ROWS if option in growing else ():
                if _is_same(mine := beside(path.resolve(), suffix), file):
                    raise UsageError(f"{other}: {file} would be lost: {option} writes {mine.name}")
        taken[option] = path


def _check_whole(path: Path) -> None:
    if path.is_symlink():
        raise UsageError(f"{path} is a link to {path.readlink()}; name that file itself")
    real = check_place(path)
    if not os.access(real.parent, os.W_OK):  # a new file takes its place
        raise UsageError(f"cannot write {path}: the folder {real.parent} is not writable")
    if not path.exists():
        return
    if any(_is_same(path, presets) for presets in (builtin_path(), user_path())):
        raise UsageError(f"{path} is a file of presets; name another file")
    with path.open("rb") as file:
        if file.read(4) == b"GGUF":
            raise UsageError(f"{path} is a model, which would be lost; name another file")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one is not there yet
        return one.absolute().resolve() == other.absolute().resolve()


def check_place(path: Path) -> Path:
    """Refuses what cannot become or go on being a file; nothing is written.

    Returns:
        The file itself where `path` is a link to it.

    Raises:
        UsageError: it is a folder or a device, its folder is missing, or it may not be written.
    """
    if "\0" in str(path):
        raise UsageError(f"cannot write {path}: no file's name has a NUL")
    try:
        real = path.resolve()
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file in it")
        if not real.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}; create it first")
        if path.exists():  # a pipe's link leads to no name, and yet it is there
            if not path.is_file():
                raise UsageError(f"{path} is a pipe or a device, not a file; name a file")
            real.open("r+b").close()
        elif not os.access(real.parent, os.W_OK):
            raise UsageError(f"cannot write {path}: the folder {real.parent} is not writable")
    except OSError as error:
        raise cannot_write(path, error) from None
    return real


def cannot_write(path: Path, error: OSError) -> UsageError:
    """What to raise where the system refuses to write a file."""
    return UsageError(f"cannot write {path}: {error.strerror or error}")


def write_whole(path: Path, data: bytes | str) -> None:
    """Writes a file, or standard output; a text as UTF-8 with its line ends as they are.

    Raises:
        UsageError: it cannot be written; what was there is as it was.
    """
    data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    if is_stdout(path):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise cannot_write(path, error) from None
