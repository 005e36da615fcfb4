"""The comparison over a scripted engine: its columns, what is marked, what becomes of a column."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from scripted_engine import Script, ScriptedEngine
from textual.widgets import Static
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.errors import EngineError
from eftlocal.thinking import Marks
from eftlocal_tui.differences import common_beginning, foreign_words
from eftlocal_tui.history import History
from eftlocal_tui.screens.chat import ChatScreen
from eftlocal_tui.screens.compare import CompareScreen
from eftlocal_tui.screens.influence import InfluenceScreen
from eftlocal_tui.text import totals_line
from eftlocal_tui.widgets.compare_column import CompareColumn

NORTH, SOUTH, TOWN = "Braga is in the north.", "Braga is in the deep south.", "Braga is old."


def columns_of(d: Driver) -> list[CompareColumn]:
    return list(d.app.screen.query(CompareColumn))


def texts(d: Driver) -> list[str]:
    return [column.text for column in columns_of(d)]


def feet(d: Driver) -> list[str]:
    return [str(column.query_one(".foot").render()) for column in columns_of(d)]


async def compared(d: Driver) -> None:
    """Opens the comparison, and waits for its end."""
    await d.press("f5")
    await ended(d)


async def ended(d: Driver) -> None:
    await d.until(lambda: d.static("#about").startswith("seed "))
    await d.pause()


def styled(d: Driver, column: int, style: str) -> str:
    """What of a column's text has a style."""
    shown = columns_of(d)[column].query_one(".body", Static).content
    assert isinstance(shown, Text)
    return "|".join(shown.plain[s.start : s.end] for s in shown.spans if s.style == style)


@driving("Kept.", "Emulated.", "From tuned.", "From base.")
async def test_compare_answers_three_times_from_one_seed(d: Driver) -> None:
    await d.ask("Question?")
    await compared(d)
    assert texts(d) == ["Emulated.", "From tuned.", "From base."]
    asked = d.engine.heard[1:]
    assert [a[0] for a in asked] == [[{"role": "user", "content": "Question?"}]] * 3
    assert [a[1].recipe.name for a in asked] == ["upscale", "tuned", "base"]
    assert len({a[1].sampling.seed for a in asked}) == 1
    await d.press("right", "c")
    assert d.app.clipboard == "From tuned."
    await d.press("tab", "c")
    assert d.app.clipboard == "From base."
    await d.press("right", "left", "left", "c")
    assert d.app.clipboard == "From tuned."
    d.engine.scripts += [Script(["x"]), Script(["y"]), Script(["z"])]
    await d.press("r")
    await d.until(lambda: texts(d) == ["x", "y", "z"])
    await ended(d)
    assert {a[1].sampling.seed for a in d.engine.heard[4:]}.isdisjoint(
        {a[1].sampling.seed for a in asked}
    )
    await d.press("escape")
    assert isinstance(d.app.screen, ChatScreen)
    assert d.turns == ["Question?", "Kept."]  # nothing of it is kept unless it is asked for


@pytest.mark.parametrize(("size", "in_title"), [((80, 24), False), ((200, 60), True)])
@asynchronous
async def test_columns_say_what_answers(
    tmp_path: Path, size: tuple[int, int], in_title: bool
) -> None:
    async with driven(ScriptedEngine("One.", NORTH, SOUTH, TOWN), tmp_path, size=size) as d:
        await d.send("/set seed 7")
        await d.ask("Where is Braga?")
        await compared(d)
        lines = d.screen_text().split("\n")
        about = "seed 7, temperature 0.7, top_p 0.95 · the first 2 words are the same"
        assert lines[:2] == [" Where is Braga?", f" {about}"]
        if in_title:
            for title in (
                "emulation · upscale beta 1",
                "tuned alone · Toy-tuned.Q8_0",
                "base alone · Toy-base.Q8_0",
            ):
                assert title in lines[2]
        else:
            for title in ("emulation", "tuned alone", "base alone"):
                assert f" {title} " in lines[2]
            for what in ("upscale beta 1", "Toy-tuned.Q8_0", "Toy-base.Q8_0"):
                assert what in lines[3]
        assert "tok/s" not in d.screen_text()  # the columns took turns
        assert feet(d) == ["9 tokens", "11 tokens", "5 tokens"]


