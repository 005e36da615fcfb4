"""Downloads against a hub on localhost that breaks in every way the real one does."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hub_server import COMMIT, HubServer, isolate
from huggingface_hub import constants

from eftlocal import hub
from eftlocal.errors import DownloadError, ModelFileError, UsageError
from eftlocal.presets import FileRef, RoleFile

CONTENT = bytes(range(256)) * 1024  # 256 KiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REF = FileRef(repo="owner/models", file="base.gguf")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer({"owner/models/base.gguf": CONTENT}) as running:
        yield running


class Fetch:
    """`hub.resolve` against the test's hub; keeps the waits and the progress."""

    def __init__(self, server: HubServer) -> None:
        self.server = server
        self.waits: list[float] = []
        self.progress: list[tuple[str, int, int]] = []

    def __call__(self, ref: FileRef = REF, **options: Any) -> Path:
        return hub.resolve(
            ref,
            endpoint=self.server.address(),
            sleep=self.waits.append,
            progress=lambda *seen: self.progress.append(seen),
            **options,
        )

    def fails(self, ref: FileRef = REF, **options: Any) -> str:
        with pytest.raises(DownloadError) as refused:
            self(ref, **options)
        message = str(refused.value)
        assert "\n" not in message
        return message


@pytest.fixture
def fetch(server: HubServer) -> Fetch:
    return Fetch(server)


def part() -> Path:
    path = hub.stored_path(REF)
    return path.with_name(path.name + ".part")


# What a download leaves ---------------------------------------------------------------------


def test_a_file_is_kept_whole_under_repo_and_revision(fetch: Fetch, tmp_path: Path) -> None:
    path = fetch()
    assert path == tmp_path / "store" / "owner" / "models" / "main" / "base.gguf"
    assert path.read_bytes() == CONTENT
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")) == [
        "base.gguf",
        "base.gguf.json",
    ]
    record = json.loads((path.parent / "base.gguf.json").read_text())
    assert record == {"sha256": SHA256, "size": len(CONTENT), "commit": COMMIT}


def test_a_file_that_is_here_is_not_asked_for_again(server: HubServer, fetch: Fetch) -> None:
    first = fetch()
    server.requests.clear()
    assert fetch() == first
    assert server.requests == []


def test_progress_goes_from_the_start_to_the_whole(fetch: Fetch) -> None:
    fetch()
    done = [seen[1] for seen in fetch.progress]
    assert done[0] == 0
    assert done[-1] == len(CONTENT)
    assert done == sorted(done)
    assert {(name, total) for name, _, total in fetch.progress} == {("base.gguf", len(CONTENT))}


def test_a_revision_is_a_folder_of_its_own(fetch: Fetch) -> None:
    pinned = FileRef(repo="owner/models", file="base.gguf", revision=COMMIT)
    assert fetch(pinned).parent.name == COMMIT
    assert hub.locate(REF) is None


def test_a_file_in_a_folder_of_the_repository(server: HubServer, fetch: Fetch) -> None:
    server.files["owner/models/Q8 0/small.gguf"] = b"small"
    path = fetch(FileRef(repo="owner/models", file="Q8 0/small.gguf"))
    assert path.read_bytes() == b"small"
    assert path.parent.name == "Q8 0"


# The token ----------------------------------------------------------------------------------


def authorized(server: HubServer) -> set[tuple[str, str, bool]]:
    return {
        (r.host, r.method, "authorization" in map(str.lower, r.headers)) for r in server.requests
    }


def test_the_token_goes_to_the_hub_and_never_to_the_storage(
    server: HubServer, fetch: Fetch
) -> None:
    fetch()
    assert authorized(server) == {("hub", "HEAD", True), ("storage", "GET", False)}


def test_the_token_stays_behind_when_only_the_get_is_redirected(
    server: HubServer, fetch: Fetch
) -> None:
    server.redirect, server.redirect_get_only = False, True
    assert fetch().read_bytes() == CONTENT
    assert authorized(server) == {
        ("hub", "HEAD", True),
        ("hub", "GET", True),
        ("storage", "GET", False),
    }


