"""Slash commands: how they are read, and what each of them does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from scripted_engine import Script, ScriptedEngine
from textual.widgets import TextArea
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal import Recipe, Sampling, Speculation
from eftlocal.errors import UsageError
from eftlocal.user_settings import settings_path as defaults_path
from eftlocal_tui import commands
from eftlocal_tui.dials import Dials, kept, restored
from eftlocal_tui.history import Settings as SavedSettings
from eftlocal_tui.screens.chat import ChatScreen
from eftlocal_tui.screens.chat_commands import ChatCommands
from eftlocal_tui.screens.dialogs import HelpScreen
from eftlocal_tui.screens.history import HistoryScreen
from eftlocal_tui.settings import Settings, settings_path

# Reading ---------------------------------------------------------------------------------------


def test_a_message_is_no_command() -> None:
    for text in ("hello", "/usr/bin/python is what?", "//help", " /help", "a /help"):
        assert commands.parse(text) is None
    assert commands.message("//help") == "/help"
    assert commands.message("hello") == "hello"


def test_a_command_and_what_follows_it() -> None:
    parsed = commands.parse("/set beta 0.5 ")
    assert parsed is not None
    assert (parsed[0].name, parsed[1]) == ("set", "beta 0.5")
    parsed = commands.parse("/HELP")
    assert parsed is not None
    assert parsed[0].name == "help"


def test_quit_is_exit() -> None:
    assert commands.parse("/quit") == commands.parse("/exit")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/sytem x", "did you mean /system?"),
        ("/qqqq", "/help lists them"),
        ("/", "unknown command"),
        ("/exit now", "/exit takes no argument"),
        ("/save", "/save needs NAME"),
    ],
)
def test_what_is_no_command_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        commands.parse(text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_command_is_obeyed() -> None:
    for command in commands.COMMANDS:
        method = hasattr(ChatCommands, f"_{command.name}")
        assert method == bool(command.takes or not command.action)


def test_completion() -> None:
    assert [c.name for c in commands.matching("/st")] == ["stats"]
    assert [c.name for c in commands.matching("/s")] == [
        "system",
        "set",
        "stats",
        "save",
        "settings",
    ]
    assert commands.matching("/set ") == []
    assert commands.matching("x") == []


# Doing -----------------------------------------------------------------------------------------


@driving()
async def test_an_unknown_command_stays_in_the_box(d: Driver) -> None:
    await d.send("/sttas")
    assert "did you mean /stats?" in d.toasts
    assert d.chat.prompt.text == "/sttas"
    assert d.engine.heard == []


@driving()
async def test_help_history_and_exit(d: Driver) -> None:
    await d.send("/help")
    assert isinstance(d.app.screen, HelpScreen)
    await d.press("escape")
    await d.send("/history")
    assert isinstance(d.app.screen, HistoryScreen)
    await d.press("escape")
    await d.send("/exit")
    await d.until(lambda: not d.app.is_running)


@driving()
async def test_preset_loads(d: Driver) -> None:
    await d.send("/preset demo")
    await d.ready()
    assert d.engine.loads == [None, "demo"]
    assert "demo" in d.static("#head")
    await d.send("/preset demoo")  # what is loaded stays
    assert 'no preset "demoo"; did you mean "demo"? Ctrl+L lists them all' in d.toasts
    assert d.engine.loads == [None, "demo"] and d.chat.models.loaded is not None


@driving("One.", "Two.", "Three.", "Four.", settings=Settings(system="Be kind."))
async def test_system_prompt(d: Driver) -> None:
    await d.ask("first")
    assert d.engine.heard[0][0][0] == {"role": "system", "content": "Be kind."}
    await d.send("/system Be brief.")
    await d.ask("second")
    assert d.engine.heard[1][0][0] == {"role": "system", "content": "Be brief."}
    await d.send("/system")
    area = d.app.screen.query_one(TextArea)
    assert area.text == "Be brief."
    area.text = "Be\nlong."
    await d.press("ctrl+s")
    await d.until(lambda: isinstance(d.app.screen, ChatScreen))
    await d.ask("third")
    assert d.engine.heard[2][0][0] == {"role": "system", "content": "Be\nlong."}
    await d.send("/system -")
    await d.ask("fourth")
    assert d.engine.heard[3][0][0]["role"] == "user"
    await d.send("/system")
    await d.press("escape")
    assert d.chat.turns.system == ""


@driving()
async def test_set_without_a_value_shows_the_dials(d: Driver) -> None:
    await d.send("/set plausibility 0.1")
    await d.send("/set")
    rows = [line.split(maxsplit=2) for line in d.notes[0].split("\n")]
    assert ["beta", "1", "default"] in rows
    assert ["plausibility", "0.1", "turned here, was off"] in rows  # only /set turns and shows it
    assert len(rows) == len(d.chat.dials.now.all()) + 1
    for asked in ("/set beta", "/set beta?"):
        await d.send(asked)
        assert d.notes[-1].startswith("beta = 1\n0: the small tuned model alone")


@pytest.mark.parametrize(
    ("recipe", "dial"),
    [
        (Recipe.upscale(), "beta"),
        (Recipe.proxy(), "alpha"),
        (Recipe.realign(1.0), "lambda"),
        (Recipe.interpolate({"a": 0.5, "b": 0.5}), "lambda"),
        (Recipe.contrast(1.0), "strength"),
        (Recipe.guidance(1.0), "strength"),
    ],
)
def test_a_dial_of_a_recipe_shows_what_it_was_set_to(recipe: Recipe, dial: str) -> None:
    roles = ("base", "tuned", "reference", "unguided", "a", "b")
    begun = Dials(recipe, Sampling(), Speculation())
    share = recipe.name == "interpolate"
    for value in ("0", "0.1", "0.7", "1") if share else ("-3", "-1", "-0.1", "0", "0.1", "2.3"):
        turned = begun.turned(dial, value, roles)
        assert turned.shown()[dial] == value
        saved = SavedSettings.model_validate_json(kept("demo", turned).model_dump_json())
        assert restored(saved, begun) == turned
    wrong, most = ("1.1", "0 to 1") if share else ("101", "-100 to 100")
    with pytest.raises(UsageError, match=f"{dial} is {wrong}; it must be a number from {most}"):
        begun.turned(dial, wrong, roles)


@driving("One.")
async def test_stats_save_and_clear(d: Driver) -> None:
    await d.send("/save early")
    assert "no conversation" in d.toasts
    await d.ask("first")
    await d.send("/stats")
    for shown in ("20 tok/s", "upscale", "base, tuned, reference", "10 of 4,096"):
        assert shown in d.notes[0]
    await d.send("/save a name")
    assert "a name" in d.static("#head")
    await d.send("/clear")
    assert d.turns == []
    assert d.chat.turns.conversation is None
    assert d.history.conversations.list()[0].title == "a name"


@asynchronous
async def test_export_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with driven(ScriptedEngine("One."), tmp_path) as d:
        await d.send("/export")
        assert "no conversation" in d.toasts
        await d.ask("first")
        number = d.chat.turns.conversation.id
        await d.send("/export")
        await d.send("/export")
        assert (tmp_path / f"chat-{number}.md").read_text("utf-8").count("One.") == 1
        assert (tmp_path / f"chat-{number}-2.md").is_file()
        await d.send("/export tree.json")
        json.loads((tmp_path / "tree.json").read_text("utf-8"))
        other = d.history.turns.ask(number, "of another process")
        await d.send("/export shown.md")
        assert other.text not in (tmp_path / "shown.md").read_text("utf-8")
        await d.send("/export what.docx")
        assert "docx" in d.toasts
        await d.send("/load tree.json")
        await d.until(lambda: d.chat.turns.conversation.id != number)
        assert d.turns == ["first", "One."]
        await d.send(f"/load {number}")
        assert d.chat.turns.conversation.id == number
        await d.send("/load nowhere.json")
        assert "nowhere.json" in d.toasts
        await d.send("/load 9999")
        assert "9999" in d.toasts
        await d.send("/load")
        assert isinstance(d.app.screen, HistoryScreen)


@driving("One.", "Two.", Script(["`a", "`b", "c", "d"], wait_at=2), Script(["!"]))
async def test_regen_edit_continue_copy(d: Driver) -> None:
    await d.send("/regen")
    await d.send("/continue")
    await d.send("/edit")
    for said in ("nothing to regenerate", "no answer to continue", "no message of yours"):
        assert said in d.toasts
    await d.ask("first")
    await d.send("/regen")
    await d.idle()
    assert d.turns == ["first", "Two."]
    await d.send("/edit")
    assert d.chat.prompt.text == "first"
    await d.press("enter")
    await d.until(lambda: d.turns[-1:] == ["`a`b"])
    await d.press("escape")
    d.engine.go()
    await d.idle()
    kept = d.turns[-1]
    await d.send("/continue")
    await d.idle()
    assert d.turns[-1] == f"{kept}!"
    await d.send("/copy")
    assert d.app.clipboard == f"{kept}!"
    await d.send("/copy code")
    assert "no code block" in d.toasts
    await d.send("/copy all")
    await d.until(lambda: "the whole message" in d.toasts)
    assert d.app.clipboard == f"{kept}!"
    await d.send("/copy most")
    assert "not 'most'" in d.toasts


@asynchronous
async def test_the_editor_is_opened_for_long_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "editor.py"
    script.write_text(
        "import sys, pathlib\np = pathlib.Path(sys.argv[1])\n"
        "p.write_text(p.read_text() + ' and\\n\\x1b[31mmore\\n')\n"
    )
    monkeypatch.setattr("textual.app.App.suspend", _not_suspended)
    settings = Settings(editor=f"{sys.executable} {script}")
    async with driven(ScriptedEngine(), tmp_path, settings=settings) as d:
        await d.type("text")
        await d.press("ctrl+g")
        assert d.chat.prompt.text == "text and\n\N{REPLACEMENT CHARACTER}[31mmore"
        d.chat.prompt.clear()
        await d.send("/settings")
        assert settings_path().read_text("utf-8").startswith("# Settings of")
        assert "chat.toml: " in d.toasts  # what was written there is no setting
        await d.send("/settings dials")
        assert defaults_path().read_text("utf-8").startswith("# Defaults of dials")
        assert "settings.toml: " in d.toasts
        await d.send("/settings keys")
        assert "/settings takes dials or nothing, not 'keys'" in d.toasts
    async with driven(
        ScriptedEngine(), tmp_path / "x", settings=Settings(editor="no-such-ed")
    ) as d:
        await d.type("text")
        await d.press("ctrl+g")
        assert "editor no-such-ed" in d.toasts
        assert d.chat.prompt.text == "text"


class _not_suspended:  # noqa: N801 - stands where a method stood
    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
