"""Requests to a server of completions, timed from here; and many clients at once."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Asked:
    """A request: the path it goes to, and its body."""

    path: str
    body: Any

    def to(self, **more: Any) -> Asked:
        """The same with other fields."""
        return Asked(self.path, {**self.body, **more})


@dataclass(frozen=True)
class Told:
    """An answer.

    Attributes:
        text: of its first choice; of an error, the body.
        tokens: as its usage counts them; 0 where it was left, or says nothing of them.
        first, seconds: from the request to the first text, and to the end; first is nan of one
            that came whole.
        body: of one that came whole.
    """

    status: int
    text: str = ""
    tokens: int = 0
    first: float = math.nan
    seconds: float = 0.0
    body: Any = None


class Client:
    """One client with one connection, which is made again after it was left."""

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        self._connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=300)

    def close(self) -> None:
        self._connection.close()

    def ask(self, asked: Asked, *, leave_after: int | None = None) -> Told:
        """Waits for an answer; a stream may be left after so many chunks."""
        data = asked.body if isinstance(asked.body, bytes) else json.dumps(asked.body).encode()
        began = time.perf_counter()
        try:
            response = self._sent(asked.path, data)
        except (http.client.RemoteDisconnected, BrokenPipeError):  # closed after the last answer
            self.close()
            response = self._sent(asked.path, data)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            return self._whole(response, began)
        return self._stream(response, began, leave_after)

    def _sent(self, path: str, data: bytes) -> http.client.HTTPResponse:
        self._connection.request("POST", path, data, {"Content-Type": "application/json"})
        return self._connection.getresponse()

    def _whole(self, response: http.client.HTTPResponse, began: float) -> Told:
        text = response.read().decode()
        seconds = time.perf_counter() - began
        if response.status != 200:
            return Told(response.status, text, seconds=seconds)
        body = json.loads(text)
        choice = body["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        tokens = body["usage"]["completion_tokens"]
        return Told(200, text, tokens, seconds=seconds, body=body)

    def _stream(
        self, response: http.client.HTTPResponse, began: float, leave_after: int | None
    ) -> Told:
        texts, tokens, first = [], 0, math.nan
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                return Told(500, line.decode(), seconds=time.perf_counter() - began)
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
            for choice in chunk["choices"]:
                text = choice.get("text") or choice.get("delta", {}).get("content") or ""
                if text and math.isnan(first):
                    first = time.perf_counter() - began
                texts.append(text)
            if leave_after is not None and len(texts) > leave_after:
                self.close()
                break
        return Told(200, "".join(texts), tokens, first, time.perf_counter() - began)


def at_once(url: str, asked: Iterable[Asked], clients: int) -> list[Told]:
    """Requests by so many clients, each taking the next as it is done; in the requests' order."""
    own = threading.local()
    made: list[Client] = []

    def ask(one: Asked) -> Told:
        if not hasattr(own, "client"):
            own.client = Client(url)
            made.append(own.client)
        told: Told = own.client.ask(one)
        return told

    with ThreadPoolExecutor(clients) as pool:
        told = list(pool.map(ask, asked))
    for client in made:
        client.close()
    return told


def for_a_while(seconds: float, clients: int, turn: Callable[[int], Callable[[], Any]]) -> None:
    """Clients that each do their turn again and again until the time is over.

    Args:
        turn: makes what the client of a number does each time.
    """
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        once = turn(number)
        while time.monotonic() < end:
            once()

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(work, number) for number in range(clients)]:
            done.result()


def tokens_told(body: Any) -> Iterator[tuple[str, list[float]]]:
    """Of a whole answer with log-probabilities, each token's text, and those of the best, in
    order."""
    found = body["choices"][0]["logprobs"]
    if "content" in found:
        for one in found["content"]:
            yield one["token"], [top["logprob"] for top in one["top_logprobs"]]
    else:
        for text, tops in zip(found["tokens"], found["top_logprobs"], strict=True):
            yield text, sorted(tops.values(), reverse=True)
