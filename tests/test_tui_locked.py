"""Another program keeps the history locked: keys are answered, what was typed is not lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scripted_engine import Script, ScriptedEngine
from textual.widgets import Input
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal_tui.history import History, LockedError, database
from eftlocal_tui.screens.dialogs import HelpScreen


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """What another program does that writes for long."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


async def waiting(d: Driver) -> None:
    await d.until(lambda: "history is locked" in d.static("#status"))


@driving("One.", "Two.")
async def test_a_message_waits_and_keys_are_answered(d: Driver) -> None:
    await d.ask("Go")
    with locked(d.history.path):
        await d.send("Go on")
        await waiting(d)
        await d.press("a", "b")
        assert d.chat.prompt.text == "ab"
        await d.press("ctrl+n")
        assert "being sent" in d.toasts
        await d.press("enter")  # what comes next waits
        await d.until(lambda: "queued · ab" in d.screen_text())
        await d.press("f1")
        assert isinstance(d.app.screen, HelpScreen)
        await d.press("escape")
        assert d.turns == ["Go", "One."]
    await d.until(lambda: d.turns == ["Go", "One.", "Go on", "Two.", "ab", "Again."])
    await d.idle()
    assert "locked" not in d.static("#status")
    assert [turn.text for turn in d.chat.turns.path()] == d.turns


@driving("One.")
async def test_escape_gives_the_message_back(d: Driver) -> None:
    with locked(d.history.path):
        await d.send("Hello")
        await waiting(d)
        await d.press("escape")
        await d.idle()
    assert d.chat.prompt.text == "Hello"
    assert "locked by another program" in d.notes[0]
    assert "locked" not in d.static("#status")
    await d.press("enter")
    await d.until(lambda: d.turns == ["Hello", "One."])


@driving("One.", "Two.")
async def test_an_edit_waits_too(d: Driver) -> None:
    await d.ask("Go")
    await d.press("f4")
    d.chat.prompt.replace_all("Gone")
    with locked(d.history.path):
        await d.press("enter")
        await waiting(d)
    await d.until(lambda: d.turns == ["Gone", "Two."])
    assert d.chat.turns.path()[0].branches == 2


@asynchronous
async def test_an_answer_waits_and_holds_nobody_up(tmp_path: Path) -> None:
    script = Script(["One ", "two ", "three"], wait_at=1)
    engine = ScriptedEngine(script)
    async with driven(engine, tmp_path) as d:
        await d.send("Count")
        await d.until(lambda: d.turns[-1:] == ["One "])
        with locked(d.history.path):
            script.go.set()
            await d.until(lambda: engine.answering[0]._given == 2)
            for _ in range(20):  # the history is read while the engine's thread waits to write
                assert d.chat.turns.path()[-1].text == "One "
                await d.pause()
        await d.idle()
        assert d.turns == ["Count", "One two three"]
        assert d.chat.turns.path()[-1].state == "done"


@pytest.mark.parametrize("key", ["ctrl+r", "f3", "f7"])
@driving("One.", "Two.")
async def test_keys_that_write_are_refused_in_one_line(d: Driver, key: str) -> None:
    await d.ask("Go")
    await d.press("ctrl+r")
    await d.idle()
    with locked(d.history.path):
        await d.press(key)
        await d.until(lambda: "locked by another program" in d.toasts)
        assert not d.chat.answers.busy
        assert d.turns == ["Go", "Two."]
    await d.press("f7")
    await d.until(lambda: d.turns == ["Go", "One."])


@driving("One.")
async def test_the_list_of_conversations_refuses_in_one_line(d: Driver) -> None:
    await d.ask("Go")
    await d.press("ctrl+o")
    with locked(d.history.path):
        await d.press("d")
        await d.until(lambda: "locked by another program" in d.toasts)
    await d.press("r")
    d.app.screen.query_one(Input).value = "renamed"
    await d.press("enter")
    (only,) = d.history.conversations.list()
    assert only.title == "renamed"


# The file by itself ----------------------------------------------------------------------------


class Clock:
    """Time goes on by sleeping only."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@asynchronous
async def test_an_event_loop_waits_for_a_moment_and_a_thread_for_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with History(tmp_path / "chat.db") as history, locked(history.path):
        clock = Clock()
        monkeypatch.setattr(database, "time", clock)
        with pytest.raises(LockedError):
            history.conversations.create()
        assert clock.now <= 2 * database.MOMENT
        clock.now = 0.0
        with pytest.raises(LockedError):
            await asyncio.to_thread(history.conversations.create)
        assert clock.now >= database.BUSY_SECONDS
        assert history.conversations.list() == []


@asynchronous
async def test_another_thread_waits_for_seconds(tmp_path: Path) -> None:
    with History(tmp_path / "chat.db") as history:
        with locked(history.path):
            made = asyncio.create_task(asyncio.to_thread(history.conversations.create, title="a"))
            for _ in range(5):
                await asyncio.sleep(database.MOMENT)
                assert history.conversations.list() == []
            assert not made.done()
        assert (await made).title == "a"
        assert [found.title for found in history.conversations.list()] == ["a"]
