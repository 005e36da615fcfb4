"""Model files: found where they lie, else fetched from the hub, resumed, checked and kept.

A download grows in FILE.part beside its place; FILE.part.json says of which version it is a
prefix. Whatever ends the process, the next run goes on from there. FILE appears only whole: its
length and SHA-256 checked, flushed to the disk, then renamed. huggingface_hub finds the file's
address, size and checksum; the transfer is our own, because it starts again in every process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eftlocal.disk import readable
from eftlocal.errors import DownloadError, ModelFileError, UsageError
from eftlocal.hub.local import (
    in_store,
    locate,
    offline_by_environment,
    pinned,
    recall,
    remove,
    shards,
    store,
    stored_bytes,
    stored_path,
    vouched,
)
from eftlocal.presets.schema import FileRef

if TYPE_CHECKING:  # what talks to the hub is imported when there is something to ask
    from eftlocal.hub.http import Sleep
    from eftlocal.hub.remote import RemoteFile
    from eftlocal.hub.transfer import Download, Progress

__all__ = [
    "Progress",
    "RemoteFile",
    "download",
    "locate",
    "look_up",
    "pinned",
    "readable",
    "recall",
    "remove",
    "resolve",
    "shards",
    "store",
    "stored_bytes",
    "stored_path",
    "vouched",
]


def resolve(
    ref: FileRef,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    endpoint: str | None = None,
    sleep: Sleep = time.sleep,
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
    if offline or offline_by_environment():
        raise DownloadError(
            f"{ref} is not on this machine and the program is offline: run "
            f"`eftlocal models pull` when online, or put the file at {stored_path(shards(ref)[0])}"
        )
    return download([ref], progress=progress, endpoint=endpoint, sleep=sleep)[0]


def download(
    refs: Sequence[FileRef],
    *,
    progress: Progress | None = None,
    endpoint: str | None = None,
    sleep: Sleep = time.sleep,
) -> list[Path]:
    """Fetch what the store lacks of `refs`; their paths (of a split model, its first shard's).

    Everything is looked up, and the free space checked for all of it, before the first byte.

    Args:
        refs: files of the hub.
        endpoint: the hub's address; None is HF_ENDPOINT or the public hub.
        sleep: called with the seconds to wait before a try is repeated.

    Raises:
        DownloadError: no such file, no access, no space, no network, not what was promised. What
            has arrived stays in the .part file, unless it was wrong.
    """
    from eftlocal.hub.transfer import Download, check_space

    jobs: dict[Path, Download] = {}
    for ref in refs:
        missing = {stored_path(shard): shard for shard in shards(ref) if in_store(shard) is None}
        parts = [shard for place, shard in missing.items() if place not in jobs]
        for part, found in zip(parts, look_up(parts, endpoint=endpoint, sleep=sleep), strict=True):
            jobs[stored_path(part)] = Download(part, found, progress, endpoint, sleep)
    check_space(jobs.values())
    for job in jobs.values():
        job.run()
    return [stored_path(shards(ref)[0]) for ref in refs]


def look_up(
    parts: Sequence[FileRef], *, endpoint: str | None = None, sleep: Sleep = time.sleep
) -> list[RemoteFile]:
    """What the hub says of a file, or of the parts of one model, their pins compared.

    Raises:
        DownloadError: as for `download`; for a wrong name the line has the nearest right ones.
    """
    from eftlocal.hub.http import patiently
    from eftlocal.hub.remote import ask, check_parts

    if len(parts) > 1:
        patiently(partial(check_parts, parts, endpoint), parts[0], sleep, tries=3)
    return [patiently(partial(ask, part, endpoint), part, sleep, tries=3) for part in parts]