def test_a_disabled_token_is_not_sent(
    server: HubServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.redirect = False
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    fetch()
    assert authorized(server) == {("hub", "HEAD", False), ("hub", "GET", False)}


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
    server.get = [("break", 1000)] + [("break", 0)] * 99
    message = fetch.fails()
    assert "1 kB are kept, run it again" in message
    assert fetch.waits == [1, 1, 2, 4, 8, 16]
    server.get.clear()
    assert fetch().read_bytes() == CONTENT
    assert server.gets()[-1].headers["Range"] == "bytes=1000-"


def test_a_server_without_ranges_starts_over_and_comes_to_an_end(
    server: HubServer, fetch: Fetch
) -> None:
    server.ranges = False
    server.get = [("break", 75_000)]
    assert fetch().read_bytes() == CONTENT
    assert server.bytes_sent() == len(CONTENT) + 75_000


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


def test_the_server_says_how_long_to_wait(server: HubServer, fetch: Fetch) -> None:
    server.get, server.retry_after = [429], "7"
    fetch()
    assert fetch.waits == [7]


def test_no_server_makes_us_wait_for_an_hour(server: HubServer, fetch: Fetch) -> None:
    server.get, server.retry_after = [429], "3600"
    fetch()
    assert fetch.waits == [60]


def test_an_expired_address_is_asked_for_again(server: HubServer, fetch: Fetch) -> None:
    server.get = [("break", 1000), 403]
    assert fetch().read_bytes() == CONTENT
    assert server.count("HEAD") == 3


def test_a_range_the_server_lost_starts_over(server: HubServer, fetch: Fetch) -> None:
    server.get = [("break", 1000), 416]
    assert fetch().read_bytes() == CONTENT
    assert server.gets()[-1].headers.get("Range") is None


def test_no_server_at_all(fetch: Fetch) -> None:
    with pytest.raises(DownloadError, match="gave up after 3 tries"):
        hub.resolve(REF, endpoint="http://127.0.0.1:9", sleep=fetch.waits.append)
    assert fetch.waits == [1, 2]


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


def test_more_bytes_than_promised_are_not_kept(server: HubServer, fetch: Fetch) -> None:
    server.get = [("bytes", CONTENT + b"!")]
    assert "more than the 262144 bytes" in fetch.fails()
    assert not part().exists()


# Pins ---------------------------------------------------------------------------------------


def pin(**pins: Any) -> FileRef:
    return FileRef(repo="owner/models", file="base.gguf", **pins)


def test_a_pin_that_fits(fetch: Fetch) -> None:
    assert fetch(pin(sha256=SHA256, size=len(CONTENT))).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("ref", "what"), [(pin(sha256="0" * 64), "SHA-256"), (pin(size=7), "size 262144")]
)
def test_a_hub_that_has_another_file_than_the_pin_is_refused(
    server: HubServer, fetch: Fetch, ref: FileRef, what: str
) -> None:
    message = fetch.fails(ref)
    assert what in message
    assert "the preset pins" in message
    assert server.gets() == []


def test_a_pin_is_checked_where_the_hub_knows_no_checksum(server: HubServer, fetch: Fetch) -> None:
    server.lfs = False
    assert "not the expected " + "0" * 64 in fetch.fails(pin(sha256="0" * 64))
    assert fetch(pin(sha256=SHA256)).read_bytes() == CONTENT


def test_a_file_without_a_size_needs_a_pinned_one(server: HubServer, fetch: Fetch) -> None:
    server.sizes = False
    assert "pin its size" in fetch.fails()
    assert fetch(pin(size=len(CONTENT))).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_taken_if_the_pin_fits(server: HubServer, fetch: Fetch) -> None:
    path = hub.stored_path(REF)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(pin(sha256=SHA256), offline=True) == path
    assert hub.locate(pin(sha256="0" * 64)) is None
    assert server.requests == []


def test_a_file_cut_short_counts_as_missing(fetch: Fetch) -> None:
    fetch().write_bytes(CONTENT[:-1])
    assert hub.locate(REF) is None
    assert fetch().read_bytes() == CONTENT


