"""Ctrl-C between any two lines: no slot is lost, caches stay true, the next answer is the same.

A trace function raises at the k-th line of the code under test, for many k. What was raised is
kept by the test, as a notebook keeps the last traceback and with it every local variable.
"""

from __future__ import annotations

import inspect
import linecache
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import llama_cpp
import pytest

from eftlocal import Emulator, Recipe, Sampling, Speculation
from eftlocal.answer import AnswerStream
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.rounds import Rounds
from eftlocal.errors import UsageError
from eftlocal.generation import Generation, TextStream
from eftlocal.llama import Context
from eftlocal.llama.guide import Guide
from eftlocal.loading.roles import RoleSource
from eftlocal.scheduler import Scheduler

GREEDY = Sampling(temperature=0.0)
CALL: dict[str, Any] = {"sampling": GREEDY, "max_tokens": 4, "raw": True}


def code_of(*owners: type | Callable[..., object]) -> set[CodeType]:
    """The code of functions, and of every function of classes."""
    found: set[CodeType] = set()
    for owner in owners:
        members = vars(owner).values() if isinstance(owner, type) else [owner]
        for member in members:
            member = member.fget if isinstance(member, property) else member
            if inspect.isfunction(member):
                found.add(member.__code__)
    return found


def raised_at(k: int, where: set[CodeType], work: Callable[[], object]) -> BaseException | None:
    """Runs the work with Ctrl-C at the k-th line of that code; None where it has fewer.

    Lines that take a lock are left out: they are seen again when it is given back, and there
    Python runs no signal's handler.
    """
    left = k

    def line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if event == "line":
            source = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
            if not source.lstrip().startswith("with "):
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
        return line

    def call(frame: FrameType, _event: str, _: object) -> Any:
        return line if frame.f_code in where else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    except KeyboardInterrupt as interrupt:
        return interrupt
    finally:
        sys.settrace(before)
    return None


def check_caches(ensemble: Ensemble) -> None:
    """What is recorded of a cache is what llama.cpp holds."""
    for context in ensemble.contexts.values():
        for slot in range(context.n_seq_max):
            recorded = len(context.tokens(slot))
            memory = llama_cpp.llama_get_memory(context.handle)
            assert llama_cpp.llama_memory_seq_pos_max(memory, slot) == recorded - 1


def owners(*more: type | Callable[..., object]) -> set[CodeType]:
    return code_of(Ensemble, Context, *more)


@pytest.fixture(scope="module")
def narrow(tiny_files: dict[str, Path]) -> Iterator[Emulator]:
    """One sequence: a slot that is lost is missed at once."""
    sources = {
        role: RoleSource(path, n_ctx=128, n_batch=16, threads=1)
        for role, path in tiny_files.items()
    }
    with Emulator.from_sources(sources) as emulator:
        yield emulator


_OPENING = owners(Emulator, AnswerStream.__init__, Generation.__init__, Guide.close)
_READING = owners(AnswerStream, Rounds, Generation, TextStream)


@pytest.mark.parametrize(
    ("name", "where", "step"),
    [("opened", _OPENING, 3), ("read", _READING, 23), ("scored", owners(Emulator), 7)],
)
def test_the_next_answer_after_an_interrupt_at_any_line(
    narrow: Emulator, name: str, where: set[CodeType], step: int
) -> None:
    drafts = Speculation(length=2)
    works = {
        "opened": lambda: narrow.stream("A second prompt", **CALL),
        "read": lambda: narrow.generate("A second prompt", speculation=drafts, **CALL),
        "scored": lambda: narrow.logprobs("some text", prompt="A second prompt", raw=True),
    }
    fresh = narrow.generate("The first prompt", **CALL).tokens
    scored = narrow.logprobs("some text", prompt="The first prompt", raw=True).logprobs.tolist()
    kept: list[BaseException] = []  # as sys.last_exc would
    for k in range(1, 20_000, step):
        interrupt = raised_at(k, where, works[name])
        if interrupt is None:
            break
        kept = [interrupt]
        assert not narrow.ensemble._turns._lock._is_owned(), k  # type: ignore[attr-defined]
        assert narrow.generate("The first prompt", **CALL).tokens == fresh, k
        check_caches(narrow.ensemble)
    assert kept and k > 30
    again = narrow.logprobs("some text", prompt="The first prompt", raw=True).logprobs.tolist()
    assert again == pytest.approx(scored, abs=0.02)


