"""Chats of version 0.1.0 go on: its history, exports, settings, and how it was left.

tests/samples/chat holds files that it wrote; its history is as a kill during an answer left it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from eftlocal import Recipe, Sampling, Speculation
from eftlocal_tui.dials import Dials, restored
from eftlocal_tui.history import History, import_file, to_json
from eftlocal_tui.settings import Settings, read_settings, read_view

SAMPLES = Path(__file__).with_name("samples") / "chat"
DEFAULT = Dials(Recipe.upscale(), Sampling(), Speculation())


def test_a_history_is_opened_and_gone_on_with(tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "chat.db", tmp_path / "chat.db")
    with History(tmp_path / "chat.db") as history:
        assert history.db.rows("PRAGMA integrity_check")[0][0] == "ok"
        (chat,), (archived,) = history.conversations.list(), history.conversations.list(True)
        assert (chat.title, chat.system, archived.title) == (
            "Where is *Braga*?",
            "Be brief.",
            "Put away",
        )
        assert (chat.turns, archived.turns) == (6, 3)
        path = history.turns.path(chat.id)
        assert [(turn.text, turn.state, turn.error) for turn in path] == [
            ("Where is *Braga*?", "done", None),
            ("In Spain?", "stopped", None),
            ("Are you sure?\x00\x10 \ud800", "done", None),
            ("No.", "error", "out of memory"),
        ]
        first = history.turns.siblings(path[1].id)[0]
        assert (first.text[:12], first.finish_reason) == ("In Portugal.", "stop")
        assert first.settings is not None and first.settings.seed == 7
        assert [(mark.token, mark.char, mark.what) for mark in first.marks] == [
            (3, 8, "beta 0.5 → 1")
        ]
        assert first.figures is not None and first.figures.acceptance == 0.25
        kept = [restored(turn.settings, DEFAULT) for turn in (first, path[1], path[3])]
        assert kept[0].recipe == Recipe.upscale(0.5).stabilise(delta_top_p=0.95)
        assert kept[0].sampling == Sampling(temperature=0.7, top_p=0.9)
        assert [dials.speculation.length for dials in kept] == [4, None, 0]
        assert kept[1].recipe == Recipe.proxy(1.5)
        assert kept[2].recipe == Recipe.interpolate({"tuned": 0.25, "plain": 0.75})
        killed = history.turns.path(archived.id)[-1]
        assert (killed.text, killed.state, killed.closed) == ("Half an ans", "stopped", None)
        assert [hit.turn for hit in history.search("portugal")] == [first.id]
        with history.answer(history.turns.ask(chat.id, "Sure?").id) as answer:
            answer.append("Yes.")
            answer.finish("stop")
        assert [turn.text for turn in history.turns.path(chat.id)][-2:] == ["Sure?", "Yes."]


def test_an_export_is_imported_and_written_the_same(tmp_path: Path) -> None:
    file = SAMPLES / "chat.json"
    with History(tmp_path / "chat.db") as history:
        came = import_file(history, file)
        assert to_json(history, [found.id for found in came]) == file.read_text("utf-8")


def test_settings_and_how_the_chat_was_left() -> None:
    assert read_settings(SAMPLES / "chat.toml") == Settings(
        preset="demo",
        theme="nord",
        panel=True,
        system="Be brief.",
        editor="nano -w",
        keys={"chat.regenerate": "ctrl+x,f2", "turn.copy": "plus"},
    )
    left = read_view(SAMPLES / "chat-left.json")
    assert (left.theme, left.panel) == ("nord", False)
