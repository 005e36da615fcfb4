"""Files of the hub: fetched, found, pinned, refused, removed; against a hub on localhost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import CONTENT, REF, SHA256, Fetch, part, pin, small_hub
from hub_server import COMMIT, HubServer
from huggingface_hub import constants

from eftlocal import hub
from eftlocal.disk import readable
from eftlocal.errors import DownloadError, ModelFileError, UsageError
from eftlocal.hub.local import recall
from eftlocal.presets.schema import FileRef, RoleFile


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with small_hub(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture
def fetch(server: HubServer) -> Fetch:
    return Fetch(server)


# What a download leaves ---------------------------------------------------------------------


def test_a_file_is_kept_whole_under_repo_and_revision(fetch: Fetch, tmp_path: Path) -> None:
    path = fetch()
    assert path == tmp_path / "store" / "owner" / "models" / "main" / "base.gguf"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")] == ["base.gguf"]
    record = recall(path)
    assert record is not None
    assert (record.sha256, record.size) == (SHA256, len(CONTENT))
    assert (record.commit, record.checked) == (COMMIT, True)


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


def test_no_two_files_of_a_repository_have_one_place() -> None:
    one = FileRef(repo="owner/models", revision="refs/pr", file="1/base.gguf")
    other = FileRef(repo="owner/models", revision="refs/pr/1", file="base.gguf")
    assert hub.stored_path(one) != hub.stored_path(other)


def test_a_file_in_a_folder_of_the_repository(server: HubServer, fetch: Fetch) -> None:
    server.files["owner/models/Q8 0/small.gguf"] = b"small"
    path = fetch(FileRef(repo="owner/models", file="Q8 0/small.gguf"))
    assert path.read_bytes() == b"small"
    assert path.parent.name == "Q8 0"


def test_a_python_package_may_have_the_file(
    server: HubServer, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found without an import, and taken only where it is what the preset pins."""
    package = tmp_path / "site"
    (package / "some_models").mkdir(parents=True)
    (package / "some_models" / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "some_models" / "small.gguf").write_bytes(b"small")
    info = package / "some_models-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-models\nVersion: 1.0\n")
    (info / "RECORD").write_text("some_models/__init__.py,,\nsome_models/small.gguf,,\n")
    monkeypatch.syspath_prepend(str(package))
    digest = hashlib.sha256(b"small").hexdigest()
    ref = FileRef(
        repo="owner/models", file="q/small.gguf", sha256=digest, python_package="some-models"
    )
    path = fetch(ref)
    assert path == package / "some_models" / "small.gguf"
    assert hub.pinned(path)
    assert server.requests == []

    path.write_bytes(b"other")
    assert hub.locate(ref) is None
    assert "`pip install some-models`" in fetch.fails(ref, offline=True)


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
        hub.download([REF])


def test_a_path_is_a_file_or_an_error(tmp_path: Path) -> None:
    (tmp_path / "here.gguf").write_bytes(b"x")
    assert hub.resolve(FileRef(file=str(tmp_path / "here.gguf"))) == tmp_path / "here.gguf"
    with pytest.raises(ModelFileError, match=r"gone\.gguf: no such file"):
        hub.resolve(FileRef(file=str(tmp_path / "gone.gguf")))


def test_a_role_without_a_file_has_no_path() -> None:
    with pytest.raises(UsageError, match="no file of its own"):
        hub.resolve(RoleFile(of="reference"))


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


def test_a_pin_vouches_for_a_cached_file(server: HubServer, tmp_path: Path) -> None:
    link = in_the_hubs_cache(tmp_path, CONTENT)
    assert hub.locate(REF) == link
    assert not hub.vouched(link)
    assert hub.locate(pin(sha256=SHA256)) == link
    assert hub.vouched(link)


def test_a_cached_file_whose_bytes_are_not_what_its_name_says_is_not_used(
    fetch: Fetch, tmp_path: Path
) -> None:
    in_the_hubs_cache(tmp_path, CONTENT).resolve().write_bytes(CONTENT[::-1])
    assert fetch(pin(sha256=SHA256)) == hub.stored_path(REF)


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
    assert readable(size) == text


# The token ----------------------------------------------------------------------------------


def authorized(server: HubServer) -> set[tuple[str, str, bool]]:
    return {
        (r.host, r.method, "authorization" in map(str.lower, r.headers)) for r in server.requests
    }


@pytest.mark.parametrize("disabled", [False, True])
def test_whose_requests_carry_the_token(
    server: HubServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, disabled: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", disabled)
    fetch()
    server.redirect = False
    hub.remove(REF)
    fetch()
    assert authorized(server) == {
        ("hub", "HEAD", not disabled),
        ("hub", "GET", not disabled),
        ("storage", "GET", False),
    }


# Pins ---------------------------------------------------------------------------------------


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


def test_a_gated_model_says_what_to_do(server: HubServer, fetch: Fetch) -> None:
    server.head = [401]
    message = fetch.fails()
    assert f"accept the licence on {server.address()}/owner/models" in message
    assert "`hf auth login`" in message
    server.redirect, server.get = False, [403]
    assert "`hf auth login`" in fetch.fails()


def test_a_wrong_name_is_answered_with_the_nearest_ones(server: HubServer, fetch: Fetch) -> None:
    for name in ("Model-Q8_0.gguf", "Model-Q4_K_M.gguf", "README.md", "other.gguf", "a.gguf"):
        server.files[f"owner/models/{name}"] = b"x"
    message = fetch.fails(FileRef(repo="owner/models", file="model-q4_k_m.gguf"))
    assert "nearest of the 5 .gguf files there: Model-Q4_K_M.gguf, Model-Q8_0.gguf," in message
    assert "README" not in message