@driving("Kept.", NORTH, SOUTH, TOWN)
async def test_what_is_the_same_is_dim_and_what_differs_is_underlined(d: Driver) -> None:
    await d.ask("Question?")
    await compared(d)
    assert [styled(d, at, "dim") for at in range(3)] == ["Braga is"] * 3
    assert [styled(d, at, "underline") for at in range(3)] == ["", "deep south.", "old."]


@driving(
    "Kept.",
    Script(["Braga", " is", " in"], wait_at=2),
    Script(["Braga", " is", " old"]),
    Script(["Braga", " is", "!"]),
)
async def test_the_common_beginning_is_dim_while_it_comes(d: Driver) -> None:
    await d.ask("Question?")
    await d.press("f5")
    await d.until(lambda: styled(d, 0, "dim") == "Braga is" and d.static("#about"))
    assert d.static("#about") == "Answering side by side · Esc stops"
    d.engine.go()
    await ended(d)


@driving("Kept.", "The same.", "The same.", "The same.")
async def test_columns_that_say_the_same_are_told(d: Driver) -> None:
    await d.ask("Question?")
    await compared(d)
    assert d.static("#about").endswith(" · all say the same")


@driving("Kept.", "[bold]a[/bold] \x1b[31mb", "[bold]a[/bold] c", "[/]")
async def test_texts_of_columns_are_no_markup(d: Driver) -> None:
    await d.ask("Question?")
    await compared(d)
    assert "[bold]a[/bold]" in d.screen_text() and "[/]" in d.screen_text()
    assert "\x1b" not in d.screen_text()


@asynchronous
async def test_names_of_files_are_no_markup(tmp_path: Path) -> None:
    engine = ScriptedEngine("Kept.", "a", "b", "c")
    engine.files = {"tuned": "[/red]\x1b[31m", "base": "[b]x"}
    async with driven(engine, tmp_path, size=(200, 24)) as d:
        await d.ask("Question?")
        await compared(d)
        assert "tuned alone · [/red]\ufffd[31m" in d.screen_text()
        assert "base alone · [b]x" in d.screen_text()


@driving()
async def test_compare_takes_what_is_in_the_box(d: Driver) -> None:
    await d.press("f5")
    assert "type a message to compare" in d.toasts
    await d.type("Not sent")
    await d.press("f5")
    await d.until(lambda: len(d.engine.heard) == 3)
    assert d.engine.heard[0][0][-1]["content"] == "Not sent"
    await ended(d)
    await d.press("escape")
    assert d.chat.prompt.text == "Not sent"


@driving(Script(["ok"]), Script([], at_once=EngineError("no tuned")), Script(["fine"]))
async def test_a_column_that_fails_says_so_and_the_others_go_on(d: Driver) -> None:
    await d.type("Question?")
    await compared(d)
    assert texts(d) == ["ok", "", "fine"]
    assert "✗ no tuned" in d.screen_text()
    await d.press("right", "k")
    assert "tuned alone has no text that could be kept" in d.toasts
    await d.press("i")
    assert "tuned alone has no tokens to inspect" in d.toasts
    await d.press("c")
    assert "there is no answer to copy" in d.toasts


@driving(Script(["a", "b"], wait_at=1), Script(["c", "d"]), Script(["e", "f"]))
async def test_columns_advance_together(d: Driver) -> None:
    await d.type("Question?")
    await d.press("f5")
    await d.until(lambda: texts(d) == ["a", "c", "e"])
    await d.press("k", "i", "r")
    assert d.toasts.count("still being written; Esc stops them") == 3
    assert isinstance(d.app.screen, CompareScreen)
    d.engine.go()
    await d.until(lambda: texts(d) == ["ab", "cd", "ef"])
    await ended(d)


@driving(Script(["a", "b", "c"], wait_at=1), Script(["d"]), Script(["e", "f"]))
async def test_escape_ends_all_columns_and_keeps_what_came(d: Driver) -> None:
    await d.type("Question?")
    await d.press("f5")
    await d.until(lambda: texts(d) == ["a", "d", "e"])
    await d.press("escape")
    d.engine.go()
    await d.until(lambda: sum("stopped · " in foot for foot in feet(d)) == 2)
    assert isinstance(d.app.screen, CompareScreen)
    assert [text[:1] for text in texts(d)] == ["a", "d", "e"]
    assert all(answer.closed for answer in d.engine.answering)
    await d.press("escape", "enter")
    await d.idle()
    assert d.turns == ["Question?", "Again."]


