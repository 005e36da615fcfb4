"""The menu of commands: what it offers, what its keys do, and that it leaves messages alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal_tui.commands import COMMANDS
from eftlocal_tui.screens.dialogs import HelpScreen
from eftlocal_tui.widgets.command_menu import CommandMenu


def offered(d: Driver) -> list[str]:
    menu = d.chat.query_one(CommandMenu)
    return [choice.name for choice in menu.choices] if menu.display else []


def chosen(d: Driver) -> str:
    choice = d.chat.query_one(CommandMenu).chosen
    return choice.name if choice else ""


@pytest.mark.parametrize("size", [(80, 24), (40, 12)])
@asynchronous
async def test_a_slash_opens_the_list(tmp_path: Path, size: tuple[int, int]) -> None:
    async with driven(ScriptedEngine(), tmp_path, size=size) as d:
        await d.press("slash")
        assert offered(d)[:2] == ["/help", "/preset [NAME]"] and chosen(d) == "/help"
        assert "/help" in d.screen_text() and "Help for this screen"[:9] in d.screen_text()
        await d.press("up")  # around
        assert chosen(d) == offered(d)[-1] == "/exit"
        await d.press("down", "down", "down", "down", "tab")
        assert d.chat.prompt.text == "/system "
        assert offered(d) == [] and "Set the system prompt" in d.static("#status")
        await d.press("ctrl+u", *"/st")
        assert offered(d) == ["/stats"]
        await d.press("enter")  # what is chosen, not what is typed
        assert d.chat.prompt.text == "" and "Memory:" in d.notes[0]
        await d.press(*"/he", "enter")
        assert isinstance(d.app.screen, HelpScreen)


@driving()
async def test_what_has_to_follow_is_waited_for(d: Driver) -> None:
    await d.press(*"/sa", "enter")
    assert d.chat.prompt.text == "/save " and "needs" not in d.toasts
    await d.press("enter")
    assert "/save needs NAME" in d.toasts


@driving()
async def test_escape_closes_the_list_and_nothing_else(d: Driver) -> None:
    await d.send("Question?")
    await d.press(*"/s", "escape")
    assert offered(d) == [] and d.chat.prompt.text == "/s"
    await d.press("t")
    assert offered(d) == []
    await d.press("enter")
    assert "unknown command /st;" in d.toasts  # as it was typed
    d.chat.prompt.clear()
    await d.press("slash")
    assert offered(d)
    await d.idle()


@driving()
async def test_messages_that_begin_with_a_slash_are_left_alone(d: Driver) -> None:
    for text in ("/usr/bin/env", "//help", "/set/of", "/s and more", "/help\nme", " /help"):
        await d.type(text)
        assert offered(d) == [], text
        d.chat.prompt.clear()
    await d.type("/usr/bin\nis a folder")
    await d.press("up", "home", "x")
    assert d.chat.prompt.text == "x/usr/bin\nis a folder"
    await d.press("enter")
    await d.idle()
    assert d.turns[0] == "x/usr/bin\nis a folder"


@driving()
async def test_names_of_presets_dials_and_themes(d: Driver) -> None:
    await d.type("/preset dem")
    await d.until(lambda: offered(d)[:1] == ["demo"])
    assert chosen(d) == ""  # what is typed is sent, unless another one is chosen
    await d.press("down", "enter")
    await d.ready()
    assert d.engine.loads == [None, "demo"]
    await d.type("/set ")
    await d.until(lambda: "temperature" in offered(d))
    await d.type("temp")
    await d.until(lambda: offered(d) == ["temperature"])
    await d.press("tab", *"0.3", "enter")
    assert d.chat.dials.now.sampling.temperature == 0.3
    await d.type("/set recipe st")
    await d.until(lambda: offered(d) == ["recipe steer"])
    await d.press("tab", "enter")
    assert d.chat.dials.now.shown()["recipe"] == "steer"
    await d.type("/reset tem")
    await d.until(lambda: offered(d) == ["temperature"])
    await d.press("tab", "enter")
    assert d.chat.dials.now.sampling.temperature == 0.7
    await d.type("/theme gruv")
    await d.until(lambda: offered(d) == ["gruvbox"])
    await d.press("tab", "enter")
    assert d.app.theme == "gruvbox"


@asynchronous
async def test_files_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    (home / "my chats").mkdir(parents=True)
    (home / "my chats" / "one two.json").write_text("{}")
    for name in (".hidden.json", "notes.md", "photo.png", "bad\x1bname.json"):
        (home / name).write_text("")
    monkeypatch.chdir(home)
    async with driven(ScriptedEngine("One."), tmp_path) as d:
        await d.ask("first")
        await d.type("/load ")
        await d.until(lambda: offered(d) == ["1", "my chats/"])
        d.chat.prompt.clear()
        await d.type("/load .")
        await d.until(lambda: offered(d) == [".hidden.json"])
        d.chat.prompt.clear()
        await d.type("/load ~")
        await d.until(lambda: offered(d) == ["~/"])
        await d.press("tab")
        await d.until(lambda: offered(d) == ["my chats/"])
        await d.press("tab")
        assert d.chat.prompt.text == "/load ~/my chats/"
        await d.until(lambda: offered(d) == ["one two.json"])
        await d.press("down", "enter")
        assert d.chat.prompt.text == "" and "one two.json: not an export" in d.toasts
        await d.type("/export n")
        await d.until(lambda: offered(d) == ["notes.md"])
        await d.press("escape", *"ew.md", "enter")
        assert (home / "new.md").is_file()
        await d.type("/load 1")
        await d.until(lambda: offered(d) == ["1"])
        await d.press("enter")
        assert d.turns == ["first", "One."]
        await d.type("/load /nowhere/at all/")
        await d.until(lambda: d.chat.menu._of == d.chat.prompt.text)
        assert offered(d) == []


@driving()
async def test_a_click_chooses(d: Driver) -> None:
    await d.press("slash")
    await d.pilot.click(CommandMenu, offset=(2, 3))
    await d.until(lambda: d.chat.prompt.text == "/system ")
    assert d.app.focused is d.chat.prompt


def test_what_a_command_does_fits_a_terminal_of_80_columns() -> None:
    room = 80 - 2 - max(len(f"/{command.name} {command.takes}") for command in COMMANDS) - 2 - 2
    assert not [c.name for c in COMMANDS if len(c.about) > room]
