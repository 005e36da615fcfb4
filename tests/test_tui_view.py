"""The theme and the side panel come back as they were left; the settings file comes before."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine
from textual.command import CommandList
from textual.widgets import Input
from tui_driver import Driver, asynchronous, driven

from eftlocal.errors import UsageError
from eftlocal_tui.settings import VIEW_NAME, Settings, View, read_view, save_view

NARROW, WIDE = (90, 30), (120, 30)


def panel(d: Driver) -> bool:
    return bool(d.chat.query_one("#side").display)


async def choose(d: Driver, theme: str) -> None:
    """In the palette, as a person does."""
    (command,) = [c for c in d.app.get_system_commands(d.chat) if c.title == "Theme"]
    command.callback()
    await d.pause()
    d.app.screen.query_one(Input).value = theme
    await d.until(lambda: d.app.screen.query_one(CommandList).option_count == 1)
    await d.press("down", "enter")
    await d.until(lambda: d.app.theme == theme)


@asynchronous
async def test_a_theme_chosen_in_the_palette_comes_back(tmp_path: Path) -> None:
    async with driven(ScriptedEngine(), tmp_path) as d:
        assert d.app.theme == "textual-dark"
        await choose(d, "gruvbox")
    async with driven(ScriptedEngine(), tmp_path) as d:
        assert d.app.theme == "gruvbox"
        await d.press("f10")
        assert d.app.theme == "textual-light"
    async with driven(ScriptedEngine(), tmp_path) as d:
        assert d.app.theme == "textual-light"
        await d.send("/theme nord")
    async with driven(ScriptedEngine(), tmp_path) as d:
        assert d.app.theme == "nord"


@asynchronous
async def test_a_theme_of_the_settings_comes_first_and_says_so(tmp_path: Path) -> None:
    settings = Settings(theme="nord")
    async with driven(ScriptedEngine(), tmp_path, settings=settings) as d:
        await d.send("/theme gruvbox")
        assert "uses nord again" in d.toasts
    async with driven(ScriptedEngine(), tmp_path, settings=settings) as d:
        assert d.app.theme == "nord"
        assert d.toasts == ""
    async with driven(ScriptedEngine(), tmp_path) as d:  # the line was taken out
        assert d.app.theme == "gruvbox"


@pytest.mark.parametrize("key", ["ctrl+b", "ctrl+t"])
@asynchronous
async def test_a_panel_that_was_unfolded_is_open_at_the_next_start(
    tmp_path: Path, key: str
) -> None:
    async with driven(ScriptedEngine(), tmp_path, size=NARROW) as d:
        assert not panel(d)
        await d.press(key)
        assert panel(d)
    async with driven(ScriptedEngine(), tmp_path, size=NARROW) as d:
        assert panel(d)
        await d.press("ctrl+b")
    async with driven(ScriptedEngine(), tmp_path, size=NARROW) as d:
        assert not panel(d)
    async with driven(ScriptedEngine(), tmp_path, size=WIDE) as d:
        assert panel(d)  # folding what does not fit says nothing about a wide terminal


@asynchronous
async def test_a_panel_that_was_folded_stays_folded(tmp_path: Path) -> None:
    async with driven(ScriptedEngine(), tmp_path, size=WIDE) as d:
        assert panel(d)
        await d.press("ctrl+b")
        await d.send("/theme nord")
    async with driven(ScriptedEngine(), tmp_path, size=WIDE) as d:
        assert not panel(d)
        assert d.app.theme == "nord"
    async with driven(ScriptedEngine(), tmp_path, size=WIDE, settings=Settings(panel=True)) as d:
        assert panel(d)
        await d.press("ctrl+b", "ctrl+b")
    async with driven(ScriptedEngine(), tmp_path, size=WIDE) as d:
        assert panel(d)


@asynchronous
async def test_what_cannot_be_remembered_is_said(tmp_path: Path) -> None:
    (tmp_path / VIEW_NAME).mkdir()
    async with driven(ScriptedEngine(), tmp_path, notifications=True) as d:
        await d.press("ctrl+b")
        assert not panel(d)
        await d.until(lambda: "until you quit" in d.toasts)
        await d.press("f10")
        assert d.app.theme == "textual-light"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"theme": 3}', b'{"theme": "no-such-theme"}', b"\xff"]
)
@asynchronous
async def test_a_file_that_is_not_understood_is_no_hindrance(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / VIEW_NAME).write_bytes(content)
    async with driven(ScriptedEngine(), tmp_path) as d:
        assert d.app.theme == "textual-dark"
        await d.press("f10")
    assert read_view(tmp_path / VIEW_NAME).theme == "textual-light"


def test_changes_are_merged_and_unknown_keys_left_out(tmp_path: Path) -> None:
    path = tmp_path / VIEW_NAME
    assert read_view(path) == View()
    save_view(path, theme="nord")
    save_view(path, panel=False)
    assert read_view(path) == View(theme="nord", panel=False)
    save_view(path, panel=None)
    assert path.read_text("utf-8") == '{"theme":"nord"}\n'
    path.write_text('{"theme": "nord", "later": 1}', encoding="utf-8")
    assert read_view(path) == View(theme="nord")
    assert [file.name for file in tmp_path.iterdir()] == [VIEW_NAME]
    with pytest.raises(UsageError, match="cannot be written"):
        save_view(path / VIEW_NAME, theme="nord")  # a file is no folder
