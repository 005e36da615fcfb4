"""Help, palette and dialogs, over a scripted engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scripted_engine import Script, ScriptedEngine
from textual import events
from textual.command import CommandList, CommandPalette
from textual.widgets import Input
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal_tui.history import History
from eftlocal_tui.keys import of_place
from eftlocal_tui.screens.compare import CompareScreen
from eftlocal_tui.screens.dialogs import AskText, Confirm, HelpScreen
from eftlocal_tui.settings import Settings

# Leaving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["f1", "f5", "f6", "ctrl+o"])
@driving("One.")
async def test_keys_in_a_burst_leave_one_screen(d: Driver, key: str) -> None:
    await d.ask("Question?")
    await d.press(key)
    screen = d.app.screen
    assert screen is not d.chat
    for _ in range(3):
        await screen.run_action("back")
    await d.until(lambda: d.app.screen is d.chat)
    await d.ask("Still there?")
    assert d.turns[-1] == "Again."


@asynchronous
async def test_leaving_while_something_is_laid_out(tmp_path: Path) -> None:
    scripts = [Script(["word "] * 50) for _ in range(3)]
    async with driven(ScriptedEngine("One.", *scripts), tmp_path) as d:
        await d.ask("Question?")
        await d.press("f5")
        screen = d.app.screen
        assert isinstance(screen, CompareScreen)
        screen.leave(None)
        await d.until(lambda: d.app.screen is d.chat)
        await screen.doing(screen._answer())  # its widgets are gone
        await d.ask("Still there?")
        assert d.turns[-1] == "Again."


# Help, palette, keys ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "title"),
    [
        ((), "Three models answer together"),
        (("ctrl+o",), "Conversations"),
        (("f5",), "Compare"),
        (("f6",), "Influence"),
    ],
)
@driving()
async def test_help_is_of_the_screen(d: Driver, keys: tuple[str, ...], title: str) -> None:
    await d.ask("Question?")
    await d.press(*keys)
    before = d.app.screen
    await d.press("f1")
    assert isinstance(d.app.screen, HelpScreen)
    assert title in d.screen_text()
    await d.press("f1")
    assert d.app.screen is before


def help_text(d: Driver) -> str:
    assert isinstance(d.app.screen, HelpScreen)
    console = Console(width=200)
    with console.capture() as said:
        console.print(d.app.screen._page())
    return said.get()


@driving(size=(120, 40))
async def test_help_names_every_key_and_command_of_the_chat(d: Driver) -> None:
    await d.press("f1")
    text = help_text(d)
    for key in of_place("chat") + of_place("prompt") + of_place("turn") + of_place("app"):
        assert key.name in text
    for command in ("/preset", "/continue", "/exit"):
        assert command in text


@driving(
    "First.",
    "Second.",
    settings=Settings(
        keys={
            "chat.regenerate": "f3",
            "chat.continue": "ctrl+r",
            "prompt.send": "ctrl+s",
            "prompt.newline": "enter",
        }
    ),
)
async def test_keys_are_remapped_by_the_settings(d: Driver) -> None:
    await d.type("one")
    await d.press("enter")
    await d.type("two")
    assert d.chat.prompt.text == "one\ntwo"
    await d.press("ctrl+s")
    await d.idle()
    assert d.turns == ["one\ntwo", "First."]
    await d.press("f3")
    await d.idle()
    assert d.turns == ["one\ntwo", "Second."]
    await d.press("f1")
    assert "Ctrl+S" in help_text(d)


@driving("One.", settings=Settings(keys={"chat.edit": "f5", "chat.find": "ctrl+q"}), size=(120, 40))
async def test_what_lost_its_key_to_a_person_says_so(d: Driver) -> None:
    assert "/compare compares the models" in d.static("#welcome")
    assert not {"f5", "^Q"} & set(d.screen_text().split("\n")[-1].lower().split())
    await d.ask("Go")
    await d.press("f5")
    assert d.chat.prompt.text == "Go" and d.app.screen is d.chat
    await d.press("f1")
    (line,) = [line for line in d.screen_text().split("\n") if "chat.compare" in line]
    assert "no key " in line


@asynchronous
async def test_texts_name_the_keys_that_are_set(tmp_path: Path) -> None:
    keys = {
        "chat.stop": "ctrl+y",
        "chat.continue": "ctrl+x",
        "chat.panel": "f11",
        "chat.dials": "f2",
        "chat.edit": "ctrl+k",
        "history.archived": "z",
        "influence.next": "m",
    }
    script = Script(["One", " two", " three"], wait_at=1)
    engine = ScriptedEngine(script, "Three.")
    options: dict[str, Any] = {"settings": Settings(keys=keys), "notifications": True}
    async with driven(engine, tmp_path, size=(100, 40), **options) as d:
        assert "F2 goes to the dials" in d.screen_text()
        await d.send("Count")
        await d.until(lambda: "Ctrl+Y stops" in d.static("#status"))
        await d.until(lambda: d.turns[-1:] == ["One"])
        await d.press("f7")
        assert "Ctrl+K and Ctrl+R make more" in d.toasts
        await d.press("ctrl+r")
        assert "Ctrl+Y stops it" in d.toasts
        await d.press("ctrl+y")
        script.go.set()
        await d.idle()
        assert "Ctrl+X continues" in d.screen_text()
        kept = d.turns[-1]  # the engine may have been asked for one more piece already
        assert kept in ("One", "One two")
        await d.press("ctrl+x")
        await d.idle()
        assert d.turns == ["Count", kept + "Three."]
        await d.press("f6")
        await d.until(lambda: " m Next moved" in d.screen_text())
        await d.press("escape", "ctrl+o", "a")
        assert "z shows the archive" in d.toasts
        await d.press("escape", "f1")
        assert "F11 opens the side panel" in help_text(d)


@driving()
async def test_the_palette_has_everything(d: Driver) -> None:
    await d.press("ctrl+p")
    assert isinstance(d.app.screen, CommandPalette)
    await d.press("escape")
    titles = {command.title for command in d.app.get_system_commands(d.chat)}
    for key in of_place("chat"):
        if not key.action.startswith("page("):
            assert key.what in titles
    assert {"Theme", "Quit", "Help", "/stats", "/system", "Load demo"} <= titles
    assert {"Rename the conversation", "Import conversations (.json)"} <= titles


@driving("One.")
async def test_the_palette_acts(d: Driver) -> None:
    await d.ask("Question?")
    for title in ("Rename the conversation", "/stats", "Again"):
        (command,) = [c for c in d.app.get_system_commands(d.chat) if c.title == title]
        result = command.callback()
        if result is not None:
            await result
        await d.pause()
        if isinstance(d.app.screen, AskText):
            d.app.screen.query_one(Input).value = "a name"
            await d.press("enter")
            await d.until(lambda: d.chat.turns.conversation.title == "a name")
    await d.until(lambda: d.turns == ["Question?", "Again."])


@driving()
async def test_a_palette_whose_parts_are_gone_shows_nothing(d: Driver) -> None:
    """ "No matches" comes half a second after the search, when the program may be ending."""
    await d.press("ctrl+p", *"zzzz")
    palette = d.app.screen
    assert isinstance(palette, CommandPalette)
    await d.until(lambda: palette._no_matches_timer is not None)
    await palette.query_one(CommandList).remove()
    await asyncio.sleep(palette._NO_MATCHES_COUNTDOWN + 0.1)
    await d.pause()


@driving(Script(["One ", "two ", "three."], wait_at=1))
async def test_the_palette_while_an_answer_comes(d: Driver) -> None:
    """The answer goes on behind it; what was chosen is done, and the message box has the keys."""
    await d.send("Question?")
    await d.until(lambda: "One" in d.screen_text())
    shown = d.chat.side.display
    await d.press("ctrl+p", *"panel")
    await d.until(lambda: "Show or hide the side panel" in d.screen_text())
    d.engine.go()
    await d.until(lambda: not d.chat.answers.busy)
    assert isinstance(d.app.screen, CommandPalette)
    await d.press("enter")
    await d.until(lambda: d.app.screen is d.chat and d.chat.side.display is not shown)
    await d.press("x")
    assert d.turns == ["Question?", "One two three."] and d.chat.prompt.text == "x"


@driving(settings=Settings(theme="nord"))
async def test_themes_light_and_dark(d: Driver) -> None:
    assert d.app.theme == "nord"
    await d.press("f10")
    assert not d.app.available_themes[d.app.theme].dark
    await d.press("f10")
    assert d.app.theme == "nord"
    await d.send("/theme gruvbox")
    assert d.app.theme == "gruvbox"
    await d.send("/theme none")
    assert "unknown theme 'none'" in d.toasts


@asynchronous
async def test_quit_stops_and_keeps(tmp_path: Path) -> None:
    script = Script(["One ", "two", "three"], wait_at=1)
    engine = ScriptedEngine(script)
    async with driven(engine, tmp_path) as d:
        await d.send("Count")
        await d.until(lambda: d.turns[-1:] == ["One "])
        script.go.set()
        await d.pilot.press("ctrl+q")
    assert engine.closed
    with History(tmp_path / "chat.db") as history:
        newest = history.conversations.list(limit=1)[0]
        turn = history.turns.path(newest.id)[-1]
        assert turn.state in ("stopped", "done")
        assert turn.text.startswith("One ")


@driving()
async def test_quitting_asks_where_a_dialog_would_lose_what_is_typed(d: Driver) -> None:
    await d.send("/system")
    await d.until(lambda: isinstance(d.app.screen, AskText))
    dialog = d.app.screen
    await d.press(*"Be brief", "ctrl+q")
    await d.until(lambda: isinstance(d.app.screen, Confirm))
    await d.press("escape")
    await d.until(lambda: d.app.screen is dialog)
    assert dialog.text == "Be brief"
    await d.press("ctrl+q")
    await d.until(lambda: isinstance(d.app.screen, Confirm))
    await d.press("tab", "enter")
    await d.until(lambda: not d.app.is_running)


@driving("One.")
async def test_a_paste_goes_to_the_box_from_wherever_nothing_takes_it(d: Driver) -> None:
    await d.ask("Question?")
    await d.press("ctrl+up")
    assert d.app.focused is not d.chat.prompt
    d.app.post_message(events.Paste("a\nb"))
    await d.until(lambda: d.chat.prompt.text == "a\nb")
    assert d.app.focused is d.chat.prompt
    await d.press("!")
    assert d.chat.prompt.text == "a\nb!"