# Refusals of the hub ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("code", ["", "GatedRepo"])
def test_a_gated_model_says_what_to_do(
    server: HubServer, fetch: Fetch, status: int, code: str
) -> None:
    server.head, server.error_code = [status], code
    message = fetch.fails()
    assert f"accept the licence on {server.address()}/owner/models" in message
    assert "`hf auth login`" in message


def test_a_gated_model_that_refuses_only_the_get(server: HubServer, fetch: Fetch) -> None:
    server.redirect, server.get = False, [403]
    assert "`hf auth login`" in fetch.fails()


def test_a_wrong_name_is_answered_with_the_nearest_ones(server: HubServer, fetch: Fetch) -> None:
    for name in ("Model-Q8_0.gguf", "Model-Q4_K_M.gguf", "README.md", "other.gguf", "a.gguf"):
        server.files[f"owner/models/{name}"] = b"x"
    message = fetch.fails(FileRef(repo="owner/models", file="model-q4_k_m.gguf"))
    assert "nearest of the 5 .gguf files there: Model-Q4_K_M.gguf, Model-Q8_0.gguf," in message
    assert "README" not in message


def test_a_repository_without_models(server: HubServer, fetch: Fetch) -> None:
    assert "no .gguf file at all" in fetch.fails(FileRef(repo="other/repo", file="x.gguf"))


def test_a_repository_that_is_not_there(server: HubServer, fetch: Fetch) -> None:
    server.head, server.error_code = [404], "RepoNotFound"
    assert f"no repository {server.address()}/owner/models" in fetch.fails()


def test_a_revision_that_is_not_there(fetch: Fetch) -> None:
    assert 'no revision "v9"' in fetch.fails(pin(revision="v9"))


def test_another_status_is_named(server: HubServer, fetch: Fetch) -> None:
    server.get = [418]
    assert "answered 418" in fetch.fails()


# Offline ------------------------------------------------------------------------------------


def test_offline_names_the_file_and_how_to_get_it(server: HubServer, fetch: Fetch) -> None:
    message = fetch.fails(offline=True)
    assert "owner/models/base.gguf is not on this machine" in message
    assert "`eftlocal models pull`" in message
    assert str(hub.stored_path(REF)) in message
    assert server.requests == []


def test_the_hubs_own_offline_switch(
    server: HubServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline" in fetch.fails()
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        hub.download([REF], endpoint=server.address())


def test_a_path_is_a_file_or_an_error(tmp_path: Path) -> None:
    (tmp_path / "here.gguf").write_bytes(b"x")
    assert hub.resolve(FileRef(file=str(tmp_path / "here.gguf"))) == tmp_path / "here.gguf"
    with pytest.raises(ModelFileError, match=r"gone\.gguf: no such file"):
        hub.resolve(FileRef(file=str(tmp_path / "gone.gguf")))


def test_a_role_without_a_file_has_no_path() -> None:
    with pytest.raises(UsageError, match="no file of its own"):
        hub.resolve(RoleFile(of="reference"))


# The disk -----------------------------------------------------------------------------------


def test_too_little_space_is_refused_before_the_first_byte(
    server: HubServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=200_000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage)
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
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage)
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
        full.setattr(hub, "write_all", write_to_a_full_disk)
        message = fetch.fails()
    assert "the disk is full; the first 100 kB are kept, make room for 162 kB more" in message
    assert part().read_bytes() == CONTENT[:100_000]
    assert fetch().read_bytes() == CONTENT
    assert server.gets()[-1].headers["Range"] == "bytes=100000-"


