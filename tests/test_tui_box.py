"""What is typed and not sent: drafts that stay, messages that wait, earlier ones on the arrows."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted_engine import PATIENCE, Script, ScriptedEngine
from textual import events
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.errors import EngineError
from eftlocal_tui.history import Draft, History
from eftlocal_tui.settings import Settings

LONG = "One line\n" * 5 + "and **another** [red] ¿\ud83d\ude00?"


def text_of(d: Driver) -> str:
    return d.chat.prompt.text


async def answering(d: Driver) -> None:
    """Sends a message, and waits until its answer has begun."""
    await d.send("Count")
    await d.until(lambda: d.turns[-1:] == ["One "])


# The queue -------------------------------------------------------------------------------------


@driving(Script(["One ", "two"], wait_at=1), "Three.", "Four.")
async def test_enter_queues_while_an_answer_comes(d: Driver) -> None:
    await answering(d)
    await d.send("Next")
    await d.send("And\nthen?")
    assert "queued · Next" in d.screen_text()
    assert "queued · And then?" in d.screen_text()
    assert text_of(d) == ""
    assert d.turns == ["Count", "One "]
    d.engine.go()
    await d.idle()
    assert d.turns == ["Count", "One two", "Next", "Three.", "And\nthen?", "Four."]
    assert [turn.text for turn in d.chat.turns.path()] == d.turns
    assert "queued" not in d.screen_text()


@driving(Script(["One ", "two ", "three"], wait_at=1))
async def test_escape_stops_and_puts_the_queue_into_the_box(d: Driver) -> None:
    await answering(d)
    await d.send("Next")
    await d.send("Last")
    await d.type("typed since")
    await d.press("escape")
    assert text_of(d) == "Next\n\nLast\n\ntyped since"
    d.engine.go()
    await d.idle()
    assert d.turns[:-1] == ["Count"]
    assert len(d.engine.heard) == 1


@driving(Script(["One "], error=EngineError("broken"), wait_at=1))
async def test_what_waits_for_an_answer_that_fails_comes_back(d: Driver) -> None:
    await answering(d)
    await d.send("Next")
    d.engine.go()
    await d.idle()
    assert text_of(d) == "Next"
    assert d.notes == [] and "✗ failed: broken" in d.screen_text()


@driving(Script(["One ", "two"], wait_at=1), "Changed.")
async def test_up_takes_the_last_queued_message_back(d: Driver) -> None:
    await answering(d)
    await d.send("first")
    await d.send("second")
    await d.press("up")
    assert text_of(d) == "second"
    assert "queued · first" in d.screen_text()
    assert "queued · second" not in d.screen_text()
    await d.press("backspace", "ctrl+n")  # a draft of this conversation
    d.engine.go()
    await d.idle()
    assert text_of(d) == ""


@driving(Script(["One ", "two"], wait_at=1))
async def test_more_messages_than_fit_are_counted(d: Driver) -> None:
    await answering(d)
    for number in range(5):
        await d.send(f"message {number}")
    assert "queued · message 1" in d.screen_text()
    assert "queued · 3 more" in d.screen_text()
    await d.press("escape")
    assert text_of(d) == "\n\n".join(f"message {number}" for number in range(5))
    d.engine.go()
    await d.idle()


@driving("One.", Script(["Two ", "three"], wait_at=1), "Edited.")
async def test_an_edit_waits_as_an_edit(d: Driver) -> None:
    await d.ask("Go")
    await d.press("f4", "!", "ctrl+r")
    await d.until(lambda: d.turns[-1:] == ["Two "])
    await d.press("enter")
    assert "queued · Go!" in d.screen_text()
    await d.press("up")
    assert text_of(d) == "Go!"
    assert d.chat.prompt.has_class("-editing")
    await d.press("enter")
    d.engine.go()
    await d.idle()
    assert d.turns == ["Go!", "Edited."]
    assert d.chat.turns.path()[0].branches == 2


# Drafts ----------------------------------------------------------------------------------------


@driving("One.", "Two.")
async def test_an_edit_keeps_the_draft(d: Driver) -> None:
    await d.ask("first")
    await d.type("a draft")
    await d.press("f4")
    assert text_of(d) == "first"
    await d.press("escape")
    assert text_of(d) == "a draft"
    assert not d.chat.prompt.has_class("-editing")
    await d.press("f4", "!", "enter")
    await d.idle()
    assert d.turns == ["first!", "Two."]
    assert text_of(d) == "a draft"


@driving("One.", "Two.")
async def test_each_conversation_has_its_draft(d: Driver) -> None:
    await d.type("unsent")
    await d.press("ctrl+j")
    d.chat.prompt.clear()
    await d.ask("first")
    first = d.chat.turns.conversation
    assert first is not None
    await d.type("draft of the first")
    await d.press("ctrl+n")
    assert text_of(d) == ""
    await d.type("draft of the new one")
    await d.chat.turns.open(first.id)
    assert text_of(d) == "draft of the first"
    await d.press("ctrl+n")
    assert text_of(d) == "draft of the new one"
    await d.press("enter")
    await d.idle()
    await d.press("ctrl+n")
    assert text_of(d) == ""


@pytest.mark.parametrize("how", ["preset", "resize"])
@driving("One.")
async def test_a_draft_stays_in_the_box(d: Driver, how: str) -> None:
    await d.ask("Go")
    await d.type(LONG)
    typed = text_of(d)
    if how == "preset":
        await d.chat.commands.obey(*_parsed("/preset demo"))
        await d.until(lambda: len(d.engine.loads) == 2)
        await d.ready()
    else:
        for size in ((30, 10), (200, 60), (100, 30)):
            await d.pilot.resize_terminal(*size)
            await d.pause()
    assert text_of(d) == typed


def _parsed(text: str):
    from eftlocal_tui.commands import parse

    found = parse(text)
    assert found is not None
    return found


def newest(history: History):
    return history.conversations.list(limit=1)[0]


@asynchronous
async def test_quitting_keeps_what_was_typed(tmp_path: Path) -> None:
    async with driven(ScriptedEngine("One."), tmp_path) as d:
        await d.type("in the new one")
        await d.press("ctrl+q")
    async with driven(ScriptedEngine("One."), tmp_path) as d:
        assert text_of(d) == "in the new one"
        await d.press("enter")
        await d.idle()
        await d.type("draft")
        await d.press("f4", "?", "ctrl+q")
    async with driven(ScriptedEngine("Two."), tmp_path, resume=newest) as d:
        assert text_of(d) == "in the new one?"
        assert d.chat.prompt.has_class("-editing")
        await d.press("enter")
        await d.idle()
        assert d.turns == ["in the new one?", "Two."]
        assert text_of(d) == "draft"
    async with driven(ScriptedEngine(), tmp_path) as d:
        assert text_of(d) == ""


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("turns", [0, 3, 7])
@asynchronous
async def test_what_is_sent_as_the_chat_is_left_is_kept(tmp_path: Path, turns: int) -> None:
    """Its turn to be sent does not come any more, wherever it is on its way."""
    async with driven(ScriptedEngine("One."), tmp_path) as d:
        await d.type("precious")
        d.put("enter")
        for _ in range(turns):
            await asyncio.sleep(0)
        d.put("ctrl+q")
        await d.pause()
    gc.collect()  # a coroutine that nobody awaited says so as it goes
    async with driven(ScriptedEngine(), tmp_path) as d:
        assert text_of(d) == "precious"


@asynchronous
async def test_what_waited_is_in_the_box_at_the_next_start(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.load_waits.clear()
    async with driven(engine, tmp_path, wait=False) as d:
        await d.send("first")
        await d.send("second")
        await d.type("third")
        await d.press("ctrl+q")
        engine.load_waits.set()
    async with driven(ScriptedEngine(), tmp_path) as d:
        assert text_of(d) == "first\n\nsecond\n\nthird"
        assert d.turns == []


@driving()
async def test_what_is_typed_is_kept_within_a_moment_and_not_at_each_key(d: Driver) -> None:
    kept: list[Draft] = []
    put = d.history.drafts.put

    def counted(conversation: int | None, draft: Draft) -> None:
        kept.append(draft)
        put(conversation, draft)

    d.history.drafts.put = counted  # type: ignore[method-assign]
    before = time.monotonic()
    await d.press(*"abcdefgh")
    fast = time.monotonic() - before
    await d.until(lambda: d.history.drafts.get(None).text == "abcdefgh")
    assert len(kept) <= 1 + fast / 0.5 + 1
    await d.press("left")  # nothing new
    await d.pilot.pause(0.6)
    assert kept[-1].text == "abcdefgh"
    assert len({draft.text for draft in kept}) == len(kept)


@driving("One.")
async def test_a_draft_that_cannot_be_kept_is_told_once_and_stays(d: Driver) -> None:
    await d.ask("Go")
    first = d.chat.turns.conversation
    assert first is not None
    d.history.db.connection.execute("PRAGMA query_only = ON").fetchall()
    await d.type("draft")
    await d.until(lambda: "what you type is not saved" in d.toasts)
    await d.press("ctrl+n")
    await d.type("other")
    await d.chat.turns.open(first.id)
    assert text_of(d) == "draft"
    assert d.toasts.count("not saved") == 1
    d.history.db.connection.execute("PRAGMA query_only = OFF").fetchall()
    await d.press("!")
    await d.until(lambda: d.history.drafts.get(first.id).text == "draft!")


@driving("One.")
async def test_a_draft_stays_where_its_conversation_was_deleted(d: Driver) -> None:
    await d.type("of the new one")
    await d.press("ctrl+a", "ctrl+x")
    await d.ask("Go")
    await d.type("draft")
    await d.press("ctrl+o", "delete")
    await d.press("tab", "enter")
    await d.until(lambda: d.history.conversations.list() == [])
    await d.press("escape")
    await d.until(lambda: d.turns == [])
    assert text_of(d) == "draft"
    assert "not saved" not in d.toasts


CHILD = """
import asyncio, sys
from pathlib import Path
from scripted_engine import Script, ScriptedEngine
from tui_driver import driven

