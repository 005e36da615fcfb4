"""What the hub is told and what it says: the token, pins, refusals."""

from __future__ import annotations

import pytest
from hub_client import CONTENT, REF, SHA256, Fetch, pin
from hub_server import HubServer
from huggingface_hub import constants

from eftlocal import hub
from eftlocal.file_ref import FileRef

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
