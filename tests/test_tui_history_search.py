"""Search: with the index of trigrams and without, the same hits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eftlocal_tui.history import History, HistoryError, Hit, database, search

BRAGA = "The city of Braga lies in the north of Portugal, near the river Cávado."


@pytest.fixture(params=["indexed", "scanned"])
def history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[History]:
    if request.param == "scanned":
        monkeypatch.setattr(database, "has_trigrams", lambda connection: False)
    with History(tmp_path / "chat.db") as opened:
        assert opened.db.indexed == (request.param == "indexed")
        yield opened


def add(history: History, *texts: str, title: str = "untitled") -> int:
    chat = history.conversations.create(title=title)
    for text in texts:
        history.turns.ask(chat.id, text)
    return chat.id


def found(hits: list[Hit]) -> list[int]:
    return [hit.conversation.id for hit in hits]


def test_all_words_in_any_case_and_inside_words(history: History) -> None:
    portugal, norway = add(history, BRAGA), add(history, "Oslo lies in the SOUTH of Norway.")
    assert found(history.search("lies")) == [norway, portugal]
    assert found(history.search("portUGAL braga")) == [portugal]
    assert found(history.search("CÁVADO")) == [portugal]
    assert found(history.search("ort")) == [portugal]
    assert found(history.search("of in")) == [norway, portugal]
    assert found(history.search("sou of")) == [norway]
    assert found(history.search("braga norway")) == []
    assert history.search("  ") == []


def test_a_hit_shows_where(history: History) -> None:
    chat = add(history, "x " * 300 + BRAGA + " y" * 300)
    (hit,) = history.search("portugal RIVER")
    assert hit.conversation.id == chat and hit.role == "user"
    assert history.turns.get(hit.turn or 0).text.count("Portugal") == 1
    assert [hit.excerpt[begin:end] for begin, end in hit.spans] == ["Portugal", "river"]
    assert hit.excerpt.startswith("…") and len(hit.excerpt) < 200


def test_titles_come_first_and_each_conversation_once(history: History) -> None:
    named = add(history, "nothing", "of note", title="About braga")
    other = add(history, BRAGA, "Braga again", "and nothing")
    hits = history.search("braga")
    assert found(hits) == [named, other]
    assert (hits[0].turn, hits[0].role, hits[0].excerpt) == (None, None, "About braga")
    assert hits[1].excerpt == "Braga again"
    assert found(history.search("braga", limit=1)) == [named]
    within = history.search("bra", conversation=other)
    assert [hit.excerpt for hit in within] == ["Braga again", BRAGA]


def test_places_are_all_that_there_are_and_are_shown_by_the_page(history: History) -> None:
    chats = [add(history, BRAGA, BRAGA, "nothing") for _ in range(7)]
    titled = add(history, "about braga", title="Braga")
    places = history.search.places("braga")
    assert [place.conversation for place in places] == [titled, *reversed(chats)]
    assert [place.turns for place in places] == [1, *[2] * 7]
    assert [history.turns.get(place.turn or 0).text for place in places[1:]] == [BRAGA] * 7
    history.conversations.delete(chats[3])
    page = history.search.hits("braga", places[3:6])
    assert found(page) == [chats[4], chats[2]]
    assert [hit.turns for hit in page] == [2, 2]


QUERIES = (
    '"|""|a OR b|NOT cat|cat*|title:cat|(|^cat|{x}: y|-cat|cat NEAR dog|%|_|\\|\'|'
    "'; DROP TABLE turn; --|?1|\x00|\ud800|\x10"
)


@pytest.mark.parametrize("query", QUERIES.split("|"))
def test_what_is_typed_is_words_never_a_language(history: History, query: str) -> None:
    add(history, "a cat and a dog, title b")
    exact = add(history, f"before {query} after")
    assert found(history.search(query)) == [exact]


def test_what_changes_is_found_and_what_is_gone_is_not(history: History) -> None:
    question = history.turns.ask(history.conversations.create(title="t").id, "question")
    with history.answer(question.id) as answer:
        answer.append("partial elephants")
        assert history.search("elephants") == []  # found once it is closed
        answer.stop()
    (hit,) = history.search("elephants")
    assert hit.turn == answer.id
    history.conversations.delete(question.conversation)
    assert history.search("elephants") == []


def test_words_are_looked_up_in_the_index(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "INDEXED" if not history.db.indexed else "SCANNED"
    monkeypatch.setattr(search, other, "no such statement")
    chat = add(history, BRAGA)
    assert found(history.search("portugal of")) == [chat]


def test_an_endless_query_is_refused(history: History) -> None:
    with pytest.raises(HistoryError, match="at most 200 characters, not 100000"):
        history.search("x" * 100_000)


def test_the_index_is_made_anew_after_an_sqlite_without_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.db"
    with History(path) as history:
        add(history, "written with the index")
    with monkeypatch.context() as patch:
        patch.setattr(database, "has_trigrams", lambda connection: False)
        with History(path) as history:
            deleted = history.search("index")[0].conversation.id
            history.conversations.delete(deleted)
            kept = add(history, "written without")
            question = history.turns.ask(kept, "?")
            history.answer(question.id).append("and streaming")
    with History(path) as history:
        assert history.db.indexed
        assert history.search("index") == []
        assert found(history.search("written")) == [kept]
        assert found(history.search("streaming")) == [kept]
        history.db.rows("INSERT INTO turn_text (turn_text) VALUES ('integrity-check')")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text("abcABC é ", max_size=12), max_size=6),
    query=st.text("abcAB é ", max_size=8),
)
def test_index_and_scan_agree(tmp_path: Path, texts: list[str], query: str) -> None:
    with History(tmp_path / "chat.db") as history:
        for found_before in history.conversations.list(limit=100):
            history.conversations.delete(found_before.id)
        for text in texts:
            add(history, text, title="_")
        indexed = history.search(query)
        history.db.indexed = False
        assert history.search(query) == indexed
        words = query.lower().split()
        expected = [t for t in texts if words and all(word in t.lower() for word in words)]
        assert len(indexed) == len(expected)


def test_an_answer_is_searched_as_it_is_read(history: History) -> None:
    chat = add(history, "Where is Braga?", title="untitled")
    question = history.turns.path(chat)[-1].id
    with history.answer(question) as answer:
        answer.append("<think>\nThe rivers of Minho, I think.\n</think>\n\nIn **Portugal**.")
        answer.finish("stop")
    (hit,) = history.search("portugal")
    assert hit.excerpt == "In **Portugal**."
    (hit,) = history.search("minho think")
    assert hit.excerpt == "Thinking: The rivers of Minho, I think."
    assert [hit.excerpt[begin:end] for begin, end in hit.spans] == ["Minho", "think"]
    assert found(history.search("portugal rivers")) == [chat]
    assert not history.search("/think") and not history.search("<think>")
    assert history.conversations.get(chat).snippet == "In **Portugal**."
    with history.answer(question) as answer:
        answer.append("<think>The rivers")
    assert history.conversations.get(chat).snippet == "Thinking: The rivers"
