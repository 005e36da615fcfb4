"""A judge on localhost for the tests: it answers as OpenAI's interface does, by a script."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

PARTS = re.compile(
    r"^#\w{16} The request\n(.*)\n#\w{16} Answer A\n(.*)\n#\w{16} Answer B\n(.*)\n#\w{16} The end$",
    re.DOTALL | re.MULTILINE,
)


class Shown(NamedTuple):
    """What a judge is shown."""

    prompt: str
    first: str
    second: str


def shown(text: str) -> Shown:
    """The parts of a question."""
    found = PARTS.search(text)
    assert found is not None, text
    return Shown(*found.groups())


class Fault(NamedTuple):
    """An answer that is no reply of the model; status 0 hangs up."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


def error(status: int, message: str, code: str = "", **headers: str) -> Fault:
    """An error in OpenAI's form."""
    body = json.dumps({"error": {"message": message, "type": "x", "param": None, "code": code}})
    return Fault(status, body.encode(), {n.replace("_", "-"): v for n, v in headers.items()})


def longer(text: str) -> str:
    """The judge that prefers the longer answer."""
    of = shown(text)
    gap = len(of.first) - len(of.second)
    return f"It is longer.\n[[{'A' if gap > 0 else 'B' if gap < 0 else 'C'}]]"


@dataclass
class ScriptedJudge:
    """Replies with what `script` makes of a question; `faults` come first, one a request."""

    script: Callable[[str], str] = longer
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, Mapping[str, str], dict[str, Any]]] = field(default_factory=list)
    answered: int = 0

    def __enter__(self) -> ScriptedJudge:
        handler = type("Handler", (_Handler,), {"judge": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def texts(self) -> list[str]:
        """The questions, in the order in which they came."""
        return [body["messages"][-1]["content"] for _, _, body in self.requests]


class _Handler(BaseHTTPRequestHandler):
    judge: ScriptedJudge
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        judge = self.judge
        judge.requests.append((self.path, dict(self.headers), body))
        fault = judge.faults.pop(0) if judge.faults else None
        if fault is None:
            said = judge.script(body["messages"][-1]["content"])
            message = {"role": "assistant", "content": said}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
            fault = Fault(200, json.dumps(answer | {"choices": [choice]}).encode())
        if not fault.status:
            self.close_connection = True
            return
        self.send_response(fault.status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(fault.body)))
        self.end_headers()
        self.wfile.write(fault.body)
        judge.answered += 1

    def log_message(self, *_: object) -> None:
        """Nothing: tests look at `requests`."""
