"""Keys that come faster than the screen can follow: each is obeyed, where the last one led."""

from __future__ import annotations

import pytest
from rich.style import Style
from textual import events
from textual.widgets import Input, OptionList
from tui_driver import Driver, driving

from eftlocal.presets.reading import load_presets
from eftlocal_tui.screens.history import HistoryScreen
from eftlocal_tui.screens.palette import Palette
from eftlocal_tui.widgets.turn_view import AnswerView, TurnView

ANSWERS = [f"Answer {i}" for i in range(8)]


async def branches(d: Driver) -> None:
    await d.ask("Go")
    for _ in ANSWERS[1:]:
        await d.press("ctrl+r")
        await d.idle()


@pytest.mark.parametrize(
    ("to_turn", "back", "on"), [((), "f7", "f8"), (("ctrl+up",), "left", "right")]
)
@driving(*ANSWERS)
async def test_branches_are_walked_as_often_as_the_key_was_pressed(
    d: Driver, to_turn: tuple[str, ...], back: str, on: str
) -> None:
    await branches(d)
    await d.press(*to_turn)
    await d.rush(*[back] * 6)
    await d.until(lambda: d.turns == ["Go", "Answer 1"])
    await d.rush(*[on] * 3)
    await d.until(lambda: d.turns == ["Go", "Answer 4"])
    await d.rush(back, on, back, back)
    await d.until(lambda: d.turns == ["Go", "Answer 2"])
    assert isinstance(d.app.focused, AnswerView) is bool(to_turn)


@driving(*ANSWERS)
async def test_turns_are_walked_as_often_as_the_key_was_pressed(d: Driver) -> None:
    for _ in range(4):
        await d.ask("Go")
    await d.rush("ctrl+up", "up", "up", "up", "k", "down")
    await d.until(lambda: isinstance(d.app.focused, TurnView))
    views = d.chat.transcript.views
    assert d.app.focused is views[len(views) - 1 - 4 + 1]


@driving(*ANSWERS)
async def test_letters_after_a_key_that_leads_to_the_message_box(d: Driver) -> None:
    await d.ask("Go")
    for keys in (("ctrl+up", "escape"), ("ctrl+b", "ctrl+t", "escape"), ("ctrl+up", "down")):
        d.chat.prompt.clear()
        await d.rush(*keys, "r", "x", "j")
        await d.until(lambda: d.chat.prompt.text == "rxj")


@driving(*ANSWERS, size=(120, 40))
async def test_an_answer_made_again_on_its_turn_gives_the_message_box_the_keys(d: Driver) -> None:
    await d.ask("Go")
    await d.press("ctrl+up", "r")
    await d.idle()
    await d.press("x")
    assert d.chat.prompt.text == "x"


@driving(*ANSWERS)
async def test_a_key_of_a_screen_does_not_overtake_one_of_its_list(d: Driver) -> None:
    presets = list(load_presets())
    await d.rush("ctrl+l", "down", "down", "enter")
    await d.until(lambda: d.engine.loads == [None, presets[2]])
    made = [d.history.conversations.create(title=title) for title in ("a", "b", "c", "d")]
    await d.rush("ctrl+o", "down", "a")
    await d.until(lambda: d.history.conversations.get(made[2].id).archived)
    await d.rush("escape", "ctrl+o", "down", "down", "enter")
    await d.until(lambda: d.chat.turns.conversation is not None)
    assert d.chat.turns.conversation.id == made[0].id


@driving(*ANSWERS)
async def test_what_is_typed_stays_where_it_was_typed(d: Driver) -> None:
    await d.ask("Go")
    first = d.chat.turns.conversation.id
    await d.rush("x", "y", "ctrl+n", "z")
    await d.until(lambda: d.chat.prompt.text == "z")
    await d.rush("ctrl+o", "enter")
    await d.until(lambda: d.chat.turns.conversation is not None)
    assert d.chat.turns.conversation.id == first and d.chat.prompt.text == "xy"


@driving(*ANSWERS)
async def test_screens_are_left_once(d: Driver) -> None:
    await d.ask("Go")
    for keys in (("ctrl+p", "escape"), ("ctrl+o", "escape"), ("f1", "f1", "f1"), ("f6", "escape")):
        await d.rush(*keys, *["escape"] * 3)
        await d.until(lambda: d.app.screen is d.chat)
    await d.rush("ctrl+p", "escape", "ctrl+p")
    await d.until(lambda: isinstance(d.app.screen, Palette))
    await d.press("escape")
    await d.rush("ctrl+o", "slash", "a", "b")
    await d.until(lambda: isinstance(d.app.screen, HistoryScreen))
    await d.until(lambda: d.app.screen.query_one(Input).value == "ab")


@driving(*ANSWERS)
async def test_keys_behind_the_one_that_quits(d: Driver) -> None:
    await d.rush("ctrl+q", *"abc", "enter", "ctrl+p", "escape", "f1")
    await d.until(lambda: not d.app.is_running)
    assert d.app.failure is None


@driving(*ANSWERS)
async def test_clicks_beside_the_palette(d: Driver) -> None:
    await d.press("ctrl+p")
    await d.until(lambda: isinstance(d.app.screen, Palette))
    palette = d.app.screen
    assert isinstance(palette, Palette)
    palette.dismiss()
    palette.dismiss()  # a second click
    await d.pause()
    assert d.app.screen is d.chat


@driving(*ANSWERS)
async def test_a_key_for_a_turn_that_is_gone(d: Driver) -> None:
    await d.ask("Go")
    view = d.chat.transcript.views[-1]
    await d.press("ctrl+n")
    await d.until(lambda: not view.is_attached)
    assert await d.app.run_action("unfold", view)


@driving(*ANSWERS)
async def test_a_click_on_a_row_that_is_gone(d: Driver) -> None:
    await d.ask("Go")
    await d.press("ctrl+o")
    await d.until(lambda: isinstance(d.app.screen, HistoryScreen))
    rows = d.app.screen.query_one(OptionList)
    await d.until(lambda: rows.option_count)
    click = events.Click(rows, 1, 0, 0, 0, 1, False, False, False, style=Style(meta={"option": 9}))
    rows.post_message(click)
    await d.pause()
    assert d.app.failure is None
    assert d.app.screen.query_one(OptionList) is rows


@driving()
async def test_a_terminal_that_loses_the_focus_when_no_screen_is_left(d: Driver) -> None:
    stack = d.app._screen_stack
    screens = stack.copy()
    stack.clear()  # as Textual does on leaving, before the last events are through
    for event in (events.AppBlur(), events.AppFocus()):
        await d.app.on_event(event)
    stack += screens
    assert d.app.failure is None
