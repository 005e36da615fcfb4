"""The list of conversations: walked, searched, changed, exported."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine
from textual.widgets import Input, OptionList
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal_tui.history import History
from eftlocal_tui.screens.chat import ChatScreen
from eftlocal_tui.screens.dialogs import AskText, Confirm
from eftlocal_tui.screens.history import HistoryScreen


async def three_conversations(d: Driver) -> None:
    for text in ("alpha rivers", "beta mountains", "gamma valleys"):
        await d.ask(text)
        await d.press("ctrl+n")


def listed(d: Driver) -> list[str]:
    return [
        str(option.prompt).split("\n")[0] for option in d.app.screen.query_one(OptionList).options
    ]


@driving("One.", "Two.", "Three.")
async def test_history_lists_searches_and_resumes(d: Driver) -> None:
    await three_conversations(d)
    await d.press("ctrl+o")
    assert isinstance(d.app.screen, HistoryScreen)
    assert [line.split("  ")[0] for line in listed(d)] == [
        "gamma valleys",
        "beta mountains",
        "alpha rivers",
    ]
    await d.press("slash")
    assert "Esc Back" in d.screen_text().split("\n")[-1]
    d.app.screen.query_one(Input).insert_text_at_cursor("rivers")
    await d.pause()
    assert listed(d) == ["alpha rivers  #1 · in 1 message"]
    await d.press("enter", "enter")
    await d.until(lambda: isinstance(d.app.screen, ChatScreen))
    assert d.turns == ["alpha rivers", "One."]


@driving()
async def test_history_renames_archives_duplicates_and_deletes(d: Driver) -> None:
    await three_conversations(d)
    await d.press("ctrl+o", "r")
    assert isinstance(d.app.screen, AskText)
    d.app.screen.query_one(Input).value = "renamed"
    await d.press("enter")
    assert listed(d)[0].startswith("renamed")
    await d.press("a")
    assert "Archived; v shows the archive" in d.toasts
    assert len(listed(d)) == 2
    await d.press("v")
    assert [line.split("  ")[0] for line in listed(d)] == ["renamed"]
    await d.press("slash", *"renamed", "enter")
    assert [line.split("\n")[0] for line in listed(d)] == ["renamed  #3 · archived"]
    await d.press("v")  # a search is in both, so it ends
    assert [line.split("  ")[0] for line in listed(d)] == ["renamed"]
    await d.press("a")
    assert "Unarchived" in d.toasts
    await d.press("v")
    assert len(listed(d)) == 3
    await d.press("d")
    assert len(listed(d)) == 4
    await d.press("delete")
    assert isinstance(d.app.screen, Confirm)
    await d.press("enter")  # the focus is on "Cancel"
    assert len(listed(d)) == 4
    await d.press("delete", "tab", "enter")
    assert len(listed(d)) == 3
    assert "Deleted" in d.toasts
    await d.press("escape")
    assert isinstance(d.app.screen, ChatScreen)


@asynchronous
async def test_history_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with driven(ScriptedEngine("One."), tmp_path) as d:
        await d.ask("first")
        await d.press("ctrl+o", "x")
        (markdown,) = tmp_path.glob("chat-*.md")
        (tree,) = tmp_path.glob("chat-*.json")
        assert "One." in markdown.read_text("utf-8")
        json.loads(tree.read_text("utf-8"))
        await d.press("x")  # what is there already stays as it is
        assert len(list(tmp_path.glob("chat-*.md"))) == 2
        assert len(list(tmp_path.glob("chat-*.json"))) == 2


@driving("with zebras", "with horses")
async def test_a_search_walks_to_the_branch_of_the_words(d: Driver) -> None:
    await d.ask("animals")
    await d.press("ctrl+r")
    await d.idle()
    await d.press("ctrl+n")
    await d.send("/history zebras")
    await d.press("enter")
    await d.until(lambda: d.turns == ["animals", "with zebras"])


@driving()
async def test_the_list_grows_as_it_is_walked(d: Driver) -> None:
    for i in range(130):
        d.history.conversations.create(title=f"talk {i}")
    await d.press("ctrl+o")
    assert len(listed(d)) == 100
    await d.press("end")
    await d.until(lambda: len(listed(d)) == 130)


@asynchronous
async def test_a_conversation_is_resumed_with_its_dials(tmp_path: Path) -> None:
    async with driven(ScriptedEngine("One."), tmp_path) as d:
        await d.send("/set recipe proxy")
        await d.send("/set alpha 0.5")
        await d.send("/set temperature 0.1")
        await d.ask("first")
        number = d.chat.turns.conversation.id

    def resumed(history: History):
        return history.conversations.get(number)

    async with driven(ScriptedEngine("Two."), tmp_path, resume=resumed) as d:
        assert d.turns == ["first", "One."]
        assert d.chat.dials.now.shown()["recipe"] == "proxy"
        assert d.chat.dials.now.shown()["alpha"] == "0.5"
        assert d.chat.dials.now.sampling.temperature == 0.1
        await d.ask("second")
        assert d.turns == ["first", "One.", "second", "Two."]


@driving()
async def test_a_search_says_how_many_there_are_and_pages_on(d: Driver) -> None:
    for i in range(240):
        chat = d.history.conversations.create(title=f"talk {i}")
        d.history.turns.ask(chat.id, "about braga")
        d.history.turns.ask(chat.id, "braga again")
    await d.send("/history braga")
    assert d.static("#head") == "Conversations · 100 of 240 shown; type more words, or scroll down"
    assert listed(d)[0] == "talk 239  #240 · in 2 messages"
    await d.press("end")
    await d.until(lambda: len(listed(d)) == 200)
    await d.press("end")
    await d.until(lambda: len(listed(d)) == 240)
    assert d.static("#head") == "Conversations · 240 found"
    assert len(set(listed(d))) == 240


@driving("One.")
async def test_numbers_are_shown_where_conversations_are(d: Driver) -> None:
    await d.ask("first")
    await d.send("/stats")
    assert "Conversation: #1 (/load 1 opens it)" in d.notes[-1]
    await d.press("ctrl+o")
    assert listed(d)[0].startswith("first  #1 · ") and listed(d)[0].endswith("· 2 messages")
    await d.press("escape")
    for number in ("2", "0", "99999999999999999999"):
        await d.send(f"/load {number}")
        assert f"there is no conversation {number}" in d.toasts


@driving()
async def test_letters_are_letters_in_the_box_and_keys_in_the_list(d: Driver) -> None:
    await three_conversations(d)
    await d.press("ctrl+o", "slash")
    assert "r Rename" not in d.screen_text() and "To the list" in d.screen_text()
    await d.press(*"ravdx", "delete", "left", "delete")
    assert d.app.screen.query_one(Input).value == "ravd"
    assert isinstance(d.app.screen, HistoryScreen) and len(d.history.conversations.list()) == 3
    await d.press("escape")  # nothing is found, so there is no list to go to
    assert isinstance(d.app.screen, ChatScreen)
    await d.press("ctrl+o", "ctrl+f", *"rivers", "down")
    assert "r Rename" in d.screen_text()
    await d.press("r")
    assert isinstance(d.app.screen, AskText)
    await d.press("escape", "escape")
    assert isinstance(d.app.screen, ChatScreen)


@driving("One.")
async def test_the_list_opens_while_another_process_writes(d: Driver) -> None:
    await d.ask("first")
    other = sqlite3.connect(d.history.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        await d.send("/history first")
        assert listed(d) == ["first  #1 · in 1 message"]
        await d.press("a")
        assert "locked by another program" in d.toasts
    finally:
        other.execute("ROLLBACK")
        other.close()
    await d.press("a")
    assert "Archived" in d.toasts
