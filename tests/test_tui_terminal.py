"""The chat in a real terminal: what comes in as bytes, and how it ends."""

from __future__ import annotations

from pathlib import Path

from pty_chat import Terminal, chatting

from eftlocal.terminal_text import printable
from eftlocal_tui.history import History
from eftlocal_tui.terminal.keyboard import END, START

PASTES = (
    b"one\rtwo\x11three\x07\x03four\x1b",
    b"a\x1b[24~b\x1bOPc\x1b[13;3ud\x1b[A\x1b[",
    b"a" + END.encode() + b"\x11\r\x1b[15~b",
    "a\x9bAb\x8fP".encode(),
    b"caf\xe9 \x9b\xff\xfe end",  # no UTF-8
    b"0123456789 \x11\r" * 3_000,
)


def questions(folder: Path) -> list[str]:
    """All that was asked, the oldest first."""
    with History(folder / "chat.db") as history:
        found = history.conversations.list()[::-1]
        turns = [turn for one in found for turn in history.turns.path(one.id)]
    return [turn.text for turn in turns if turn.role == "user"]


def quit_it(terminal: Terminal) -> None:
    terminal.send(b"\x11")
    assert terminal.wait() == 0


def test_a_paste_sends_nothing_and_quits_nothing(tmp_path: Path) -> None:
    asked: list[str] = []
    with chatting(tmp_path) as terminal:
        for sent in PASTES:
            since = len(terminal.shown)
            terminal.send(START.encode() + sent + END.encode())
            terminal.send(b"!")  # typed behind it
            terminal.until(b"!", since)
            assert questions(tmp_path) == asked
            terminal.send(b"\r")
            text = sent.decode("utf-8", "replace").replace(END, "").replace("\r", "\n")
            asked.append(f"{printable(text)}!")
            terminal.until(lambda: questions(tmp_path) == asked)
            terminal.until(f"Answer {len(asked) - 1}.".encode(), since)
        quit_it(terminal)


def test_keys_that_begin_a_line(tmp_path: Path) -> None:
    asked: list[str] = []
    with chatting(tmp_path) as terminal:
        for keys in (b"\x1b\r", b"\x1b[13;3u", b"\x1b[27;3;13~", b"\x0a"):
            terminal.send(b"one" + keys + b"two\x1bx\r")  # Alt+x writes nothing
            asked.append("one\ntwo")
            terminal.until(lambda: questions(tmp_path) == asked)
            terminal.until(f"Answer {len(asked) - 1}.".encode())
        quit_it(terminal)