@driving(Script(["a", "b", "c"], wait_at=1))
async def test_escape_twice_leaves_columns_that_do_not_end(d: Driver) -> None:
    await d.type("Question?")
    await d.press("f5")
    await d.until(lambda: d.engine.answering)
    await d.press("escape", "escape")
    assert isinstance(d.app.screen, ChatScreen)
    d.engine.go()
    await d.press("enter")
    await d.idle()
    assert d.engine.answering[0].closed
    assert d.turns == ["Question?", "Again."]


@driving(Script(["a"], wait_at=0), Script(["b"], wait_at=0), Script(["c"], wait_at=0))
async def test_escape_ends_the_reading_of_a_prompt_for_all_columns(d: Driver) -> None:
    await d.type("Question?")
    await d.press("f5")
    await d.pause()
    await d.press("escape")
    await d.until(lambda: sum("stopped · " in foot for foot in feet(d)) == 3)


@asynchronous
async def test_what_ends_all_columns_is_told_in_each(tmp_path: Path) -> None:
    engine = ScriptedEngine(Script(["whole"]), Script(["a", "b"]), Script(["c", "d"]))
    engine.broken = EngineError("the [device] is gone")
    async with driven(engine, tmp_path) as d:
        await d.type("Question?")
        await d.press("f5")
        await d.until(lambda: d.screen_text().count("✗ the [device] is gone") == 2)
        assert texts(d) == ["whole", "a", "c"]


# What becomes of a column ----------------------------------------------------------------------


@driving("First.", NORTH, SOUTH, TOWN)
async def test_a_column_is_kept_as_a_branch(d: Driver) -> None:
    await d.send("/set seed 11")
    await d.ask("Where is Braga?")
    await compared(d)
    await d.press("right", "k")
    assert "Kept in the conversation: tuned alone, branch 2" in d.toasts
    assert feet(d)[1] == "11 tokens · kept as branch 2"
    await d.press("k")
    assert "tuned alone is kept already" in d.toasts
    await d.press("right", "k", "escape")
    assert d.turns == ["Where is Braga?", TOWN]
    await d.press("f7")
    await d.until(lambda: d.turns == ["Where is Braga?", SOUTH])
    kept = d.chat.turns.path()[-1]
    assert (kept.branch, kept.branches, kept.state, kept.finish_reason) == (2, 3, "done", "stop")
    assert kept.settings is not None and kept.figures is not None
    assert kept.settings.recipe["text"] == "tuned"
    assert (kept.settings.seed, kept.settings.preset) == (11, "fake")
    assert (kept.figures.tokens, kept.figures.beside) == (11, 2)
    foot = d.chat.transcript.views[-1].query_one(".foot").render()
    assert "tok/s" not in str(foot)
    assert "11 tokens in 1.5 s · beside 2 other answers · " in totals_line(kept.figures, 11)
    assert d.chat.models.tokens[kept.id] == tuple(range(1, 12))
    await d.ask("And then?")  # the conversation goes on from it
    assert d.engine.heard[-1][0][1] == {"role": "assistant", "content": SOUTH}
    assert d.engine.heard[-1][1].recipe.name == "upscale"


@driving(NORTH, SOUTH, TOWN)
async def test_a_question_that_was_only_typed_is_kept_with_its_column(d: Driver) -> None:
    await d.type("Where is Braga?")
    await compared(d)
    await d.press("k", "escape")
    assert d.turns == ["Where is Braga?", NORTH]
    assert d.chat.prompt.text == ""
    assert d.history.conversations.list()[0].title == "Where is Braga?"
    assert "Where is Braga?" in d.screen_text().split("\n")[0]
    await d.press("f5")  # it is the same question still
    await ended(d)
    assert "Answered before; r answers again" in d.toasts
    assert len(d.engine.heard) == 3
    await d.press("right", "right", "k", "escape")
    assert d.turns == ["Where is Braga?", TOWN]
    assert [turn.role for turn in d.history.turns.all(1)] == ["user", "assistant", "assistant"]


