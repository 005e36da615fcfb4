"""The influence view over a scripted engine: what it says, its keys, its colors, long answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.color import Color
from scripted_engine import SIDES, TOKENS, Script, ScriptedEngine, token
from textual.color import Color as Rgb
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.errors import EngineError
from eftlocal_tui.engine import Moved, Reading
from eftlocal_tui.history import History
from eftlocal_tui.screens import waiting
from eftlocal_tui.screens.chat import ChatScreen
from eftlocal_tui.screens.influence import InfluenceScreen
from eftlocal_tui.settings import Settings
from eftlocal_tui.widgets.token_table import table
from eftlocal_tui.widgets.token_text import TokenText

ANSWER = Script(["Braga", " is"])


async def opened(d: Driver) -> TokenText:
    """The influence of the last answer."""
    await d.press("f6")
    await d.until(lambda: "1/5" in d.static("#verdict"))
    return d.app.screen.query_one(TokenText)


def lines_of(d: Driver, *names: str) -> list[str]:
    """The rows of these models, below the verdict."""
    return [
        line
        for line in d.screen_text().split("\n")
        if line.split()[:1] and line.split()[0] in names
    ]


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
@asynchronous
async def test_a_token_is_explained(tmp_path: Path, size: tuple[int, int]) -> None:
    async with driven(ScriptedEngine(ANSWER), tmp_path, size=size) as d:
        await d.ask("Where is Braga?")
        await opened(d)
        assert isinstance(d.app.screen, InfluenceScreen)
        assert d.engine.inspected == [(1, 2)]  # token ids, where they are known
        lines = d.screen_text().split("\n")
        assert lines[0] == " Influence · Where is Braga?"
        assert lines[1].startswith(" upscale beta 1 · base Toy-base.Q8_0 · tuned Toy-tuned.Q8_0")
        told = " ".join(" ".join(lines[2:4]).split())
        assert told.startswith(
            "3 of 5 tokens moved: 2 by the base's knowledge, 1 by the tuning; 1 sampled"
        )
        assert "Braga is‹ in›↵" in d.screen_text() and "« Portugal»" in d.screen_text()
        verdicts = [
            "1/5 “Braga”: tuned alone 70%, base 60%, together 85%: both agreed",
            "2/5 “is”: tuned alone 90%, base 30%, together 80%: the tuning decided",
            "3/5 “in”: tuned alone 10%, base 60%, together 70%: the base's knowledge decided",
            "4/5 “↵”: tuned alone 30%, base 20%, together 10%: sampled against all; together "
            "“[combination]” (15%) was likelier",
            "5/5 “Portugal”: tuned alone 3%, base 41%, together 88%: the base's knowledge decided",
        ]
        for said in verdicts:
            assert d.static("#verdict") == said
            # Wrapped where it is wider than the screen, and none of it cut.
            assert said.replace(" ", "") in d.screen_text().replace("\n", "").replace(" ", "")
            await d.press("right")
        rows = [line.split() for line in lines_of(d, "base", "tuned", "together")]
        assert rows == [
            ["base", "41.0%", "│", "·Portugal", "41%", "·[base]", "39%"],
            ["tuned", "3.0%", "│", "·[tuned]", "8%", "·Portugal", "3%"],
            ["together", "88.0%", "│", "·Portugal", "88%", "·[combination]", "86%"],
        ]
        await d.press("escape")
        assert isinstance(d.app.screen, ChatScreen)


@driving(ANSWER)
async def test_keys_move_the_cursor(d: Driver) -> None:
    await d.ask("Question?")
    await opened(d)

    async def at(place: int, *keys: str) -> None:
        await d.press(*keys)
        assert d.static("#verdict").startswith(f"{place}/5"), keys

    await at(2, "right")
    await at(3, "n")
    await at(5, "n")
    await at(5, "n")
    assert "no token after this one moved that far" in d.toasts
    await at(1, "up")
    await at(3, "down", "p")
    await at(3, "p")
    assert "no token before this one moved that far" in d.toasts
    await at(1, "left", "left", "left", "left")
    await at(5, "end")
    await at(1, "home")
    await at(5, "pagedown")
    await at(1, "pageup")
    await at(3, "tab")
    await at(5, "tab", "shift+tab", "tab")


@driving(ANSWER)
async def test_the_color_is_switched_between_the_models(d: Driver) -> None:
    await d.ask("Question?")
    await opened(d)
    assert (
        "Moved from tuned alone: below 0.1  0.1+  ‹0.3+›  «0.6+»  s: from base" in d.screen_text()
    )
    await d.press("s")
    assert (
        "Moved from base alone: below 0.1  0.1+  ‹0.3+›  «0.6+»  s: from tuned" in d.screen_text()
    )
    assert "Braga‹ is› in↵" in d.screen_text() and "‹ Portugal›" in d.screen_text()
    await d.press("n")  # what it stops at follows the color
    assert d.static("#verdict").startswith("2/5")
    await d.press("s")
    assert d.static("#verdict").startswith("2/5")  # the cursor stays
    await d.press("n")
    assert d.static("#verdict").startswith("3/5")


@driving(ANSWER)
async def test_keys_before_the_answer_is_read_do_nothing(d: Driver) -> None:
    await d.ask("Question?")
    d.engine.inspects.clear()
    await d.press("f6")
    await d.press("s", "n", "p", "right", "up", "down", "pagedown", "home", "end", "tab")
    assert isinstance(d.app.screen, InfluenceScreen)
    assert not d.toasts
    d.engine.inspects.set()
    await d.until(lambda: "1/5" in d.static("#verdict"))


@driving(ANSWER)
async def test_a_long_answer_says_how_far_it_is_read(
    d: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_MOMENT", 0.0)
    await d.ask("Question?")
    d.engine.readings = [Reading(400, 2100), Reading(1200, 2100)]
    d.engine.inspects.clear()
    await d.press("f6")
    told = "Reading the answer 1,200 of 2,100 tokens · "
    await d.until(lambda: told in d.static("#summary"))
    assert d.static("#summary").endswith(" s · Esc stops")
    await d.press("escape")
    assert isinstance(d.app.screen, ChatScreen)
    d.engine.inspects.set()
    await d.ask("Next")
    assert d.turns[-1] == "Again."


@asynchronous
async def test_dials_that_changed_meanwhile_are_told(tmp_path: Path) -> None:
    script = Script(["One", " two", " three"], wait_at=1)
    async with driven(ScriptedEngine(script), tmp_path) as d:
        await d.send("Count")
        await d.until(lambda: d.turns[-1:] == ["One"])
        await d.send("/set beta 0.5")
        script.go.set()
        await d.idle()
        assert d.chat.turns.path()[-1].marks
        await opened(d)
        assert "the dials changed during this answer" in d.static("#summary")


@driving("One.", "Emulated.", "Small.", "Large.")
async def test_of_one_model_s_answer_the_emulation_is_asked(d: Driver) -> None:
    await d.ask("Question?")
    await d.press("f5")
    await d.until(lambda: d.static("#about").startswith("seed "))
    await d.press("right", "k", "escape")
    assert d.turns[-1] == "Small."
    await opened(d)
    assert d.static("#head") == "Influence on tuned alone · Question?"
    assert d.static("#about").startswith("upscale beta 1 · ")
    assert "at 1 the emulation prefers another" in d.static("#summary")


@asynchronous
async def test_of_another_preset_s_answer_nothing_is_called_sampled(tmp_path: Path) -> None:
    engine = ScriptedEngine("One.")
    engine.name = "large"
    async with driven(engine, tmp_path) as d:
        await d.ask("Question?")

    def newest(history: History) -> Any:
        return history.conversations.list(limit=1)[0]

    async with driven(ScriptedEngine(), tmp_path, resume=newest) as d:
        await opened(d)
        assert d.static("#head") == "Influence on large · Question?"
        assert "sampled" not in d.static("#summary")


class Long(ScriptedEngine):
    """Every answer is of 3,000 tokens, some of them wide."""

    def inspect(self, *_: object, **__: object) -> Moved:
        words = [" word", " 日本", "\n", " and", "."]
        tokens = tuple(replace(token(i, words[i % 5], *TOKENS[i % 5][1:])) for i in range(3_000))
        return Moved(tokens, SIDES)


@asynchronous
async def test_a_key_draws_two_lines_of_a_long_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with driven(Long(ANSWER), tmp_path, size=(80, 24)) as d:
        await d.ask("Question?")
        await d.press("f6")
        await d.until(lambda: "1/3000" in d.static("#verdict"))
        text = d.app.screen.query_one(TokenText)
        laid_out: list[int] = []
        monkeypatch.setattr(TokenText, "_lay_out", lambda *_: laid_out.append(1))
        await d.press("end")
        assert d.static("#verdict").startswith("3000/3000")
        assert text.scroll_offset.y == text.max_scroll_y
        drawn = len(text._strips)
        await d.press("left")
        await d.pause()
        assert len(text._strips) <= drawn + 1 and not laid_out
        await d.press("pageup", "home")
        assert d.static("#verdict").startswith("1/3000") and text.scroll_offset.y == 0


@asynchronous
async def test_influence_of_a_resumed_answer_reads_its_text(tmp_path: Path) -> None:
    async with driven(ScriptedEngine("Kept text."), tmp_path) as d:
        await d.ask("Question?")
    engine = ScriptedEngine()

    def newest(history: History) -> Any:
        return history.conversations.list(limit=1)[0]

    async with driven(engine, tmp_path, resume=newest) as d:
        await d.press("ctrl+up", "i")
        await d.until(lambda: engine.inspected)
        assert engine.inspected == ["Kept text."]


@driving()
async def test_influence_needs_an_answer(d: Driver) -> None:
    await d.press("f6")
    assert isinstance(d.app.screen, ChatScreen)
    assert "no answer" in d.toasts


@asynchronous
async def test_an_influence_that_fails_says_so(tmp_path: Path) -> None:
    class Failing(ScriptedEngine):
        def inspect(self, *_: object, **__: object) -> Moved:
            raise EngineError("it [does] not fit")

    async with driven(Failing("One."), tmp_path) as d:
        await d.ask("Question?")
        await d.press("f6")
        await d.until(lambda: "Error: it [does] not fit" in d.static("#summary"))
        await d.press("s", "n", "right", "escape")
        assert isinstance(d.app.screen, ChatScreen)


@driving("One.", "Two.")
async def test_leaving_the_influence_view_ends_its_reading(d: Driver) -> None:
    await d.ask("Question?")
    d.engine.inspects.clear()  # and no word to go on comes
    await d.press("f6")
    await d.until(lambda: d.engine.inspected)
    await d.press("escape")
    await d.ask("Go on")
    assert d.turns[-1] == "Two."


@driving("One.")
async def test_token_text_lays_out_again_for_another_width(d: Driver) -> None:
    await d.ask("Question?")
    text = await opened(d)
    assert text.virtual_size.height == 2
    text.styles.width = 14
    await d.until(lambda: text.virtual_size.height > 2)


@driving("One.")
async def test_a_click_moves_the_cursor(d: Driver) -> None:
    await d.ask("Question?")
    await opened(d)
    await d.pilot.click(TokenText, offset=(3, 1))
    await d.until(lambda: d.static("#verdict").startswith("5/5"))


def luminance(color: Color | Rgb) -> float:
    rgb = color if isinstance(color, Rgb) else Rgb.from_rich_color(color)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb.normalized]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    """WCAG 2: 4.5 is enough for text."""
    light, dark = sorted((one, other), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["textual-dark", "textual-light", "nord", "gruvbox", "monokai"])
@asynchronous
async def test_the_cursor_stands_out_more_than_any_mark(tmp_path: Path, theme: str) -> None:
    settings = Settings(theme=theme)
    async with driven(ScriptedEngine("One."), tmp_path, settings=settings) as d:
        await d.ask("Question?")
        text = await opened(d)

        def check() -> None:
            screen = luminance(text.background_colors[1])
            papers: Sequence[float] = []
            for name in ("token--1", "token--2", "token--3", "token--cursor"):
                style = text.get_component_rich_style(name)
                assert style.color is not None and style.bgcolor is not None
                paper = luminance(style.bgcolor)
                assert contrast(luminance(style.color), paper) >= 4.5, (theme, name)
                papers = [*papers, contrast(paper, screen)]
            assert list(papers) == sorted(papers), theme

        check()
        await d.press("f10")  # light is dark now, or the other way round
        check()


def test_candidates_are_whole_or_left_out() -> None:
    one = token(0, *TOKENS[4])
    for width in (20, 40, 60, 80, 120):
        lines = table(one, width).plain.split("\n")
        assert len(lines) == 4
        assert [line.split()[0] for line in lines] == ["base", "tuned", "reference", "together"]
        for line in lines:
            assert line.rstrip().endswith("%")
            assert len(line.rstrip()) <= max(width, 36)  # the first one is always there
    assert "·[combination]" in table(one, 80).plain and "·[combination]" not in table(one, 40).plain


@driving(ANSWER, size=(80, 24))
async def test_the_line_of_keys_has_the_way_back(d: Driver) -> None:
    await d.ask("Where is Braga?")
    await opened(d)
    line = d.screen_text().split("\n")[-1]
    assert line.startswith(" n Next moved p Previous moved") and " Esc Back F1 Help" in line
    await d.press("escape", "ctrl+up")
    assert " Esc Back F1 Help" in d.screen_text().split("\n")[-1]
