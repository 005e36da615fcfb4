"""A disk that is full or in the way."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hub_client import CONTENT, REF, Fetch, child_environment, part
from hub_server import HubServer

from eftlocal import hub


def test_too_little_space_is_refused_before_the_first_byte(
    server: HubServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = fetch.fails()
    assert "262 kB to download and only 200 kB free" in message
    assert server.gets() == []


def test_what_is_already_there_needs_no_space(
    server: HubServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.get = [("break", 125_000)] + [("break", 0)] * 99
    fetch.fails()
    server.get.clear()
    usage = shutil.disk_usage("/")._replace(free=150_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert fetch().read_bytes() == CONTENT


def test_a_disk_that_fills_keeps_what_it_took(
    server: HubServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 100_000

    def write_to_a_full_disk(file: Any, chunk: bytes) -> None:
        nonlocal room
        taken, room = chunk[:room], max(0, room - len(chunk))
        file.write(taken)
        if len(taken) < len(chunk):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(hub.part, "write_all", write_to_a_full_disk)
        message = fetch.fails()
    assert "the disk is full; the first 100 kB are kept, make room for 162 kB more" in message
    assert part().read_bytes() == CONTENT[:100_000]
    assert fetch().read_bytes() == CONTENT
    assert server.gets()[-1].headers["Range"] == "bytes=100000-"


FILL = """
import shutil
import sys
from eftlocal import hub
from eftlocal.errors import DownloadError
from eftlocal.file_ref import FileRef
shutil.disk_usage = lambda _: type("Usage", (), {"free": 1 << 40})
try:
    hub.resolve(FileRef(repo="owner/models", file="base.gguf"), endpoint=sys.argv[1])
except DownloadError as error:
    part = hub.stored_path(FileRef(repo="owner/models", file="base.gguf.part"))
    print(part.stat().st_size, error)
"""


def can_mount() -> bool:
    tool = shutil.which("unshare")
    command = [str(tool), "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return tool is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_a_real_full_disk(server: HubServer, tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("no user namespaces here to mount a small disk in")
    (tmp_path / "store").mkdir()
    mount = f'mount -t tmpfs -o size=128k tmpfs {tmp_path / "store"} && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", FILL]
    run = subprocess.run(
        [*command, server.address()], capture_output=True, text=True, env=child_environment()
    )
    assert run.stderr == ""
    size, message = run.stdout.split(maxsplit=1)
    assert 90_000 < int(size) <= 128 * 1024
    assert "the disk is full" in message


def test_a_folder_that_cannot_be_made(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    assert str(tmp_path / "store") in fetch.fails()


def test_a_second_process_is_told_of_the_first(server: HubServer, fetch: Fetch) -> None:
    path = hub.stored_path(REF)
    path.parent.mkdir(parents=True)
    with FileLock(f"{path}.lock"):
        assert "another process is downloading it" in fetch.fails()
    assert fetch().read_bytes() == CONTENT