@driving("First.", NORTH, SOUTH, TOWN)
async def test_a_comparison_is_held_after_its_screen_was_left(d: Driver) -> None:
    await d.ask("Where is Braga?")
    await compared(d)
    await d.press("escape", "f5")
    await ended(d)
    assert texts(d) == [NORTH, SOUTH, TOWN] and len(d.engine.heard) == 4
    assert styled(d, 1, "underline") == "deep south."
    await d.press("k", "escape")
    assert d.turns == ["Where is Braga?", NORTH]
    await d.send("/set beta 0.5")  # other dials are another comparison
    await d.press("f5")
    await d.until(lambda: len(d.engine.heard) == 7)
    await ended(d)
    await d.press("escape")
    await d.ask("Another question")
    await d.press("f5")
    await d.until(lambda: len(d.engine.heard) == 11)
    await ended(d)


@driving("First.", NORTH, SOUTH, TOWN)
async def test_what_is_kept_in_one_conversation_may_be_kept_in_another(d: Driver) -> None:
    await d.ask("Where is Braga?")
    await compared(d)
    await d.press("k", "escape", "ctrl+n")
    await d.until(lambda: not d.turns)
    await d.ask("Where is Braga?")
    await d.press("f5")
    await ended(d)
    assert feet(d)[0] == "9 tokens"
    await d.press("k", "escape")
    assert d.turns == ["Where is Braga?", NORTH]
    assert d.chat.turns.conversation.id == 2


@driving("First.", Script(["a", "b", "c"], wait_at=1), Script(["d"]), Script(["e", "f"]))
async def test_a_stopped_column_is_kept_as_stopped(d: Driver) -> None:
    await d.ask("Question?")
    await d.press("f5")
    await d.until(lambda: texts(d) == ["a", "d", "e"])
    await d.press("escape")
    d.engine.go()
    await ended(d)
    await d.press("k", "escape")
    kept = d.chat.turns.path()[-1]
    assert (kept.state, kept.text[:1], kept.branch) == ("stopped", "a", 2)


@driving("First.", NORTH, SOUTH, TOWN)
async def test_the_influence_of_a_column_is_that_of_the_emulation(d: Driver) -> None:
    await d.ask("Where is Braga?")
    await compared(d)
    await d.press("right", "i")
    await d.until(lambda: "1/5" in d.static("#verdict"))
    assert isinstance(d.app.screen, InfluenceScreen)
    assert d.engine.inspected == [list(range(1, 12))]
    assert d.static("#head") == "Influence on tuned alone · Where is Braga?"
    assert d.static("#about").startswith("upscale beta 1 · ")
    assert "at 1 the emulation prefers another" in d.static("#summary")
    await d.press("right", "right", "right")
    assert d.static("#verdict").endswith(": the emulation prefers “[combination]” (15%)")
    await d.press("escape")
    assert isinstance(d.app.screen, CompareScreen)
    assert d.app.screen.focused is columns_of(d)[1]
    await d.press("left", "i")
    await d.until(lambda: "1/5" in d.static("#verdict"))
    assert d.static("#head") == "Influence · Where is Braga?"
    await d.press("escape", "escape")
    assert isinstance(d.app.screen, ChatScreen)


@asynchronous
async def test_a_locked_history_is_told_and_nothing_is_half_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eftlocal_tui.screens import chat_turns

    monkeypatch.setattr(chat_turns, "BUSY_SECONDS", 0.0)
    async with driven(ScriptedEngine(NORTH, SOUTH, TOWN), tmp_path) as d:
        await d.type("Where is Braga?")
        await compared(d)
        with History(tmp_path / "chat.db") as other, other.db.transaction():
            await d.press("k")
            await d.until(lambda: "locked" in d.toasts)
        assert feet(d)[0] == "9 tokens"
        await d.press("k", "escape")
        assert d.turns == ["Where is Braga?", NORTH]
        assert len(d.history.conversations.list()) == 1


