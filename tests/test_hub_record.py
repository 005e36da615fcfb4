"""What is recorded of a download's bytes, and for which files it is vouched."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_client import CONTENT, REF, SHA256, Fetch, part, pin, small_hub
from hub_server import HubServer

from eftlocal import hub
from eftlocal.hub.local import recall

SAMPLES = Path(__file__).parent / "samples" / "hub"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setenv("EFTLOCAL_CACHE", str(tmp_path / "cache"))
    with small_hub(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture
def fetch(server: HubServer) -> Fetch:
    return Fetch(server)


def the_record(tmp_path: Path) -> Path:
    (record,) = (tmp_path / "cache" / "checksums").iterdir()
    return record


def test_a_checksum_of_the_hub_vouches(fetch: Fetch) -> None:
    assert hub.vouched(fetch())


def test_only_a_preset_pins(fetch: Fetch) -> None:
    """Whoever uploads a file that crashes llama.cpp has its checksum told by the hub."""
    path = fetch()
    assert hub.vouched(path)
    assert not hub.pinned(path)
    assert hub.locate(pin(sha256=SHA256)) == path
    assert hub.pinned(path)
    path.write_bytes(CONTENT[::-1])
    assert hub.locate(REF) is None
    assert not hub.pinned(path)
    assert fetch(pin(sha256=SHA256)) == path
    assert hub.pinned(path)


def test_a_pin_vouches_where_the_hub_knows_no_checksum(server: HubServer, fetch: Fetch) -> None:
    server.lfs = False
    path = fetch()
    assert not hub.vouched(path)
    record = recall(path)
    assert record is not None
    assert (record.sha256, record.checked) == (SHA256, False)
    assert hub.locate(pin(sha256=SHA256)) == path  # its hash is known: nothing is read again
    assert hub.vouched(path)


def test_a_file_put_there_by_hand_is_vouched_for_by_a_pin_only(server: HubServer) -> None:
    path = hub.stored_path(REF)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert hub.locate(REF) == path
    assert not hub.vouched(path)
    assert hub.locate(pin(sha256=SHA256)) == path
    assert hub.vouched(path)


def test_no_file_and_no_record_vouch_for_nothing(server: HubServer, tmp_path: Path) -> None:
    assert not hub.vouched(tmp_path / "nothing.gguf")
    assert not hub.vouched(tmp_path)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def rewrite(path: Path) -> None:
    path.write_bytes(CONTENT)


def swap(path: Path) -> None:
    """Another file with the same size and times."""
    found = path.stat()
    other = path.with_name("other")
    other.write_bytes(CONTENT[::-1])
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [touch, rewrite, swap, Path.unlink])
def test_a_touched_file_is_no_longer_vouched_for(
    fetch: Fetch, change: Callable[[Path], None]
) -> None:
    path = fetch()
    change(path)
    assert not hub.vouched(path)


def test_a_touched_file_that_is_the_same_is_vouched_for_again(fetch: Fetch) -> None:
    path = fetch()
    touch(path)
    assert hub.locate(REF) == path
    assert hub.vouched(path)


def test_a_changed_file_is_told_of_and_fetched_again(
    server: HubServer, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    path = fetch()
    path.write_bytes(CONTENT[::-1])
    for _ in range(3):
        assert hub.locate(REF) is None
        assert not hub.vouched(path)
    assert caplog.text.count("has changed since it was downloaded") == 1  # and hashed once
    assert fetch() == path
    assert path.read_bytes() == CONTENT
    assert hub.vouched(path)


def test_another_second_download_is_told_of(
    server: HubServer, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    server.lfs = False
    fetch()
    hub.remove(REF)
    fetch()
    assert "is not the file that was here before" not in caplog.text
    hub.remove(REF)
    server.files["owner/models/base.gguf"] = CONTENT[::-1]
    assert not hub.vouched(fetch())
    assert "is not the file that was here before" in caplog.text
    assert SHA256 in caplog.text


def test_a_new_version_with_a_checksum_is_nothing_to_tell(
    server: HubServer, fetch: Fetch, caplog: pytest.LogCaptureFixture
) -> None:
    fetch()
    hub.remove(REF)
    server.files["owner/models/base.gguf"] = CONTENT[::-1]
    caplog.set_level(logging.WARNING)
    assert hub.vouched(fetch())
    assert caplog.text == ""


@pytest.mark.parametrize(
    "record",
    [
        *("", "{", "[]", "null", "[" * 100_000, '{"checked": true}', "\0", "\ud800", "1e999"),
        *({"checked": 1}, {"checked": "true"}, {"sha256": "x"}, {"size": "7"}, {"path": "/else"}),
    ],
)
def test_a_damaged_record_vouches_for_nothing(
    fetch: Fetch, tmp_path: Path, record: str | dict[str, object]
) -> None:
    path, file = fetch(), the_record(tmp_path)
    if isinstance(record, dict):
        record = json.dumps(json.loads(file.read_text()) | record)
    file.write_bytes(record.encode("utf-8", "surrogatepass"))
    assert not hub.vouched(path)
    assert hub.locate(REF) == path


def test_a_folder_of_models_from_elsewhere_brings_no_records(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    monkeypatch.setenv("EFTLOCAL_MODELS", str(tmp_path / "copy"))
    copied = hub.stored_path(REF)
    assert copied.is_file()
    copied.with_name("base.gguf.json").write_text(json.dumps({"sha256": SHA256, "checked": True}))
    assert not hub.vouched(copied)


def test_a_record_that_is_a_pipe_is_not_waited_for(fetch: Fetch, tmp_path: Path) -> None:
    path, record = fetch(), the_record(tmp_path)
    record.unlink()
    os.mkfifo(record)
    assert not hub.vouched(path)


def test_a_cache_that_cannot_be_written_costs_only_the_record(
    fetch: Fetch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    path = fetch()
    assert path.read_bytes() == CONTENT
    assert not hub.vouched(path)
    assert "its checksum could not be recorded" in caplog.text


# Files that version 0.1.0 left ----------------------------------------------------------------


def test_a_record_of_version_0_1_0_vouches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFTLOCAL_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "base.gguf"
    file.write_bytes(b"GGUF sample")
    assert not hub.vouched(file)
    sample = json.loads((SAMPLES / "record-0.1.0.json").read_text(encoding="utf-8"))
    os.utime(file, ns=(sample["mtime_ns"], sample["mtime_ns"]))
    sample |= {"path": os.path.realpath(file), "inode": file.stat().st_ino}
    place = hashlib.sha256(os.fsencode(sample["path"])).hexdigest()[:32]
    (tmp_path / "cache" / "checksums").mkdir(parents=True)
    (tmp_path / "cache" / "checksums" / f"{place}.json").write_text(json.dumps(sample))
    assert hub.vouched(file) and hub.pinned(file)


def test_a_download_that_version_0_1_0_began_is_resumed(server: HubServer, fetch: Fetch) -> None:
    part().parent.mkdir(parents=True)
    part().write_bytes(CONTENT[:100_000])
    note = (SAMPLES / "base.gguf.part-0.1.0.json").read_text(encoding="utf-8")
    part().with_name("base.gguf.part.json").write_text(note.replace("ETAG", SHA256))
    assert fetch().read_bytes() == CONTENT
    assert [get.headers.get("Range") for get in server.gets()] == ["bytes=100000-"]
