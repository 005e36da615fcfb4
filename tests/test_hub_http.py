"""The one place where requests are made: whose token goes where, and what a failure means."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_client import REF, child_environment
from hub_server import isolate

from eftlocal import hub
from eftlocal.errors import DownloadError
from eftlocal.hub import http
from eftlocal.hub.http import Fatal, Retryable


def origin(url: str) -> tuple[str, bytes, int]:
    return http._origin(huggingface_hub.get_session().build_request("GET", url).url)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://hub.example", "https://hub.example:443/x?y", True),
        ("http://hub.example", "http://HUB.EXAMPLE:80/", True),
        ("https://hüb.example", "https://xn--hb-xka.example/", True),
        ("https://hub.example", "https://a:b@hub.example/", True),
        ("https://hub.example", "http://hub.example/", False),
        ("https://hub.example", "https://hub.example:444/", False),
        ("https://hub.example", "https://hub.example.evil/", False),
        ("https://hub.example", "https://hub.example@evil/", False),
        ("https://hub.example", "https://evil/hub.example", False),
        ("https://hub.example", "https://evil\\@hub.example:1/", False),
        ("https://hub.example", "https://sub.hub.example/", False),
        ("http://127.0.0.1:80", "http://localhost:80", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(one: str, other: str, same: bool) -> None:
    assert (origin(one) == origin(other)) == same


def redirect(origin: str, location: str) -> str | None:
    """Where a redirect of a server leads, by the rules of the one place."""
    session = huggingface_hub.get_session()
    request = session.build_request("GET", origin)
    response = http._client_library().Response(302, headers={"Location": location})
    return http._target(request.url, response)


def test_a_secure_address_is_not_left_for_one_that_is_not() -> None:
    with pytest.raises(Fatal, match="not secure"):
        redirect("https://hub.example/a", "http://cdn.example/b")
    assert redirect("https://hub.example/a", "https://cdn.example/b") == "https://cdn.example/b"
    assert redirect("http://127.0.0.1/a", "https://cdn.example/b") == "https://cdn.example/b"
    assert redirect("https://hub.example/a/b", "../c?d") == "https://hub.example/c?d"


@pytest.mark.parametrize("token", ["hf_a b", "hf_\u00e9", "hf_\x1b[2J", "hf_\u2028x"])
def test_a_token_that_cannot_be_sent_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str
) -> None:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        DownloadError, match="the hub's token contains an invalid character"
    ) as refused:
        hub.look_up([REF])
    assert token not in str(refused.value)


def test_a_password_of_the_hub_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from eftlocal.hub.remote import refuse

    address = "https://me:secret@hub.example"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    with pytest.raises(Fatal) as refused:
        refuse(403, {}, REF)
    assert "https://hub.example/owner/models" in str(refused.value)
    assert "secret" not in str(refused.value)


def failing(error: Exception) -> Exception:
    """An error as the client raises it, with its cause."""
    wrapped = http._client_library().ConnectError("the client's words\nand more")
    wrapped.__cause__ = error
    return wrapped  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("cause", "meaning", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), Fatal, "no such host"),
        (socket.gaierror(socket.EAI_AGAIN, "later"), Retryable, "the client's words"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), Fatal, "no secure connection"),
        (ssl.SSLEOFError(8, "EOF"), Retryable, "the client's words"),
        (ConnectionResetError("reset"), Retryable, "the client's words"),
        (ssl.SSLCertVerificationError(1, "self-signed"), Fatal, "certificate is not valid"),
    ],
)
def test_what_cannot_pass_is_hopeless(
    cause: Exception, meaning: type[Exception], words: str
) -> None:
    found = http._meaning(failing(cause))
    assert type(found) is meaning
    assert words in str(found)
    assert "\n" not in str(found)


def test_an_error_that_is_our_own_is_not_hidden() -> None:
    mistake = AttributeError("ours")
    assert http._meaning(mistake) is mistake


def test_a_wrong_setting_is_one_line() -> None:
    program = (
        "from eftlocal import hub\nfrom eftlocal.errors import DownloadError\n"
        "from eftlocal.presets.schema import FileRef\n"
        "try:\n    hub.resolve(FileRef(repo='owner/models', file='base.gguf'))\n"
        "except DownloadError as error:\n    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**child_environment(), "HF_ENDPOINT": "http://[::1"},
    )
    assert "HF_ENDPOINT, or another setting HF_... of the environment, is wrong" in run.stdout
    assert run.stderr == ""


def test_a_name_that_takes_for_ever_to_resolve_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.05)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://slow.invalid")
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60))
    try:
        with pytest.raises(DownloadError, match="no answer within"):
            hub.look_up([REF])
    finally:
        over.set()


@pytest.mark.skipif(os.name == "nt", reason="a process cannot send itself Ctrl-C there")
def test_ctrl_c_ends_a_wait_for_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import signal

    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://slow.invalid")
    over = threading.Event()

    def resolve(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        over.wait(60)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            hub.look_up([REF])
    finally:
        over.set()
    assert time.monotonic() - began < 30  # and not the minute that the name takes
