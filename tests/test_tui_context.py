"""A full context: refused before anything is stored, and the ways on."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
from scripted_engine import PATIENCE, Script, ScriptedEngine
from textual.widgets import OptionList
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.errors import EngineError
from eftlocal_tui.engine import Fit
from eftlocal_tui.history import History, import_file, to_json, to_markdown
from eftlocal_tui.keys import check_keys
from eftlocal_tui.screens.chat_context import SUMMARY
from eftlocal_tui.screens.full_context import ContextScreen, role_lines
from eftlocal_tui.settings import Settings

SIZE = 116
TWENTY = "word " * 19 + "end"


async def filled(d: Driver) -> int:
    """A conversation that takes 84 tokens of 116 in the base: of two turns, 42 tokens each."""
    d.engine.n_ctx = SIZE
    d.engine.scripts = [Script([TWENTY]), Script([TWENTY]), *d.engine.scripts]
    await d.ask(TWENTY)
    await d.ask(TWENTY)
    assert d.chat.turns.conversation is not None
    return d.chat.turns.conversation.id


async def dialog(d: Driver) -> list[str]:
    """The ways that are offered, by their first words."""
    await d.shows(ContextScreen)
    await d.pause()
    return [way.title for way in d.app.screen._ways]


async def choose(d: Driver, title: str) -> None:
    ways = await dialog(d)
    listed = d.app.screen.query_one(OptionList)
    assert d.app.focused is listed
    first = listed.highlighted is None  # of a dialog that nobody called
    await d.press(*["down"] * (ways.index(title) + first), "enter")


def contents(d: Driver) -> list[str]:
    return [message["content"] for message in d.engine.heard[-1][0]]


LEAVE = "Leave out the oldest 2 messages"


@driving("Then.", size=(100, 40))
async def test_a_message_that_does_not_fit_is_not_stored(d: Driver) -> None:
    conversation = await filled(d)
    await d.send("Third?")
    assert await dialog(d) == [LEAVE, "Continue from a summary", "New conversation"]
    shown = d.screen_text()
    assert "base: 86 of 116 tokens" in shown
    assert "tuned, reference: 81 of 116 tokens" in shown
    assert len(d.history.turns.all(conversation)) == 4
    await d.press("escape")
    await d.idle()
    assert d.chat.prompt.text == "Third?"
    assert d.turns == [TWENTY] * 4
    assert len(d.engine.heard) == 2


@driving(size=(80, 24), settings=Settings(keys=check_keys({"context.choose": "f2"})))
async def test_its_keys_are_named_as_they_are_set(d: Driver) -> None:
    await filled(d)
    await d.send("/context")
    await dialog(d)
    line = d.screen_text().splitlines()[-1]
    assert line == " F2 Choose Esc Cancel F1 Help ^P Commands ^Q Quit"
    await d.press("f1")
    assert "F2 goes the one that is highlighted" in " ".join(d.screen_text().split())
    await d.press("escape", "f2")
    await d.idle()
    assert d.app.screen is d.chat and "2 messages" in d.screen_text()


@driving("Then.", "More.", "Otherwise.", size=(100, 40))
async def test_the_oldest_are_left_out_and_stay_in_the_history(d: Driver) -> None:
    conversation = await filled(d)
    await d.send("/system Be brief.")
    await d.send("Third?")
    await choose(d, LEAVE)
    await d.idle()
    assert d.turns == [*[TWENTY] * 4, "Third?", "Then."]
    assert contents(d) == ["Be brief.", TWENTY, TWENTY, "Third?"]
    assert "─ the 2 messages above are no longer sent ─" in d.screen_text()
    await d.ask("Fourth?")  # it holds for later turns
    assert contents(d) == ["Be brief.", TWENTY, TWENTY, "Third?", "Then.", "Fourth?"]
    await d.press("f4", "!", "enter")  # and for branches
    await d.idle()
    assert contents(d)[-1] == "Fourth?!"
    assert len(contents(d)) == 6
    exported = to_markdown(d.history, conversation)
    assert exported.count("*the 2 messages above are no longer sent*") == 1


@asynchronous
async def test_what_is_left_out_stays_so_after_a_restart_and_an_import(tmp_path: Path) -> None:
    async with driven(ScriptedEngine("Then."), tmp_path, size=(100, 40)) as d:
        conversation = await filled(d)
        await d.send("Third?")
        await choose(d, LEAVE)
        await d.idle()
        text = to_json(d.history, [conversation])
        assert '"version": 2' in text
        (tmp_path / "x.json").write_text(text)
        (copy,) = import_file(d.history, tmp_path / "x.json")
        assert to_json(d.history, [copy.id]) == text
        twin = d.history.conversations.duplicate(conversation)

    for id in (conversation, copy.id, twin.id):

        def chosen(history: History, id: int = id):
            return history.conversations.get(id)

        async with driven(ScriptedEngine(), tmp_path, size=(100, 40), resume=chosen) as d:
            assert "─ the 2 messages above are no longer sent ─" in d.screen_text()
            await d.ask("Next?")
            assert contents(d) == [TWENTY, TWENTY, "Third?", "Then.", "Next?"]


@driving("Names and facts.", "Other facts.", "Answered.", size=(100, 50))
async def test_a_summary_begins_a_new_part(d: Driver) -> None:
    conversation = await filled(d)
    await d.send("Third?")
    await choose(d, "Continue from a summary")
    await d.until(lambda: d.turns[-2:] == [SUMMARY, "Names and facts."])
    await d.idle()
    assert d.chat.prompt.text == "Third?"
    assert contents(d) == [TWENTY, TWENTY, SUMMARY]  # it has no room for the first ones
    said = "─ the 4 messages above are no longer sent, the summary below is ─"
    await d.until(lambda: said in d.screen_text())
    await d.press("ctrl+up", "r")  # another summary
    await d.idle()
    assert d.turns[-1] == "Other facts."
    assert contents(d) == [TWENTY, TWENTY, SUMMARY]
    await d.press("ctrl+up", "e")  # in a person's own words
    assert d.chat.prompt.text == "Other facts."
    await d.press("!", "enter")
    await d.idle()
    assert d.turns[-2:] == [SUMMARY, "Other facts.!"]
    assert d.chat.prompt.text == "Third?"
    await d.press("enter")
    await d.idle()
    assert contents(d) == [SUMMARY, "Other facts.!", "Third?"]
    assert d.turns[-1] == "Answered."
    assert "the summary below is" in to_markdown(d.history, conversation)
    path = d.history.turns.path(conversation)
    assert [turn.summary for turn in path] == [False] * 4 + [True, False, False, False]
    assert path[5].branches == 3


@driving(Script([], error=None), size=(100, 40))
async def test_a_summary_that_failed_begins_nothing(d: Driver) -> None:
    await filled(d)
    d.engine.scripts = [Script(["no", "thing"], wait_at=0)]
    await d.send("Third?")
    await choose(d, "Continue from a summary")
    await d.until(lambda: d.turns[-1:] == [""])
    await d.press("escape")
    await d.idle()
    assert "no longer sent" not in d.screen_text()
    await d.press("enter")
    assert LEAVE.startswith((await dialog(d))[0][:20])
    await d.press("escape")
    await d.idle()


@driving(size=(100, 40))
async def test_a_new_conversation_takes_the_message_along(d: Driver) -> None:
    old = await filled(d)
    await d.send("Third?")
    await choose(d, "New conversation")
    await d.until(lambda: d.turns == [])
    await d.idle()
    assert d.chat.prompt.text == "Third?"
    await d.press("enter")
    await d.idle()
    assert d.turns == ["Third?", "Again."]
    assert contents(d) == ["Third?"]
    await d.chat.turns.open(old)
    assert d.chat.prompt.text == ""


@driving(size=(100, 40))
async def test_a_message_that_is_too_long_alone(d: Driver) -> None:
    d.engine.n_ctx = SIZE
    await d.send(TWENTY * 6)
    assert await dialog(d) == []
    assert "The message is too long" in d.screen_text()
    await d.press("escape")
    await d.idle()
    assert d.chat.prompt.text == TWENTY * 6
    assert d.chat.turns.conversation is None
    assert d.history.conversations.list() == []


@driving(size=(100, 40))
async def test_a_system_prompt_that_is_too_long_is_named(d: Driver) -> None:
    d.engine.n_ctx = SIZE
    await d.chat.turns.set_system(TWENTY * 6)
    await d.send("Hello?")
    assert await dialog(d) == []
    assert "The system prompt is too long" in d.screen_text()


def test_roles_that_were_not_counted_are_left_out() -> None:
    sizes = {"base": 512, "tuned": 512}
    fit = Fit({"base": 71_433, "tuned": 0}, sizes, dict.fromkeys(sizes, 0))
    assert role_lines(fit) == ["base: 71,433 of 512 tokens"]
    fit = Fit({"base": 0, "tuned": 0}, sizes, fit.trained)
    assert role_lines(fit) == ["base, tuned: 0 of 512 tokens"]


@driving(Script([TWENTY], wait_at=1), size=(100, 40))
async def test_all_but_the_new_message_may_be_left_out(d: Driver) -> None:
    conversation = await filled(d)
    await d.send(TWENTY * 3)
    await choose(d, "Leave out the oldest 4 messages")
    await d.until(lambda: len(d.engine.heard) == 3)
    await d.idle()
    assert contents(d) == [TWENTY * 3]
    assert len(d.history.turns.all(conversation)) == 6
    assert d.turns[:4] == [TWENTY] * 4


class FullInTheMiddle(ScriptedEngine):
    """Its second answer fills the context."""

    def answer(self, *args, **options):
        answer = super().answer(*args, **options)
        step = type(answer).__next__

        class Ends(type(answer)):
            def __next__(self):
                from dataclasses import replace

                found = step(self)
                end = found.finish_reason and "context"
                return replace(found, finish_reason=end) if len(args[0]) > 1 else found

        answer.__class__ = Ends
        return answer


@asynchronous
async def test_an_answer_that_fills_the_context_says_so_and_goes_on(tmp_path: Path) -> None:
    engine = FullInTheMiddle(Script(["One."]), Script(["Two"]), Script([" and three."]))
    async with driven(engine, tmp_path, size=(100, 40)) as d:
        await d.ask("First?")
        await d.send("Second?")
        await d.until(lambda: d.notes)
        assert "context full" in d.screen_text()
        assert d.notes == ["The context is full. /context shows the ways on."]
        engine.n_ctx = 36
        await d.press("f3")
        await choose(d, LEAVE)
        await d.idle()
        assert contents(d) == ["Second?", "Two"]
        assert d.turns[-1] == "Two and three."


@pytest.mark.parametrize("key", ["ctrl+r", "f3"])
@driving("Otherwise.", size=(100, 40))
async def test_other_models_with_less_room(d: Driver, key: str) -> None:
    await filled(d)
    d.engine.n_ctx = 90
    await d.press(key)
    await choose(d, LEAVE)
    await d.idle()
    assert contents(d)[:1] == [TWENTY]
    assert len(contents(d)) == 1 + (key == "f3")
    assert "Otherwise." in d.turns[-1]


@driving("Third.", size=(100, 40))
async def test_the_command_shows_what_is_taken_and_takes_it_back(d: Driver) -> None:
    conversation = await filled(d)
    await d.send("/context")
    assert await dialog(d) == [LEAVE, "Continue from a summary", "New conversation"]
    assert "base: 84 of 116 tokens" in d.screen_text()
    await d.press("enter")
    await d.until(lambda: "2 messages above are no longer sent" in d.screen_text())
    assert d.history.turns.path(conversation)[-1].begins_at is not None
    d.engine.n_ctx -= 2
    await d.send("/context")
    assert (await dialog(d))[0] == "Continue from a summary"
    assert "Not sent any more: the oldest 2 messages" in d.screen_text()
    await d.press("escape")
    d.engine.n_ctx = 360
    await d.send("/context")
    await choose(d, "Send all messages again")
    await d.until(lambda: "no longer sent" not in d.screen_text())
    await d.ask("Third?")
    assert contents(d) == [*[TWENTY] * 4, "Third?"]


@driving(size=(100, 40))
async def test_the_command_in_an_empty_conversation(d: Driver) -> None:
    await d.send("/context")
    assert await dialog(d) == []
    shown = d.screen_text()
    assert "base, tuned, reference: 0 of 4,096 tokens" in shown
    assert shown.endswith("\n Esc Cancel F1 Help ^P Commands ^Q Quit")
    await d.press("escape")


LARGER = "Larger context: 232 tokens"


@driving("Third.", size=(100, 40))
async def test_a_larger_context_keeps_everything(d: Driver) -> None:
    await filled(d)
    await d.chat.dials.turn("beta", "0.5")
    d.engine.n_ctx_most = 2 * SIZE
    await d.send("Third?")
    assert LARGER in await dialog(d)
    assert "loads the models again; they take 2.5 GB of memory then" in d.screen_text()
    await choose(d, LARGER)
    await d.until(lambda: d.turns[-1:] == ["Third."])
    await d.idle()
    assert contents(d) == [*[TWENTY] * 4, "Third?"]
    assert d.engine.n_ctx == 2 * SIZE
    assert d.chat.dials.now.shown()["beta"] == "0.5"
    assert d.notes == []


@pytest.mark.parametrize("ends", ["stopped", "failed"])
@driving("Then.", size=(100, 40))
async def test_without_a_larger_context_the_former_models_are_there_again(
    d: Driver, ends: str
) -> None:
    await filled(d)
    d.engine.n_ctx_most, d.engine.gives_up = 2 * SIZE, True
    d.engine.load_waits.clear()
    if ends == "failed":
        d.engine.refuses["fake"] = EngineError("no memory")
    await d.send("Third?")
    await choose(d, LARGER)
    await d.until(lambda: "Loading a larger context" in d.static("#status"))
    if ends == "stopped":
        await d.press("escape")
    d.engine.load_waits.set()
    await d.idle()
    await d.until(lambda: d.notes)
    assert d.notes[-1].endswith("fake is loaded again.")
    assert d.engine.n_ctx == SIZE
    assert d.chat.prompt.text == "Third?"
    assert d.turns == [TWENTY] * 4


@driving("Then.", size=(100, 40))
async def test_keys_typed_while_it_is_counted_go_to_the_box(d: Driver) -> None:
    await filled(d)
    count, counts = d.engine.fits, threading.Event()

    def slowly(messages, dials):
        assert counts.wait(PATIENCE)
        return count(messages, dials)

    d.engine.fits = slowly
    await d.send("Third?")
    await d.until(lambda: d.static("#status") == "Sending · Esc takes it back")
    counts.set()
    await d.shows(ContextScreen)
    screen = d.app.screen
    screen._seen = math.inf  # as if it were not drawn yet
    await d.press("o", "n", "down", "enter")
    assert d.app.screen is screen
    screen._seen = 0.0
    await d.press("m", "enter")  # of somebody who does not look up
    assert d.app.screen is screen
    await d.press("escape")
    await d.idle()
    assert d.chat.prompt.text == "Third?\n\non\n\nm"
    assert d.turns == [TWENTY] * 4


@driving(Script(["One."], wait_at=0), "Two.")
async def test_what_is_sent_while_a_message_is_counted_is_shown_as_queued(d: Driver) -> None:
    count = d.engine.fits

    def sends_another(messages, dials):
        d.engine.fits = count
        d.app.call_from_thread(d.chat.prompt.post_message, d.chat.prompt.Sent("Next"))
        return count(messages, dials)

    d.engine.fits = sends_another
    await d.send("Go")
    await d.until(lambda: d.engine.answering and "queued · Next" in d.screen_text())
    d.engine.go()
    await d.until(lambda: d.turns == ["Go", "One.", "Next", "Two."])
    await d.idle()


@driving("One.", "Two.")
async def test_escape_while_it_is_counted_takes_the_message_back(d: Driver) -> None:
    count, stop = d.engine.fits, d.chat.action_stop

    def stopped(messages, dials):
        d.app.call_from_thread(stop)
        return count(messages, dials)

    d.engine.fits = stopped
    await d.send("Go")
    await d.idle()
    assert d.chat.prompt.text == "Go"
    assert d.turns == []
    d.engine.fits = count
    await d.press("enter")
    await d.idle()
    assert d.turns == ["Go", "One."]
