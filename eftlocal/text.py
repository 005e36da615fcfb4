"""The bytes of tokens into a stream of text: whole characters only, stop strings held back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from copy import copy

from eftlocal.errors import UsageError


class TextStream:
    """Text that can be shown as tokens arrive, ended by the first of `stop`.

    Whatever way the bytes are cut into tokens, the pieces released add up to the whole decoded
    as UTF-8 (invalid bytes become U+FFFD), up to the stop string that begins first; of several
    that begin there, the longest is meant. Text that may be the beginning of a stop string is
    held back until that is settled.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        if isinstance(stop, str):
            raise UsageError("stop: a list of strings is needed, not one string")
        if any(not text for text in stop):
            raise UsageError("stop: an empty stop string would end every answer at once")
        self.stopped: str | None = None
        """The stop string that was met; None so far."""
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def copy(self) -> TextStream:
        """Another one, as far as this one is."""
        other = copy(self)
        other._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        other._decoder.setstate(self._decoder.getstate())
        return other

    def push(self, piece: bytes) -> str:
        """Take one token's bytes; the text that can be released now. Empty once stopped."""
        return self._release(self._decoder.decode(piece))

    def finish(self) -> str:
        """The text still held when generation ends; an unfinished character is U+FFFD."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, text: str, final: bool = False) -> str:
        if self.stopped is not None:
            return ""
        held = self._held + text
        end = len(held)
        open_at = end if final else self._open_at(held)
        matches = [(held.find(stop), -len(stop), stop) for stop in self._stop if stop in held]
        if matches:
            start, _, stop = min(matches)
            if start < open_at:
                self.stopped, self._held = stop, ""
                return held[:start]
        self._held = held[open_at:]
        return held[:open_at]

    def _open_at(self, text: str) -> int:
        """Where the longest end of `text` begins that is a beginning of some stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for start in range(max(0, len(text) - longest), len(text)):
            if any(len(s) > len(text) - start and s.startswith(text[start:]) for s in self._stop):
                return start
        return len(text)
