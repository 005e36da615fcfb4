"""The file itself: versions, damage, other programs, other processes' locks, query plans."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest

from eftlocal_tui.history import (
    Draft,
    History,
    HistoryError,
    answers,
    database,
    search,
    store,
    turns,
)
from eftlocal_tui.history.database import Database
from eftlocal_tui.history.schema import MIGRATIONS

MORE = (*MIGRATIONS, ("ALTER TABLE conversation ADD COLUMN colour TEXT",))


def filled(path: Path) -> bytes:
    with History(path) as history:
        chat = history.conversations.create()
        for n in range(50):
            history.turns.ask(chat.id, f"question {n} " + "words " * 200)
    return path.read_bytes()


def test_an_older_file_is_brought_up_to_date_and_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    filled(path)
    with Database(path, MORE) as db:
        assert db.rows("SELECT colour, title FROM conversation")[0]["colour"] is None
        assert len(db.rows("SELECT * FROM turn")) == 50
    before = path.read_bytes()
    with pytest.raises(HistoryError, match=r"newer eftlocal \(schema 4, this one knows 3\)"):
        History(path)
    assert path.read_bytes() == before


def test_a_file_of_the_first_version_opens_with_all_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with Database(path, MIGRATIONS[:1]) as db, db.transaction() as connection:
        database.insert(
            connection,
            "conversation",
            title="old",
            system="Be brief.",
            archived=False,
            created=1.0,
            updated=2.0,
        )
        turn = {"conversation": 1, "state": "done", "created": 1.0}
        for parent, role, text in ((None, "user", "Where?"), (1, "assistant", "There.")):
            place = {"parent": parent, "role": role, "visited": (parent or 0) + 1}
            database.insert(connection, "turn", **turn, **place, text=text)
    with History(path) as history:
        assert [turn.text for turn in history.turns.path(1)] == ["Where?", "There."]
        assert all(t.begins_at is None and not t.summary for t in history.turns.all(1))
        assert len(history.turns.messages(2)) == 3
        assert history.drafts.get(1) == history.drafts.get(None) == Draft()
        history.drafts.put(1, Draft("typed", editing=1, edited="Where to?"))
        history.turns.begin_at(2, 1)
    with History(path) as history:
        assert history.drafts.get(1) == Draft("typed", editing=1, edited="Where to?")
        assert history.turns.get(2).begins_at == 1
        history.conversations.delete(1)
        assert history.db.rows("SELECT * FROM draft") == []
    with pytest.raises(HistoryError, match=r"newer eftlocal \(schema 3, this one knows 1\)"):
        Database(path, MIGRATIONS[:1])


def test_a_draft_of_an_earlier_version_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with Database(path, MIGRATIONS[:2]) as db, db.transaction() as connection:
        database.insert(
            connection, "draft", conversation=None, text="typed", editing=None, edited=""
        )
    with History(path) as history:
        assert history.drafts.get(None) == Draft("typed")


def test_each_process_has_its_own_draft_of_a_new_conversation(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with History(path) as one, History(path) as two:
        one.drafts.put(None, Draft("one"))
        two.drafts.put(None, Draft("two"))
        with History(path) as three:  # both are still at work
            assert three.drafts.get(None) == Draft()
        assert (one.drafts.get(None), two.drafts.get(None)) == (Draft("one"), Draft("two"))
        one.drafts.put(None, Draft())
        assert two.drafts.get(None) == Draft("two")
        one.drafts.put(None, Draft("one again"))
    with History(path) as newest, History(path) as older, History(path) as none:
        assert newest.drafts.get(None) == Draft("one again")
        assert older.drafts.get(None) == Draft("two")
        assert none.drafts.get(None) == Draft()
        newest.drafts.put(None, Draft())
    with History(path) as history:
        assert history.drafts.get(None) == Draft("two")


def test_drafts_are_kept_as_they_were_typed(tmp_path: Path) -> None:
    odd = "a\0b\ud800\x10 \r\n" + "x" * 100_000
    with History(tmp_path / "chat.db") as history:
        with pytest.raises(HistoryError, match="deleted"):
            history.drafts.put(7, Draft("no such conversation"))
        for draft in (Draft(odd), Draft("b"), Draft("", 3, odd), Draft()):
            history.drafts.put(None, draft)
            assert history.drafts.get(None) == draft
        assert history.db.rows("SELECT * FROM draft") == []


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    filled(path)
    broken = (*MORE, ("CREATE TABLE extra (x)", "no such statement"))
    with pytest.raises(HistoryError, match="syntax error"):
        Database(path, broken)
    with History(path) as history:
        assert history.db.rows("SELECT * FROM sqlite_master WHERE name = 'extra'") == []
        assert len(history.turns.all(1)) == 50


def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.write_bytes(b"this is no database" * 500)
    with pytest.raises(HistoryError, match=r"chat\.db: is damaged .*move it") as caught:
        History(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"this is no database" * 500
    assert [file.name for file in tmp_path.iterdir()] == ["chat.db"]


@pytest.mark.parametrize("page", range(1, 12))
def test_damage_anywhere_is_one_line_or_harmless(tmp_path: Path, page: int) -> None:
    path = tmp_path / "chat.db"
    data = bytearray(filled(path))
    data[page * 4096 : page * 4096 + 4096] = b"\xab" * 4096
    path.write_bytes(data)
    with pytest.raises(HistoryError, match="is damaged"), History(path) as history:
        history.conversations.list()
        history.turns.path(1)
        history.search("question 7")
        assert history.db.rows("PRAGMA integrity_check")[0][0] == "ok"


def test_other_files_are_refused_by_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    with pytest.raises(HistoryError, match="the database of another program"):
        History(path)
    with pytest.raises(HistoryError, match="cannot be opened"):
        History(tmp_path)
    with pytest.raises(HistoryError, match=r"other\.db"):
        History(path / "chat.db")


def test_a_lock_held_for_long_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eftlocal_tui.history.database.BUSY_SECONDS", 0.0)
    with History(tmp_path / "chat.db") as one, History(tmp_path / "chat.db") as two:
        with one.db.transaction(), pytest.raises(HistoryError, match="locked by another program"):
            two.conversations.create()
        two.conversations.create()


def test_a_transaction_is_whole_or_not_at_all(tmp_path: Path) -> None:
    with History(tmp_path / "chat.db") as history:
        with pytest.raises(ZeroDivisionError), history.db.transaction():
            history.conversations.create()
            raise ZeroDivisionError
        assert history.conversations.list() == []
        with pytest.raises(RuntimeError, match="only reading"), history.db.reading():
            history.conversations.create()


@pytest.mark.skipif(sys.platform == "win32", reason="directory modes do not protect there")
def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match=r"Not a directory|File exists"):
        History(tmp_path / "file" / "chat.db")


def test_a_full_disk_loses_nothing_that_was_written(tmp_path: Path) -> None:
    with History(tmp_path / "chat.db") as history:
        chat = history.conversations.create().id
        answer = history.answer(history.turns.ask(chat, "?").id)
        (pages,) = history.db.rows("PRAGMA page_count")[0]
        history.db.rows(f"PRAGMA max_page_count = {pages + 4}")
        with pytest.raises(HistoryError, match="the disk is full"):
            for _ in range(10_000):
                answer.append("a token ")
        assert answer.tokens == answer.text.count("token") > 100
        assert history.turns.get(answer.id).text == answer.text
        history.db.rows("PRAGMA max_page_count = 100000")
        answer.append("the end")
        answer.finish()
        assert history.turns.get(answer.id).text.endswith("a token the end")


def test_numbers_beyond_sqlite_are_refused(tmp_path: Path) -> None:
    with History(tmp_path / "chat.db") as history:
        with pytest.raises(HistoryError, match="the number is too large"):
            history.conversations.get(10**30)
        assert history.conversations.list() == []


def plan(history: History, sql: str) -> str:
    with history.db.reading() as connection:
        values = (None,) * sql.count("?")
        rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
    return "\n".join(row["detail"] for row in rows)


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (store.PAGE, "SEARCH c USING INDEX conversation_newest (archived=? AND "),
        (store.ONE, "SEARCH c USING INTEGER PRIMARY KEY"),
        (turns.ONE, "turn_children (conversation=? AND parent=?)"),
        (turns.ALL, "SEARCH t USING INDEX"),
        (turns.SIBLINGS, "SEARCH t USING INDEX turn_children (conversation=? AND parent=?)"),
        (turns.LEAF, "sqlite_autoindex_turn_2 (conversation=?)"),
        (turns.PATH, "SEARCH turn USING INTEGER PRIMARY KEY"),
        (turns.LEFT_AT, "SEARCH t USING INDEX turn_children (conversation=? AND parent=?)"),
        (answers.STREAMING, "turn_streaming"),
        (search.INDEXED, "VIRTUAL TABLE INDEX"),
        (search.SCANNED_ONE, "SEARCH t USING INDEX"),
    ],
)
def test_queries_use_their_index(tmp_path: Path, sql: str, index: str) -> None:
    with History(tmp_path / "chat.db") as history:
        found = plan(history, sql)
    assert index in found
    sorts = sql in (turns.PATH, turns.LEFT_AT)  # what a recursion found, not the table
    assert ("TEMP B-TREE" in found) == sorts
    for line in found.splitlines():
        scans = line.startswith("SCAN") and "VIRTUAL" not in line
        allowed = ("SCAN up", "SCAN below", "SCAN turn USING INDEX turn_streaming")
        assert not scans or line.startswith(allowed), found
