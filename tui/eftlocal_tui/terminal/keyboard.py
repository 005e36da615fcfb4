"""What a terminal sends, read as keys and pastes.

Textual's parser (8.2) obeys what stands behind an ESC inside a paste, takes Alt+Enter for Enter,
types the letter of Alt+letter, and raises on a few sequences. Here a paste never reaches it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from textual._time import get_time
from textual._xterm_parser import BRACKETED_PASTE_END as END
from textual._xterm_parser import BRACKETED_PASTE_START as START
from textual._xterm_parser import XTermParser, _re_mouse_event, _re_terminal_mode_response
from textual.events import Key, Paste
from textual.keys import Keys
from textual.message import Message

ESC = "\x1b"
_QUIET = 0.1  # seconds without much input, by which an end of a paste was its last
_STALLED = 2.0  # seconds without any, after which a paste that has no end is shown
_BY_HAND = 64  # characters: no more come at once from keys and a mouse
_INTRODUCE = "[OPX]^_"  # behind an ESC: more follows
_WORDS = ("\x1bf", "\x1bb", "\x1b\x7f")  # that Textual reads as one key
_OTHER_KEYS = re.compile(r"\x1b\[27;(\d+);(\d+)~")  # xterm's modifyOtherKeys
_ALT_TEXT = re.compile(r"\x1b\[(\d+)(?::\d*)*;(\d+);(\d+)u")  # kitty's, with the text
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-Z\\^-~]")  # a whole CSI sequence
_STRING = re.compile(r"\x1b[]P_^X][^\x07\x1b]*(?:\x07|\x1b\\)")  # a reply to another program


class Keyboard(XTermParser):
    """Feed it what was read, and call `tick` while nothing comes."""

    def __init__(self, debug: bool = False) -> None:
        self._tail = ""  # the last characters outside a paste
        self._paste: _Pasted | None = None
        super().__init__(debug)

    def feed(self, data: str) -> Iterable[Message]:
        """The keys, pastes and reports in what was read; what may go on is held back.

        Args:
            data: what one read gave; empty at the end of the input.
        """
        if not data:
            yield from self._end_paste() if self._paste else ()
            yield from super().feed(data)
        elif self._paste is None:
            yield from self._typed(data)
        elif self._paste.is_over(data):
            yield from self._end_paste()
            yield from self.feed(data)
        else:
            self._paste.add(data)

    def tick(self) -> Iterable[Message]:
        """What has waited long enough for more."""
        if self._paste is None:
            yield from super().tick()
        elif self._paste.rests:
            yield from self._end_paste()

    def flush(self) -> Iterable[Message]:
        """What is held back, as if no more came."""
        if self._paste is not None:
            yield from self._end_paste()
        yield from self._time_out()

    def _typed(self, data: str) -> Iterable[Message]:
        if self._tail.endswith(ESC) and data[:1] not in _INTRODUCE:
            yield from self._time_out()  # Esc, and then another key
        known = len(self._tail)
        text = self._tail + data
        begin = text.find(START)
        if begin < 0:
            self._tail = text[1 - len(START) :]
            yield from self._parsed(data)
            if any(text.endswith(START[:n]) for n in range(3, len(START))):
                self._timeout_time = get_time() + _STALLED  # the rest comes with the next read
            return
        behind = begin + len(START)
        self._tail, self._paste = "", _Pasted()
        if begin >= known:
            yield from self._parsed(text[known:begin])
        else:  # the parser has its beginning, and reads an empty paste
            for event in super().feed(text[known:behind] + END):
                if not isinstance(event, Paste):
                    yield event
        if text[behind:]:
            self._paste.add(text[behind:])

    def _parsed(self, data: str) -> Iterable[Message]:
        if typed := _STRING.sub("", data):
            yield from super().feed(typed)

    def _time_out(self) -> Iterable[Message]:
        if self._timeout_time is not None:
            self._timeout_time = 0.0
            yield from super().tick()

    def _end_paste(self) -> Iterable[Message]:
        assert self._paste is not None
        text, rest = self._paste.parts()
        self._paste = None
        yield Paste(text)
        if rest:
            yield from self._typed(rest)

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[Key]:
        if found := _OTHER_KEYS.fullmatch(sequence):
            sequence = f"{ESC}[{found[2]};{found[1]}u"
        elif found := _ALT_TEXT.fullmatch(sequence):
            key, modifiers, text = map(int, found.groups())
            if modifiers - 1 & 2 and key < 0x110000 and text in (key, ord(chr(key).upper()[0])):
                sequence = f"{ESC}[{key};{modifiers}u"  # Alt changed nothing: it is no text
        elif len(sequence) == 2 and sequence[1] not in _INTRODUCE and sequence not in _WORDS:
            alt, sequence = True, sequence[1]
        try:
            keys = list(super()._sequence_to_key_events(sequence))
        except (ValueError, OverflowError):  # a form that Textual does not know
            keys = []
        if not keys and _ends(sequence):
            keys = [Key(Keys.Ignore, sequence)]
        for event in keys:
            named = alt and event.key not in (Keys.Ignore, Keys.Escape)
            shift = "shift+" if len(event.key) == 1 and event.key.isupper() else ""
            yield Key(f"alt+{shift}{event.key.lower()}", None) if named else event


class _Pasted:
    """A paste as it comes. Its text may hold the sequence that ends one, so it ends with the last
    one of what comes without a pause; what is typed meanwhile waits as long."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._edge = ""  # the last characters
        self._ended = False
        self._until = get_time() + _STALLED

    @property
    def rests(self) -> bool:
        return get_time() >= self._until

    def is_over(self, data: str) -> bool:
        """Whether what was read now is no part of it."""
        return self.rests and (self._ended or len(data) <= _BY_HAND)

    def add(self, data: str) -> None:
        ends = END in self._edge + data
        self._edge = (self._edge + data)[1 - len(END) :]
        self._pieces.append(data)
        self._ended = self._ended or ends
        if ends or len(data) > _BY_HAND or not self._ended:
            self._until = get_time() + (_QUIET if self._ended else _STALLED)

    def parts(self) -> tuple[str, str]:
        """The text, and what came after it."""
        text, rest = "".join(self._pieces), ""
        if self._ended:
            text, _, rest = text.rpartition(END)
        return text.replace(END, "").replace(START, ""), rest


def _ends(sequence: str) -> bool:
    """Whether an unknown control sequence is whole, and says nothing of a mouse or a mode."""
    return (
        _CONTROL.fullmatch(sequence) is not None
        and sequence != f"{ESC}[M"
        and _re_mouse_event.match(sequence) is None
        and _re_terminal_mode_response.match(sequence) is None
    )
