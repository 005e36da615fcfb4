"""The exact bytes of terminals, read as keys and pastes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual import events
from textual.message import Message

from eftlocal_tui.terminal import keyboard
from eftlocal_tui.terminal.keyboard import END, START, Keyboard


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(keyboard, "get_time", clock)
    monkeypatch.setattr("textual._parser.get_time", clock)
    yield clock


def read(clock: Clock, *reads: str, apart: float = 0.01, after: float = 5.0) -> list[str]:
    """What is made of a terminal's bytes: keys by name, pastes as “text”."""
    parser, came = Keyboard(), list[Message]()
    for data in reads:
        came += [*parser.feed(data)]
        clock.now += apart
        came += [*parser.tick()]
    clock.now += after
    came += [*parser.tick()]
    return list(map(_named, came))


def _named(event: Message) -> str:
    if isinstance(event, events.Key):
        return event.key
    return f"“{event.text}”" if isinstance(event, events.Paste) else type(event).__name__


HOSTILE = {
    "keys": "a\rb\x11c\x07d\x03e\tf\x7fg",
    "escapes": "\x1b",
    "escape and letters": "x\x1b[Ay\x1bOPz\x1b[24~",
    "half a sequence": "a\x1b[",
    "a long one": "\x1b[" + "1;" * 40 + "m",
    "c1": "a\x9b31mb\x90c",
    "osc": "\x1b]0;owned\x07 \x1b]52;c;YQ==\x1b\\",
    "kitty": "\x1b[13;3u\x1b[27u",
    "mouse": "\x1b[<0;3;3M\x1b[M   ",
    "another paste": f"a{START}b",
    "its own end": f"a{END}\x11\rb",
    "resize": "\x1b[48;5;5;5;5t",
    "focus": "\x1b[I\x1b[O",
    "nothing": "",
    "lines": "one\ntwo\r\nthree\rfour",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_in_a_paste_is_a_key(clock: Clock, name: str) -> None:
    text = HOSTILE[name]
    kept = text.replace(START, "").replace(END, "")
    sent = f"{START}{text}{END}"
    assert read(clock, sent) == [f"“{kept}”"]
    for at in range(1, len(sent)):  # wherever a read ends
        assert read(clock, sent[:at], sent[at:]) == [f"“{kept}”"], at
    assert read(clock, *sent) == [f"“{kept}”"]


@given(st.text(alphabet=["\x1b", "[", "2", "0", "1", "~", "\r", "\x11", "a", "O"], max_size=30))
def test_any_paste_is_one_text(text: str) -> None:
    parser = Keyboard()
    came = [*parser.feed(f"{START}{text}"), *parser.feed(END), *parser.feed("")]
    assert list(map(_named, came)) == [f"“{text.replace(END, '').replace(START, '')}”"]


def test_a_slow_paste_is_one(clock: Clock) -> None:
    sent = [START[:4], START[4:], "one\x1b", "[Atwo\r", END[:3], END[3:]]
    assert read(clock, *sent, apart=0.5) == ["“one\x1b[Atwo\r”"]


def test_a_paste_that_is_never_closed_is_shown_and_keys_go_on(clock: Clock) -> None:
    parser = Keyboard()
    assert [*parser.feed(f"{START}half a\rpaste")] == []
    clock.now += 3
    assert list(map(_named, parser.tick())) == ["“half a\rpaste”"]
    assert list(map(_named, parser.feed("\x11"))) == ["ctrl+q"]


def test_keys_around_pastes(clock: Clock) -> None:
    assert read(clock, f"a{START}one{END}") == ["a", "“one”"]
    # Typed right behind: after a moment without more, they are keys.
    assert read(clock, f"{START}one{END}\r") == ["“one”", "enter"]
    assert read(clock, f"{START}one{END}", "\r", apart=0.01) == ["“one”", "enter"]
    assert read(clock, f"{START}one{END}", "x", f"{START}two{END}", apart=0.2) == [
        "“one”",
        "x",
        "“two”",
    ]
    # Pastes that follow each other at once are one text.
    assert read(clock, f"{START}one{END}{START}two{END}") == ["“onetwo”"]


def test_a_long_paste_with_an_end_inside(clock: Clock) -> None:
    text = "x" * 10_000
    sent = f"{START}{text}{END}\x11\r{text}{END}"
    pieces = [sent[i : i + 4_095] for i in range(0, len(sent), 4_095)]
    assert read(clock, *pieces, apart=0.05) == [f"“{text}\x11\r{text}”"]


KEYS = {
    "\x1b\r": ["alt+enter"],
    "\x1b[13;3u": ["alt+enter"],  # kitty
    "\x1b[27;3;13~": ["alt+enter"],  # xterm, modifyOtherKeys
    "\x1b[27;2;13~": ["shift+enter"],
    "\x1b[13;2u": ["shift+enter"],
    "\x1b[27;5;105~": ["ctrl+i"],
    "\x1ba": ["alt+a"],
    "\x1bA": ["alt+shift+a"],
    "\x1b1": ["alt+1"],
    "\x1b[97;3u": ["alt+a"],
    "\x1b[97;3;97u": ["alt+a"],
    "\x1b[97;4;65u": ["alt+shift+a"],
    "\x1b[97;3;229u": ["å"],  # a Mac's Option, which writes
    "\x1b[97;;97u": ["a"],
    "\x1bxyz": ["alt+x", "y", "z"],
    "\x1bb": ["ctrl+left"],
    "\x1b\x7f": ["ctrl+w"],
    "\x1b": ["escape"],
    "\x1b\x1b": ["escape", "escape"],
    "\x1b\x1bx": ["escape", "alt+x"],
    "\x1b[A": ["up"],
    "\x1b[": ["alt+left_square_bracket"],
    "\x1b[[A": ["f1"],
    "\x1b[?1;2c": [],  # answers to what other programs asked
    "\x1b]11;rgb:1a1a/1a1a/1a1a\x07": [],
    "\x1b]11;rgb:1a1a/1a1a/1a1a\x1b\\": [],
    "\x1bP>|tmux 3.4\x1b\\": [],
    "\x1b[97;1:3u": [],  # forms that nobody asked for
    "\x1b[99999999;1u": [],
    "\x1b[<0;3;4M": ["MouseDown"],
    "\x1b[?2026;2$y": ["TerminalSupportsSynchronizedOutput"],
    "\x1b[I": ["AppFocus"],
    "é日": ["é", "日"],
}


@pytest.mark.parametrize("sent", KEYS, ids=ascii)
def test_keys(clock: Clock, sent: str) -> None:
    assert read(clock, sent) == KEYS[sent]


def test_no_key_with_alt_writes(clock: Clock) -> None:
    for sent in ("\x1ba", "\x1bA", "\x1b1", "\x1b\r", "\x1b[97;3;97u", "\x1b[27;3;97~"):
        (event,) = Keyboard().feed(sent)
        assert isinstance(event, events.Key)
        assert not event.is_printable, ascii(sent)


def test_esc_and_another_key_are_two(clock: Clock) -> None:
    assert read(clock, "\x1b", "x") == ["escape", "x"]
    assert read(clock, "\x1b", "\r") == ["escape", "enter"]
    assert read(clock, "\x1b", "\x1b", "y") == ["escape", "escape", "y"]
    assert read(clock, "\x1b", f"{START}a{END}") == ["escape", "“a”"]
    # A sequence that was torn by the network stays one.
    assert read(clock, "\x1b", "[A") == ["up"]
    assert read(clock, "\x1b[", "A") == ["up"]
    assert read(clock, "\x1bO", "P") == ["f1"]


PIECES = [START, END, *"\x1b[<;:?OuM~m$y", "\x1b[", "99999999999"]


@given(st.lists(st.sampled_from(PIECES) | st.text(min_size=1, max_size=8)))
def test_no_bytes_end_it(reads: list[str]) -> None:
    parser = Keyboard()
    for data in reads:
        assert all(isinstance(event, Message) for event in parser.feed(data))
        assert all(isinstance(event, Message) for event in parser.tick())
