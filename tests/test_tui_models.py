"""Loading in the chat: what works stays, a download is asked for, and another preset is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_engine import Script, ScriptedEngine
from textual.widgets import Label
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.errors import DoesNotFitError, EngineError
from eftlocal_tui.engine import DownloadNeededError, Progress
from eftlocal_tui.engine.thread import StoppedError
from eftlocal_tui.history import Conversation, History
from eftlocal_tui.history import Settings as Kept
from eftlocal_tui.screens.dialogs import Confirm
from eftlocal_tui.widgets.loading_bars import LoadingBars

REFUSED = DoesNotFitError("the models need 40.1 GB and 8.0 GB are free")


def head(d: Driver) -> str:
    return d.static("#head")


def question(d: Driver) -> str:
    """What a dialog asks."""
    return " ".join(str(label.render()) for label in d.app.screen.query(Label))


# What works stays ------------------------------------------------------------------------------


@driving("One.", "Two.")
async def test_models_that_cannot_be_loaded_leave_the_others(d: Driver) -> None:
    await d.ask("Hello")
    await d.chat.dials.turn("beta", "0.5")
    assert "context " in d.static("#figures")
    d.engine.refuses["demo"] = REFUSED
    await d.send("/preset demo")
    await d.until(lambda: len(d.notes) == 2)
    assert d.notes == [str(REFUSED), "fake stays loaded."]
    assert "fake" in head(d)
    assert "beta 0.5" in head(d)
    assert "context " in d.static("#figures")
    assert d.static("#status") == ""
    await d.ask("Are you there?")
    assert d.turns[-1] == "Two."
    assert d.chat.dials.now.shown()["beta"] == "0.5"


@driving("One.", "Two.")
async def test_models_that_were_given_up_are_loaded_again(d: Driver) -> None:
    await d.ask("Hello")
    d.engine.refuses["demo"], d.engine.gives_up = EngineError("no context"), True
    await d.send("/preset demo")
    await d.until(lambda: len(d.notes) == 2)
    assert d.notes == ["no context", "fake is loaded again."]
    assert "context " not in d.static("#figures")  # their caches are gone
    await d.ask("Are you there?")
    assert d.turns[-1] == "Two."


@driving("One.")
async def test_models_that_cannot_be_loaded_again_are_not_named(
    d: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restore(report: object) -> None:
        raise EngineError("gone")

    monkeypatch.setattr(d.engine, "restore", restore)
    d.engine.refuses["demo"], d.engine.gives_up = REFUSED, True
    await d.send("/preset demo")
    await d.until(lambda: len(d.notes) == 3)
    assert d.notes[1:] == ["gone", "Ctrl+L shows what can be loaded instead."]
    assert "fake" not in head(d)
    assert d.static("#status") == "No models are loaded"


@driving("One.", "Two.")
async def test_a_load_that_is_stopped_leaves_the_others(d: Driver) -> None:
    d.engine.load_waits.clear()
    await d.send("/preset demo")
    await d.until(lambda: d.chat.query_one(LoadingBars).display)
    assert "fake" not in head(d)
    assert d.static("#status") == "Loading demo; you can already type · Esc stops"
    await d.press("escape")
    d.engine.load_waits.set()
    await d.until(lambda: d.notes)
    assert d.notes == ["Loading stopped; fake stays loaded."]
    await d.ask("Hello")
    assert d.turns[-1] == "One."


@driving("One.")
async def test_a_question_that_was_asked_meanwhile_is_given_back(d: Driver) -> None:
    d.engine.refuses["demo"], d.engine.gives_up = REFUSED, True
    d.engine.load_waits.clear()
    await d.send("/preset demo")
    await d.until(lambda: d.chat.models.loading)
    await d.send("Which of you?")
    await d.until(lambda: d.chat.answers.box.waiting)
    assert d.static("#status") == "Queued; sent when the models are loaded"
    d.engine.load_waits.set()
    await d.until(lambda: len(d.notes) == 3)
    assert d.notes[2] == "Your message is back in the box; Enter sends it to fake."
    assert not d.chat.answers.busy
    assert d.engine.heard == []
    assert d.chat.prompt.text == "Which of you?"
    await d.press("enter")
    await d.until(lambda: d.turns[-1:] == ["One."])
    await d.idle()


@driving("One.", Script(["Two."], wait_at=0), "Three.")
async def test_the_loaded_models_answer_until_others_are_ready(d: Driver) -> None:
    d.engine.prepare_waits.clear()
    await d.send("/preset demo")
    await d.until(lambda: len(d.engine.loads) == 2)
    status = "Preparing demo; fake answers meanwhile · Esc stops"
    assert d.static("#status") == status
    await d.ask("Hello")
    assert d.turns[-1] == "One."
    assert d.static("#status") == status
    await d.send("Still you?")
    await d.until(lambda: d.engine.answering[1:])
    d.engine.prepare_waits.set()
    await d.until(lambda: d.chat.models.loading)
    assert "fake" in head(d)  # it is not given up under its answer
    await d.send("And now?")
    d.engine.go()
    await d.until(lambda: d.turns[-1:] == ["Three."])
    await d.idle()
    made = [turn.settings.preset for turn in d.chat.turns.path() if turn.settings]
    assert made == ["fake", "fake", "demo"]


@driving("One.")
async def test_escape_stops_a_download_and_nothing_else(d: Driver) -> None:
    d.engine.progress = [Progress("download", "base.gguf", 1, 2)]
    d.engine.prepare_waits.clear()
    await d.send("/preset demo")
    await d.until(lambda: len(d.engine.loads) == 2)
    await d.ask("Hello")
    loaded = d.chat.models.loaded
    stopped = d.engine.loaded
    await d.press("escape")
    assert d.static("#status") == "Stopping …"
    d.engine.refuses["demo"] = StoppedError("stopped")
    d.engine.prepare_waits.set()
    await d.until(lambda: d.notes)
    assert d.notes == ["Loading stopped; fake stays loaded."]
    assert d.static("#status") == ""
    assert d.chat.models.loaded is loaded is stopped


@driving("One.", "Two.")
async def test_figures_of_former_models_go_with_them(d: Driver) -> None:
    await d.ask("Hello")
    await d.send("/preset demo")
    await d.until(lambda: "demo" in head(d))
    assert "context " not in d.static("#figures")
    assert d.chat.side.live is None
    assert d.notes == ["From here demo answers; so far fake did."]


# Downloads -------------------------------------------------------------------------------------


@driving("One.")
async def test_a_download_is_asked_for(d: Driver) -> None:
    d.engine.missing["olmo2-7b"] = DownloadNeededError("olmo2-7b", 7_630_000_000, 0, 120 * 10**9)
    await d.send("/preset olmo2-7b")
    await d.shows(Confirm)
    asked = "Download 7.63 GB for olmo2-7b? 120 GB are free on the disk."
    await d.until(lambda: question(d) == asked)
    await d.press("enter")  # Cancel has the focus
    await d.until(lambda: d.notes)
    assert d.notes == ["olmo2-7b was not downloaded; fake stays loaded."]
    assert d.engine.downloads == []
    await d.ask("Hello")
    assert d.turns[-1] == "One."
    await d.send("/preset olmo2-7b")
    await d.shows(Confirm)
    await d.press("tab", "enter")
    await d.until(lambda: "olmo2-7b" in head(d))
    assert d.engine.downloads == ["olmo2-7b"]


@pytest.mark.parametrize(
    ("size", "begun", "asked"),
    [
        (None, 0, "Download mine? Its size is not known; 5 GB are free on the disk."),
        (2 * 10**9, 10**9, "Download 2 GB more of mine? 5 GB are free on the disk."),
    ],
)
@asynchronous
async def test_a_download_at_the_start_is_asked_for(
    size: int | None, begun: int, asked: str, tmp_path: Path
) -> None:
    engine = ScriptedEngine("One.")
    engine.missing[None] = DownloadNeededError("mine", size, begun, 5 * 10**9)
    async with driven(engine, tmp_path, wait=False) as d:
        await d.shows(Confirm)
        await d.until(lambda: question(d) == asked)
        await d.press("escape")
        await d.until(lambda: d.notes)
        assert d.notes == ["mine was not downloaded. /preset NAME loads models."]
        assert d.static("#status") == "No models are loaded"
        await d.send("/preset demo")
        await d.ready()
        await d.ask("Hello")
        assert d.turns[-1] == "One."


@asynchronous
async def test_bars_say_how_fast_and_how_long(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.prepare_waits.clear()
    engine.progress = [
        Progress("waiting", "the hub", 0, 0),
        Progress("download", "base.gguf", 10**9, 4 * 10**9),
    ]
    async with driven(engine, tmp_path, wait=False) as d:
        bars = d.chat.query_one(LoadingBars)
        await d.until(lambda: "1 GB of 4 GB · Downloading base.gguf" in str(bars.render()))
        assert "Waiting" not in str(bars.render())
        pace = bars._paces["download", "base.gguf"]
        pace._told.clear()
        pace._told.extend([(pace._clock() - 10, 0), (pace._clock(), 10**9)])
        await d.until(lambda: "1 GB of 4 GB · 100 MB/s, about " in str(bars.render()))
        bars.show([Progress("waiting", "the hub", 0, 0)])
        await d.until(lambda: "Waiting for the hub · " in str(bars.render()))
        engine.prepare_waits.set()
        await d.until(lambda: not bars.display)


# Conversations of other presets ----------------------------------------------------------------


def of_preset(history: History, preset: str) -> Conversation:
    conversation = history.conversations.create()
    question = history.turns.ask(conversation.id, "Who are you?")
    with history.answer(question.id, Kept(preset=preset)) as writer:
        writer.append("Olmo.")
        writer.finish("stop")
    return history.conversations.get(conversation.id)


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        (
            "olmo2-7b",
            "olmo2-7b answered this conversation, and fake is loaded. /preset olmo2-7b loads it; "
            "without that, fake answers from here.",
        ),
        (
            "long-gone",
            "long-gone answered this conversation, and fake is loaded. There is no preset "
            "long-gone any more; fake answers from here.",
        ),
    ],
)
@asynchronous
async def test_a_conversation_of_another_preset_says_so(
    preset: str, said: str, tmp_path: Path
) -> None:
    engine = ScriptedEngine("One.")
    async with driven(engine, tmp_path, resume=lambda h: of_preset(h, preset)) as d:
        await d.until(lambda: d.notes)
        assert d.notes == [said]  # at the start
        number = d.chat.turns.conversation.id
        await d.press("ctrl+n")
        assert d.notes == []
        await d.send(f"/load {number}")
        await d.until(lambda: d.notes)
        assert d.notes == [said]
        if preset == "olmo2-7b":
            await d.send("/preset olmo2-7b")
            await d.ready()
            assert d.notes == [said]  # nothing to say: it is the one
            await d.send("/preset demo")
            await d.ready()
            await d.until(lambda: len(d.notes) == 2)
            assert d.notes[1] == "From here demo answers; so far olmo2-7b did."
        await d.ask("And now?")
        assert d.turns[-1] == "One."
        await d.press("ctrl+n")
        await d.send(f"/load {number}")  # its last answer is of what is loaded
        await d.pause()
        assert d.notes == []


@driving(Script(["One."], wait_at=0))
async def test_a_preset_is_not_changed_under_an_answer(d: Driver) -> None:
    await d.send("Hello")
    await d.until(lambda: d.engine.answering)
    await d.send("/preset demo")
    await d.until(lambda: "an answer is being generated" in d.toasts)
    assert d.engine.loads == [None]
    d.engine.go()
    await d.idle()
