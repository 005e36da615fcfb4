"""Clients that leave, read slowly, or ask for much: what is theirs ends, and nobody else waits."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import psutil
import pytest
from serving import ASKED, SHORT, Json, Serving, serving, setup, until

LONG: Json = {"messages": ASKED, "temperature": 1.5, "max_tokens": 400, "logit_bias": {}}


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving({"demo": setup(parallel=2)}) as served:
        body = {"prompt": "", "add_special_tokens": False}
        ends = served.get("/tokenizer_info").json()["eos_token"]
        ids = served.post("/tokenize", {**body, "prompt": ends}).json()["tokens"]
        LONG["logit_bias"] = {str(token): False for token in ids}  # so that it goes on
        yield served


def raw(server: Serving, body: Json, path: str = "/v1/chat/completions") -> socket.socket:
    """A connection with a request on it; nothing is read."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def first_chunk(connection: socket.socket) -> None:
    data = b""
    while b'"content":"' not in data.partition(b'"assistant"')[2].partition(b"data:")[2]:
        data += connection.recv(4096)
        assert data


def answered_at_once(server: Serving) -> float:
    began = time.monotonic()
    assert server.post("/v1/chat/completions", SHORT).status_code == 200
    return time.monotonic() - began


def in_the_engine(server: Serving) -> int:
    """What the engine itself holds, as it says: answers in the making or waiting, and requests."""
    lines = server.get("/metrics").text.splitlines()
    names = ("processing", "deferred", "open")
    starts = tuple(f'eftlocal_requests_{name}{{model="demo"}} ' for name in names)
    found = [float(line.split()[-1]) for line in lines if line.startswith(starts)]
    assert len(found) == 3
    return int(sum(found))


@pytest.mark.parametrize("how", ["after its first chunk", "while it is made", "in the queue"])
def test_who_leaves_frees_the_place(server: Serving, how: str) -> None:
    usual = answered_at_once(server)
    stream = how == "after its first chunk"
    for _ in range(50):
        others = [raw(server, LONG) for _ in range(3)] if how == "in the queue" else []
        connection = raw(server, {**LONG, "stream": stream})
        if stream:
            first_chunk(connection)
        elif others:
            until(lambda: server.presets.served["demo"].active == 4)
        else:
            until(lambda: server.presets.served["demo"].active == 1)
        connection.close()
        for other in others:
            other.close()
        until(server.quiet, 5)
    assert answered_at_once(server) < 5 * usual + 1
    until(lambda: in_the_engine(server) == 0, 5)


def test_a_slow_reader_stalls_nobody(server: Serving) -> None:
    """Its answer is made to the end, held here, and taken when it reads on."""
    usual = answered_at_once(server)
    body = {**LONG, "stream": True, "max_tokens": 200, "n": 4, "logprobs": True}
    body["top_logprobs"] = 20  # megabytes
    slow = raw(server, body)
    before = psutil.Process().memory_info().rss
    for _ in range(5):
        assert answered_at_once(server) < 20 * usual + 5
    until(lambda: in_the_engine(server) == 0, 60)
    assert psutil.Process().memory_info().rss - before < 200 << 20
    data = bytearray()
    while not data.endswith(b"\r\n0\r\n\r\n"):
        piece = slow.recv(1 << 16)
        assert piece
        data += piece
    assert data.count(b'"finish_reason":"length","eftlocal"') == 4 and b"[DONE]" in data
    slow.close()


def test_a_long_prompt_does_not_stall_tokens(server: Serving) -> None:
    facts = server.get("/props").json()
    words = "In which country is Toulouse? " * (facts["n_ctx"] // 9)
    with server.client(timeout=60) as client:
        options: Json = {"model": "demo", "temperature": 1.5, "messages": ASKED, "stream": True}
        stream = client.chat.completions.create(max_tokens=300, **options)
        gaps, last, other = [], time.monotonic(), None
        for count, _ in enumerate(stream):
            now = time.monotonic()
            gaps.append(now - last)
            last = now
            if count == 5:
                other = raw(server, {**SHORT, "messages": [{"role": "user", "content": words}]})
        assert other is not None
        assert other.recv(1000).startswith(b"HTTP/1.1 200")
        other.close()
    assert max(gaps[3:]) < 2.0, sorted(gaps)[-5:]


@pytest.mark.parametrize("many", ["requests", "answers"])
def test_one_client_does_not_take_all_places(server: Serving, many: str) -> None:
    """Places go round by client, and by request; 24 answers wait, and another's goes before."""
    mine = {**LONG, "max_tokens": 40}
    if many == "requests":
        connections = [raw(server, {**mine, "user": "much"}) for _ in range(24)]
    else:
        connections = [raw(server, {**mine, "n": 24})]
    wanted = 24 if many == "requests" else 1
    until(lambda: server.presets.served["demo"].active == wanted)
    answered_at_once(server)
    left = server.presets.served["demo"].active
    for connection in connections:
        connection.close()
    until(server.quiet, 10)
    assert left >= (16 if many == "requests" else 1)


def test_an_answer_that_cannot_go_on_ends_alone(server: Serving) -> None:
    """Here no token is allowed; those beside it are answered."""
    facts = server.get("/tokenizer_info").json()
    none = {str(token): False for token in range(facts["vocab_size"])}
    beside = raw(server, {**LONG, "max_tokens": 100, "stream": True})
    first_chunk(beside)
    waiting = [raw(server, SHORT) for _ in range(3)]
    found = server.post("/v1/chat/completions", {**SHORT, "logit_bias": none})
    assert found.status_code == 400 and "no token is possible" in found.text
    for connection in (beside, *waiting):
        data = b""
        while b'"total_tokens"' not in data and b"[DONE]" not in data:
            data += connection.recv(1 << 16)
            assert b"error" not in data
        connection.close()


def test_a_large_body_stalls_nobody(server: Serving) -> None:
    usual = answered_at_once(server)
    body: Json = {"prompt": [1] * 2_000_000, "max_tokens": 1}
    large = raw(server, body, "/v1/completions")
    while server.presets.served["demo"].active == 0:
        assert answered_at_once(server) < 5 * usual + 2
    assert large.recv(1 << 16).startswith(b"HTTP/1.1 400")
    large.close()
