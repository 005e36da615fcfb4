"""TextStream: whatever way bytes are cut into tokens, the text is that of the whole."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlocal.errors import UsageError
from eftlocal.generation import TextStream


def naive(whole: bytes, stops: list[str]) -> tuple[str, str | None]:
    """Decode everything, then search: the text up to the first stop string, and that string."""
    text = whole.decode("utf-8", "replace")
    for start in range(len(text)):
        here = [stop for stop in stops if text.startswith(stop, start)]
        if here:
            return text[:start], max(here, key=len)
    return text, None


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(p, len(whole)) for p in places), len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(edges)]


def check(pieces: list[bytes], stops: list[str]) -> None:
    stream = TextStream(stops)
    wanted, stop = naive(b"".join(pieces), stops)
    shown = ""
    for piece in pieces:
        shown += stream.push(piece)
        assert wanted.startswith(shown)  # nothing that is shown is ever taken back
    shown += stream.finish()
    assert (shown, stream.stopped) == (wanted, stop)


# Few characters, so that stop strings overlap each other and themselves; all lengths in UTF-8.
TEXT = st.text("ab\né€😀", max_size=30)
STOPS = st.lists(st.text("ab\né€😀", min_size=1, max_size=5), max_size=4)
PLACES = st.lists(st.integers(0, 120), max_size=40)


@settings(deadline=None)
@given(TEXT, STOPS, PLACES)
def test_any_cutting_gives_what_searching_the_whole_gives(
    text: str, stops: list[str], places: list[int]
) -> None:
    check(cut(text.encode(), places), stops)


@settings(deadline=None)
@given(TEXT, STOPS)
def test_byte_by_byte(text: str, stops: list[str]) -> None:
    check([bytes([b]) for b in text.encode()], stops)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b"\xf0", b"\x9f\x98", b"\x80", b"\xe2", b"\xff", "é".encode()]))
)
def test_invalid_bytes_become_replacement_characters(pieces: list[bytes]) -> None:
    check(pieces, ["\ufffd\ufffd", "aé"])


def test_a_character_is_held_until_it_is_whole() -> None:
    stream = TextStream()
    assert [stream.push(bytes([b])) for b in "€!€".encode()[:-1]] == ["", "", "€", "!", "", ""]
    assert stream.finish() == "\ufffd"


def test_only_what_may_become_a_stop_string_is_held() -> None:
    stream = TextStream(["\n\nUser:", "\n\nUser::"])
    assert stream.push(b"one\n") == "one"
    assert stream.push(b"two\n\nUse") == "\ntwo"
    assert stream.push(b"ful") == "\n\nUseful"
    assert stream.push(b"\n\nUser:") == ""
    assert stream.stopped is None  # another ":" may follow
    assert (stream.push(b":more"), stream.stopped) == ("", "\n\nUser::")
    assert stream.push(b"more") == stream.finish() == ""


@pytest.mark.parametrize("stop", [[""], ["a", ""], "stop"])
def test_bad_stop_strings_are_refused(stop: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^stop: "):
        TextStream(stop)
