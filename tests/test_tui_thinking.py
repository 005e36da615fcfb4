"""Thinking in the chat: folded while it comes and afterwards, apart in copies, exports, prompts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from scripted_engine import Script, ScriptedEngine
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.thinking import Marks
from eftlocal_tui.engine.tally import ThinkingTally
from eftlocal_tui.history import Figures, History, Settings, Thinks, Thought, from_json, to_json
from eftlocal_tui.history.files import to_markdown
from eftlocal_tui.widgets.thinking import ThinkingFold

OPENED = Marks("<think>", "</think>", opened=True)
HM = ["<thi", "nk>\n", "Hm, Per", "u?\n", "```sh\nno\n```\n", "</", "think>", "\n\n"]
LIMA = ["Lima", ".\n\n```sh\nls\n```\n"]


def copied(d: Driver) -> str:
    return d.app.clipboard


def fold(d: Driver) -> str:
    """The title of the last answer's fold, and what is seen in it."""
    folds = list(d.chat.transcript.query(ThinkingFold))
    if not folds or not folds[-1].display:
        return ""
    found = folds[-1]
    shown = [static for static in found.query("Static") if static.display]
    text = "\n".join(str(static.render()) for static in shown)  # type: ignore[attr-defined]
    return re.sub(r"\b\d+ s\b", "N s", text)


@driving(Script([*HM, *LIMA], wait_at=5))
async def test_it_is_folded_while_it_comes_and_afterwards(d: Driver) -> None:
    await d.send("Capital?")
    await d.until(lambda: "no" in fold(d))
    assert fold(d).startswith("▸ Thinking …")
    assert "Hm, Peru?" in fold(d)
    assert "<think>" not in d.screen_text()
    d.engine.go()
    await d.idle()
    assert fold(d) == "▸ Thought for N s · 6 tokens"
    assert "Lima." in d.screen_text()
    assert "Peru" not in d.screen_text()
    await d.press("ctrl+up", "enter")
    assert fold(d).startswith("▾ Thought for N s · 6 tokens\nHm, Peru?")
    await d.press("space")
    assert fold(d) == "▸ Thought for N s · 6 tokens"
    await d.pilot.click(ThinkingFold)
    await d.pause()
    assert "Peru" in fold(d)


@driving(Script(["Hm.\n", "</think>", "\n\n", *LIMA], marks=OPENED), "Two.")
async def test_a_prompt_may_have_opened_it(d: Driver) -> None:
    await d.ask("Capital?")
    assert fold(d).startswith("▸ Thought for")
    assert "Hm" not in d.screen_text()
    turn = d.chat.turns.path()[-1]
    assert turn.text.startswith("Hm.\n</think>")  # as it came
    assert turn.answer == "".join(LIMA)
    await d.ask("Sure?")
    earlier = d.engine.heard[-1][0][1]
    assert earlier == {
        "role": "assistant",
        "content": "\n\n" + "".join(LIMA),
        "reasoning_content": "Hm.\n",
    }
    assert fold(d) == ""
    await d.chat.turns.open(turn.conversation)
    await d.until(lambda: "Thought for" in d.screen_text())
    assert "Hm" not in d.screen_text()


@driving(Script([*HM, *LIMA]))
async def test_copies(d: Driver) -> None:
    await d.ask("Capital?")
    whole, answer = "".join([*HM, *LIMA]), "".join(LIMA)
    await d.press("f9")
    assert copied(d) == answer
    await d.press("f12")
    assert copied(d) == "ls\n"
    await d.send("/copy all")
    assert copied(d) == whole
    await d.press("ctrl+up", "c")
    assert copied(d) == answer
    await d.press("b", "b")
    assert copied(d) == "ls\n"
    await d.press("a")
    assert copied(d) == whole


@driving(Script(["Hm, ", "Peru"], wait_at=2, marks=OPENED), Script([", yes.", "</think>", "Lima."]))
async def test_a_stopped_thought_goes_on(d: Driver) -> None:
    d.engine.scripts[0].pieces = ["Hm, ", "Peru", "x"]
    await d.send("Capital?")
    await d.until(lambda: "Peru" in fold(d))
    await d.press("escape")
    d.engine.go()
    await d.idle()
    assert fold(d).startswith("▸ Thought for N s · ")
    stopped = d.chat.turns.path()[-1]
    assert (stopped.answer, stopped.parts.open) == ("", True)
    tokens = stopped.figures.thinking.tokens if stopped.figures and stopped.figures.thinking else 0
    await d.press("f3")
    await d.until(lambda: len(d.engine.heard) == 2)
    await d.idle()
    messages, _, goes_on = d.engine.heard[-1]
    assert (messages[-1]["content"], goes_on) == (stopped.text, True)
    turn = d.chat.turns.path()[-1]
    assert turn.answer == "Lima."
    assert fold(d) == f"▸ Thought for N s · {tokens + 1} tokens"
    assert "Lima." in d.screen_text()


