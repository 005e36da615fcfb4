"""The process for templates: its deadline, deaths, forks and interrupts; who watches it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from eftlocal.child_process import Watchdog, child_command
from eftlocal.errors import PromptError
from eftlocal.prompt.template import TemplateWorker

SAY = "{{ word }}"
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
ONE_LONG_CALL = "{{ 10 ** (10 ** 10) }}"
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


@pytest.fixture
def worker() -> Iterator[TemplateWorker]:
    worker = TemplateWorker(deadline_s=60.0)
    yield worker
    worker.close()


@pytest.mark.parametrize("source", [ENDLESS, ONE_LONG_CALL])
def test_a_template_without_end_is_killed_at_the_deadline(
    worker: TemplateWorker, source: str
) -> None:
    assert worker.render(SAY, {"word": "before"}) == "before"
    worker.deadline_s = 0.5
    with pytest.raises(PromptError, match=r"^template timed out: .* after 0.5 s$"):
        worker.render(source, {})
    assert worker.child.pid is None
    worker.deadline_s = 60.0
    assert worker.render(SAY, {"word": "after"}) == "after"


def test_a_child_that_was_started_early_answers_the_first_request(worker: TemplateWorker) -> None:
    worker.child.start()
    pid = worker.child.pid
    assert pid is not None
    worker.child.start()
    assert worker.render(SAY, {"word": "early"}) == "early"
    assert worker.child.pid == pid


@needs_signals
def test_a_killed_child_is_replaced(worker: TemplateWorker) -> None:
    assert worker.render(SAY, {"word": "one"}) == "one"
    pid = worker.child.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert worker.render(SAY, {"word": "two"}) == "two"
    assert worker.child.pid not in (None, pid)
    worker.close()
    assert worker.child.pid is None
    assert worker.render(SAY, {"word": "three"}) == "three"


class Interrupted:
    """A pipe; Ctrl-C comes when the request has just been written."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def write(self, data: Any) -> int:
        self.pipe.write(data)
        raise KeyboardInterrupt

    def close(self) -> None:
        self.pipe.close()


def test_an_answer_that_an_interrupt_left_unread_answers_nothing_else(
    worker: TemplateWorker,
) -> None:
    assert worker.render(SAY, {"word": "one"}) == "one"
    process = worker.child._process
    assert process is not None
    process.stdin = Interrupted(process.stdin)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        worker.render(SAY, {"word": "two"})
    assert worker.render(SAY, {"word": "three"}) == "three"
    assert process.poll() is not None


def test_an_interrupt_before_the_child_is_ready_leaves_nothing_behind(
    worker: TemplateWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(request: bytes, seconds: float) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker.child, "_exchange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.render(SAY, {"word": "one"})
    monkeypatch.undo()
    assert worker.render(SAY, {"word": "two"}) == "two"


@needs_signals
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_in_the_midst_of_a_rendering_renders_by_itself(worker: TemplateWorker) -> None:
    worker.render(SAY, {"word": "one"})
    worker.deadline_s = 1.0  # of the rendering that another thread waits for while we fork
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(worker.render, ENDLESS, {})
        while not (worker.child._answer_due or waiting.done()):
            pass
        fork = os.fork()
        if fork == 0:
            code = 1
            try:
                signal.alarm(60)  # what would wait for a lock that nobody holds ends so
                worker.deadline_s = 60.0
                code = 0 if worker.render(SAY, {"word": "fork"}) == "fork" else 2
                worker.close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == 0
        with pytest.raises(PromptError, match="timed out"):
            waiting.result()
    worker.deadline_s = 60.0
    assert worker.render(SAY, {"word": "two"}) == "two"


def test_one_worker_serves_many_threads(worker: TemplateWorker) -> None:
    gate = threading.Barrier(8)

    def ask(thread: int) -> bool:
        gate.wait()
        words = [f"{thread} {i}" for i in range(10)]
        return [worker.render(SAY, {"word": word}) for word in words] == words

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))


# --- the child by itself ----------------------------------------------------------------------


def start_child(deadline_s: float) -> "subprocess.Popen[bytes]":
    limits = (str(1 << 29), "1000", str(deadline_s))
    child = subprocess.Popen(
        child_command("eftlocal.prompt.child", limits),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    assert json.loads(child.stdout.readline()) == {"ready": True}
    return child


def test_the_child_ends_when_its_parent_is_gone() -> None:
    with start_child(5.0) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=60) == 0


def test_an_orphan_ends_in_the_midst_of_a_long_call() -> None:
    with start_child(-0.9) as child:  # its own limit is a second more than the parent's
        assert child.stdin is not None
        request = {"source": ONE_LONG_CALL, "variables": {}}
        child.stdin.write(json.dumps(request).encode("ascii") + b"\n")
        child.stdin.flush()
        assert child.wait(timeout=60) != 0


def test_one_thread_watches_any_number_of_requests() -> None:
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    spared, killed = (subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(2))
    watchdog, before = Watchdog(), set(threading.enumerate())
    try:
        for _ in range(100):
            watchdog.kill_in(3600.0, spared)
            assert not watchdog.release()
        assert len(set(threading.enumerate()) - before) == 1
        watchdog.kill_in(0.01, killed)  # a nearer deadline wakes it
        assert killed.wait(timeout=60) != 0
        assert watchdog.release() and spared.poll() is None
        watchdog.kill_in(0.01, spared)  # its thread has ended: it starts another
        assert spared.wait(timeout=60) != 0
    finally:
        for process in (spared, killed):
            process.communicate()
