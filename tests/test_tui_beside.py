"""Other conversations are read, and written in, while an answer is being written."""

from __future__ import annotations

from pathlib import Path

from scripted_engine import Script, ScriptedEngine
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal_tui.history import History
from eftlocal_tui.screens.history import HistoryScreen
from eftlocal_tui.widgets.turn_view import AnswerView

SLOW = Script(["One ", "two ", "three"], wait_at=1)


async def leave(d: Driver) -> tuple[int, int]:
    """Two conversations; in the second, an answer is being written. Goes back to the first."""
    await d.ask("old")
    await d.press("ctrl+n")
    await d.send("Count")
    await d.until(lambda: d.turns[-1:] == ["One "])
    newer = d.chat.turns.conversation
    assert newer is not None
    await d.press("ctrl+o")
    await d.until(lambda: isinstance(d.app.screen, HistoryScreen))
    await d.press("down", "enter")
    await d.until(lambda: d.turns == ["old", "Before."])
    older = d.chat.turns.conversation
    assert older is not None
    return older.id, newer.id


@driving("Before.", SLOW, "After.")
async def test_an_answer_goes_on_in_its_conversation(d: Driver) -> None:
    _, newer = await leave(d)
    assert "Generating in “Count”" in d.static("#status")
    d.engine.go()
    await d.idle()
    assert d.turns == ["old", "Before."]
    assert not d.notes
    assert d.static("#status") == ""
    path = d.history.turns.path(newer)
    assert [(turn.text, turn.state) for turn in path[1:]] == [("One two three", "done")]


@driving("Before.", SLOW)
async def test_coming_back_shows_it_streaming(d: Driver) -> None:
    _, newer = await leave(d)
    await d.chat.turns.open(newer)
    assert d.turns == ["Count", "One "]
    view = d.chat.transcript.views[-1]
    assert isinstance(view, AnswerView)
    assert "still being written elsewhere" not in d.screen_text()
    d.engine.go()
    await d.idle()
    assert d.turns == ["Count", "One two three"]
    assert "20 tok/s" in d.screen_text()


@driving("Before.", SLOW, "After.")
async def test_a_message_in_another_conversation_waits_for_the_answer(d: Driver) -> None:
    older, newer = await leave(d)
    await d.send("Now here")
    assert "queued · Now here" in d.screen_text()
    d.engine.go()
    await d.idle()
    assert d.turns == ["old", "Before.", "Now here", "After."]
    assert [turn.text for turn in d.history.turns.path(older)] == d.turns
    assert d.history.turns.path(newer)[-1].text == "One two three"
    assert [m["content"] for m in d.engine.heard[-1][0]] == ["old", "Before.", "Now here"]


@driving("Before.", SLOW)
async def test_what_waits_stays_in_the_box_of_its_conversation(d: Driver) -> None:
    older, newer = await leave(d)
    await d.send("Now here")
    await d.chat.turns.open(newer)
    assert d.chat.prompt.text == ""
    assert "queued" not in d.screen_text()
    d.engine.go()
    await d.idle()
    assert len(d.engine.heard) == 2
    await d.chat.turns.open(older)
    assert d.chat.prompt.text == "Now here"


@driving("Before.", SLOW)
async def test_escape_stops_it_wherever_it_is(d: Driver) -> None:
    _, newer = await leave(d)
    await d.press("escape")
    d.engine.go()
    await d.idle()
    assert d.history.turns.path(newer)[-1].state == "stopped"


@driving("Before.", SLOW)
async def test_dials_turned_elsewhere_do_not_reach_it(d: Driver) -> None:
    _, newer = await leave(d)
    await d.send("/set beta 0.5")
    await d.chat.turns.open(newer)
    assert d.chat.dials.now.recipe.weights["base"] == 1.0
    await d.send("/set beta 0.25")
    d.engine.go()
    await d.idle()
    (mark,) = d.history.turns.path(newer)[-1].marks
    assert mark.what == "beta 1 → 0.25"


@driving("Before.", SLOW)
async def test_other_answers_wait_until_it_is_stopped(d: Driver) -> None:
    await leave(d)
    for key in ("ctrl+r", "f3", "f4", "f5", "f6", "f7"):
        d.app.clear_notifications()
        await d.press(key)
        await d.until(lambda: "Esc stops it" in d.toasts or "only one branch" in d.toasts)
        assert d.app.screen is d.chat
    assert len(d.engine.heard) == 2
    d.engine.go()
    await d.idle()


@driving("Before.", SLOW)
async def test_its_conversation_is_deleted(d: Driver) -> None:
    _, newer = await leave(d)
    d.history.conversations.delete(newer)
    d.engine.go()
    await d.idle()
    assert "deleted" in d.notes[0]
    await d.ask("Go on")
    assert d.turns[-1] == "Again."


@asynchronous
async def test_quitting_beside_it_keeps_what_came(tmp_path: Path) -> None:
    engine = ScriptedEngine("Before.", Script(["One ", "two"], wait_at=1))
    async with driven(engine, tmp_path) as d:
        _, newer = await leave(d)
        await d.press("ctrl+q")
        engine.go()
    with History(tmp_path / "chat.db") as history:
        turn = history.turns.path(newer)[-1]
        assert turn.text.startswith("One ")
        assert turn.state in ("stopped", "done")
