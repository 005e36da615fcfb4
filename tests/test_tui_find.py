"""Words in a conversation: found from the list of all, and in the one that is shown."""

from __future__ import annotations

from textual.widgets import Static
from tui_driver import Driver, driving

from eftlocal_tui.history import Settings
from eftlocal_tui.screens.chat import ChatScreen
from eftlocal_tui.widgets.find_bar import FindBar, FindInput
from eftlocal_tui.widgets.transcript import Gap
from eftlocal_tui.widgets.turn_view import TurnView


def talk(d: Driver, turns: int, **texts: str) -> int:
    """A conversation of so many turns, some of which (`at_7`) have a text of their own."""
    chat = d.history.conversations.create()
    with d.history.db.transaction():
        for i in range(0, turns, 2):
            question = d.history.turns.ask(chat.id, texts.get(f"at_{i}", f"question {i}"))
            with d.history.answer(question.id, Settings(preset="fake")) as answer:
                answer.append(texts.get(f"at_{i + 1}", f"answer {i + 1}"))
                answer.finish("stop")
    return chat.id


def bar(d: Driver) -> str:
    """What the find bar says; empty where it is closed."""
    shown = d.chat.query_one(FindBar).display
    return d.static("#count") if shown else ""


def marked(d: Driver) -> list[str]:
    """What is marked: the one that is meant in <>."""
    found = []
    for text in d.chat.transcript.query(".text, Streamed Static").results(Static):
        for span in getattr(text.visual, "spans", []):
            style = str(span.style)
            word = text.visual.plain[span.start : span.end]
            if "yellow" in style or style == "reverse":
                found.append(f"<{word}>" if "yellow" in style else word)
    return found


def in_view(d: Driver, text: str) -> bool:
    """Whether a turn of this text is on the screen, with its mark."""
    seen = d.chat.transcript.content_region
    found = [view for view in d.chat.transcript.query(TurnView) if text in view.text]
    return any(view.has_class("-found") and view.region.overlaps(seen) for view in found)


@driving()
async def test_a_search_opens_at_the_message_that_was_found(d: Driver) -> None:
    chat = talk(d, 900, at_40="Where do **zebras** live?", at_41="In Africa.\n\nSome zebras do.")
    await d.send("/history zebras africa")
    await d.press("enter")
    await d.until(lambda: isinstance(d.app.screen, ChatScreen) and bar(d))
    await d.until(lambda: in_view(d, "In Africa"))
    assert d.chat.turns.conversation.id == chat
    assert bar(d) == "1/2" and marked(d) == ["<Africa>", "zebras"]
    assert len(d.turns) < 60 and d.turns[-1] == "answer 899"
    assert [gap.label.plain for gap in d.chat.query(Gap)] == [
        "Show 37 earlier",
        "Show 824 more",
    ]
    await d.press("enter")
    await d.until(lambda: marked(d) == ["Africa", "<zebras>"])
    await d.press("escape")
    assert bar(d) == "" and marked(d) == [] and d.app.focused is d.chat.prompt
    top = d.chat.transcript.scroll_y
    await d.type("on we go")
    assert d.chat.transcript.scroll_y == top
    await d.press("enter")
    await d.idle()
    assert d.turns[-2:] == ["on we go", "Again."]
    path = d.history.turns.path(chat)
    assert len(path) == 902 and path[-2].text == "on we go"


@driving()
async def test_a_search_goes_to_the_branch_and_the_next_message_follows_it(d: Driver) -> None:
    chat = talk(d, 4, at_1="with zebras")
    first = d.history.turns.path(chat)[0]
    with d.history.answer(first.id, Settings(preset="fake")) as other:
        other.append("with horses")
        other.finish("stop")
    await d.send("/history zebras")
    await d.press("enter")
    await d.until(lambda: in_view(d, "zebras"))
    assert d.turns == ["question 0", "with zebras", "question 2", "answer 3"]


@driving(size=(60, 20))
async def test_words_are_found_in_all_turns_and_walked(d: Driver) -> None:
    folded = "\n".join(["line"] * 200) + "\nthe needle\nend"
    long = "\n\n".join(["some text"] * 100) + "\n\n`Needle` and needles"
    chat = talk(d, 900, at_10="a needle", at_450=folded, at_851=long)
    await d.chat.turns.open(chat)
    await d.until(lambda: "answer 899" in d.screen_text())
    await d.press("ctrl+f")
    assert isinstance(d.app.focused, FindInput)
    for letter in "needle":
        await d.press(letter)
    await d.until(lambda: bar(d) == "4/4")  # none is after the view: the last
    await d.until(lambda: in_view(d, "and needles") and "and needles" in d.screen_text())
    assert marked(d) == ["Needle", "<needle>"]
    await d.press("enter")
    await d.until(lambda: bar(d) == "1/4" and in_view(d, "a needle"))
    await d.press("down")
    await d.until(lambda: bar(d) == "2/4" and "the needle" in d.screen_text())
    await d.press("shift+enter", "up")
    await d.until(lambda: bar(d) == "4/4" and "and needles" in d.screen_text())
    await d.press("up")
    await d.until(lambda: bar(d) == "3/4" and "<Needle>" in marked(d))
    await d.press("escape")
    assert marked(d) == []
    assert "and needles" in d.screen_text()  # the view stays
    await d.press("ctrl+f", *"z")
    await d.until(lambda: bar(d) == "not found")
    await d.press("backspace")
    await d.until(lambda: bar(d) == "")
    await d.press("escape")
    assert not d.chat.query_one(FindBar).display


@driving("One needle.")
async def test_find_takes_words_as_they_stand(d: Driver) -> None:
    await d.ask("a .* [bold]needle[/] (here")
    await d.send("/find [bold]needle[/] (")
    await d.until(lambda: bar(d) == "1/1")
    assert marked(d) == ["<[bold]needle[/] (>"]
    await d.press("escape")
    await d.send("/find NEEDLE")
    await d.until(lambda: bar(d) == "1/2")
    await d.press("ctrl+n")  # another conversation
    assert bar(d) == "" and d.turns == []


@driving()
async def test_turns_that_are_not_laid_out_are_walked_to(d: Driver) -> None:
    await d.chat.turns.open(talk(d, 60))
    d.chat.transcript.views[0].focus()
    await d.press("up")
    await d.until(lambda: getattr(d.app.focused, "text", "") == "answer 29")
    assert d.turns[0] == "question 0" and not d.chat.query(Gap)


@driving("<think>\nI think of needles.\n</think>\n\nOne needle.", size=(80, 24))
async def test_the_marks_of_thinking_are_not_found(d: Driver) -> None:
    await d.ask("a <think> of mine")
    await d.send("/find think")
    await d.until(lambda: bar(d) == "1/2")
    await d.press("down")
    await d.until(lambda: bar(d) == "2/2" and "I think of needles" in d.screen_text())
    await d.press("escape")
    await d.send("/find </think")
    await d.until(lambda: bar(d) == "not found")
