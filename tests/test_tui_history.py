"""Conversations and their turns, as the screens use them."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal import Recipe, Sampling
from eftlocal.terminal_text import UNSAFE
from eftlocal_tui.history import (
    Figures,
    History,
    HistoryError,
    Mark,
    Settings,
    data_folder,
    values_of,
)
from eftlocal_tui.history.records import excerpt, loaded, stored

FIGURES = Figures(tokens=3, seconds=1.5, first_token=0.5, tokens_per_second=2.0, acceptance=0.25)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "chat.db") as opened:
        yield opened


def answered(history: History, question: int, text: str) -> int:
    with history.answer(question) as answer:
        answer.append(text)
        answer.finish("stop")
    return answer.id


def test_the_file_lies_in_the_data_folder_and_is_private() -> None:
    with History() as history:
        assert history.path == data_folder() / "chat.db"
        if sys.platform != "win32":
            assert stat.S_IMODE(history.path.stat().st_mode) == 0o600


def test_an_answer_is_there_while_it_comes_and_keeps_all_that_is_known_of_it(
    history: History,
) -> None:
    chat = history.conversations.create(system="Be brief.")
    question = history.turns.ask(chat.id, "Where is Braga?")
    settings = Settings(preset="demo", recipe={"text": "upscale", "beta": 1.0}, sampling={"k": 1})
    with history.answer(question.id, settings) as answer:
        answer.append("In ")
        answer.append("Portu", tokens=2)
        answer.mark("beta 1 -> 0.5")
        answer.note(seed=7)
        with History(history.path) as other:  # as another window would see it
            seen = other.turns.get(answer.id)
            assert (seen.text, seen.state, seen.closed) == ("In Portu", "streaming", None)
            assert other.conversations.get(chat.id).snippet == "In Portu"
        answer.append("gal.")
        answer.finish("stop", FIGURES)
    turn = history.turns.get(answer.id)
    assert (turn.text, turn.state, turn.finish_reason) == ("In Portugal.", "done", "stop")
    assert turn.marks == (Mark(token=3, char=8, what="beta 1 -> 0.5"),)
    assert turn.settings == settings.model_copy(update={"seed": 7})
    assert turn.figures == FIGURES
    assert turn.closed is not None and turn.closed >= turn.created
    assert history.db.rows("SELECT * FROM piece") == []


def test_an_answer_left_without_a_word_is_stopped_and_one_left_by_an_error_says_it(
    history: History,
) -> None:
    question = history.turns.ask(history.conversations.create().id, "?")
    with history.answer(question.id) as left:
        left.append("some")
    with pytest.raises(RuntimeError), history.answer(question.id) as failed:
        failed.append("more")
        raise RuntimeError("the models\nare gone")
    with pytest.raises(KeyboardInterrupt), history.answer(question.id) as interrupted:
        raise KeyboardInterrupt
    states = [(t.state, t.text, t.error) for t in history.turns.siblings(left.id)]
    assert states == [
        ("stopped", "some", None),
        ("error", "more", "the models are gone"),
        ("stopped", "", None),
    ]
    assert interrupted.closed
    for late in (left.append, left.mark, left.fail):
        with pytest.raises(HistoryError, match="has ended"):
            late("x")


def test_threads_share_it(history: History) -> None:
    def chat(name: str) -> list[str]:
        chat = history.conversations.create(title=name).id
        for n in range(20):
            with history.answer(history.turns.ask(chat, f"{name} {n}").id) as answer:
                for part in name:
                    answer.append(part)
                answer.finish()
            assert history.search(name)[0].conversation.id == chat
        return [turn.text for turn in history.turns.path(chat) if turn.role == "assistant"]

    names = ["first", "second", "third", "fourth"]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(chat, names)) == [[name] * 20 for name in names]


def test_closing_the_history_stops_what_streams(tmp_path: Path) -> None:
    history = History(tmp_path / "chat.db")
    question = history.turns.ask(history.conversations.create().id, "?")
    answer = history.answer(question.id, prefix="It was ")
    answer.append("half")
    history.close()
    history.close()
    with pytest.raises(HistoryError, match="was closed"):
        answer.append(" done")
    assert [path.name for path in tmp_path.iterdir()] == ["chat.db"]
    with History(tmp_path / "chat.db") as again:
        turn = again.turns.get(answer.id)
        assert (turn.state, turn.text) == ("stopped", "It was half")
        assert turn.closed is not None


def test_an_answer_whose_conversation_was_deleted_says_so(history: History) -> None:
    chat = history.conversations.create()
    answer = history.answer(history.turns.ask(chat.id, "?").id)
    history.conversations.delete(chat.id)
    for call in (answer.append, answer.mark, answer.fail):
        with pytest.raises(HistoryError, match="was deleted"):
            call("x")


def test_regenerate_and_edit_make_branches_that_remember_where_they_were_left(
    history: History,
) -> None:
    chat = history.conversations.create().id
    first = history.turns.ask(chat, "one")
    old = answered(history, first.id, "old answer")
    second = history.turns.ask(chat, "two")
    new = answered(history, first.id, "new answer")
    assert [t.id for t in history.turns.path(chat)] == [first.id, new]
    assert [(t.branch, t.branches) for t in history.turns.siblings(new)] == [(1, 2), (2, 2)]
    assert [t.id for t in history.turns.switch(old)] == [first.id, old, second.id]
    edited = history.turns.edit(first.id, "one, differently")
    assert edited.parent is None and history.turns.path(chat) == [edited]
    assert [t.id for t in history.turns.switch(first.id)] == [first.id, old, second.id]
    assert [t.id for t in history.turns.path(chat, last=2)] == [old, second.id]
    assert [t.id for t in history.turns.all(chat)] == [first.id, old, second.id, new, edited.id]
    with pytest.raises(HistoryError, match="only questions are edited"):
        history.turns.edit(old, "x")
    with pytest.raises(HistoryError, match="only questions are answered"):
        history.answer(old)


def test_messages_are_what_an_emulator_takes(history: History) -> None:
    chat = history.conversations.create(system="Be brief.").id
    first = history.turns.ask(chat, "one")
    history.answer(first.id).fail("no memory")
    second = history.turns.ask(chat, "two")
    answer = answered(history, second.id, "2")
    assert history.turns.messages(answer) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one\n\ntwo"},
        {"role": "assistant", "content": "2"},
    ]
    assert [m["content"] for m in history.turns.messages(first.id)] == ["Be brief.", "one"]
    history.conversations.set_system(chat, "")
    assert history.turns.messages(first.id) == [{"role": "user", "content": "one"}]


def test_a_question_goes_below_a_turn_of_its_own_conversation(history: History) -> None:
    chat, other = history.conversations.create().id, history.conversations.create().id
    first = history.turns.ask(chat, "one")
    with pytest.raises(HistoryError, match=f"turn {first.id} is not of conversation {other}"):
        history.turns.ask(other, "two", parent=first.id)
    with pytest.raises(HistoryError, match="turn 99 does not exist"):
        history.turns.ask(chat, "two", parent=99)
    with pytest.raises(HistoryError, match="deleted meanwhile"):
        history.turns.ask(99, "two")


def test_the_tables_themselves_refuse_a_parent_in_another_conversation(history: History) -> None:
    chat, other = history.conversations.create().id, history.conversations.create().id
    first = history.turns.ask(chat, "one").id
    below = history.turns.ask(chat, "two").id
    move = "UPDATE turn SET conversation = ?, visited = 9 WHERE id = ?"
    with pytest.raises(HistoryError, match="FOREIGN KEY"), history.db.transaction() as connection:
        connection.execute(move, (other, below))
    assert [turn.id for turn in history.turns.path(chat)] == [first, below]


def test_titles_come_from_the_first_question_or_by_hand(history: History) -> None:
    chat = history.conversations.create().id
    question = history.turns.ask(chat, "\x1b[31mTell\u202e me\n\n about " + "glaciers " * 20)
    title = history.conversations.get(chat).title
    assert title.startswith("�[31mTell� me about glaciers") and title.endswith("glaciers…")
    assert len(title) <= 60
    history.turns.edit(question.id, "another")
    assert history.conversations.get(chat).title == title
    assert history.conversations.rename(chat, "  Ice\nand snow ").title == "Ice and snow"
    assert history.conversations.rename(chat, " ").title == title
    named = history.conversations.create(title="Mine")
    history.turns.ask(named.id, "words")
    assert history.conversations.get(named.id).title == "Mine"
    assert history.conversations.rename(history.conversations.create().id, "").title == ""


def test_the_list_is_newest_first_in_pages_without_the_archived(history: History) -> None:
    ids = [history.conversations.create(title=str(n)).id for n in range(7)]
    history.turns.ask(ids[2], "used again")
    history.conversations.archive(ids[5])
    history.conversations.rename(ids[0], "a new name does not lift it")
    pages, after = [], None
    while page := history.conversations.list(limit=2, after=after):
        pages.append([found.id for found in page])
        after = page[-1]
    order = [ids[2], ids[6], ids[4], ids[3], ids[1], ids[0]]
    assert pages == [order[0:2], order[2:4], order[4:6]]
    assert [found.id for found in history.conversations.list(archived=True)] == [ids[5]]
    assert not history.conversations.archive(ids[5], False).archived


def test_conversations_of_one_moment_are_all_listed(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    ids = [history.conversations.create().id for _ in range(5)]
    first = history.conversations.list(limit=3)
    rest = history.conversations.list(limit=3, after=first[-1])
    assert [found.id for found in first + rest] == ids[::-1]


def test_a_duplicate_is_a_whole_tree_of_its_own(history: History) -> None:
    chat = history.conversations.create(system="s").id
    question = history.turns.ask(chat, "one")
    old = answered(history, question.id, "old")
    history.answer(question.id).append("now")
    copy = history.conversations.duplicate(chat)
    assert (copy.title, copy.system, copy.turns, copy.snippet) == ("one (copy)", "s", 3, "now")
    states = [(t.text, t.state) for t in history.turns.all(copy.id)]
    assert states == [("one", "done"), ("old", "done"), ("now", "stopped")]
    history.conversations.delete(chat)
    assert [t.text for t in history.turns.path(copy.id)] == ["one", "now"]
    for call in (history.conversations.get, history.conversations.delete):
        with pytest.raises(HistoryError, match=f"there is no conversation {chat}"):
            call(chat)
    with pytest.raises(HistoryError, match=f"turn {old} does not exist"):
        history.turns.get(old)


def test_a_conversation_of_thousands_of_turns_in_a_row_is_walked_and_deleted(
    history: History,
) -> None:
    chat = history.conversations.create().id
    with history.db.transaction():
        for n in range(3000):
            history.turns.ask(chat, f"turn {n}")
    path = history.turns.path(chat)
    assert [turn.text for turn in path] == [f"turn {n}" for n in range(3000)]
    history.conversations.delete(chat)
    assert history.db.rows("SELECT * FROM turn") == []
    assert history.search("turn 2999") == []


texts = st.text(st.characters(exclude_categories=()), max_size=40)


@given(texts)
def test_any_string_is_stored_as_text_and_comes_back(text: str) -> None:
    kept = stored(text)
    assert "\x00" not in kept
    kept.encode("utf-8")  # which refuses surrogates
    assert loaded(kept) == text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@given(texts, st.integers(4, 50))
def test_a_line_is_short_and_printable(text: str, limit: int) -> None:
    line = excerpt(text, limit)
    assert len(line) <= limit
    assert not UNSAFE.search(line) and "\n" not in line
    assert excerpt(line, limit) == line


def test_hostile_texts_survive(history: History) -> None:
    texts = ["a\x00b\x10c\ud800", "\x1b]0;title\x07", "x" * 100_000 + "\udfff", "\ud83d\ude00", ""]
    chat = history.conversations.create(system=texts[0], title=texts[0])
    for text in texts:
        answered(history, history.turns.ask(chat.id, text).id, text)
    expected = [text.replace("\ud83d\ude00", "😀") for text in texts for _ in "qa"]
    assert [turn.text for turn in history.turns.path(chat.id)] == expected
    assert history.conversations.get(chat.id).system == texts[0]
    assert history.conversations.get(chat.id).title == "a�b�c�"
    assert [hit.turn for hit in history.search("b\x10c\ud800")] == [2]


def test_settings_are_plain_values() -> None:
    values = values_of(Recipe.upscale(beta=0.5))
    assert values["weights"] == {"base": 0.5, "tuned": 1.0, "reference": -0.5}
    assert values["delta_clip"] == "inf"
    bias = values_of(Sampling(seed=3, logit_bias={5: float("-inf")}))
    assert bias["logit_bias"] == {"5": "-inf"} and bias["seed"] == 3
    assert json.loads(json.dumps(values)) == Settings(recipe=values).recipe
    wrong: list[Any] = [{"a": [1]}, {"a": {"b": {}}}, {"a": float("nan")}, {"a": 2**63}, {1: 2}, []]
    for recipe in wrong:
        with pytest.raises(ValueError):
            Settings(recipe=recipe)
