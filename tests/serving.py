"""A real server on this machine for tests: uvicorn in a thread, engines in their processes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import openai
import uvicorn

from eftlocal import Emulator
from eftlocal.server.access import Access
from eftlocal.server.app import Limits, make_app
from eftlocal.server.presets import Presets
from eftlocal.server.setup import Setup
from eftlocal.sources import Sources

QUESTION = "In which country is Toulouse?"
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
KEY = "a key"
Json = dict[str, Any]
SHORT: Json = {"model": "demo", "messages": ASKED, "temperature": 0, "max_tokens": 20}


@dataclass
class Serving:
    """A server that runs."""

    presets: Presets
    port: int
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, *, strict: bool = True, **options: Any) -> openai.OpenAI:
        options = {"api_key": "any", "max_retries": 0, "timeout": 60, **options}
        url = f"{self.url}/v1"
        return openai.OpenAI(base_url=url, _strict_response_validation=strict, **options)

    def later(self, **options: Any) -> openai.AsyncOpenAI:
        options = {"api_key": "any", "max_retries": 0, "timeout": 60, **options}
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", _strict_response_validation=True, **options
        )

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if body is not None:
            options["json"] = body
        return httpx.post(self.url + path, timeout=60, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def pid(self, name: str = "demo") -> int:
        engine = self.presets.served[name].engine
        assert engine is not None and engine.pid is not None
        return engine.pid

    def quiet(self) -> bool:
        """Whether no request is on its way."""
        return not any(served.active for served in self.presets.served.values())


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def setup(name: str = "demo", *, parallel: int = 4, **engine: Any) -> Setup:
    engine = {"threads": 1, **engine}
    return Setup(Sources.of_preset(name, offline=True, **engine), parallel)


@contextmanager
def as_served() -> Iterator[Emulator]:
    """The demo in this process as a server has it, to compare with."""
    with setup().sources.load(n_seq_max=2) as emulator:
        yield emulator


@contextmanager
def serving(
    setups: Mapping[str, Setup], *, key: str = "", waiting: int = 64, **room: Any
) -> Iterator[Serving]:
    """Serves until the block ends; the first preset is loaded. `room` is what Presets takes."""
    presets = Presets(setups, **room)
    app = Access(make_app(presets, Limits(waiting)), "127.0.0.1", key)
    config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    loops: list[asyncio.AbstractEventLoop] = []

    def run() -> None:
        loop = asyncio.new_event_loop()
        loops.append(loop)
        loop.run_until_complete(server.serve())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        served = Serving(presets, port, loops[0])
        until(lambda: served.get("/health").status_code == 200, 60)
        yield served
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
