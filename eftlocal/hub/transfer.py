"""One transfer: a file comes from the hub into the store, is resumed, checked and kept.

FILE.part grows, outlives its process, and becomes FILE when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from eftlocal.disk import hash_rest, open_regular, read_json, sync_folder, write_all
from eftlocal.errors import DownloadError
from eftlocal.hub.http import (
    TRIES,
    Answer,
    Fatal,
    Retryable,
    ask_for,
    patiently,
    phrase,
    quoted,
)
from eftlocal.hub.local import (
    Progress,
    check_place,
    disk_errors,
    in_store,
    locked,
    part_files,
    recall,
    remember,
    stored_path,
)
from eftlocal.hub.missing import check_room
from eftlocal.hub.remote import RemoteFile, ask, entity_tag, refuse, whole_number
from eftlocal.presets.schema import FileRef

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_log = logging.getLogger(__name__)


@dataclass
class Download:
    """One file on its way from the hub into the store."""

    ref: FileRef
    remote: RemoteFile
    progress: Progress | None

    def run(self) -> None:
        """Fetch the file, or the rest of it; check it; put it in its place."""
        path = stored_path(self.ref)
        check_place(path)
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
                    came = f"SHA-256 {part.sha256}, not the expected {self._expected}"
                    if part.size != self.remote.size:
                        came = f"{part.size} bytes, not {self.remote.size}"
                    part.restart()
                    raise DownloadError(
                        f"{self.ref}: the download has {came}; it was discarded, try again"
                    )
                if self._expected is None:
                    self._tell_that_nobody_knows(path, part.sha256)
                part.keep(
                    self.remote.commit,
                    checked=self._expected is not None,
                    pinned=self.ref.sha256 is not None,
                )

    @property
    def _expected(self) -> str | None:
        """The SHA-256 that the file must have, if anybody has said one."""
        return self.ref.sha256 or self.remote.sha256

    def _is_right(self, part: Part) -> bool:
        return part.size == self.remote.size and self._expected in (None, part.sha256)

    def _tell_that_nobody_knows(self, path: Path, sha256: str) -> None:
        before = recall(path)
        if before is not None and before.sha256 != sha256:
            what = f"is not the file that was here before (SHA-256 {before.sha256})"
        else:
            what = "is not checked"
        _log.warning(
            "%s: %s: neither the hub nor the preset says what its SHA-256 should be; it is %s",
            *(self.ref, what, sha256),
        )

    def _fetch(self, part: Part) -> int:
        """Make `part` the whole file, by its length. Returns the bytes it began with."""
        part.become(self.remote)
        began = part.size
        fresh = False

        def attempt() -> None:
            nonlocal fresh
            if fresh:  # a signed address expires, and the file may have changed
                self.remote = ask(self.ref)
                part.become(self.remote)
            now, fresh = fresh, True
            self._stream(part, fresh=now)

        patiently(attempt, self.ref, tries=TRIES, gained=lambda: part.size)
        part.settle()
        return began

    def _stream(self, part: Part, *, fresh: bool) -> None:
        """One request for what is missing of `part`, written as it comes.

        Args:
            fresh: the hub has just given the file's address.
        """
        self._report(part)
        if part.size == self.remote.size:
            return
        headers = {"Range": f"bytes={part.size}-"} if part.size else {}
        if part.size and part.validator and self._expected is None:
            headers["If-Range"] = part.validator
        with ask_for("GET", self.remote.location, headers) as answer:
            self._check_answer(answer, part, fresh)
            for chunk in answer.chunks:
                if part.size + len(chunk) > self.remote.size:
                    part.restart()
                    raise Fatal(
                        f"the server sent more than the {self.remote.size} bytes that it promised; "
                        "nothing was kept, try again"
                    )
                part.write(chunk)
                self._report(part)
        if part.size < self.remote.size:
            raise Retryable("the connection ended early")
        if part.begins_with(_LFS_POINTER):
            part.restart()
            raise Fatal("the server sent a Git LFS pointer instead of the file")

    def _check_answer(self, answer: Answer, part: Part, fresh: bool) -> None:
        """Let pass only the bytes asked for, or the whole file from its beginning."""
        if answer.status in (200, 206):
            self._check_body(answer.headers)
            validator = entity_tag(answer.headers.get("ETag"))
            validator = validator if validator and validator.startswith('"') else None
        if answer.status == 200:
            if part.size:
                part.restart()  # the server knows no ranges, or has another version
            self._check_length(answer.headers.get("Content-Length"))
            part.comes_as(validator)
        elif answer.status == 206:
            self._check_range(answer.headers.get("Content-Range", ""), part)
            changed = part.validator not in (None, validator)
            if part.size and changed and self._expected is None:
                part.restart()
                raise Retryable("the file has changed on the server")
            part.comes_as(validator)
        elif answer.status == 416 and part.size:
            part.restart()
            raise Retryable("the server does not have the range asked for")
        elif not answer.ours and answer.status in (401, 403, 404, 410):
            reason = f"the storage that the hub names answered {phrase(answer.status)}"
            raise Fatal(reason) if fresh else Retryable(reason)  # an address expires
        else:
            refuse(answer.status, answer.headers, self.ref)

    def _check_body(self, headers: Mapping[str, str]) -> None:
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "text/html":
            raise Fatal(
                "the server sent a web page instead of the file; "
                "is there a proxy or a login page on the way?"
            )
        coding = headers.get("Content-Encoding", "identity")
        if coding.strip().lower() not in ("", "identity"):
            raise Fatal(f"the server sent the file compressed ({quoted(coding)}), unasked")

    def _check_length(self, text: str | None) -> None:
        if text is not None and whole_number(text) != self.remote.size:
            raise Fatal(
                f"the server has {quoted(text)} bytes to send, and the hub promised "
                f"{self.remote.size}"
            )

    def _check_range(self, text: str, part: Part) -> None:
        found = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(\*|[0-9]{1,18})", text.strip())
        total = str(self.remote.size)
        if found and int(found[1]) == part.size <= int(found[2]) and found[3] in ("*", total):
            return
        reason = f"the server sent another range ({quoted(text)}) than the one asked for"
        if not part.size:
            raise Fatal(reason)
        part.restart()  # all of it can be asked for without a range
        raise Retryable(reason)

    def _report(self, part: Part) -> None:
        if self.progress is not None:
            self.progress(self.ref.file, part.size, self.remote.size)


def check_space(jobs: Iterable[Download]) -> None:
    """Refuse, before the first byte, what the disk has no room for."""
    needed = 0
    for job in jobs:
        part, _ = part_files(stored_path(job.ref))
        needed += max(0, job.remote.size - (part.lstat().st_size if part.is_file() else 0))
    check_room(needed)


class Part:
    """FILE.part: a prefix of the file to be, and the SHA-256 of what it holds so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part, self.note = part_files(path)
        with disk_errors(self.part):
            # Unbuffered, so that an error is met where it happens and nothing is left to flush.
            self._file: IO[bytes] = open_regular(self.part, os.O_RDWR | os.O_CREAT)
            self._hash = hash_rest(self._file)
            self.size = self._file.tell()
            self._left = self._state()  # as our last write left it
        self._touched = False  # by another process
        self.total = 0
        self.validator: str | None = None

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self.size:  # nothing of it is worth keeping
            with disk_errors(self.part):
                self.part.unlink(missing_ok=True)
                self.note.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def become(self, remote: RemoteFile) -> None:
        """Go on towards this version of the file; start again if the bytes are another's."""
        note = read_json(self.note)
        same = remote.etag is not None and note.get("etag") == remote.etag
        if not same or note.get("size") != remote.size or self.size > remote.size:
            self.restart()
            note = {}
        self.total = remote.size
        self.validator = entity_tag(note.get("validator"))
        self._identity = {"etag": remote.etag, "size": remote.size, "commit": remote.commit}
        self._write_note()

    def comes_as(self, validator: str | None) -> None:
        """Note the storage's own strong ETag of what it sends: what goes on must still have it."""
        if validator != self.validator:
            self.validator = validator
            self._write_note()

    def _write_note(self) -> None:
        note = {**self._identity, "validator": self.validator}
        if read_json(self.note) == note:
            return
        flags = os.O_RDWR | os.O_CREAT
        with disk_errors(self.part, self.total), open_regular(self.note, flags) as file:
            file.truncate()
            write_all(file, json.dumps(note).encode())

    def begins_with(self, text: bytes) -> bool:
        with disk_errors(self.part):
            self._file.seek(0)
            begins = self._file.read(len(text)) == text
            self._file.seek(0, os.SEEK_END)
        return begins

    def restart(self) -> None:
        with disk_errors(self.part):
            self._file.seek(0)
            self._file.truncate()
            self._left, self._touched = self._state(), False
        self._hash, self.size = hashlib.sha256(), 0

    def write(self, chunk: bytes) -> None:
        with disk_errors(self.part, self.total):
            self._touched = self._touched or self._left != self._state()
            write_all(self._file, chunk)
            self._left = self._state()
        self._hash.update(chunk)
        self.size += len(chunk)

    def settle(self) -> None:
        """Where another process wrote to the part too, what counts is what is on the disk now."""
        with disk_errors(self.part):
            if self._touched or self._left != self._state():
                self._file.seek(0)
                self._hash = hash_rest(self._file)
                self.size = self._file.tell()
                self._left, self._touched = self._state(), False

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns

    def keep(self, commit: str | None, *, checked: bool, pinned: bool) -> None:
        """Make the part the file. Its record is there before it is, so a file has a record."""
        with disk_errors(self.part, self.total):
            os.fsync(self._file.fileno())
            found = os.fstat(self._file.fileno())
            if not os.path.samestat(found, self.part.lstat()):
                raise DownloadError(
                    f"{self.part}: was replaced by another process while it was written; "
                    "it was not kept, try again"
                )
            self._file.close()
            remember(self.path, found, self.sha256, checked=checked, pinned=pinned, commit=commit)
            self.part.replace(self.path)
            self.note.unlink(missing_ok=True)
            sync_folder(self.path.parent)
