"""The chat screen with an engine that says what it is told: asking, stopping, branches, dials."""

from __future__ import annotations

from pathlib import Path

from scripted_engine import Script, ScriptedEngine
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownFence
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.errors import DoesNotFitError, EngineError
from eftlocal_tui.engine import Progress
from eftlocal_tui.settings import Settings
from eftlocal_tui.widgets.loading_bars import LoadingBars
from eftlocal_tui.widgets.side_panel import DialInput, SidePanel
from eftlocal_tui.widgets.transcript import Gap
from eftlocal_tui.widgets.turn_view import AnswerView, MarkLine, TurnView

FENCED = ["Here:\n\n", "```py", "thon\n", "x = 1\n", "```", "\n\nDone", ".\n"]


@driving("Braga is in Portugal.")
async def test_enter_sends_and_the_answer_is_kept(d: Driver) -> None:
    await d.ask("Where is Braga?")
    assert d.turns == ["Where is Braga?", "Braga is in Portugal."]
    conversation = d.chat.turns.conversation
    assert conversation is not None
    path = d.history.turns.path(conversation.id)
    assert [turn.state for turn in path] == ["done", "done"]
    assert path[1].settings is not None
    assert path[1].settings.preset == "fake"
    assert path[1].settings.recipe["beta"] == 1.0
    assert path[1].settings.seed == 7
    assert d.chat.prompt.text == ""
    assert "tok/s" in d.screen_text()


@driving("Yes.")
async def test_new_lines_stay_in_the_box(d: Driver) -> None:
    await d.type("one")
    await d.press("ctrl+j")
    await d.type("two")
    await d.press("shift+enter")
    await d.type("three")
    assert d.engine.heard == []
    await d.press("enter")
    await d.idle()
    assert d.engine.heard[0][0][-1]["content"] == "one\ntwo\nthree"


@driving()
async def test_nothing_is_sent_of_an_empty_box(d: Driver) -> None:
    await d.send("  \n ")
    assert d.engine.heard == []
    assert d.chat.turns.conversation is None


@driving(Script(FENCED))
async def test_a_code_fence_that_streams_in_pieces_is_there(d: Driver) -> None:
    await d.ask("Code?")
    fences = d.chat.transcript.query(MarkdownFence)
    assert [fence.code.strip() for fence in fences] == ["x = 1"]
    assert d.turns[1] == "".join(FENCED)


@driving(Script(["One ", "two ", "three ", "four"], wait_at=2))
async def test_escape_stops_and_keeps_what_came(d: Driver) -> None:
    await d.send("Count")
    await d.until(lambda: d.turns[-1:] == ["One two "])
    await d.press("escape")
    d.engine.go()
    await d.idle()
    turn = d.chat.turns.path()[-1]
    assert turn.state == "stopped"
    assert turn.text.startswith("One two ")
    assert "stopped" in d.screen_text()


@driving(Script(["One ", "two ", "three ", "four"], wait_at=2), Script(["five ", "six"]))
async def test_a_stopped_answer_is_continued(d: Driver) -> None:
    await d.send("Count")
    await d.until(lambda: d.turns[-1:] == ["One two "])
    await d.press("escape")
    d.engine.go()
    await d.idle()
    kept = d.chat.turns.path()[-1].text
    await d.press("f3")
    await d.idle()
    messages, _, continued = d.engine.heard[1]
    assert continued
    assert messages[-1] == {"role": "assistant", "content": kept}
    assert d.chat.turns.path()[-1].text == kept + "five six"
    assert d.turns[-1] == kept + "five six"


@driving(Script(["Half"], error=EngineError("llama.cpp [gave] up")))
async def test_an_engine_that_fails_says_so_in_one_line(d: Driver) -> None:
    await d.ask("Go")
    assert d.notes == []  # it stands below the answer, once
    assert d.screen_text().count("✗ failed: llama.cpp [gave] up") == 1
    turn = d.chat.turns.path()[-1]
    assert (turn.state, turn.text) == ("error", "Half")
    await d.ask("Again")
    assert d.turns[-1] == "Again."