async def main():
    async with driven(ScriptedEngine("One.", Script(["Two"], wait_at=0)), Path(sys.argv[1])) as d:
        await d.ask("Go")
        await d.send("More")
        await d.send("queued")
        await d.type("typed")
        conversation = d.chat.turns.conversation.id
        await d.until(lambda: "typed" in d.history.drafts.get(conversation).text)
        await d.press("ctrl+n")
        await d.type("of a new one")
        await d.until(lambda: d.history.drafts.get(None).text)
        print("kept", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@asynchronous
async def test_a_killed_process_leaves_the_draft_and_the_queue(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "kept\n"
        async with driven(ScriptedEngine(), tmp_path) as d:
            assert text_of(d) == ""  # that one is still being typed
        child.send_signal(signal.SIGKILL)
        child.wait(PATIENCE)
    async with driven(ScriptedEngine(), tmp_path, resume=newest) as d:
        assert d.turns == ["Go", "One.", "More", ""]
        assert text_of(d) == "queued\n\ntyped"
        await d.press("ctrl+n")
        assert text_of(d) == "of a new one"


# Earlier messages ------------------------------------------------------------------------------


@driving("1", "2", "3", "4")
async def test_up_in_an_empty_box_brings_earlier_messages(d: Driver) -> None:
    for text in ("of another", "of another", "too"):
        await d.ask(text)
    await d.press("ctrl+n")
    await d.ask("mine")
    seen = []
    for _ in range(4):
        await d.press("up")
        seen.append(text_of(d))
    assert seen == ["mine", "too", "of another", "of another"]
    await d.press("down", "down")
    assert text_of(d) == "mine"
    await d.press("down", "down")
    assert text_of(d) == ""


@driving("1", "2", "3")
async def test_a_recalled_message_may_be_changed_and_lines_are_walked(d: Driver) -> None:
    await d.ask("older")
    await d.ask("one\ntwo")
    await d.press("up")
    assert text_of(d) == "one\ntwo"
    assert d.chat.prompt.cursor_location == (1, 3)
    await d.press("up")  # within the message first
    assert text_of(d) == "one\ntwo"
    assert d.chat.prompt.cursor_location[0] == 0
    await d.press("up")
    assert text_of(d) == "older"
    await d.press("down", "!", "up", "up", "down", "down")
    assert text_of(d) == "one\ntwo!"
    await d.press("enter")
    await d.idle()
    assert d.turns[-2:] == ["one\ntwo!", "3"]


@driving("1")
async def test_up_moves_the_cursor_in_what_is_typed(d: Driver) -> None:
    await d.ask("earlier")
    await d.type("one\ntwo")
    await d.press("up", "up", "down", "down")
    assert text_of(d) == "one\ntwo"


@driving("1", settings=Settings(keys={"prompt.earlier": "ctrl+up", "chat.turns": "alt+t"}))
async def test_the_arrows_move_where_other_keys_recall(d: Driver) -> None:
    await d.ask("earlier")
    await d.type("one\ntwo")
    await d.press("up")
    assert d.chat.prompt.cursor_location[0] == 0
    d.chat.prompt.clear()
    await d.press("up")
    assert text_of(d) == ""
    await d.press("ctrl+up")
    assert text_of(d) == "earlier"


@driving()
async def test_up_without_any_message_does_nothing(d: Driver) -> None:
    await d.press("up", "up", "down")
    assert text_of(d) == ""
    await d.type("typed")
    assert text_of(d) == "typed"


@driving()
async def test_undo_of_many_lines(d: Driver) -> None:
    """The scrollbar goes while the cursor still stands in a line that is gone."""
    for count in (12, 40):
        d.app._driver.send_message(events.Paste("\n".join(map(str, range(count)))))  # type: ignore[union-attr]
        await d.pause()
        assert d.chat.prompt.document.line_count == count
        await d.press("ctrl+z")
        assert d.chat.prompt.text == ""
        await d.press("ctrl+y")
        assert d.chat.prompt.document.line_count == count
        d.chat.prompt.clear()