@driving(
    Script([f"{i}\n" for i in range(60)]), *["\n".join(map(str, range(50)))] * 3, size=(90, 20)
)
async def test_columns_scroll_together(d: Driver) -> None:
    await d.ask("Count")
    await compared(d)
    columns = columns_of(d)
    await d.press("pagedown")
    await d.until(lambda: columns[0].scroll_y > 0)
    assert columns[1].scroll_y == 0
    await d.press("t", "pagedown")
    await d.until(lambda: columns[0].scroll_y == columns[1].scroll_y == columns[2].scroll_y > 5)
    await d.press("t", "pageup")
    await d.until(lambda: columns[0].scroll_y < columns[1].scroll_y)


@driving("Kept.", NORTH, SOUTH, TOWN, size=(40, 20))
async def test_stacked_columns_show_their_text(d: Driver) -> None:
    await d.ask("Question?")
    await compared(d)
    for at, words in enumerate(("in the north.", "deep south.", "is old.")):
        columns_of(d)[at].focus()
        await d.pause()
        heights = [column.size.height for column in columns_of(d)]
        assert min(heights) >= 2 and heights[at] == max(heights) >= 6
        assert words in d.screen_text()


# Differences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("those", "words", "end"),
    [
        (["a b c", "a b d"], 2, 3),
        (["a b", "a b c"], 2, 3),
        (["a  b", "a b"], 1, 1),
        (["north", "northern"], 0, 0),
        (["日本は島", "日本の島"], 2, 2),
        (["one"], 0, 0),
        ([], 0, 0),
        (["", "a"], 0, 0),
        (["same text", "same text", "same text"], 2, 9),
    ],
)
def test_common_beginnings(those: list[str], words: int, end: int) -> None:
    assert common_beginning(those) == (words, end)


TEXT = st.text(alphabet="ab \n日", max_size=30)


@given(st.lists(TEXT, min_size=2, max_size=4))
def test_a_common_beginning_is_common_and_ends_with_a_word(those: list[str]) -> None:
    words, end = common_beginning(those)
    assert len({text[:end] for text in those}) == 1
    assert (words == 0) == (end == 0)
    for text in those:
        inside = end and text[end - 1 : end + 1].isalpha() and len(text) > end
        assert not inside or "日" in text[end - 1 : end + 1]


@given(TEXT, TEXT)
def test_foreign_words_are_those_that_are_not_shared(mine: str, theirs: str) -> None:
    begin = common_beginning([mine, theirs]).end
    at = begin
    for start, end in foreign_words(mine, theirs, begin):
        assert at <= start < end <= len(mine)
        assert mine[start:end].strip() == mine[start:end] != ""
        at = end
    if mine == theirs:
        assert not foreign_words(mine, theirs, begin)
    if mine.split() and not set(mine) & set(theirs) - set(" \n"):
        (only,) = foreign_words(mine, theirs, begin)
        assert mine[slice(*only)] == mine.strip()


# The context and thinking ----------------------------------------------------------------------


@driving("Kept.", NORTH, SOUTH, TOWN)
async def test_a_comparison_is_counted_before_it_is_answered(d: Driver) -> None:
    await d.ask("Question?")
    d.engine.n_ctx = 30
    await d.press("f5")
    why = "no room for an answer: base holds 30 tokens, 2 are taken; /context in the chat shows"
    await d.until(lambda: all(why in foot for foot in feet(d)))
    assert len(d.engine.heard) == 1
    await d.press("escape")
    d.engine.n_ctx = 4096
    await compared(d)  # it was not answered before
    assert texts(d) == [NORTH, SOUTH, TOWN]


THINKING = Marks("<think>", "</think>", opened=True)


@driving(
    "Kept.",
    Script(["Hm.", "</think>", NORTH], marks=THINKING),
    Script(["Well.", "</think>", SOUTH]),
    Script([TOWN]),
)
async def test_thinking_is_folded_and_no_part_of_what_is_compared(d: Driver) -> None:
    await d.ask("Question?")
    await compared(d)
    assert texts(d)[:2] == [NORTH, SOUTH]
    assert styled(d, 0, "dim") == "Braga is in the"
    assert "Thinking" in d.screen_text()
    assert "think>" not in d.screen_text()
    assert "Hm." not in d.screen_text()
    await d.press("enter")
    assert "Hm." in d.screen_text()
    await d.press("k")
    await d.until(lambda: "Kept in" in d.toasts)
    kept = d.chat.turns.path()[-1]
    assert (kept.text, kept.answer) == (f"Hm.</think>{NORTH}", NORTH)
