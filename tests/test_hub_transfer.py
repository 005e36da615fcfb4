"""Transfers that break, bytes that are wrong, processes that end, disks that are full."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hub_client import CONTENT, REF, SHA256, Fetch, child_environment, part, small_hub
from hub_server import HubServer

from eftlocal import hub
from eftlocal.errors import DownloadError
from eftlocal.hub.local import recall


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with small_hub(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture
def fetch(server: HubServer) -> Fetch:
    return Fetch(server)


# Connections that break ---------------------------------------------------------------------


def test_a_broken_connection_is_taken_up_where_it_broke(server: HubServer, fetch: Fetch) -> None:
    server.get = [("break", 75_000), ("break", 75_000)]
    assert fetch().read_bytes() == CONTENT
    assert [r.headers.get("Range") for r in server.gets()] == [
        None,
        "bytes=75000-",
        "bytes=150000-",
    ]
    assert server.bytes_sent() == len(CONTENT)
    assert fetch.waits == [1, 1]  # each try had made progress


def test_a_connection_that_never_gives_a_byte_is_given_up(server: HubServer, fetch: Fetch) -> None:
    server.get = [("break", 75_000)] + [("break", 0)] * 99
    message = fetch.fails()
    assert "75 kB are kept, run it again" in message
    assert fetch.waits == [1, 1, 2, 4, 8, 16]
    server.get.clear()
    assert fetch().read_bytes() == CONTENT
    assert server.gets()[-1].headers["Range"] == "bytes=75000-"


def test_a_server_without_ranges_that_always_breaks_is_given_up(
    server: HubServer, fetch: Fetch
) -> None:
    server.ranges = False
    server.get = [("break", 75_000)] * 99
    assert "gave up after 6 tries" in fetch.fails()
    assert len(server.gets()) == 7  # the first try made progress


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_trouble_is_waited_for(server: HubServer, fetch: Fetch, status: int) -> None:
    server.head = [status]
    server.get = [status]
    assert fetch().read_bytes() == CONTENT
    assert fetch.waits == [1, 1]


@pytest.mark.parametrize(("told", "waited"), [("7", 7), ("3600", 60)])
def test_the_server_says_how_long_to_wait(
    server: HubServer, fetch: Fetch, told: str, waited: int
) -> None:
    server.get, server.retry_after = [429], told
    fetch()
    assert fetch.waits == [waited]


def test_an_expired_address_is_asked_for_again(server: HubServer, fetch: Fetch) -> None:
    server.get = [403]
    assert fetch().read_bytes() == CONTENT
    assert server.count("HEAD") == 2


# The file is another ------------------------------------------------------------------------


def test_a_file_that_changes_on_the_way_is_fetched_anew(server: HubServer, fetch: Fetch) -> None:
    newer = CONTENT[::-1]

    def change(number: int) -> None:
        if number == 1:
            server.files["owner/models/base.gguf"] = newer

    server.get, server.after_get = [("break", 125_000)], change
    assert fetch().read_bytes() == newer
    assert server.gets()[-1].headers.get("Range") is None


def test_what_is_left_of_an_older_version_is_not_used(server: HubServer, fetch: Fetch) -> None:
    server.get = [("break", 125_000)] + [("break", 0)] * 99
    fetch.fails()
    server.get.clear()
    server.files["owner/models/base.gguf"] = newer = CONTENT[::-1]
    assert fetch().read_bytes() == newer


@pytest.mark.parametrize("note", ["", '{"etag": "', "[]", '{"etag": "other", "size": 262144}'])
def test_bytes_of_unknown_origin_are_not_used(server: HubServer, fetch: Fetch, note: str) -> None:
    part().parent.mkdir(parents=True)
    part().write_bytes(b"\0" * 1000)
    Path(f"{part()}.json").write_text(note)
    assert fetch().read_bytes() == CONTENT
    assert server.bytes_sent() == len(CONTENT)


@pytest.mark.parametrize("left", [b"\0" * 1000, b"\0" * len(CONTENT), b"\0" * (len(CONTENT) + 1)])
def test_bytes_torn_by_a_power_failure_are_fetched_again(
    server: HubServer, fetch: Fetch, left: bytes
) -> None:
    part().parent.mkdir(parents=True)
    part().write_bytes(left)
    Path(f"{part()}.json").write_text(json.dumps({"etag": SHA256, "size": len(CONTENT)}))
    assert fetch().read_bytes() == CONTENT


def test_wrong_bytes_are_not_kept(server: HubServer, fetch: Fetch) -> None:
    wrong = CONTENT[:-1] + b"\0"
    server.get = [("bytes", wrong)]
    message = fetch.fails()
    assert SHA256 in message
    assert hashlib.sha256(wrong).hexdigest() in message
    assert not hub.stored_path(REF).exists()
    assert not part().exists()
    assert fetch().read_bytes() == CONTENT


# Interrupted --------------------------------------------------------------------------------


def test_ctrl_c_keeps_the_part(server: HubServer, fetch: Fetch) -> None:
    def stop(file: str, done: int, total: int, /) -> None:
        if done >= 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.resolve(REF, progress=stop)
    kept = part().stat().st_size
    assert 50_000 <= kept < len(CONTENT)
    assert fetch().read_bytes() == CONTENT
    assert server.gets()[-1].headers["Range"] == f"bytes={kept}-"


CHILD = """
import sys
from eftlocal import hub
from eftlocal.presets.schema import FileRef
hub.resolve(
    FileRef(repo="owner/models", file="base.gguf"),
    progress=lambda file, done, total: print(done, flush=True),
)
"""


def test_a_killed_process_loses_nothing(server: HubServer, fetch: Fetch) -> None:
    server.get = [("stop", 150_000)]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, env=child_environment()
    )
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) == 150_000:
            break
    child.kill()
    child.wait()
    child.stdout.close()
    server.go_on.set()
    assert part().stat().st_size == 150_000
    assert hub.locate(REF) is None
    assert fetch().read_bytes() == CONTENT
    assert [r.headers.get("Range") for r in server.gets()] == [None, "bytes=150000-"]
    assert server.bytes_sent() == len(CONTENT)


# The disk ------------------------------------------------------------------------------------


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
        if len(chunk) < 1000:  # the note beside the part
            file.write(chunk)
            return
        taken, room = chunk[:room], max(0, room - len(chunk))
        file.write(taken)
        if len(taken) < len(chunk):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(hub.transfer, "write_all", write_to_a_full_disk)
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
from eftlocal.presets.schema import FileRef
shutil.disk_usage = lambda _: type("Usage", (), {"free": 1 << 40})
try:
    hub.resolve(FileRef(repo="owner/models", file="base.gguf"))
except DownloadError as error:
    path = hub.stored_path(FileRef(repo="owner/models", file="base.gguf"))
    print(path.with_name("base.gguf.part").stat().st_size, error)
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
    run = subprocess.run(command, capture_output=True, text=True, env=child_environment())
    assert run.stderr == ""
    size, message = run.stdout.split(maxsplit=1)
    assert 90_000 < int(size) <= 128 * 1024
    assert "the disk is full" in message


def test_a_second_process_is_told_of_the_first(server: HubServer, fetch: Fetch) -> None:
    path = hub.stored_path(REF)
    path.parent.mkdir(parents=True)
    with FileLock(f"{path}.lock"):
        assert "another process is downloading it" in fetch.fails()
    assert fetch().read_bytes() == CONTENT


# Other processes' hands on the part ---------------------------------------------------------------


def scribble(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"else")


def cut(path: Path) -> None:
    os.truncate(path, 10)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"else")


def replace(path: Path) -> None:
    path.with_name("other").write_bytes(bytes(len(CONTENT)))
    path.with_name("other").replace(path)


def link(path: Path) -> None:
    path.with_name("other").write_bytes(bytes(len(CONTENT)))
    path.unlink()
    path.symlink_to(path.with_name("other"))


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be replaced there")
@pytest.mark.parametrize("known", [True, False], ids=["checksum", "none"])
@pytest.mark.parametrize("change", [scribble, cut, lengthen, replace, link])
def test_what_others_do_to_the_part_is_not_taken_for_the_download(
    server: HubServer, known: bool, change: Callable[[Path], None]
) -> None:
    server.lfs = known
    server.get = [("break", 75_000)]
    changes = [change]

    def meddle(_name: str, done: int, total: int) -> None:
        if 0 < done < total and changes:
            time.sleep(0.02)  # the clock of files is coarse
            changes.pop()(part())

    path = None
    with suppress(DownloadError):
        path = hub.resolve(REF, progress=meddle)
    assert not changes
    if path is not None:  # without a checksum only what was written here counts
        assert not known or path.read_bytes() == CONTENT
        record = recall(path)
        assert record is not None
        assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.stat().st_size == len(CONTENT) and not path.is_symlink()
