"""The map of branches: what it shows, where it goes, with a thousand turns and little room."""

from __future__ import annotations

from textual.widgets import Tree
from tui_driver import Driver, driving

from eftlocal_tui.history import Settings
from eftlocal_tui.screens.branches import BranchesScreen
from eftlocal_tui.screens.chat import ChatScreen


def answer(d: Driver, question: int, text: str) -> int:
    with d.history.answer(question, Settings(preset="fake")) as writer:
        writer.append(text)
        writer.finish("stop")
    return writer.id


async def three_branches(d: Driver) -> None:
    """Two answers to the first question, and the second question asked twice."""
    turns = d.history.turns
    chat = d.history.conversations.create().id
    first = turns.ask(chat, "animals").id
    zebras = answer(d, first, "zebras")
    answer(d, turns.ask(chat, "stripes?", zebras).id, "many [bold]stripes[/]")
    horses = answer(d, first, "horses\nare fast")
    answer(d, turns.ask(chat, "how fast?", horses).id, "very")
    answer(d, turns.ask(chat, "how tall?", horses).id, "<think>\nas tall as that\n</think>\nso")
    await d.chat.turns.open(chat)


def rows(d: Driver) -> list[str]:
    """What the tree shows, from its left edge."""
    tree = d.app.screen.query_one(Tree)
    lines = [tree.render_line(y).text.rstrip() for y in range(tree.size.height)]
    return [line for line in lines if line]


@driving(size=(100, 24))
async def test_a_map_shows_all_branches_and_where_one_is(d: Driver) -> None:
    await three_branches(d)
    await d.send("/branches")
    assert isinstance(d.app.screen, BranchesScreen)
    await d.pause()
    assert d.static("#head") == "Branches · 3 branches, 9 messages"
    assert [row.strip(" │├└─▼▶") for row in rows(d)] == [
        "› animals · 2 answers",
        "horses are fast",
        "zebras · 2 messages below",
        "› how tall?",
        "› how fast? · 1 message below",
        "so · you are here",
    ]
    assert d.app.screen.query_one(Tree).cursor_line == 5
    await d.press("up", "enter")  # to the question that was edited
    await d.until(lambda: isinstance(d.app.screen, ChatScreen))
    await d.until(lambda: d.turns == ["animals", "horses\nare fast", "how fast?", "very"])
    await d.until(lambda: getattr(d.app.focused, "text", "") == "how fast?")
    await d.press("m")  # from a turn
    await d.until(lambda: isinstance(d.app.screen, BranchesScreen))
    await d.pause()
    await d.press("up", "space", "down", "enter")  # unfolds the zebras
    await d.until(lambda: "stripes?" in d.turns)
    assert d.turns == ["animals", "zebras", "stripes?", "many [bold]stripes[/]"]
    await d.until(lambda: getattr(d.app.focused, "text", "") == "stripes?")
    await d.press("m")
    await d.pause()
    assert "many [bold]stripes[/]" in "\n".join(rows(d))
    await d.press("escape")
    assert isinstance(d.app.screen, ChatScreen)
    assert d.turns[-1] == "many [bold]stripes[/]"


@driving()
async def test_a_map_of_nothing_is_refused(d: Driver) -> None:
    await d.send("/branches")
    assert "no branches" in d.toasts


@driving(size=(40, 20))
async def test_a_thousand_turns_at_forty_columns(d: Driver) -> None:
    turns = d.history.turns
    chat = d.history.conversations.create().id
    with d.history.db.transaction():
        for i in range(500):
            question = turns.ask(chat, f"question {i}, and some more words of it")
            if i % 50 == 0:
                answer(d, question.id, "another")
            answer(d, question.id, f"answer {i}")
    await d.chat.turns.open(chat)
    await d.press("ctrl+up", "m")
    await d.pause()
    assert d.static("#head") == "Branches · 11 branches, 1,010 messages"
    await d.until(lambda: "answer 499 · you are here" in rows(d)[-1])
    assert max(len(row) for row in rows(d)) <= 40
    await d.press("home", "down", "enter")
    await d.until(lambda: getattr(d.app.focused, "text", "") == "answer 0")
    assert len(d.turns) < 60
    await d.press("down")
    await d.until(lambda: getattr(d.app.focused, "text", "").startswith("question 1,"))


@driving()
async def test_branches_within_branches_do_not_end_it(d: Driver) -> None:
    """Each answer made anew, again and again: every one is a branch of the one before."""
    turns = d.history.turns
    chat = d.history.conversations.create().id
    with d.history.db.transaction():
        parent = None
        for i in range(300):
            question = turns.ask(chat, f"question {i}", parent)
            parent = answer(d, question.id, f"answer {i}")
            answer(d, question.id, "left")
    await d.chat.turns.open(chat)
    await d.send("/branches")
    await d.pause()
    assert d.static("#head") == "Branches · 301 branches, 900 messages"
    await d.press("end", "home", "space", "space", "down", "enter")
    await d.until(lambda: isinstance(d.app.screen, ChatScreen))
