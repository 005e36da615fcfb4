"""What is seen where: at narrow widths, with the panel folded, with long lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_engine import Script, ScriptedEngine
from textual.command import CommandList
from textual.widgets import OptionList
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.presets.reading import user_path
from eftlocal_tui.engine import Live
from eftlocal_tui.history import Figures, History, Settings
from eftlocal_tui.widgets.side_panel import SidePanel


@asynchronous
async def test_the_recipe_is_in_the_head_however_long_the_title(tmp_path: Path) -> None:
    engine = ScriptedEngine("One.")
    engine.name = "SmolLM2-135M-Instruct.Q4_1.gguf, SmolLM2-135M.gguf"
    async with driven(engine, tmp_path, size=(80, 24)) as d:
        await d.ask("A question of many words " * 10)
        assert d.screen_text().split("\n")[0].endswith("upscale beta 1")
        await d.pilot.resize_terminal(60, 24)
        await d.pause()
        assert d.screen_text().split("\n")[0].startswith(" A question")


@driving("日本語" * 60, size=(80, 24))
async def test_wide_titles_take_one_line(d: Driver) -> None:
    await d.ask("日本語" * 60)
    assert d.screen_text().split("\n")[0].endswith("upscale beta 1")
    await d.press("ctrl+o")
    listed = d.app.screen.query_one(OptionList)
    await d.until(lambda: listed.option_count)
    assert listed.virtual_size.height == 2


@driving("One.", size=(80, 30))
async def test_plots_are_there_when_the_panel_is_unfolded_later(d: Driver) -> None:
    await d.ask("Go")
    await d.press("ctrl+b")
    await d.until(lambda: "▇" in d.screen_text() or "█\n" in d.static("#plots"))


@driving(size=(120, 40))
async def test_a_draft_that_comes_at_once_is_no_speed(d: Driver) -> None:
    side = d.chat.query_one(SidePanel)
    side.begin()
    for tokens, seconds, speed in (
        (4, 0.2, 0.0),
        (14, 1.2, 10.0),
        (24, 2.2, 10.0),
        (28, 2.201, 10.0),
    ):
        figures = Figures(
            tokens=tokens, seconds=seconds, first_token=0.2, tokens_per_second=speed, acceptance=1.0
        )
        side.show_live(Live(figures, 4.0, tokens, 512))
        await d.pause()
        if not speed:
            assert "tok/s" not in d.static("#figures")
    assert d.static("#plots").split("\n")[:2] == ["tok/s, 0 to 10", "██"]


@asynchronous
async def test_all_of_a_long_line_of_code_is_shown(tmp_path: Path) -> None:
    line = " ".join(f"word{i}" for i in range(40))
    pieces = ["```\n", line, "\n```\n"]
    async with driven(ScriptedEngine(Script(pieces)), tmp_path, size=(80, 40)) as d:
        await d.ask("Go")
        assert all(word in d.screen_text() for word in line.split())


@driving("One.")
async def test_an_answer_of_another_process_is_not_shown_as_coming(d: Driver) -> None:
    await d.ask("Go")
    conversation = d.chat.turns.path()[0].conversation
    with History(d.history.path) as other:
        question = other.turns.ask(conversation, "Theirs?")
        with other.answer(question.id, Settings(preset="fake")) as answer:
            answer.append("Begun")
            await d.chat.turns.open(conversation)
            await d.until(lambda: "Begun" in d.screen_text())
            assert "still being written elsewhere" in d.screen_text()


@pytest.mark.parametrize("size", [(80, 24), (60, 20), (120, 40), (40, 10)])
@asynchronous
async def test_what_is_told_does_not_cover_the_message_box(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    async with driven(ScriptedEngine(), tmp_path, size=size, notifications=True) as d:
        line = "x" * (size[0] - 4)
        d.chat.trouble("something went wrong, and it takes a long line to say what that was " * 6)
        d.chat.trouble("and another thing went wrong of which there is no less to be said " * 6)
        for keys in ("", "ctrl+b", "ctrl+b"):
            await d.press(*keys.split())
            await d.type(f"{line}\n")
            await d.until(lambda: "something" in d.screen_text() or "another" in d.screen_text())
            await d.pause()
            shown, box = d.screen_text().split("\n"), d.chat.prompt.content_region
            assert not any("▌" in row for row in shown[box.y - 1 : box.bottom + 1])
            assert any("▌" in row for row in shown[: box.y - 1])


@driving(Script(["word "] * 40), size=(80, 24))
async def test_the_panel_takes_no_width_where_there_is_little(d: Driver) -> None:
    await d.ask("Go")
    before = d.chat.transcript.region.width
    await d.press("ctrl+t")
    shown = d.screen_text()
    assert d.chat.transcript.region.width == before
    assert all(word in shown for word in ("β beta", "speculative", "begins with 1", "word word"))
    await d.pilot.resize_terminal(100, 24)
    await d.until(lambda: d.chat.transcript.region.width == 100 - d.chat.side.region.width)


@pytest.mark.parametrize("title", ["[/b] [red]x", "\\u001b[31mx", "]["])
@asynchronous
async def test_titles_of_presets_are_text(tmp_path: Path, title: str) -> None:
    user_path().parent.mkdir(parents=True, exist_ok=True)
    user_path().write_text(
        f'[[preset]]\nname = "mine"\ntitle = "{title}"\n'
        'license = "MIT"\nevidence = "mine"\nrecipe = { name = "upscale" }\n'
        + "".join(
            f'[preset.roles.{role}]\nfile = "{role}.gguf"\n'
            for role in ("base", "tuned", "reference")
        ),
        encoding="utf-8",
    )
    async with driven(ScriptedEngine(), tmp_path, size=(80, 24)) as d:
        await d.press("ctrl+p")
        for letter in "mine":
            await d.press(letter)
        await d.until(lambda: "Load mine" in d.screen_text())
        assert "\x1b" not in d.screen_text()
        await d.press("escape")
        await d.send("/preset")
        assert "\x1b" not in d.screen_text()
        assert d.app.is_running


@driving(size=(30, 8))
async def test_that_the_terminal_is_too_small_is_said_after_a_batch(d: Driver) -> None:
    d.app._told = None
    with d.app.batch_update():
        d.app._display(d.chat, "")
        assert d.app._told is None
    d.chat.refresh()
    await d.until(lambda: d.app._told == (30, 8))


@driving()
async def test_the_palette_takes_the_theme_that_is_chosen_under_it(d: Driver) -> None:
    await d.press("ctrl+p", "f10")
    await d.until(lambda: d.app.theme == "textual-light")
    await d.pause()
    turned = d.app.screen.query_one(CommandList).background_colors[1]
    await d.press("escape", "ctrl+p")
    assert turned == d.app.screen.query_one(CommandList).background_colors[1]
    assert turned.brightness > 0.5


@asynchronous
async def test_the_panel_explains_nothing_before_the_models_are_there(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.load_waits.clear()
    async with driven(engine, tmp_path, size=(120, 40), wait=False) as d:
        await d.pause()
        assert not d.chat.side.query_one("#explained").display
        engine.load_waits.set()