FILL = """
import sys
from eftlocal import hub
from eftlocal.errors import DownloadError
from eftlocal.presets import FileRef
hub.shutil.disk_usage = lambda _: type("Usage", (), {"free": 1 << 40})
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


# Interrupted --------------------------------------------------------------------------------


def test_ctrl_c_keeps_the_part(server: HubServer, fetch: Fetch) -> None:
    def stop(file: str, done: int, total: int, /) -> None:
        if done >= 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.resolve(REF, endpoint=server.address(), progress=stop)
    kept = part().stat().st_size
    assert 50_000 <= kept < len(CONTENT)
    assert fetch().read_bytes() == CONTENT
    assert server.gets()[-1].headers["Range"] == f"bytes={kept}-"


CHILD = """
import sys
from eftlocal import hub
from eftlocal.presets import FileRef
hub.resolve(
    FileRef(repo="owner/models", file="base.gguf"),
    endpoint=sys.argv[1],
    progress=lambda file, done, total: print(done, flush=True),
)
"""


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_killed_process_loses_nothing(server: HubServer, fetch: Fetch) -> None:
    server.get = [("stop", 150_000)]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, server.address()],
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
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


# Models in shards, the hub's own cache, removal ---------------------------------------------


SPLIT = FileRef(repo="owner/models", file="big-00001-of-00003.gguf")


def test_all_shards_are_fetched_and_the_first_is_given(server: HubServer, fetch: Fetch) -> None:
    for i in (1, 2, 3):
        server.files[f"owner/models/big-0000{i}-of-00003.gguf"] = CONTENT[: 1000 * i]
    path = fetch(SPLIT)
    assert path.name == "big-00001-of-00003.gguf"
    assert [len((path.parent / s.file).read_bytes()) for s in hub.shards(SPLIT)] == [
        1000,
        2000,
        3000,
    ]
    (path.parent / "big-00002-of-00003.gguf").unlink()
    assert hub.locate(SPLIT) is None
    server.requests.clear()
    assert fetch(SPLIT) == path
    assert [Path(r.path).name for r in server.gets()] == ["big-00002-of-00003.gguf"]


def test_a_missing_shard_is_found_out_before_the_first_byte(
    server: HubServer, fetch: Fetch
) -> None:
    server.files["owner/models/big-00001-of-00003.gguf"] = CONTENT
    assert "big-00002-of-00003.gguf: no such file" in fetch.fails(SPLIT)
    assert server.gets() == []


def in_the_hubs_cache(root: Path, content: bytes) -> Path:
    """As huggingface_hub lays it out: a blob named by its SHA-256 and a link to it."""
    repo = root / "hf" / "models--owner--models"
    blob = repo / "blobs" / hashlib.sha256(content).hexdigest()
    link = repo / "snapshots" / COMMIT / "base.gguf"
    for folder in (blob.parent, link.parent, repo / "refs"):
        folder.mkdir(parents=True)
    blob.write_bytes(content)
    link.symlink_to(blob)
    (repo / "refs" / "main").write_text(COMMIT)
    return link


def test_a_file_in_the_hubs_own_cache_is_used(
    server: HubServer, fetch: Fetch, tmp_path: Path
) -> None:
    link = in_the_hubs_cache(tmp_path, CONTENT)
    assert fetch() == link
    assert fetch(pin(revision=COMMIT, sha256=SHA256, size=len(CONTENT))) == link
    assert server.requests == []


@pytest.mark.parametrize("ref", [pin(sha256=SHA256), pin(size=len(CONTENT))])
def test_a_cached_file_that_is_not_the_pinned_one_is_not_used(
    fetch: Fetch, tmp_path: Path, ref: FileRef
) -> None:
    in_the_hubs_cache(tmp_path, b"something else")
    assert fetch(ref) == hub.stored_path(ref)


def test_removal_frees_the_file_and_leaves_its_neighbours(
    server: HubServer, fetch: Fetch, tmp_path: Path
) -> None:
    server.files["owner/models/other.gguf"] = b"other"
    other = fetch(FileRef(repo="owner/models", file="other.gguf"))
    fetch()
    assert hub.remove(REF) >= len(CONTENT)
    assert hub.locate(REF) is None
    assert other.read_bytes() == b"other"
    assert hub.remove(FileRef(repo="owner/models", file="other.gguf")) >= 5
    assert list((tmp_path / "store").iterdir()) == []
    assert hub.remove(REF) == 0


def test_removal_takes_an_unfinished_download_too(server: HubServer, fetch: Fetch) -> None:
    server.get = [("break", 125_000)] + [("break", 0)] * 99
    fetch.fails()
    assert hub.remove(REF) >= 125_000
    assert not part().exists()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_320_000_000, "1.32 GB"), (2e12, "2 TB")],
)
def test_sizes_are_readable(size: float, text: str) -> None:
    assert hub.readable(size) == text
