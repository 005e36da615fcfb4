"""The chat in a real terminal: what comes in as bytes, and how it ends."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from pty_chat import READY, Terminal, chatting
from textual.geometry import Size

from eftlocal.terminal_text import printable
from eftlocal_tui.history import History
from eftlocal_tui.terminal.keyboard import END, START
from eftlocal_tui.terminal.room import too_small

PASTES = (
    b"one\rtwo\x11three\x07\x03four\x1b",
    b"a\x1b[24~b\x1bOPc\x1b[13;3ud\x1b[A\x1b[",
    b"a" + END.encode() + b"\x11\r\x1b[15~b",
    "a\x9bAb\x8fP".encode(),
    b"caf\xe9 \x9b\xff\xfe end",  # no UTF-8
    b"0123456789 \x11\r" * 700,
)


def questions(folder: Path) -> list[str]:
    """All that was asked, the oldest first."""
    with History(folder / "chat.db") as history:
        found = history.conversations.list()[::-1]
        turns = [turn for one in found for turn in history.turns.path(one.id)]
    return [turn.text for turn in turns if turn.role == "user"]


def test_the_title_of_the_window_is_given_back(tmp_path: Path) -> None:
    with chatting(tmp_path) as terminal:
        assert b"\x1b[22;2t\x1b]2;eftlocal\x07" in terminal.shown
        terminal.send(b"My \x1b[200~\x9b31m\x1b]2;x\x07\x1b[201~ question\r")
        terminal.until(b"\x1b]2;My ")
        title = terminal.shown.split(b"\x1b]2;My ")[1].split(b"\x07")[0].decode()
        assert title.endswith("question · eftlocal")
        assert title.isprintable()
        quit_it(terminal)
        assert b"\x1b[23;2t" in terminal.shown


def test_what_is_typed_before_the_chat_is_there_is_sent(tmp_path: Path) -> None:
    """Until then the terminal makes a new line of Enter."""
    with chatting(tmp_path, typed=b"caf\xc3\xa9?\rtwo\rthr") as terminal:
        terminal.send(b"ee\r")
        terminal.until(lambda: questions(tmp_path) == ["café?", "two", "three"])
        quit_it(terminal)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, -signal.SIGHUP)]
)
def test_a_signal_ends_it_as_a_quit_does(tmp_path: Path, number: int, code: int) -> None:
    with chatting(tmp_path) as terminal:
        terminal.send(b"\x1b[200~not sent yet\x1b[201~")
        terminal.until(b"not sent yet")
        terminal.child.send_signal(number)
        assert terminal.wait() == code
        if number == signal.SIGTERM:  # with SIGHUP there is no terminal any more
            assert b"\x1b[?1049l" in terminal.shown
            assert b"\x1b[?1003l" in terminal.shown
    with History(tmp_path / "chat.db") as history:
        assert history.drafts.get(None).text == "not sent yet"


def chat_of(folder: Path, **environment: str) -> Terminal:
    """`eftlocal chat` with the demo."""
    command = [sys.executable, "-m", "eftlocal", "chat", "--preset", "demo"]
    data = {"EFTLOCAL_DATA": str(folder), **environment}
    return Terminal(command, size=(120, 30), **data)


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_be_drawn_on_is_refused(tmp_path: Path, term: str) -> None:
    terminal = chat_of(tmp_path, TERM=term)
    assert terminal.wait() == 2
    terminal.close()
    assert terminal.shown.strip().startswith(b"eftlocal: chat needs a terminal that moves")
    assert b"\x1b" not in terminal.shown
    assert terminal.shown.strip().count(b"\n") == 0


def test_a_chat_that_cannot_be_saved_says_so(tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    terminal = chat_of(no_folder / "data")
    try:
        terminal.until(b"This chat is not saved")
        terminal.until(b"upscale")
        terminal.send(b"In which country is Toulouse?\r")
        terminal.until(b"France")
        quit_it(terminal)
    finally:
        terminal.close()
    assert b"Resume with" not in terminal.shown
    assert list(tmp_path.iterdir()) == [no_folder]


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


def modes(terminal: Terminal) -> list[object]:
    """How the terminal treats what is typed."""
    import termios

    return termios.tcgetattr(terminal.theirs)


FAULTY = """
from eftlocal.cli.app import main
from eftlocal_tui.screens.chat import ChatScreen

async def fails(self):
    raise ZeroDivisionError("a fault of the program")

ChatScreen.action_new = fails
main()
"""


def test_a_fault_is_told_and_the_terminal_left_as_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAULTY, "chat", "--preset", "demo"]
    terminal = Terminal(command, size=(80, 24))
    try:
        before = modes(terminal)
        terminal.until(READY)
        assert modes(terminal) != before
        terminal.send(b"\x0e")
        assert terminal.wait() == 1
        assert modes(terminal) == before
    finally:
        terminal.close()
    screen, _, after = terminal.shown.rpartition(b"\x1b[?1049l")
    assert b"\x1b[?2004l" in screen
    assert b"the chat failed; what it showed is saved" in after
    assert b"ZeroDivisionError: a fault of the program" in after
    assert b"locals" not in after


def test_an_input_that_fails_is_a_fault(tmp_path: Path) -> None:
    faulty = FAULTY.replace("async def", "def").replace("(self)", "(self, data)")
    faulty = faulty.replace("screens.chat", "terminal.keyboard").replace("ChatScreen", "Keyboard")
    command = [sys.executable, "-c", faulty.replace("action_new", "feed"), "chat"]
    terminal = Terminal([*command, "--preset", "demo"], size=(80, 24))
    try:
        terminal.until(READY)
        terminal.send(b"x")
        assert terminal.wait() == 1
    finally:
        terminal.close()
    assert b"ZeroDivisionError: a fault of the program" in terminal.shown


def test_a_terminal_that_is_too_small_says_so(tmp_path: Path) -> None:
    with chatting(tmp_path, (120, 40), COLUMNS="80", LINES="24") as terminal:  # as they once were
        terminal.send(b"A draft\x02")  # and the panel
        terminal.until(b"A draft")
        for columns, rows in ((32, 40), (50, 20), (32, 8), (1, 1), (5, 50), (200, 1), (33, 3)):
            since = len(terminal.shown)
            terminal.resize(columns, rows)
            line = too_small(Size(columns, rows))
            shown = "".join(segment.text for segment in line.segments).encode()
            if columns < 40 or rows < 10:
                terminal.until(shown, since)
            else:
                terminal.until(b"A draft", since)
        since = len(terminal.shown)
        terminal.resize(100, 30)
        terminal.until(b"A draft", since)
        terminal.send(b"!\r")
        terminal.until(lambda: questions(tmp_path) == ["A draft!"])
        quit_it(terminal)


def test_a_storm_of_sizes_while_an_answer_comes(tmp_path: Path) -> None:
    sizes = [(c, r) for c in (1, 2, 32, 39, 40, 71, 72, 120) for r in (1, 2, 9, 10, 24, 60)]
    with chatting(tmp_path) as terminal:
        for keys in (b"Go\r", b"\x02", b"\x1bOP", b"\x1b", b"\x0f", b"\x10"):
            terminal.send(keys)
            for size in sizes:
                terminal.resize(*size)
                terminal.send(b"")
        terminal.send(b"\x1b\x1b")
        terminal.until(lambda: questions(tmp_path) == ["Go"])
        quit_it(terminal)
