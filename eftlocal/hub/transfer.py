"""One transfer: a file comes from the hub into the store, is resumed, checked and kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eftlocal.errors import DownloadError
from eftlocal.hub.disk import disk_errors, locked, part_files, readable
from eftlocal.hub.part import Part
from eftlocal.hub.places import in_store, store, stored_path
from eftlocal.hub.record import recall
from eftlocal.hub.remote import RemoteFile, ask, open_from, refuse, same_host
from eftlocal.hub.retry import TRIES, Broken, Sleep, patiently
from eftlocal.presets.file_ref import FileRef

_log = logging.getLogger(__name__)


class Progress(Protocol):
    """Called as bytes arrive: the file's name, bytes on the disk, bytes in all."""

    def __call__(self, file: str, done_bytes: int, total_bytes: int, /) -> None: ...


@dataclass
class Download:
    """One file on its way from the hub into the store."""

    ref: FileRef
    remote: RemoteFile
    progress: Progress | None
    endpoint: str | None
    sleep: Sleep

    def run(self) -> None:
        """Fetch the file, or the rest of it; check it; put it in its place."""
        path = stored_path(self.ref)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, self.ref):
            if in_store(self.ref) is not None:
                return  # another process has finished it meanwhile
            with Part(path) as part:
                resumed = self._fetch(part)
                if resumed and not self._is_right(part):
                    # What an earlier run left may have been torn by a power failure.
                    part.restart()
                    self._fetch(part)
                if not self._is_right(part):
                    part.discard()
                    raise DownloadError(
                        f"{self.ref}: what arrived has SHA-256 {part.sha256}, not the expected "
                        f"{self._expected}; it was not kept, try again"
                    )
                self._tell_of_another(path, part)
                part.keep(self.remote.commit, checked=self._expected is not None)

    @property
    def _expected(self) -> str | None:
        """The SHA-256 that the file must have, if anybody has said one."""
        return self.ref.sha256 or self.remote.sha256

    def _is_right(self, part: Part) -> bool:
        return self._expected in (None, part.sha256)

    def _tell_of_another(self, path: Path, part: Part) -> None:
        """Nobody says what is right; but the file came before, and was another."""
        before = recall(path)
        if self._expected is None and before is not None and before.sha256 != part.sha256:
            _log.warning(
                "%s: is not the file that was here before (SHA-256 %s, was %s), and neither the "
                "hub nor the preset says which is right",
                *(self.ref, part.sha256, before.sha256),
            )

    def _fetch(self, part: Part) -> int:
        """Make `part` the whole file, by its length. Returns the bytes it began with."""
        part.become(self.remote)
        began = part.size
        first = True

        def attempt() -> None:
            nonlocal first
            if not first:  # a signed address expires, and the file may have changed
                self.remote = ask(self.ref, self.endpoint)
                part.become(self.remote)
            first = False
            self._stream(part)

        patiently(attempt, self.ref, self.sleep, tries=TRIES, gained=lambda: part.size)
        return began

    def _stream(self, part: Part) -> None:
        """One request for what is missing of `part`, written as it comes."""
        self._report(part)
        if part.size == self.remote.size:
            return
        with open_from(self.remote.location, part.size, self.endpoint) as response:
            self._check_answer(response, part)
            for chunk in response.iter_bytes():
                if part.size + len(chunk) > self.remote.size:
                    part.discard()
                    raise DownloadError(
                        f"{self.ref}: the server sent more than the {self.remote.size} bytes "
                        "that it promised; nothing was kept, try again"
                    )
                part.write(chunk)
                self._report(part)
        if part.size < self.remote.size:
            raise Broken("the connection ended early")

    def _check_answer(self, response: Any, part: Part) -> None:
        """Let pass only the bytes asked for, or the whole file from its beginning."""
        status = response.status_code
        if status == 200:
            part.restart()  # the server knows no ranges
        elif status == 206:
            asked = f"bytes {part.size}-{self.remote.size - 1}/"
            if not response.headers.get("Content-Range", "").startswith(asked):
                raise Broken("the server sent another range than the one asked for")
        elif status == 416:
            part.restart()
            raise Broken("the server does not have the range asked for")
        elif status in (401, 403) and not same_host(self.remote.location, self.endpoint):
            raise Broken(f"the file's address was refused ({status})")
        else:
            refuse(status, response.headers, self.ref, self.endpoint)

    def _report(self, part: Part) -> None:
        if self.progress is not None:
            self.progress(self.ref.file, part.size, self.remote.size)


def check_space(jobs: Iterable[Download]) -> None:
    """Refuse, before the first byte, what the disk has no room for."""
    needed = 0
    for job in jobs:
        part, _ = part_files(stored_path(job.ref))
        needed += max(0, job.remote.size - (part.stat().st_size if part.is_file() else 0))
    top = store().absolute()
    folder = next((place for place in (top, *top.parents) if place.is_dir()), top)
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{store()}: {readable(needed)} to download and only {readable(free)} free; "
            "make room, or set EFTLOCAL_MODELS to a folder on another disk"
        )
