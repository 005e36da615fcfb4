"""One answer in the making: its text, its limits, why it ended. Every surface uses it.

A `Generation` takes the tokens that rounds choose for its sequence and gives `Step` records. Its
`TextStream` releases whole characters and holds stop strings back.

The loop guard is a number of tokens: an answer ends when so many of its last tokens are one phrase
repeated, at least four times. Numbers repeat for good reasons (a row of zeros, 1/7 to a thousand
digits), so a phrase of digits and marks without a word is let go on four times as long.

The default is measured (`scripts/measure_loops.py`). Of 61 lists, tables, drawings, refrains and
pieces of code written out with SmolLM2's tokens the longest repetition of words is 599 tokens (200
lines of null), of marks 401 and of numbers 2,998 (1,000 zeros in an array). A greedy SmolLM2 that
loops does not come out of it again, so a guard of any length finds it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from eftlocal.errors import UsageError
from eftlocal.settings import SETTINGS

if TYPE_CHECKING:  # a loop guard is read before llama.cpp is loaded
    from eftlocal.decoding.ensemble import Ensemble
    from eftlocal.decoding.sequence import Choice, RunningSequence, Source


_Utf8 = codecs.getincrementaldecoder("utf-8")


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
        self._decoder = _Utf8("replace")
        self._held = ""

    def copy(self) -> TextStream:
        """Another one, as far as this one is."""
        other = TextStream()
        other.stopped, other._stop, other._held = self.stopped, self._stop, self._held
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


LOOP_GUARD: int = SETTINGS["loop_guard"].default
"""Tokens of repetition that end an answer, by default."""

OF_NUMBERS = 4  # times as many tokens, for a phrase of numbers
_TIMES = 4

_WORD = re.compile(r"([^\W\d_])(?!\1)[^\W\d_]", re.IGNORECASE)  # two letters that differ


def repeated_phrase(tokens: Sequence[int]) -> int:
    """Length of the shortest phrase that these tokens repeat, at least four times; 0 if none.

    The first and the last repetition may be cut short.
    """
    last = tokens[-1]
    for length in range(1, len(tokens) // _TIMES + 1):
        if tokens[-1 - length] == last and tokens[length:] == tokens[:-length]:
            return length
    return 0


def is_of_numbers(phrase: str) -> bool:
    """Whether there are digits in it and no word."""
    return any(map(str.isdigit, phrase)) and not _WORD.search(phrase)


FinishReason = Literal["stop", "length", "context", "repetition"]
ENDINGS: dict[str, str] = {
    "stop": "",
    "length": "stopped: max-tokens reached",
    "context": "stopped: context full",
    "repetition": "stopped: repeating",
}
"""What people are told of an answer's end; nothing where it ended by itself."""

_EVERY = 16  # tokens between two looks for a repetition


@dataclass(frozen=True)
class Step:
    """What one token brought.

    Attributes:
        index: of the token in the answer, from 0.
        token: its id.
        text: text released by it: whole characters, possibly none, never part of a stop string.
        logprob: nats under the combination at temperature 1; None unless asked for.
        top: the most probable tokens with their log-probabilities, as many as were asked for.
        source: where the token came from: "plain" (nothing was drafted), "accepted" (a draft),
            "recovered" (a draft was refused) or "bonus" (after a draft accepted whole).
        finish_reason: None but on the last step: "stop" (an end token or a stop string),
            "length" (max_tokens), "context" (some role's context is full), "repetition" (the
            loop guard ended it).
        stop: the stop string that ended the answer, if one did.
    """

    index: int
    token: int
    text: str
    logprob: float | None = None
    source: Source = "plain"
    finish_reason: FinishReason | None = None
    stop: str | None = None
    top: tuple[tuple[int, float], ...] = ()


class _Taken(NamedTuple):
    """The last step, its token's choice, and the text before and after it."""

    before: TextStream
    after: TextStream
    choice: Choice | None
    step: Step | None


class Generation:
    """Turns the tokens chosen for one sequence into steps, until the answer ends.

    Args:
        ensemble: that the sequence was opened on; it tells the room left.
        sequence: opened on it.
        piece: the bytes of a token.
        max_tokens: most tokens of the answer; None is as many as fit the contexts.
        stop: strings that end the answer and are not part of it.
        loop_guard: tokens of repetition that end the answer; 0 is none. A mask may force any
            repetition, so there is no guard under one.

    Raises:
        UsageError: a stop string is empty.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        sequence: RunningSequence,
        *,
        piece: Callable[[int], bytes],
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        loop_guard: int = LOOP_GUARD,
    ) -> None:
        self.sequence = sequence
        sequence.max_tokens = max_tokens
        self._ensemble = ensemble
        self._piece = piece
        self._loop_guard = 0 if sequence.mask is not None else loop_guard
        text = TextStream(stop)
        self._taken = _Taken(text, text, None, None)

    def take(self, index: int) -> Step:
        """The step of the answer's token at this index; each is taken in order.

        Whoever is interrupted asks for the same step again: nothing is changed but all at once.
        """
        last, choice = self._taken, self.sequence.choices[index]
        again = last.step is not None and last.step.index == index
        if again and last.step is not None and last.choice is choice:
            return last.step
        before = last.before if again else last.after
        text = before.copy()
        reason: FinishReason | None = None
        ended = choice.token in self.sequence.ends
        shown = "" if ended else text.push(self._piece(choice.token))
        if ended or text.stopped is not None:
            reason = "stop"
        elif index + 1 == self.sequence.max_tokens:
            reason = "length"
        elif self._ensemble.room(self.sequence) + len(self.sequence.choices) <= index + 1:
            reason = "context"
        elif index % _EVERY == _EVERY - 1 and self._repeats(index + 1):
            reason = "repetition"
        if reason is not None:
            shown += text.finish()
            if text.stopped is not None:  # what was held back may have been a stop string
                reason = "stop"
            self.sequence.cut(index + 1)  # a round may bring tokens beyond the end
        step = Step(
            index=index,
            token=choice.token,
            text=shown,
            logprob=choice.logprob,
            source=choice.source,
            finish_reason=reason,
            stop=text.stopped,
            top=choice.top,
        )
        self._taken = _Taken(before, text, choice, step)
        return step

    def _repeats(self, count: int) -> bool:
        """Whether the loop guard ends the answer after its first `count` tokens."""
        guard = self._loop_guard
        if not guard or count < guard:
            return False
        tokens = self.sequence.tokens(count - guard)[:guard]
        length = repeated_phrase(tokens)
        if not length:
            return False
        phrase = b"".join(map(self._piece, tokens[-length:])).decode("utf-8", "replace")
        if not is_of_numbers(phrase):
            return True
        guard *= OF_NUMBERS
        return count >= guard and repeated_phrase(self.sequence.tokens(count - guard)[:guard]) > 0
