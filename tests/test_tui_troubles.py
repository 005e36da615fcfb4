"""What goes wrong around a conversation: a history that fails, other programs, odd input."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scripted_engine import DIALS, PATIENCE, Script, ScriptedEngine
from textual import events
from textual.widgets import Input
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.errors import EngineError, UsageError
from eftlocal_tui.editor import edit_text
from eftlocal_tui.engine import Loaded, Report
from eftlocal_tui.engine.thread import WorkThread
from eftlocal_tui.history import History
from eftlocal_tui.screens.dialogs import AskText
from eftlocal_tui.screens.history import HistoryScreen
from eftlocal_tui.screens.influence import InfluenceScreen
from eftlocal_tui.settings import Settings


def conversation_of(d: Driver) -> int:
    assert d.chat.turns.conversation is not None
    return d.chat.turns.conversation.id


def delete_elsewhere(d: Driver) -> None:
    """What another chat on the same file does."""
    with History(d.history.path) as other:
        other.conversations.delete(conversation_of(d))


BROKEN = {
    "read only": ("PRAGMA query_only = ON", "PRAGMA query_only = OFF", "is read-only"),
    "full": ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 100000", "disk is full"),
}


def do(d: Driver, sql: str) -> None:
    """Breaks the history, or mends it."""
    d.history.db.connection.execute(sql).fetchall()


# The history fails -----------------------------------------------------------------------------


@driving(Script(["One ", "two ", "three"], wait_at=1))
async def test_a_conversation_deleted_elsewhere_in_the_middle_of_an_answer(d: Driver) -> None:
    await d.send("Count")
    await d.until(lambda: d.turns[-1:] == ["One "])
    delete_elsewhere(d)
    d.engine.go()
    await d.idle()
    await d.until(lambda: "deleted" in f"{d.notes} {d.toasts} {d.screen_text()}")
    assert d.app.is_running


@driving()
async def test_keys_after_a_conversation_was_deleted_elsewhere(d: Driver) -> None:
    for key in ("ctrl+r", "f3", "f4", "f5", "f6", "f7", "f9", "f12", "enter"):
        await d.ask("Go")
        await d.ask("Go on")
        delete_elsewhere(d)
        await d.type("More")
        await d.press(key)
        await d.idle()
        await begin_anew(d)


@driving()
async def test_turn_keys_after_a_conversation_was_deleted(d: Driver) -> None:
    for key in ("c", "b", "e", "r", "i", "left", "right"):
        await d.ask("Go")
        await d.press("ctrl+r")
        await d.idle()
        delete_elsewhere(d)
        await d.press("ctrl+up", key)
        await d.idle()
        await begin_anew(d)


async def begin_anew(d: Driver) -> None:
    """Out of whatever is open, into an empty conversation: the program still obeys."""
    while d.app.screen is not d.chat:
        await d.press("escape")
    await d.press("escape", "ctrl+n")
    await d.until(lambda: d.turns == [])
    d.chat.prompt.clear()
    d.app.clear_notifications()


@pytest.mark.parametrize("how", BROKEN)
@asynchronous
async def test_keys_when_nothing_can_be_written(tmp_path: Path, how: str) -> None:
    off, on, said = BROKEN[how]
    async with driven(ScriptedEngine(), tmp_path) as d:
        for key in ("ctrl+r", "f3", "f7"):
            await d.ask("Go")
            await d.press("ctrl+r")
            await d.idle()
            shown = d.turns
            fill(d)
            do(d, off)
            await d.press(key)
            await d.idle()
            if how == "read only":  # a full disk may still have room for a small change
                assert said in d.toasts, key
                assert d.turns == shown
            do(d, on)
            await begin_anew(d)


def fill(d: Driver) -> None:
    """Leaves no free page in the file."""
    conversation = d.history.conversations.create()
    d.history.turns.ask(conversation.id, "x" * 100_000)


@pytest.mark.parametrize("how", BROKEN)
@asynchronous
async def test_what_could_not_be_kept_is_given_back(tmp_path: Path, how: str) -> None:
    off, on, said = BROKEN[how]
    long = "A long message. " * 1_000
    async with driven(ScriptedEngine("One.", "Two."), tmp_path) as d:
        await d.ask("Go")
        do(d, off)
        await d.send(long)
        await d.idle()
        assert said in d.notes[0]
        assert d.chat.prompt.text == long
        do(d, on)
        await d.press("enter")
        await d.until(lambda: d.turns[-1] == "Two.")


@pytest.mark.parametrize("how", BROKEN)
@asynchronous
async def test_nothing_can_be_written_from_the_middle_of_an_answer(
    tmp_path: Path, how: str
) -> None:
    off, on, said = BROKEN[how]
    script = Script(["One ", "two " * 5_000, "three"], wait_at=1)
    async with driven(ScriptedEngine(script, "Again."), tmp_path) as d:
        await d.send("Count")
        await d.until(lambda: d.turns[-1:] == ["One "])
        do(d, off)
        script.go.set()
        await d.idle()
        await d.until(lambda: said in f"{d.notes} {d.toasts} {d.screen_text()}")
        assert "elsewhere" not in d.screen_text()
        do(d, on)
        await d.ask("Better?")
        assert d.turns[-1] == "Again."
        assert d.turns[:2] == ["Count", "One "]


@asynchronous
async def test_history_keys_after_it_was_deleted_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with driven(ScriptedEngine(), tmp_path) as d:
        for key in ("r", "a", "d", "delete", "x", "enter"):
            await d.ask("Go")
            await d.press("ctrl+o")
            await d.until(lambda: isinstance(d.app.screen, HistoryScreen))
            delete_elsewhere(d)
            await d.press(key)
            await begin_anew(d)


@driving("One.")
async def test_a_search_longer_than_it_may_be(d: Driver) -> None:
    await d.ask("Go")
    await d.press("ctrl+o")
    await d.until(lambda: isinstance(d.app.screen, HistoryScreen))
    d.app.screen.query_one(Input).value = "x" * 300
    await d.pause()
    assert d.app.is_running
    assert isinstance(d.app.screen, HistoryScreen)


@driving("One.")
async def test_a_system_prompt_for_a_conversation_that_is_gone(d: Driver) -> None:
    await d.ask("Go")
    await d.send("/system")
    await d.until(lambda: isinstance(d.app.screen, AskText))
    delete_elsewhere(d)
    await d.press("a", "ctrl+s")
    await d.pause()
    assert d.app.is_running
    assert "deleted" in d.toasts


# Two at once -----------------------------------------------------------------------------------


@driving("One.", "Mine.")
async def test_a_question_follows_what_is_shown(d: Driver) -> None:
    """Another process went on with the same conversation meanwhile."""
    await d.ask("Go")
    with History(d.history.path) as other:
        question = other.turns.ask(conversation_of(d), "Theirs?")
        with other.answer(question.id) as answer:
            answer.append("Theirs.")
            answer.finish("stop")
    await d.ask("Mine?")
    assert [m["content"] for m in d.engine.heard[-1][0]] == ["Go", "One.", "Mine?"]
    assert d.turns == ["Go", "One.", "Mine?", "Mine."]


@pytest.mark.parametrize("new_first", [True, False])
@driving("Before.", Script(["One"], wait_at=0))
async def test_a_new_conversation_while_a_question_is_laid_out(d: Driver, new_first: bool) -> None:
    await d.ask("before")

    async def ask() -> None:
        d.chat.answers.ask("first")

    both = [d.chat.doing(work()) for work in (ask, d.chat.action_new)]
    await asyncio.gather(*(reversed(both) if new_first else both))
    await d.pause()
    d.engine.go()
    await d.idle()
    assert d.turns[-2:] == ["first", "One"]
    assert [turn.text for turn in d.chat.turns.path()] == d.turns
    assert len(d.turns) == (2 if new_first else 4)
    assert not d.chat.query("#welcome")


@asynchronous
async def test_who_stops_waiting_for_a_task_leaves_no_trace() -> None:
    thread, go = WorkThread("engine"), threading.Event()
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
    task = thread.submit(lambda _task: go.wait(PATIENCE))
    waiting = asyncio.ensure_future(task.result())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    go.set()
    assert await task.result()
    assert problems == []
    thread.close(lambda: None)


@driving(Script(["One"], wait_at=0))
async def test_two_questions_in_one_burst(d: Driver) -> None:
    d.chat.prompt.post_message(d.chat.prompt.Sent("first"))
    d.chat.prompt.post_message(d.chat.prompt.Sent("second"))
    await d.until(lambda: d.engine.heard)
    d.engine.go()
    await d.idle()
    assert d.turns == ["first", "One", "second", "Again."]
    assert [t.text for t in d.chat.turns.path()] == d.turns


class SlowLoads(ScriptedEngine):
    """Each load waits for a word of its own."""

    def __init__(self, *scripts: Script | str) -> None:
        super().__init__(*scripts)
        self.may = {None: threading.Event(), "demo": threading.Event()}

    def _load(self, preset: str | None, n_ctx: int, report: Report) -> Loaded:
        assert self.may[preset].wait(PATIENCE)
        return Loaded(preset or self.name, self.roles, DIALS)


@asynchronous
async def test_a_second_preset_while_the_first_loads(tmp_path: Path) -> None:
    engine = SlowLoads("Yes.")
    async with driven(engine, tmp_path, wait=False) as d:
        await d.until(lambda: engine.loads == [None])
        await d.send("/preset demo")
        engine.may[None].set()
        await d.until(lambda: engine.loads == [None, "demo"])
        await d.send("Go")  # the first models are gone, the second not there
        await d.until(lambda: "queued · Go" in d.screen_text())
        assert engine.heard == []
        engine.may["demo"].set()
        await d.until(lambda: d.turns[-1:] == ["Yes."])
        await d.idle()
        turn = d.chat.turns.path()[-1]
        assert turn.settings is not None
        assert turn.settings.preset == "demo"


@driving("One two.")
async def test_tokens_of_other_models_are_not_inspected(d: Driver) -> None:
    await d.ask("Go")
    await d.send("/preset demo")
    await d.until(lambda: len(d.engine.loads) == 2)
    await d.ready()
    await d.press("f6")
    await d.until(lambda: isinstance(d.app.screen, InfluenceScreen))
    await d.until(lambda: d.engine.inspected)
    assert d.engine.inspected == ["One two."]


@driving(Script([], at_once=EngineError("no")), "A.", "B.", "C.")
async def test_compare_joins_a_question_that_has_no_answer(d: Driver) -> None:
    await d.ask("First")
    await d.type("//second")
    await d.press("f5")
    await d.until(lambda: len(d.engine.heard) == 4)
    assert [m["content"] for m in d.engine.heard[-1][0]] == ["First\n\n/second"]


# Odd input -------------------------------------------------------------------------------------


ODD = [
    "/load ²",
    "/load " + "9" * 5_000,
    "/load ~nobody-has-this-name/x.json",
    "/export ~nobody-has-this-name/x.md",
    "/export " + "x" * 300 + ".md",
    "/load " + "x" * 300 + ".json",
    "/export nowhere/x.md",
    "/load /",
    "/set seed 1e300",
    "/set top_k 1e300",
    "/set first_tokens 1e300",
    "/set top_k 2.5",
    "/set first_tokens 2.5",
    "/set recipe base=1,tuned=x",
    "/set recipe base=1e400",
]


@asynchronous
async def test_odd_arguments_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with driven(ScriptedEngine(), tmp_path) as d:
        await d.ask("Go")
        for command in ODD:
            d.app.clear_notifications()
            await d.send(command)
            await d.until(lambda: d.toasts)
            assert "\n" not in d.toasts, command
            assert d.turns == ["Go", "Again."]


@driving()
async def test_a_command_ends_at_a_line_too(d: Driver) -> None:
    await d.send("/system\nBe brief.")
    assert d.engine.heard == []
    assert d.chat.turns.system == "Be brief."


@driving("One.")
async def test_an_unpaired_surrogate_that_was_imported(d: Driver) -> None:
    conversation = d.history.conversations.create(title="t\ud800")
    question = d.history.turns.ask(conversation.id, "q\ud800q")
    with d.history.answer(question.id) as answer:
        answer.append("a\udfffa")
        answer.finish("stop")
    await d.chat.turns.open(conversation.id)
    d.screen_text().encode()
    await d.press("f9")
    await d.press("f4")
    d.screen_text().encode()
    await d.press("escape", "ctrl+r")
    await d.idle()
    await d.send("More")
    await d.idle()
    assert d.app.is_running


@asynchronous
async def test_escape_sequences_pasted_into_dialogs(tmp_path: Path) -> None:
    paste = "a\x1b[31mb\x9b31m\x07\u202e"
    async with driven(ScriptedEngine("One."), tmp_path) as d:
        await d.ask("Go")
        await d.send("/system")
        await d.until(lambda: isinstance(d.app.screen, AskText))
        await pasted_into(d, paste)
        await d.press("escape", "ctrl+o")
        await d.until(lambda: isinstance(d.app.screen, HistoryScreen))
        await d.press("slash")
        await pasted_into(d, paste)
        await d.press("escape", "escape", "ctrl+p")
        await pasted_into(d, paste)


async def pasted_into(d: Driver, text: str) -> None:
    """Pastes as a terminal does, into what has the focus."""
    event = events.Paste(text)
    event.set_sender(d.app)
    assert d.app._driver is not None
    d.app._driver.send_message(event)
    await d.until(lambda: "[31mb" in d.screen_text())
    assert not set("\x1b\x9b\x07\u202e") & set(d.screen_text())


# The editor ------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ['vim "', " ", "no-such-editor -w", "/"])
def test_editors_that_cannot_be_called(setting: str) -> None:
    with pytest.raises(UsageError, match="editor"):
        edit_text("text", setting)


@pytest.mark.parametrize("command", ["ctrl+g", "/settings"])
@asynchronous
async def test_an_editor_that_fails_gives_the_terminal_back(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    @contextmanager
    def suspend(_app: object) -> Iterator[None]:  # as Textual's own: nothing in `finally`
        given.append("away")
        yield
        given.append("back")

    monkeypatch.setattr("textual.app.App.suspend", suspend)
    async with driven(ScriptedEngine(), tmp_path, settings=Settings(editor="no-such-editor")) as d:
        if command == "ctrl+g":
            await d.press(command)
        else:
            await d.send(command)
        assert given == ["away", "back"]
        assert "editor no-such-editor" in d.toasts


def test_an_editor_that_takes_the_file_away(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="editor"):
        edit_text("text", "rm")
