"""FILE.part: a file on its way. It grows, outlives its process, and becomes FILE when whole."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import IO

from eftlocal.disk import hash_rest, open_regular, read_json, sync_folder, write_all
from eftlocal.errors import DownloadError
from eftlocal.hub.disk import disk_errors, part_files
from eftlocal.hub.record import remember
from eftlocal.hub.remote import RemoteFile, entity_tag


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
