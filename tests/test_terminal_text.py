"""The one definition of what is safe to show."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.terminal_text import UNSAFE, one_line, printable, shown_json

# Format characters that scripts and emoji need, or that fonts draw.
DRAWN = {
    *(0x00AD, 0x200B, 0x200C, 0x200D),
    *range(0x0600, 0x0606),
    *(0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD),
    *range(0x13430, 0x13440),
}


def test_every_control_separator_surrogate_and_hidden_format_character_is_unsafe() -> None:
    unsafe = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    for point in range(sys.maxunicode + 1):
        character = chr(point)
        expected = unicodedata.category(character) in unsafe and point not in DRAWN
        if character in "\n\t":
            expected = False
        if expected:
            assert UNSAFE.match(character), hex(point)
        elif unicodedata.category(character) not in ("Cn", "Co", "Cf"):
            assert not UNSAFE.match(character) or point == 0x180E, hex(point)


def test_every_bidirectional_control_is_unsafe() -> None:
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for point in range(0x110000):
        if unicodedata.bidirectional(chr(point)) in turning:
            assert UNSAFE.match(chr(point)), hex(point)
    assert all(UNSAFE.match(c) for c in "\u061c\u200e\u200f")


@pytest.mark.parametrize(
    "text",
    ["naïve café", "日本語 😀 👩‍👩‍👧 مرحبا", "فارسی می‌خواهم", "🫨 \ue0b0", "a\u0301 1\u00a0000"],
)
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == text


def test_a_text_keeps_its_lines() -> None:
    assert printable("a\r\n\tb\x1b[31mc\x9d\u2028\u2066d\x00\r") == "a\n\tb�[31mc���d��"


def test_a_line_is_one_and_bounded() -> None:
    assert one_line("a\n\x85\u2028 b\t\x1b]0;x\x07\u202ec") == "a b �]0;x��c"
    assert one_line("x" * 65_535, 20) == "x" * 19 + "…"
    assert one_line("begin " + "x" * 65_535 + " end", 20, 4) == "begin xxxxxxxxx… end"
    assert one_line(" " * 1000 + "word", 20) == "…"
    assert one_line("word" + " " * 1000, 20, 3) == "word…"


@given(st.text(max_size=300), st.integers(8, 100), st.integers(0, 5))
def test_whatever_the_text_the_line_is_safe(text: str, limit: int, tail: int) -> None:
    line = one_line(text, limit, tail)
    assert len(line) <= limit and len(line.splitlines()) <= 1 and not UNSAFE.search(line)
    assert one_line(line, limit, tail) == line
    line.encode()
    assert not UNSAFE.search(printable(text))


@given(st.recursive(st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=3)))
def test_json_keeps_every_character_and_shows_none_that_is_unsafe(value: object) -> None:
    shown = shown_json(value, indent=1)
    assert json.loads(shown) == json.loads(json.dumps(value)) and not UNSAFE.search(shown)
