"""A hub on localhost for the tests: HEAD, GET and listings as the real one gives them, and faults.

Two servers: the hub, and the storage that it redirects to on another port, so another host.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import huggingface_hub.constants
import pytest

COMMIT = "c0ffee" * 6 + "c0ff"


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let a test see none of this machine's models, presets, cache, token or proxy."""
    constants = huggingface_hub.constants
    monkeypatch.setenv("EFTLOCAL_MODELS", str(folder / "store"))
    monkeypatch.setenv("EFTLOCAL_CONFIG", str(folder / "config"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setattr("eftlocal.hub.http.sleep", lambda seconds: None)
    _forget_session()


@cache
def _forget_session() -> None:
    """Once: a client made before NO_PROXY was set would ask this machine's proxy."""
    huggingface_hub.close_session()


@dataclass
class Request:
    host: str  # "hub" or "storage"
    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0  # bytes of the body that left


@dataclass
class HubServer:
    """Files by "owner/name/file", and what goes wrong.

    head and get hold one fault per request of that kind, taken from the front; an empty list is
    no fault. A fault is a status, or for a GET ("break", n), ("stop", n) or ("bytes", content).
    """

    files: dict[str, bytes] = field(default_factory=dict)
    head: list[Any] = field(default_factory=list)
    get: list[Any] = field(default_factory=list)
    redirect: bool = True  # to the storage, on HEAD and GET
    redirect_get_only: bool = False
    ranges: bool = True
    lfs: bool = True  # the ETag is the SHA-256
    sizes: bool = True
    error_code: str = ""
    retry_after: str = ""
    after_get: Any = None  # called with the number of the GET that has just ended
    search: bytes | None = None  # what a search gives, instead of what it finds
    requests: list[Request] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> HubServer:
        self._servers = {}
        for host in ("hub", "storage"):
            server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, host))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            self._servers[host] = server
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def address(self, host: str = "hub") -> str:
        return f"http://127.0.0.1:{self._servers[host].server_address[1]}"

    def etag(self, name: str) -> str:
        content = self.files[name]
        return (
            hashlib.sha256(content).hexdigest() if self.lfs else hashlib.sha1(content).hexdigest()
        )

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.requests)

    def gets(self) -> list[Request]:
        """The GETs that asked for a file's content, where it was (not the redirects)."""
        return [r for r in self.requests if r.method == "GET" and r.path != "redirect"]

    def bytes_sent(self) -> int:
        return sum(request.sent for request in self.requests)


def _handler(hub: HubServer, host: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

        def do_HEAD(self) -> None:
            self.answer(hub.head.pop(0) if hub.head else None)

        def do_GET(self) -> None:
            if urlsplit(self.path).path == "/api/models":
                return self.found(parse_qs(urlsplit(self.path).query))
            listing = re.fullmatch(r"/api/models/(.+)/tree/(.+)", urlsplit(self.path).path)
            if listing:
                repo = listing[1] + "/"
                tree = [
                    {"type": "file", "path": name[len(repo) :], "size": len(content)}
                    for name, content in hub.files.items()
                    if name.startswith(repo)
                ]
                return self.finish_with(200, json.dumps(tree).encode())
            leaves = host == "hub" and (hub.redirect or hub.redirect_get_only)
            fault = hub.get.pop(0) if hub.get and not leaves else None
            return self.answer(fault)

        def answer(self, fault: Any) -> None:
            self.request_ = Request(host, self.command, self.path, dict(self.headers))
            hub.requests.append(self.request_)
            if isinstance(fault, int):
                return self.finish_with(fault, b"", self.errors())
            place = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", unquote(urlsplit(self.path).path))
            if not place:
                return self.finish_with(404, b"")
            name = f"{place[1]}/{place[3]}"
            if place[2] not in ("main", COMMIT):
                return self.finish_with(404, b"", {"X-Error-Code": "RevisionNotFound"})
            if name not in hub.files:
                return self.finish_with(404, b"", {"X-Error-Code": "EntryNotFound"})
            content, etag = hub.files[name], f'"{hub.etag(name)}"'
            head = {"X-Repo-Commit": COMMIT}
            get_moves = hub.redirect_get_only and self.command == "GET"
            if host == "hub" and (hub.redirect or get_moves):
                if self.command == "GET":
                    self.request_.path = "redirect"
                head |= {"X-Linked-Etag": etag, "Location": hub.address("storage") + self.path}
                if hub.sizes:
                    head["X-Linked-Size"] = str(len(content))
                return self.finish_with(302, b"", head)
            return self.content(content, {**head, "ETag": etag}, fault)

        def found(self, query: dict[str, list[str]]) -> None:
            """Repositories whose names hold the words, as the hub's search gives them."""
            if hub.search is not None:
                return self.finish_with(200, hub.search)
            repos = dict.fromkeys("/".join(name.split("/")[:2]) for name in hub.files)
            asked = query["search"][0].lower().split()
            fits = [repo for repo in repos if all(word in repo.lower() for word in asked)]
            limit = int(query["limit"][0])
            page = [{"id": repo, "gated": "manual" if "gated" in repo else False} for repo in fits]
            return self.finish_with(200, json.dumps(page[:limit]).encode())

        def errors(self) -> dict[str, str]:
            named = {"X-Error-Code": hub.error_code, "Retry-After": hub.retry_after}
            return {key: value for key, value in named.items() if value}

        def content(self, body: bytes, head: dict[str, str], fault: Any) -> None:
            what, value = fault or ("", None)
            if what == "bytes":
                body = value
            start, status = 0, 200
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked and hub.ranges:
                start, status = int(asked[1]), 206
                if start >= len(body):
                    return self.finish_with(416, b"")
                head["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.finish_with(status, body[start:], head, cut=(what, value))

        def finish_with(
            self,
            status: int,
            body: bytes,
            head: dict[str, str] | None = None,
            cut: tuple[str, Any] = ("", None),
        ) -> None:
            self.send_response(status)
            for key, value in (head or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if cut[0] in ("break", "stop"):
                self.close_connection = True
                self.send(body[: cut[1]])
                if cut[0] == "stop":
                    hub.stopped.set()
                    hub.go_on.wait(30)
            else:
                self.send(body)
            if status in (200, 206) and hub.after_get is not None:
                hub.after_get(len(hub.gets()))

        def send(self, body: bytes) -> None:
            sending = getattr(self, "request_", None)
            if sending:  # before the client has the last byte, and asks how many were sent
                sending.sent += len(body)
            try:
                self.wfile.write(body)
                self.wfile.flush()
            except OSError:  # the client has left, as some tests mean it to
                self.close_connection = True
                if sending:
                    sending.sent -= len(body)

    return Handler