@driving(Script([], at_once=EngineError("the prompt does not fit")))
async def test_what_cannot_be_answered_at_all_is_an_error_too(d: Driver) -> None:
    await d.ask("Go")
    assert d.notes == []
    assert d.screen_text().count("✗ failed: the prompt does not fit") == 1
    assert d.chat.turns.path()[-1].state == "error"


# Loading ---------------------------------------------------------------------------------------


@asynchronous
async def test_loading_shows_bars_and_keeps_a_question(tmp_path: Path) -> None:
    engine = ScriptedEngine("Here.")
    engine.prepare_waits.clear()
    engine.load_waits.clear()
    engine.progress = [
        Progress("download", "base.gguf", 1_000_000, 4_000_000),
        Progress("weights", "base", 0.25, 1.0),
        Progress("measuring", "base", 0.1, 1.0),
    ]
    async with driven(engine, tmp_path, wait=False) as d:
        bars = d.chat.query_one(LoadingBars)
        for shown in (
            "Downloading base.gguf",
            "1 MB of 4 MB",
            "Loading base",
            "Measuring base for drafts",
        ):
            await d.until(lambda shown=shown: shown in d.screen_text())
            if "1 MB" in shown:
                engine.prepare_waits.set()
        await d.send("Are you there?")
        assert "queued · Are you there?" in d.screen_text()
        assert "Queued; sent when the models are loaded" in d.screen_text()
        engine.load_waits.set()
        await d.until(lambda: d.turns == ["Are you there?", "Here."])
        assert "queued" not in d.screen_text()
        assert not bars.display