@driving(Script(["Hm, ", "Peru"], wait_at=1, marks=OPENED))
async def test_it_goes_on_when_its_conversation_is_shown_again(d: Driver) -> None:
    await d.send("Capital?")
    await d.until(lambda: "Hm" in fold(d))
    conversation = d.chat.turns.conversation
    assert conversation is not None
    await d.press("ctrl+n")
    assert "Thinking" not in d.screen_text()
    await d.chat.turns.open(conversation.id)
    await d.until(lambda: "Hm" in fold(d))
    d.engine.go()
    await d.idle()
    assert fold(d).startswith("▸ Thought for")


@pytest.mark.parametrize("text", ["Use <think> so.", "a </think> b", "< b", "<th", "[", "<think"])
@asynchronous
async def test_what_only_looks_like_it_is_an_answer(tmp_path: Path, text: str) -> None:
    async with driven(ScriptedEngine(Script(list(text))), tmp_path) as d:
        await d.ask("Go")
        assert text in d.screen_text()
        assert fold(d) == ""


@asynchronous
async def test_dials_turned_while_it_thinks(tmp_path: Path) -> None:
    script = Script(["<think>", "Hm", "</think>", "Lima."], wait_at=2)
    async with driven(ScriptedEngine(script), tmp_path) as d:
        await d.send("Capital?")
        await d.until(lambda: "Hm" in fold(d))
        await d.send("/set beta 0.5")
        script.go.set()
        await d.idle()
        for _ in range(2):
            shown = d.screen_text()
            assert shown.index("from here") < shown.index("Lima.")
            await d.chat.turns.open(d.chat.turns.path()[0].conversation)
            await d.until(lambda: "Lima." in d.screen_text())


@pytest.fixture
def thought(tmp_path: Path) -> History:
    history = History(tmp_path / "chat.db")
    chat = history.conversations.create()
    question = history.turns.ask(chat.id, "Capital?")
    figures = Figures(
        tokens=9,
        seconds=2.0,
        first_token=0.1,
        tokens_per_second=5.0,
        thinking=Thought(tokens=4, seconds=12.4),
    )
    settings = Settings(thinking=Thinks(opens="<think>", closes="</think>", opened=True))
    with history.answer(question.id, settings) as answer:
        answer.append("# Hm\n```\n</think>\n\nLima.")
        answer.finish("stop", figures)
    return history


def test_exports(thought: History) -> None:
    (place,) = thought.conversations.list()
    markdown = to_markdown(thought, place.id)
    assert "> *Thought for 12 s · 4 tokens*\n>\n> ### Hm\n> ```\n> ```\n\nLima.\n" in markdown
    exported = to_json(thought, [place.id])
    document = json.loads(exported)
    assert document["version"] == 2
    (copy,) = from_json(thought, exported, "x.json")
    before, after = thought.turns.path(place.id)[-1], thought.turns.path(copy.id)[-1]
    assert before.text == after.text == "# Hm\n```\n</think>\n\nLima."
    assert (before.figures, before.settings) == (after.figures, after.settings)
    assert after.answer == "Lima."


def test_answers_without_thinking_are_written_as_before(tmp_path: Path) -> None:
    with History(tmp_path / "chat.db") as history:
        chat = history.conversations.create()
        question = history.turns.ask(chat.id, "Capital?")
        with history.answer(question.id, Settings(preset="demo")) as answer:
            answer.append("Lima.")
        document = json.loads(to_json(history, [chat.id]))
        assert document["version"] == 1
        assert "thinking" not in to_json(history, [chat.id])


def test_the_tally() -> None:
    now = [10.0]
    tally = ThinkingTally(None, Thought(tokens=5, seconds=1.0), lambda: now[0])
    text = ""
    for piece in ("<think>", "a", "b", "</think>", "c", "d"):
        text += piece
        tally.take(text)
        now[0] += 1.0
    assert tally.thought == Thought(tokens=8, seconds=3.0)
    nothing = ThinkingTally(None, None, lambda: now[0])
    nothing.take("a")
    assert nothing.thought is None
