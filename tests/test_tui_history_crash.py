"""Processes that die in the middle of an answer, and processes that share the file."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from eftlocal_tui.history import History

KILLS = 50
TOKENS = 5


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    """Real processes; where the system can, forked from one that has done its imports."""
    if sys.platform == "win32":
        yield multiprocessing.get_context("spawn")
        return
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:  # the server does not take over sys.path
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield server


@contextmanager
def child(context: Any, target: Any, *args: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that tells what it did through a pipe; gone, by force, when the block ends."""
    here, there = context.Pipe()
    process = context.Process(target=target, args=(*args, there), daemon=True)
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        process.kill()  # SIGKILL
        process.join()
        here.close()


def chat_for_ever(path: Path, report: Connection) -> None:
    """Questions and answers without end, each step told once it is written."""
    history = History(path)
    conversation = history.conversations.create().id
    while True:
        question = history.turns.ask(conversation, f"question {report.fileno()}")
        report.send(("asked", question.id, 0))
        answer = history.answer(question.id)
        for n in range(TOKENS):
            answer.append(f"token {n} ")
            report.send(("token", answer.id, n + 1))
        answer.finish("stop")
        report.send(("finished", answer.id, TOKENS))


def text_of(tokens: int) -> str:
    return "".join(f"token {n} " for n in range(tokens))


def told(report: Connection) -> Iterator[tuple[str, int, int]]:
    try:
        while True:
            yield report.recv()
    except (EOFError, OSError):
        return


def test_killed_in_the_middle_of_an_answer_fifty_times(tmp_path: Path, context: Any) -> None:
    path = tmp_path / "chat.db"
    moments = random.Random(7)
    finished: set[int] = set()
    streaming = 0
    for _ in range(KILLS):
        with child(context, chat_for_ever, path) as (process, report):
            reports = told(report)
            seen = [next(reports) for _ in range(moments.randint(1, 40))]
            process.kill()
            seen += reports  # what it had still told before it died
        with History(path) as history:  # opens, and nothing that was told is missing
            for kind, turn, tokens in seen:
                kept = history.turns.get(turn)
                if kind == "finished":
                    finished.add(turn)
                elif kind == "token":
                    assert kept.text.startswith(text_of(tokens))
                    assert kept.state in ("done", "stopped")
            conversation = history.turns.get(seen[0][1]).conversation
            *before, last = history.turns.all(conversation)
            assert all(turn.state == "done" for turn in before)
            if last.role == "assistant" and last.state == "stopped":
                streaming += 1
                assert last.text in [text_of(n) for n in range(TOKENS + 1)]
    assert streaming >= KILLS // 4  # the kills did hit answers in the making
    with History(path) as history:
        assert history.db.rows("PRAGMA integrity_check")[0][0] == "ok"
        assert len(history.conversations.list(limit=1000)) == KILLS
        for turn in finished:
            kept = history.turns.get(turn)
            assert (kept.state, kept.text) == ("done", text_of(TOKENS))
        assert history.db.rows("SELECT * FROM piece") == []
    assert [file.name for file in tmp_path.iterdir()] == ["chat.db"]


def begin_an_answer(path: Path, report: Connection) -> None:
    history = History(path)
    question = history.turns.ask(history.conversations.create().id, "?")
    answer = history.answer(question.id)
    answer.append("some")
    report.send(answer.id)
    report.recv()
    answer.append(" more")
    report.send(None)
    report.recv()


def test_what_a_living_process_writes_is_left_to_it(tmp_path: Path, context: Any) -> None:
    path = tmp_path / "chat.db"
    with child(context, begin_an_answer, path) as (process, report):
        answer = report.recv()
        with History(path) as history:
            assert history.recover() == 0
            assert history.turns.get(answer).state == "streaming"
            report.send("go on")
            report.recv()
            assert history.turns.get(answer).text == "some more"
            process.kill()
            process.join()
            assert history.turns.get(answer).state == "streaming"  # nobody has looked yet
            assert history.recover() == 1
            assert history.recover() == 0
            turn = history.turns.get(answer)
            assert (turn.state, turn.text, turn.closed) == ("stopped", "some more", None)


def write_twenty(path: Path, name: str, report: Connection) -> None:
    report.send("ready")
    report.recv()
    with History(path) as history:
        conversation = history.conversations.create(title=name).id
        for n in range(20):
            with history.answer(history.turns.ask(conversation, f"{name} {n}").id) as answer:
                answer.append(name)
                answer.finish()
    report.send("done")
    report.recv()


def test_processes_that_open_a_new_file_at_once_all_write_to_it(
    tmp_path: Path, context: Any
) -> None:
    path = tmp_path / "chat.db"
    names = ["one", "two", "three", "four"]
    with (
        child(context, write_twenty, path, names[0]) as (_, a),
        child(context, write_twenty, path, names[1]) as (_, b),
        child(context, write_twenty, path, names[2]) as (_, c),
        child(context, write_twenty, path, names[3]) as (_, d),
    ):
        for word in ("ready", "done"):
            assert [report.recv() for report in (a, b, c, d)] == [word] * 4
            for report in (a, b, c, d):
                report.send("go")
    with History(path) as history:
        chats = history.conversations.list()
        assert sorted(chat.title for chat in chats) == sorted(names)
        for chat in chats:
            path_of_it = history.turns.path(chat.id)
            assert [turn.state for turn in path_of_it] == ["done"] * 40
            assert {turn.text.split()[0] for turn in path_of_it} == {chat.title}
        assert history.db.rows("PRAGMA integrity_check")[0][0] == "ok"