@asynchronous
async def test_loading_is_stopped_by_escape(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.load_waits.clear()
    async with driven(engine, tmp_path, wait=False) as d:
        await d.until(lambda: d.chat.query_one(LoadingBars).display)
        await d.press("escape")
        engine.load_waits.set()
        await d.until(lambda: d.notes)
        assert "Loading stopped" in d.notes[0]
        await d.send("Hello")
        await d.until(lambda: len(d.notes) == 2)
        assert d.notes[1] == "no models are loaded; /preset NAME loads some"
        assert d.chat.prompt.text == "Hello"  # refused, not lost
        await d.press("f5")
        assert "no models are loaded; /preset NAME loads some" in d.toasts
        engine.scripts.append(Script(["Here."]))
        d.chat.prompt.clear()
        await d.send("/preset demo")
        await d.ready()
        await d.ask("Hello")
        assert d.turns == ["Hello", "Here."]


@asynchronous
async def test_what_does_not_fit_is_refused_with_its_numbers(tmp_path: Path) -> None:
    engine = ScriptedEngine("Better.")
    engine.refuses[None] = DoesNotFitError("the models need 40.1 GB and 8.0 GB are free")
    async with driven(engine, tmp_path, wait=False) as d:
        await d.until(lambda: d.notes)
        assert "40.1 GB and 8.0 GB" in d.notes[0]
        await d.send("/preset demo")
        await d.ready()
        assert engine.loads == [None, "demo"]
        await d.ask("Now?")
        assert d.turns[-1] == "Better."


@asynchronous
async def test_notes_of_the_models_are_shown(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.notes = ("the base may be tuned already",)
    async with driven(engine, tmp_path) as d:
        assert d.notes == ["Note: the base may be tuned already"]


# Dials -----------------------------------------------------------------------------------------


@driving(Script(["One ", "two ", "three"], wait_at=1))
async def test_a_dial_turned_in_the_middle_holds_from_the_next_token(d: Driver) -> None:
    await d.send("Count")
    await d.until(lambda: d.turns[-1:] == ["One "])
    await d.send("/set beta 0.5")
    d.engine.go()
    await d.idle()
    followed = [dials.recipe.weights["base"] for dials in d.engine.answering[0].followed]
    assert followed[0] == 1.0
    assert followed[-1] == 0.5
    (mark,) = d.chat.turns.path()[-1].marks
    assert mark.what == "beta 1 → 0.5"
    (line,) = d.chat.transcript.query(MarkLine)
    assert "beta 1 → 0.5" in str(line.render())
    assert d.turns[-1] == "One two three"


@asynchronous
async def test_a_mark_inside_a_code_fence_leaves_both_parts_code(tmp_path: Path) -> None:
    pieces = ["```python\nx = 1\n", "y = 2\n", "z = 3\n```\n", "Done."]
    script = Script(pieces, wait_at=1)
    async with driven(ScriptedEngine(script), tmp_path) as d:
        await d.send("Code")
        await d.until(lambda: d.turns[-1:] == pieces[:1])
        await d.send("/set temperature 0")
        script.go.set()
        await d.idle()
        codes = [fence.code for fence in d.chat.transcript.query(MarkdownFence)]
        assert len(codes) == 2
        assert "".join(code.strip() + "\n" for code in codes) == "x = 1\ny = 2\nz = 3\n"
        await d.chat.turns.open(d.chat.turns.path()[0].conversation)
        again = [fence.code for fence in d.chat.transcript.query(MarkdownFence)]
        assert [code.strip() for code in again] == [code.strip() for code in codes]


@driving(size=(120, 40))
async def test_dials_are_stepped_with_the_arrow_keys(d: Driver) -> None:
    await d.press("ctrl+t")
    await d.until(lambda: isinstance(d.app.focused, DialInput))
    assert d.app.focused.dial == "beta"
    await d.press("up")
    await d.until(lambda: d.chat.dials.now.recipe.weights["base"] == 1.1)
    await d.press("down", "down")
    await d.until(lambda: d.chat.dials.now.recipe.weights["base"] == 0.9)
    await d.press("escape")
    assert d.app.focused is d.chat.prompt
    await d.ask("Go")
    assert d.engine.heard[0][1].recipe.weights["base"] == 0.9


@driving(size=(120, 40))
async def test_steps_stop_at_the_ends_of_a_dial(d: Driver) -> None:
    await d.press("ctrl+t")
    await d.until(lambda: isinstance(d.app.focused, DialInput))
    for dial, near, up, ends in (
        ("beta", "99.95", "up", {"100"}),
        ("beta", "-100", "down", {"-100"}),
        ("temperature", "0.05", "down", {"0"}),
        ("top_p", "0.98", "up", {"1"}),
        ("top_p", "0.05", "down", {"0.05"}),  # 0 is no value of it
        ("speculative", "off", "down", {"off"}),
    ):
        await d.chat.dials.turn(dial, near)
        row = next(row for row in d.chat.query(DialInput) if row.dial == dial)
        row.focus()
        await d.press(up, up)
        assert {row.value, d.chat.dials.now.shown()[dial]} == ends
    assert not d.toasts


@driving(size=(120, 40))
async def test_every_dial_of_the_panel_turns(d: Driver) -> None:
    for name, value in (
        ("recipe", "proxy"),
        ("alpha", "1.5"),
        ("temperature", "0"),
        ("top-p", "0.5"),
        ("speculative", "4"),
        ("plausibility", "0.1"),
        ("top_k", "20"),
    ):
        await d.send(f"/set {name} {value}")
    dials = d.chat.dials.now
    assert dials.recipe.name == "proxy"
    assert dials.recipe.weights["tuned"] == 1.5
    assert dials.recipe.plausibility == 0.1
    assert dials.sampling.temperature == 0
    assert dials.sampling.top_p == 0.5
    assert dials.sampling.top_k == 20
    assert dials.speculation.length == 4
    shown = {row.dial: row.value for row in d.chat.query(DialInput)}
    assert shown == {"alpha": "1.5", "temperature": "0", "top_p": "0.5", "speculative": "4"}
    assert "proxy alpha 1.5" in d.static("#head")


@driving(size=(120, 40))
async def test_a_value_out_of_range_is_refused_and_nothing_changes(d: Driver) -> None:
    before = d.chat.dials.now
    for wrong, named in (
        ("top_p 2", "top_p is 2"),
        ("temperature warm", "'warm'"),
        ("speculative 99", "speculative is 99"),
        ("gamma 1", "'gamma'"),
        ("recipe proxi", "proxy"),
    ):
        d.app.clear_notifications()
        await d.send(f"/set {wrong}")
        assert named in d.toasts
    assert d.chat.dials.now == before


@driving(size=(120, 40))
async def test_the_recipe_is_chosen_without_a_mouse(d: Driver) -> None:
    select = d.chat.query_one("#recipe")
    select.focus()
    await d.press("enter", "down", "enter")
    await d.until(lambda: d.chat.dials.now.recipe.name == "proxy")
    assert d.chat.query_one(DialInput).dial == "alpha"


@asynchronous
async def test_the_panel_folds(tmp_path: Path) -> None:
    async with driven(ScriptedEngine(), tmp_path, size=(80, 24)) as d:
        panel = d.chat.query_one(SidePanel)
        assert not panel.display
        await d.press("ctrl+b")
        assert panel.display
        await d.press("ctrl+b")
        assert not panel.display
    async with driven(ScriptedEngine(), tmp_path / "x", settings=Settings(panel=True)) as d:
        assert d.chat.query_one(SidePanel).display


@driving(Script(["never"], wait_at=0), "Then.")
async def test_escape_ends_the_reading_of_a_prompt(d: Driver) -> None:
    await d.send("A long prompt")
    await d.until(lambda: d.engine.answering)
    await d.press("escape")
    await d.idle()
    answer = d.chat.turns.path()[-1]
    assert (answer.state, answer.text, answer.error) == ("stopped", "", None)
    assert answer.settings is not None
    assert answer.settings.seed == 7
    assert d.notes == []
    assert d.engine.answering[0].closed
    await d.press("ctrl+r")
    await d.idle()
    assert d.turns == ["A long prompt", "Then."]


@driving("Yes.", size=(120, 40))
async def test_figures_of_the_answer_are_in_the_panel(d: Driver) -> None:
    await d.ask("Go")
    figures = d.static("#figures")
    for shown in (
        "20 tok/s · first 0.25 s",
        "drafts 3.0 · accepted 50%",
        "context 10 / 4096 · 0%",
        "memory",
    ):
        assert shown in figures


# Branches --------------------------------------------------------------------------------------


@driving("First answer.", "Second answer.")
async def test_regenerate_makes_a_branch_that_can_be_walked(d: Driver) -> None:
    await d.ask("Go")
    await d.press("ctrl+r")
    await d.idle()
    assert d.turns == ["Go", "Second answer."]
    assert "2/2" in d.screen_text()
    await d.press("f7")
    await d.until(lambda: d.turns == ["Go", "First answer."])
    assert "1/2" in d.screen_text()
    await d.press("f8")
    await d.until(lambda: d.turns == ["Go", "Second answer."])
    await d.press("f8")
    assert d.turns == ["Go", "Second answer."]


@driving("One.", "Two.", "Three.")
async def test_edit_makes_a_branch_and_loses_nothing(d: Driver) -> None:
    await d.ask("first")
    await d.ask("second")
    await d.press("f4")
    assert d.chat.prompt.text == "second"
    assert d.chat.prompt.has_class("-editing")
    await d.type(" again")
    await d.press("enter")
    await d.idle()
    assert d.turns == ["first", "One.", "second again", "Three."]
    assert [m["content"] for m in d.engine.heard[2][0]] == ["first", "One.", "second again"]
    await d.press("f7")
    await d.until(lambda: d.turns == ["first", "One.", "second", "Two."])


@driving("One.")
async def test_escape_gives_up_an_edit(d: Driver) -> None:
    await d.ask("first")
    await d.press("f4", "escape")
    assert d.chat.prompt.text == ""
    assert not d.chat.prompt.has_class("-editing")


@asynchronous
async def test_turns_are_walked_and_used_without_a_mouse(tmp_path: Path) -> None:
    code = "See:\n\n```sh\nls\n```\n\nand\n\n```sh\npwd\n```\n"
    async with driven(ScriptedEngine("One.", Script([code]), "Three."), tmp_path) as d:
        await d.ask("first")
        await d.ask("second")
        await d.press("ctrl+up")
        assert isinstance(d.app.focused, AnswerView)
        await d.press("c")
        assert d.app.clipboard == code
        await d.press("b")
        assert d.app.clipboard == "pwd\n"
        await d.press("b")
        assert d.app.clipboard == "ls\n"
        await d.press("up")
        assert isinstance(d.app.focused, TurnView)
        assert d.app.focused.text == "second"
        await d.press("up", "r")
        await d.idle()
        assert d.turns == ["first", "Three."]
        await d.press("ctrl+up", "left")
        await d.until(lambda: d.turns == ["first", "One.", "second", code])
        await d.until(lambda: isinstance(d.app.focused, TurnView))
        await d.press("up", "e")
        assert d.chat.prompt.text == "first"
        await d.press("escape")
        for back in ("escape", "down"):
            await d.press("ctrl+up")
            await d.until(lambda: isinstance(d.app.focused, TurnView))
            await d.press(back)
            await d.until(lambda: d.app.focused is d.chat.prompt)


@driving("```\nx\n```")
async def test_copy_keys(d: Driver) -> None:
    await d.press("f9")
    assert "no answer to copy" in d.toasts
    await d.ask("Go")
    await d.press("f9")
    assert d.app.clipboard == "```\nx\n```"
    await d.press("f12")
    assert d.app.clipboard == "x\n"


# Following the end -----------------------------------------------------------------------------


@asynchronous
async def test_the_end_is_followed_until_the_reader_scrolls(tmp_path: Path) -> None:
    lines = [f"line {i}\n\n" for i in range(120)]
    script = Script(lines, wait_at=80)
    async with driven(ScriptedEngine(script), tmp_path) as d:
        transcript = d.chat.transcript
        await d.send("Long")
        await d.until(lambda: d.turns[-1:] == ["".join(lines[:80])])
        await d.until(lambda: transcript.max_scroll_y > 60)
        await d.until(lambda: transcript.is_vertical_scroll_end)
        await d.press("pageup", "pageup")
        where = transcript.scroll_offset.y
        assert where < transcript.max_scroll_y
        script.go.set()
        await d.idle()
        assert transcript.scroll_offset.y == where
        await d.press("ctrl+end")
        await d.until(lambda: transcript.is_vertical_scroll_end)


@driving()
async def test_a_long_conversation_is_laid_out_in_parts(d: Driver) -> None:
    conversation = d.history.conversations.create()
    for i in range(40):
        question = d.history.turns.ask(conversation.id, f"question {i}")
        with d.history.answer(question.id, _settings()) as answer:
            answer.append(f"answer {i}")
            answer.finish("stop")
    await d.chat.turns.open(conversation.id)
    assert d.turns[0] == "question 25"
    assert d.turns[-1] == "answer 39"
    d.chat.query_one(Gap).focus()
    await d.press("enter")
    await d.until(lambda: d.turns[0] == "question 10")
    await d.press("enter")
    await d.until(lambda: d.turns[0] == "question 0")
    assert not d.chat.query("#earlier")


def _settings():
    from eftlocal_tui.history import Settings as Kept

    return Kept(preset="fake")


@driving(Script(["a"] * 50))
async def test_a_stopped_stretch_shows_its_text_once(d: Driver) -> None:
    """What came before the view was made is not shown twice."""
    await d.ask("Go")
    assert d.turns[-1] == "a" * 50
    shown = [m.source for m in d.chat.transcript.query(Markdown)]
    assert shown == ["a" * 50]
    assert not d.chat.query_one("#status", Static).render().plain
