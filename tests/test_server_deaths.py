"""Engines that die, servers that are stopped: every request ends, and no process stays."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from serving import ASKED, SHORT, Serving, serving, setup, until

import eftlocal
from eftlocal.server import engine_process, presets

ROUNDS = int(os.environ.get("EFTLOCAL_KILLS", "3"))


async def _asked(client: openai.AsyncOpenAI, stream: bool) -> str:
    if not stream:
        found = await client.chat.completions.create(**SHORT)
        return str(found.choices[0].message.content)
    said = ""
    async for chunk in await client.chat.completions.create(stream=True, **SHORT):
        said += "".join(choice.delta.content or "" for choice in chunk.choices)
    return said


async def _twenty(server: Serving, many: int) -> list[Any]:
    """Answers or errors of twenty requests, whose engine is killed once so many are answered."""
    served = server.presets.served["demo"]
    async with server.later() as client:
        asking = [asyncio.ensure_future(_asked(client, i % 2 == 0)) for i in range(20)]
        while sum(one.done() for one in asking) < many or not served.active:
            await asyncio.sleep(0.001)
        os.kill(server.pid(), signal.SIGKILL)
        return await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 60)


def test_an_engine_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_DEATHS", 1000)
    with serving({"demo": setup()}) as server:
        wanted = server.post("/v1/chat/completions", SHORT).json()
        text = wanted["choices"][0]["message"]["content"]
        answers = errors = 0
        for i in range(ROUNDS):
            for one in asyncio.run(_twenty(server, 5 * i % 15)):
                if isinstance(one, str):
                    assert one == text
                    answers += 1
                else:
                    assert isinstance(one, openai.APIError), one
                    assert "the engine ended (signal 9); ask again" in str(one)
                    errors += 1
            assert server.post("/v1/chat/completions", SHORT).json()["choices"] != []
        print(answers, "answers", errors, "errors")
        assert errors > 0
        assert f'engine_deaths{{model="demo"}} {float(ROUNDS)}' in server.get("/metrics").text
        assert server.quiet()


def test_an_engine_that_keeps_dying_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_DEATHS", 2)
    with serving({"demo": setup()}) as server:
        for death in range(3):
            assert server.post("/v1/chat/completions", SHORT).status_code == 200
            os.kill(server.pid(), signal.SIGKILL)
            until(lambda: server.get("/health").status_code == 503)
            if death < 2:  # who looks at its health has started another
                until(lambda: server.get("/health").status_code == 200)
        found = server.post("/v1/chat/completions", SHORT)
        assert found.status_code == 503
        assert found.json()["error"]["type"] == "overloaded_error"
        assert 500 < int(found.headers["retry-after"]) <= 600
        assert server.get("/v1/models").status_code == 200
        assert "the engine died too often" in server.post("/tokenize", {"prompt": "x"}).text


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    from dataclasses import replace

    good = setup()
    roles = {role: replace(source, path=broken) for role, source in good.sources.roles.items()}
    bad = replace(good, sources=replace(good.sources, roles=roles, name="bad"))
    with serving({"demo": good, "bad": bad}) as server:
        for _ in range(2):
            found = server.post("/v1/chat/completions", {**SHORT, "model": "bad"})
            assert found.status_code == 503
            assert "the model cannot be loaded" in found.json()["error"]["message"]
        assert server.post("/v1/chat/completions", SHORT).status_code == 200


def test_an_engine_that_ends_as_it_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody but asyncio's own thread waits for the process."""

    async def close(grace: float) -> None:
        monkeypatch.setattr(engine_process, "_GRACE", grace)
        engine = engine_process.EngineProcess(lambda: None)
        engine._process = process = await asyncio.create_subprocess_exec(
            "cat", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        await engine.close()
        assert process.returncode in (0, -signal.SIGKILL)

    async def closes() -> None:
        for number in range(200):
            await close(0.003 * (number % 20) / 20)

    asyncio.run(closes())
    assert not caplog.records


# The command -------------------------------------------------------------------------------------


@contextmanager
def command() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`eftlocal serve`, and its address."""
    code = "from eftlocal.__main__ import main; main()"
    options = ["serve", "--preset", "demo", "--threads", "1", "--port", "0", "--parallel", "2"]
    root = Path(eftlocal.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tui")])},
    )
    try:
        assert process.stdout is not None
        line = ""
        while "http" not in line:
            line = process.stdout.readline()
            assert line
        address = re.search(r"http\S+/v1", line)
        assert address
        yield process, address[0]
    finally:
        process.kill()
        process.wait()


def endless(address: str) -> Any:
    """A stream that has begun and goes on for long."""
    client = openai.OpenAI(base_url=address, api_key="any", max_retries=0, timeout=60)
    stream = client.chat.completions.create(
        model="demo", messages=ASKED, stream=True, n=100, extra_body={"regex": "(?s:.{4000})"}
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            return stream
    raise AssertionError("it ended")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_stop(how: int) -> None:
    with command() as (process, address):
        stream = endless(address)
        children = family(process)
        assert children
        began = time.monotonic()
        process.send_signal(how)
        with pytest.raises(openai.APIError, match="the server puts the model away"):
            for _ in stream:
                continue
        process.wait(10)
        assert time.monotonic() - began < 10
        assert not psutil.wait_procs(children, 2)[1]


def test_a_server_that_is_killed_leaves_no_engine() -> None:
    with command() as (process, address):
        endless(address)
        children = family(process)
        assert children
        process.kill()
        assert not psutil.wait_procs(children, 5)[1]
