"""Where files lie: in our store, in huggingface_hub's own cache, or at a path."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import platformdirs

from eftlocal.disk import beside
from eftlocal.errors import DownloadError, UsageError
from eftlocal.hub.disk import disk_errors, locked, part_files
from eftlocal.hub.http import huggingface_hub
from eftlocal.hub.record import confirm, examine, recall
from eftlocal.presets.schema import MOST_SHARDS, SPLIT, FileRef


def store() -> Path:
    """The folder of downloaded models. EFTLOCAL_MODELS overrides it."""
    folder = os.environ.get("EFTLOCAL_MODELS")
    return Path(folder) if folder else platformdirs.user_cache_path("eftlocal") / "models"


def stored_path(ref: FileRef) -> Path:
    """Where `ref`, a file of the hub, is or would be kept: <store>/<repo>/<revision>/<file>."""
    if ref.repo is None:
        raise UsageError(f"{ref.file} is a path, not a file of the hub")
    # A revision is one folder: "a/b" and its file "c" are not "a" and its file "b/c".
    return store() / ref.repo / quote(ref.revision or "main", safe="") / ref.file


def check_place(path: Path) -> None:
    """Refuse to change what lies outside the store, or what is no file, under a file's name.

    Raises:
        DownloadError: a symbolic link leads out of the store, or a folder or pipe is in the way.
    """
    top, folder = Path(os.path.realpath(store())), Path(os.path.realpath(path.parent))
    if not folder.is_relative_to(top):
        raise DownloadError(
            f"{path.parent}: a symbolic link leads out of the models folder; remove it, or set "
            "EFTLOCAL_MODELS to a folder that holds the models themselves"
        )
    with disk_errors(path):
        if path.exists() and not path.is_file():
            raise DownloadError(f"{path}: is not a regular file; remove it")


def shards(ref: FileRef) -> list[FileRef]:
    """The files that `ref` stands for: itself, or all shards of a split model, in order."""
    split = SPLIT.search(ref.file)
    if split is None or not 1 <= int(split[2]) <= MOST_SHARDS:  # a path may be named anything
        return [ref]
    stem, count = ref.file[: split.start()], int(split[2])
    return [
        FileRef(repo=ref.repo, revision=ref.revision, file=f"{stem}-{i:05}-of-{count:05}.gguf")
        for i in range(1, count + 1)
    ]


def locate(ref: FileRef) -> Path | None:
    """The file on this machine (the first shard of a split model), or None if it is not whole.

    Looks at the path, or in the store and then in huggingface_hub's own cache. A file that is
    not what a pin or its own record says counts as not there.
    """
    if ref.repo is None:
        return Path(ref.file) if os.path.isfile(ref.file) else None  # noqa: PTH113 - never raises
    for place in (in_store, _in_hub_cache):  # llama.cpp looks for shards in one folder
        paths = [place(shard) for shard in shards(ref)]
        if None not in paths:
            return paths[0]
    return None


def stored_bytes(ref: FileRef) -> int:
    """Bytes that `ref` takes in the store, unfinished downloads included."""
    return sum(file.lstat().st_size for shard in shards(ref) for file in _belongings(shard))


def remove(ref: FileRef) -> int:
    """Delete `ref` and what belongs to it from the store. Returns the bytes freed."""
    freed = 0
    for shard in shards(ref):
        path = stored_path(shard)
        if not path.parent.is_dir():
            continue
        check_place(path)
        with locked(path, shard), disk_errors(path):
            for file in _belongings(shard):
                freed += file.lstat().st_size
                file.unlink()
        with disk_errors(path):
            beside(path, ".lock").unlink(missing_ok=True)
            for folder in path.parents:
                if folder == store() or any(folder.iterdir()):
                    break
                folder.rmdir()
    return freed


def in_store(ref: FileRef) -> Path | None:
    """The one file, no shards, if the store has it whole, unchanged and as pinned."""
    path = stored_path(ref)
    return path if path.is_file() and _is_right(path, ref) else None


def _in_hub_cache(ref: FileRef) -> Path | None:
    assert ref.repo is not None
    cached = huggingface_hub().try_to_load_from_cache(ref.repo, ref.file, revision=ref.revision)
    return Path(cached) if isinstance(cached, str) and _is_right(Path(cached), ref) else None


def _is_right(path: Path, ref: FileRef) -> bool:
    """Whether a file is as pinned, and as recorded; it is read whole if that must be found out."""
    size = path.stat().st_size
    if ref.size is not None and size != ref.size:
        return False
    record = recall(path)
    if record is None and ref.sha256 is None:
        return True  # nobody says what it should be
    if record is not None and record.size != size and not record.changed:
        return False  # cut short
    with disk_errors(path):
        if record is None or not record.holds_for(path):
            record = examine(path)
    if record.changed or ref.sha256 not in (None, record.sha256):
        return False
    if ref.sha256 is not None and not record.pinned:
        confirm(record)
    return True


def _belongings(ref: FileRef) -> list[Path]:
    """The file and what a download keeps beside it, whatever they are, but no folders."""
    path = stored_path(ref)
    return [
        file
        for file in (path, *part_files(path))
        if file.is_symlink() or (file.exists() and not file.is_dir())
    ]
