"""A hub that answers as each case of an attack says, and keeps what it was asked.

The tests run every case in their own process; scripts/check_hub.py runs the command.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

TOKEN = "hf_secret"
CONTENT = b"GGUF" + bytes(range(256)) * 512  # 128 KiB and a bit
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WHOLE = (CONTENT, CONTENT[::-1])  # one version of the file, and another
COMMIT = "c0ffee" * 6 + "c0ff"
POSIX = os.name == "posix"
Headers = dict[str, str | None]


@dataclass
class Seen:
    """One request that arrived at one of the two servers."""

    host: str  # "hub" or "other"
    method: str
    path: str
    headers: dict[str, str]

    @property
    def token(self) -> bool:
        return any(TOKEN in value for value in self.headers.values())


class Request(BaseHTTPRequestHandler):
    """A request to be answered, rightly by `rightly`, or in another way."""

    attacked: Attacked
    host: str
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""

    def do_HEAD(self) -> None:
        self.close_connection = True
        seen = Seen(self.host, self.command, self.path, dict(self.headers))
        self.attacked.requests.append(seen)
        self.number = sum(
            (r.host, r.method) == (self.host, self.command) for r in self.attacked.requests
        )
        with contextlib.suppress(OSError):  # the client has left, as it often should
            self.attacked.case.answer(self)

    do_GET = do_HEAD  # noqa: N815 - http.server's names

    @property
    def hub(self) -> str:
        return self.attacked.address("hub")

    @property
    def other(self) -> str:
        return self.attacked.address("other")

    @property
    def head(self) -> bool:
        return self.command == "HEAD"

    @property
    def lists(self) -> bool:
        return self.path.startswith("/api/")

    @property
    def blob(self) -> bool:
        """The storage's address of the file, at which the bytes are."""
        return self.path.startswith("/blob")

    def raw(self, text: bytes | str) -> None:
        self.wfile.write(text.encode("latin-1") if isinstance(text, str) else text)
        self.wfile.flush()

    def say(self, status: int, headers: Headers | None = None, body: bytes = b"") -> None:
        """Status, headers (None leaves one out) and, of a GET, the body."""
        told: Headers = {"Content-Length": str(len(body)), **(headers or {})}
        lines = [f"HTTP/1.1 {status} -"]
        lines += [f"{key}: {value}" for key, value in told.items() if value is not None]
        self.raw("\r\n".join([*lines, "Connection: close", "", ""]))
        if not self.head:
            self.raw(body)

    def promise(self, **changes: str | None) -> None:
        """The right answer to HEAD: where the file is, and what it is."""
        headers: Headers = {
            "Location": f"{self.other}/blob",
            "X-Linked-Size": str(SIZE),
            "X-Linked-Etag": f'"{SHA256}"',
            "X-Repo-Commit": COMMIT,
        }
        changed = {key.replace("_", "-"): value for key, value in changes.items()}
        self.say(302, {**headers, **changed})

    def send(self, body: bytes = CONTENT, status: int | None = None, **changes: str | None) -> None:
        """The right answer to GET at the storage, ranges too."""
        asked = self.headers.get("Range", "")
        start = int(asked[6:-1]) if asked else 0
        headers: Headers = {"ETag": '"storage"', "Content-Type": "application/octet-stream"}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        changed = {key.replace("_", "-"): value for key, value in changes.items()}
        right = 206 if asked else 200
        self.say(status or right, {**headers, **changed}, body[start:])

    def list(self, *names: str, link: str | None = None) -> None:
        entries = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
        self.say(200, {"Link": link}, json.dumps(entries).encode())

    def rightly(self) -> None:
        if self.lists:
            self.list("model.gguf")
        elif self.head and not self.blob:
            self.promise()
        elif self.blob:
            self.send()
        else:
            self.say(302, {"Location": f"{self.other}/blob"})

    def reset(self) -> None:
        """End the connection as a crashed server does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def drip(self, piece: bytes, seconds: float = 0.01) -> None:
        """For as long as anybody listens."""
        while not self.attacked.over.is_set():
            self.raw(piece)
            time.sleep(seconds)

    def hold(self) -> None:
        """Say nothing more, and stay."""
        self.attacked.over.wait(120)


Answer = Callable[[Request], None]
Change = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Case:
    """What one hostile hub does.

    Attributes:
        answer: called with every request.
        says: a regular expression for the one line; "" if the download must succeed.
        file, pin: what the preset asks for.
        requests: the most that may be made.
        code: the exit code, where it is not that of a failed download.
        before: called with the models folder and a folder outside of it.
        endpoint: the hub's address, made from "hub" and "other" addresses.
        slow: it is about time. The tests run it with short times.
        token: the hub is sent the token at all.
    """

    name: str
    answer: Answer
    says: str
    file: str = "model.gguf"
    pin: str = ""
    requests: int = 3
    code: int = 5
    before: Change | None = None
    endpoint: str = "{hub}"
    slow: bool = False
    token: bool = True


@dataclass
class Attacked:
    """The two servers of a case, running, and all the requests that came."""

    case: Case
    requests: list[Seen] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    servers: dict[str, ThreadingHTTPServer] = field(default_factory=dict)

    def address(self, host: str) -> str:
        return f"http://127.0.0.1:{self.servers[host].server_address[1]}"

    def endpoint(self) -> str:
        host = urlsplit(self.address("hub")).netloc
        return self.case.endpoint.format(
            hub=self.address("hub"), hub_host=host, hub_port=host.rpartition(":")[2]
        )


@contextmanager
def attacked_by(case: Case) -> Iterator[Attacked]:
    found = Attacked(case)
    for host in ("hub", "other"):
        handler = type("Handler", (Request,), {"attacked": found, "host": host})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        found.servers[host] = server
    try:
        yield found
    finally:
        found.over.set()
        for server in found.servers.values():
            server.shutdown()
            server.server_close()


def preset(case: Case) -> str:
    """A presets file with the one file of a case."""
    return (
        '[[preset]]\nname = "attacked"\nrecipe = { name = "base" }\n'
        f"[preset.roles.base]\nrepo = 'owner/models'\nfile = {json.dumps(case.file)}\n{case.pin}\n"
    )
