"""One emulator in many threads: calls take turns, and texts are those of one thread."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eftlocal import Emulator, Sampling
from eftlocal.errors import EftlocalError, EngineError
from eftlocal.loading.roles import RoleSource
from eftlocal.scheduler import Scheduler

GREEDY = Sampling(temperature=0.0)
CALL: dict[str, Any] = {"sampling": GREEDY, "max_tokens": 8, "raw": True}
PROMPTS = [f"Prompt number {i} of some length" for i in range(6)]


def load(files: dict[str, Path], n_seq_max: int) -> Emulator:
    sources = {r: RoleSource(Path(p), n_ctx=128, n_batch=32, threads=1) for r, p in files.items()}
    return Emulator.from_sources(sources, n_seq_max=n_seq_max)


@pytest.fixture(params=[1, 3])
def em(tiny_files: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with load(tiny_files, request.param) as emulator:
        yield emulator


def side_by_side(*works: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(60) for future in [pool.submit(work) for work in works]]


def test_every_kind_of_call_at_once(em: Emulator) -> None:
    alone = {prompt: em.generate(prompt, **CALL).tokens for prompt in PROMPTS}
    scored = em.logprobs("a text", prompt=PROMPTS[0], raw=True).logprobs
    schema = em.generate("x", json_schema={"enum": [1, 22]}, sampling=GREEDY, raw=True).text

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(8):
            prompt, kind = chance.choice(PROMPTS), chance.randrange(6)
            if kind == 0:
                assert em.generate(prompt, **CALL).tokens == alone[prompt]
            elif kind == 1:
                assert tuple(s.token for s in em.stream(prompt, **CALL)) == alone[prompt]
            elif kind == 2:
                stream = em.stream(prompt, **CALL)
                assert next(stream).token == alone[prompt][0]
                stream.close()
            elif kind == 3:
                found = em.logprobs("a text", prompt=PROMPTS[0], raw=True).logprobs
                assert found == pytest.approx(scored, abs=0.02)
            elif kind == 4:
                again = em.generate("x", json_schema={"enum": [1, 22]}, sampling=GREEDY, raw=True)
                assert again.text == schema
            else:
                assert em.tokenize(prompt, raw=True) and em.piece(chance.randrange(200)) is not None

    side_by_side(*(lambda seed=seed: work(seed) for seed in range(6)))
    assert not em.ensemble.running


def test_a_thread_that_waits_comes_next(tiny_files: dict[str, Path]) -> None:
    """Whoever takes one step after the other does not keep the models to itself."""
    order: list[str] = []
    with load(tiny_files, 2) as em:
        begun = threading.Event()

        def wait_for_it() -> None:
            begun.wait(30)
            em.ensemble.alone(lambda: order.append("slow"))

        def step_until_it_waits() -> None:
            begun.set()
            while len(em.ensemble._turns._asking) < 1:
                time.sleep(1e-3)
            order.append("quick")

        thread = threading.Thread(target=wait_for_it)
        thread.start()
        em.ensemble.alone(step_until_it_waits)
        em.ensemble.alone(lambda: order.append("quick"))
        thread.join(30)
    assert order == ["quick", "slow", "quick"]


def test_a_call_waits_for_another_threads_stream(tiny_files: dict[str, Path]) -> None:
    with load(tiny_files, 1) as em:
        stream = em.stream(PROMPTS[0], **CALL)
        next(stream)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(em.generate, PROMPTS[1], **CALL)
            rest = len(list(stream))
            assert rest == 7 and len(waiting.result(60).tokens) == 8


def test_a_stream_of_a_thread_that_has_ended_is_given_up(tiny_files: dict[str, Path]) -> None:
    with load(tiny_files, 1) as em:
        left: list[Any] = []
        thread = threading.Thread(target=lambda: left.append(em.stream(PROMPTS[0], **CALL)))
        thread.start()
        thread.join()
        assert len(em.generate(PROMPTS[1], **CALL).tokens) == 8


def test_closing_while_threads_answer(em: Emulator) -> None:
    def read() -> str:
        try:
            while True:
                em.generate(PROMPTS[0], sampling=GREEDY, max_tokens=60, raw=True)
        except EftlocalError as error:
            return str(error)

    def close() -> str:
        time.sleep(0.05)
        em.close()
        return ""

    said = side_by_side(read, read, read, close)
    assert all("closed" in line for line in said[:3])
    with pytest.raises(EngineError, match="closed; load them again"):
        em.piece(1)


def test_a_scheduler_in_threads(tiny_files: dict[str, Path]) -> None:
    with load(tiny_files, 3) as em:
        wanted = {prompt: em.generate(prompt, **CALL).tokens for prompt in PROMPTS}
        with Scheduler(em) as scheduler:
            calls = [scheduler.add(prompt, **CALL) for prompt in PROMPTS * 3]
            dropped = calls[4]

            def step() -> None:
                while scheduler:
                    scheduler.step()

            side_by_side(step, step, lambda: scheduler.cancel(dropped))
            for call in calls:
                if call is not dropped:
                    assert call.answer().tokens == wanted[str(call.prompt)]
            running = [scheduler.add(prompt, **CALL) for prompt in PROMPTS[:3]]
            scheduler.step()
            with pytest.raises(EngineError, match="a scheduler uses all 3 sequences"):
                em.generate(PROMPTS[0], **CALL)
            step()
            assert all(call.answer().finish_reason == "length" for call in running)


def test_ctrl_c_in_a_thread_that_waits(tiny_files: dict[str, Path]) -> None:
    """The main thread waits for a sequence of another thread, and is interrupted there."""
    script = f"""
        import signal, sys, threading
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_threads import CALL, PROMPTS, load
        signal.signal(signal.SIGINT, signal.default_int_handler)
        em = load({ {r: str(p) for r, p in tiny_files.items()}!r}, 1)
        opened, ended = threading.Event(), threading.Event()
        def hold():
            stream = em.stream(PROMPTS[0], **CALL)
            next(stream)
            opened.set()
            ended.wait()
            stream.close()
        thread = threading.Thread(target=hold)
        thread.start()
        opened.wait()
        try:
            print("waiting", flush=True)
            em.generate(PROMPTS[1], **CALL)
        except KeyboardInterrupt:
            ended.set()
            thread.join()
            print(len(em.generate(PROMPTS[1], **CALL).tokens))
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "waiting\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60)[0] == "8\n" and child.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_to_load_for_itself(tiny_files: dict[str, Path]) -> None:
    script = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_threads import CALL, PROMPTS, load
        em = load({ {r: str(p) for r, p in tiny_files.items()}!r}, 1)
        em.generate(PROMPTS[0], **CALL)
        if os.fork() == 0:
            try:
                em.generate(PROMPTS[0], **CALL)
            except Exception as error:
                print(type(error).__name__, error, flush=True)
            em.close()
            os._exit(0)
        os.wait()
        print(len(em.generate(PROMPTS[0], **CALL).tokens))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("EngineError the models were loaded before this process was forked")
    assert second == "8"
