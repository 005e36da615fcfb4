"""Answers for asyncio: those that one caller gets, side by side, and gone when they are left."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from eftlocal.dispatcher import Dispatcher, Ticket
from eftlocal.emulator import Emulator
from eftlocal.errors import EngineError, PromptError, UsageError
from eftlocal.generation import Step
from eftlocal.logits.sampling import Sampling

GREEDY = Sampling(temperature=0.0)
ASKED = ["In which country is Toulouse?", "Where is Lima?", "What kind of thing is a baboon?"]


@pytest.fixture
def em(demo_files: dict[str, Path]) -> Iterator[Emulator]:
    with Emulator.from_files(**demo_files, n_ctx=256, n_seq_max=4, threads=1) as loaded:
        yield loaded


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


async def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to that")


def test_answers_are_those_of_one_caller(em: Emulator) -> None:
    wanted = [em.generate(text, sampling=GREEDY, max_tokens=30) for text in ASKED * 3]

    async def one(text: str) -> tuple[str, str | None, int]:
        stream = em.astream(text, sampling=GREEDY, max_tokens=30)
        said = "".join([step.text async for step in stream])
        answer = stream.answer()
        assert said == answer.text
        return answer.text, answer.finish_reason, answer.timing.tokens

    async def work() -> None:
        found = await asyncio.gather(*map(one, ASKED * 3))
        assert found == [(a.text, a.finish_reason, a.timing.tokens) for a in wanted]
        whole = await em.agenerate(ASKED[0], sampling=GREEDY, max_tokens=30)
        assert whole.text == wanted[0].text

    run(work())


@pytest.mark.parametrize("how", ["break", "close", "cancel", "drop", "block", "timeout"])
def test_an_answer_that_is_left_frees_its_place(em: Emulator, how: str) -> None:
    def endless() -> Any:
        return em.astream("Hello", max_tokens=200, ignore_end=True, sampling=GREEDY)

    async def begin_and_leave() -> None:
        if how == "break":
            async for _ in endless():
                break
        elif how == "block":
            async with endless() as stream:
                await anext(stream)
        elif how == "close":
            stream = endless()
            await anext(stream)
            await stream.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            with pytest.raises(UsageError, match="has not come to its end"):
                stream.answer()
        elif how == "drop":
            await anext(endless())
            gc.collect()
        elif how == "timeout":
            stream = endless()
            with pytest.raises(asyncio.TimeoutError):
                while True:
                    await asyncio.wait_for(anext(stream), 0.0001)
        else:

            async def read() -> None:
                async for _ in endless():
                    began.set()

            began = asyncio.Event()
            task = asyncio.create_task(read())
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def work() -> None:
        for _ in range(6):  # more than there are places
            await begin_and_leave()
        await until(lambda: not em.ensemble.running and not em.dispatcher().waiting)
        assert (await em.agenerate("Hello", max_tokens=2)).timing.tokens >= 1

    run(work())


def test_a_slow_reader_holds_up_nobody(em: Emulator) -> None:
    async def work() -> None:
        slow = em.astream(ASKED[0], sampling=GREEDY, max_tokens=30)
        await anext(slow)
        quick = await em.agenerate(ASKED[1], sampling=GREEDY, max_tokens=30)
        assert quick.finish_reason == "stop"
        await until(lambda: not em.ensemble.running)  # the slow one's answer is whole as well
        rest = "".join([step.text async for step in slow])
        assert slow.answer().text.endswith(rest) and slow.answer().finish_reason == "stop"

    run(work())


def test_what_is_wrong_with_one_call_is_its_own(em: Emulator) -> None:
    async def work() -> None:
        good = asyncio.create_task(em.agenerate(ASKED[0], sampling=GREEDY, max_tokens=30))
        with pytest.raises(PromptError, match="the prompt is empty"):
            await em.agenerate(" ")
        with pytest.raises(PromptError, match="context"):
            await anext(em.astream("word " * 500))
        with pytest.raises(UsageError, match="max_tokens"):
            await em.agenerate("Hello", max_tokens=-1)
        with pytest.raises(UsageError, match="colour"):
            await em.agenerate("Hello", colour="red")  # type: ignore[call-arg]
        assert (await good).finish_reason == "stop"

    run(work())


def test_a_failure_of_llama_cpp_is_told_and_the_next_answer_works(
    em: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        with monkeypatch.context() as patch:

            def fail(*_: Any) -> Any:
                raise EngineError("llama_decode failed")

            patch.setattr(em, "rounds", fail)
            with pytest.raises(EngineError, match="llama_decode failed"):
                await em.agenerate("Hello")
        assert (await em.agenerate("Hello", max_tokens=3)).timing.tokens >= 1

    run(work())


def test_closing_ends_what_is_running(em: Emulator) -> None:
    async def work() -> None:
        streams = [em.astream("Hello", max_tokens=200, ignore_end=True) for _ in range(6)]
        await anext(streams[0])
        em.close()
        for stream in streams:
            with pytest.raises(EngineError, match="closed"):
                while True:
                    await anext(stream)
        with pytest.raises(EngineError, match="closed"):
            em.astream("Hello")

    run(work())


def test_a_listener_that_fails_is_dropped_alone(em: Emulator) -> None:
    ended, steps = threading.Event(), list[Step]()

    def fail(_: Step) -> None:
        raise RuntimeError("gone")

    with Dispatcher(em, parallel=2) as dispatcher:
        dispatcher.submit(Ticket("Hello", {"max_tokens": 50}, fail, lambda *_: steps.clear()))
        good = Ticket(ASKED[0], {"sampling": GREEDY}, steps.append, lambda *_: ended.set())
        dispatcher.submit(good)
        assert ended.wait(30) and steps[-1].finish_reason == "stop"
        dispatcher.cancel(good)  # it has ended: nothing happens
        assert not dispatcher.active and not dispatcher.waiting


def test_a_program_that_ends_in_the_middle_of_an_answer_ends_well(
    demo_files: dict[str, Path],
) -> None:
    program = f"""
import asyncio
from eftlocal import Emulator
em = Emulator.from_files(**{ {k: str(v) for k, v in demo_files.items()}!r}, n_ctx=256, threads=1)
async def main():
    await anext(em.astream("Hello", max_tokens=200, ignore_end=True))
asyncio.run(main())
kept = em
print("end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
