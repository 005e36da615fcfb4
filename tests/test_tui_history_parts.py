"""From where on a conversation is sent; summaries; earlier messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eftlocal_tui.history import History, HistoryError, Turn


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "chat.db") as opened:
        yield opened


def told(history: History, turn: int) -> list[str]:
    return [message["content"] for message in history.turns.messages(turn)]


def answered(history: History, chat: int, text: str, **options: Any) -> tuple[Turn, Turn]:
    question = history.turns.ask(chat, text, **options)
    with history.answer(question.id) as answer:
        answer.append(text.upper())
        answer.finish("stop")
    return question, history.turns.get(answer.id)


def test_what_follows_a_turn_begins_where_it_says(history: History) -> None:
    chat = history.conversations.create(system="S").id
    (first, one), (second, two), (third, three) = (answered(history, chat, t) for t in "abc")
    history.turns.begin_at(two.id, second.id)
    assert told(history, third.id) == ["S", "b", "B", "c"]
    assert told(history, second.id) == ["S", "a", "A", "b"]  # it is above
    assert told(history, history.turns.edit(third.id, "d").id) == ["S", "b", "B", "d"]
    other = history.turns.ask(chat, "e", one.id)  # another branch
    assert told(history, other.id) == ["S", "a", "A", "e"]
    history.turns.begin_at(three.id, three.id)  # all of it
    assert told(history, history.turns.ask(chat, "f", three.id).id) == ["S", "f"]
    history.turns.begin_at(three.id, first.id)  # and nothing
    assert len(told(history, history.turns.ask(chat, "f", three.id).id)) == 8
    itself = history.turns.begin_at(third.id, third.id)
    assert told(history, itself.id) == ["S", "c"]
    assert told(history, history.turns.edit(itself.id, "g").id) == ["S", "g"]


def test_a_summary_stands_for_what_is_above_once_it_is_there(history: History) -> None:
    chat = history.conversations.create().id
    _, (second, _) = (answered(history, chat, text) for text in "ab")
    question = history.turns.ask(chat, "sum", summary=True, begins_at=second.id)
    assert told(history, question.id) == ["b", "B", "sum"]
    with history.answer(question.id) as failed:
        failed.fail("broken")
    assert told(history, history.turns.ask(chat, "c").id) == ["a", "A", "b", "B", "sum\n\nc"]
    with history.answer(question.id) as summary:
        summary.append("SUM")
        summary.finish("stop")
    assert told(history, history.turns.ask(chat, "c").id) == ["sum", "SUM", "c"]
    mine = history.turns.rewrite(summary.id, "MINE")
    assert (mine.finish_reason, mine.branch, mine.state) == ("edited", 3, "done")
    assert told(history, history.turns.ask(chat, "c").id) == ["sum", "MINE", "c"]
    again = history.turns.edit(question.id, "sum up")
    assert again.summary
    assert told(history, again.id) == ["b", "B", "sum up"]
    with pytest.raises(HistoryError, match="no summary"):
        history.turns.rewrite(history.turns.path(chat, leaf=second.id)[1].id, "x")


def test_earlier_messages_are_this_conversations_first(history: History) -> None:
    one, two = (history.conversations.create().id for _ in "ab")
    for chat, text in ((one, "a"), (two, "b"), (one, "c"), (one, "a"), (two, "d")):
        history.turns.ask(chat, text)
    history.turns.ask(one, "summary?", summary=True)
    assert history.turns.asked(one, 10) == ["a", "c", "d", "b"]
    assert history.turns.asked(None, 10) == ["d", "a", "c", "b"]
    assert history.turns.asked(two, 2) == ["d", "b"]