def test_a_stream_is_read_on_after_an_interrupt_at_any_line(narrow: Emulator) -> None:
    whole = narrow.generate("The first prompt", **CALL)
    for k in range(1, 20_000, 17):
        stream = narrow.stream("The first prompt", **CALL)
        interrupt = raised_at(k, _READING, lambda stream=stream: list(stream))  # type: ignore[misc]
        if interrupt is None:
            break
        list(stream)
        answer = stream.answer()
        assert (answer.tokens, answer.text) == (whole.tokens, whole.text), k
        assert answer.finish_reason == "length"
    assert k > 100


def test_a_move_at_any_line(tiny: Emulator) -> None:
    """Every slot is the sequence's or free, and it goes on as if nothing had been."""
    ensemble, prompt = tiny.ensemble, tiny.tokenize("Move me", raw=True)

    def started() -> Any:
        sequence = ensemble.open(prompt, recipe=Recipe.upscale(), sampling=GREEDY)
        for _ in range(4):
            tiny.rounds([sequence])
        return sequence

    undisturbed = started()
    for _ in range(3):
        tiny.rounds([undisturbed])
    ensemble.close(undisturbed)
    for k in range(1, 1000):
        sequence = started()
        target = ensemble.free[-1]
        interrupt = raised_at(k, owners(), lambda s=sequence, t=target: ensemble.move(s, t))  # type: ignore[misc]
        assert len(ensemble.free) == 3 and sequence.slot not in ensemble.free
        check_caches(ensemble)
        for _ in range(3):
            tiny.rounds([sequence])
        assert sequence.tokens() == undisturbed.tokens(), k
        ensemble.close(sequence)
        if interrupt is None:
            break
    assert k > 20


def test_a_scheduler_loses_no_call_at_any_line(tiny: Emulator) -> None:
    prompts = ["One", "Two and more", "Three"]
    wanted = [tiny.generate(prompt, **CALL).tokens for prompt in prompts]
    where = code_of(Scheduler)
    for k in (*range(1, 60, 3), *range(60, 5000, 13)):
        with Scheduler(tiny, parallel=2) as scheduler:
            calls = [scheduler.add(prompt, **CALL) for prompt in prompts]

            def work(scheduler: Scheduler = scheduler) -> None:
                while scheduler:
                    scheduler.step()

            interrupt = raised_at(k, where, work)
            work()
            assert [call.answer().tokens for call in calls] == wanted, k
        if interrupt is None:
            break
    assert k > 50 and not tiny.ensemble.running


def test_real_signals_leave_the_lock_free(narrow: Emulator) -> None:
    """An alarm raises wherever Python runs handlers; another thread can work afterwards."""
    fresh = narrow.generate("The first prompt", **CALL).tokens

    def alarm(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before, interrupted = signal.signal(signal.SIGALRM, alarm), 0
    try:
        for i in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-4 * (1 + i % 40))
                narrow.generate("A second prompt", **CALL)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            found: list[tuple[int, ...]] = []
            thread = threading.Thread(
                daemon=True,
                target=lambda found=found: found.append(  # type: ignore[misc]
                    narrow.generate("The first prompt", **CALL).tokens
                ),
            )
            thread.start()
            thread.join(30)
            assert found == [fresh]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 20


def test_a_stream_that_nobody_holds_frees_its_sequence(narrow: Emulator) -> None:
    def interrupted() -> None:
        for _ in narrow.stream("The first prompt", **CALL):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not narrow.ensemble.running


def test_a_later_call_takes_the_place_of_a_stream_left_unfinished(narrow: Emulator) -> None:
    left = narrow.stream("The first prompt", **CALL)
    next(left)
    assert len(narrow.generate("A second prompt", **CALL).tokens) == 4
    with pytest.raises(UsageError, match="a later call took its place; load with n_seq_max=2"):
        list(left)
    assert left.answer().finish_reason is None
    left.close()
    left.close()


def test_an_interrupted_stream_goes_before_one_that_is_read(tiny: Emulator) -> None:
    streams = [tiny.stream(f"Prompt {i}", **CALL) for i in range(4)]
    for stream in streams:
        next(stream)
    assert raised_at(40, _READING, lambda: next(streams[2])) is not None
    assert streams[2].abandoned
    tiny.generate("One more", **CALL)
    assert [s.sequence.closed for s in streams] == [False, False, True, False]
    for stream in streams:
        stream.close()


def test_a_closed_sequence_is_not_advanced(tiny: Emulator) -> None:
    prompt = tiny.tokenize("Closed", raw=True)
    sequence = tiny.ensemble.open(prompt, recipe=Recipe.upscale(), sampling=GREEDY)
    tiny.ensemble.close(sequence)
    with pytest.raises(Exception, match="is closed"):
        tiny.rounds([sequence])
