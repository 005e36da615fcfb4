"""One answer in the making: its limits, its text, why it ended. Every surface uses it.

A `Generation` takes the tokens that rounds choose for its sequence and gives `Step` records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import RunningSequence, Source
from eftlocal.errors import UsageError
from eftlocal.text import TextStream

FinishReason = Literal["stop", "length", "context", "repetition"]


@dataclass(frozen=True)
class Step:
    """What one token brought.

    Attributes:
        index: of the token in the answer, from 0.
        token: its id.
        text: text released by it: whole characters, possibly none, never part of a stop string.
        logprob: nats under the combination at temperature 1; None unless asked for.
        source: where the token came from: "plain" (nothing was drafted), "accepted" (a draft),
            "recovered" (a draft was refused) or "bonus" (after a draft accepted whole).
        finish_reason: None but on the last step: "stop" (an end token or a stop string),
            "length" (max_tokens), "context" (some role's context is full), "repetition" (the
            answer went round in a circle).
        stop: the stop string that ended the answer, if one did.
    """

    index: int
    token: int
    text: str
    logprob: float | None = None
    source: Source = "plain"
    finish_reason: FinishReason | None = None
    stop: str | None = None


class Generation:
    """Turns the tokens chosen for one sequence into steps, until the answer ends.

    Args:
        ensemble: that the sequence was opened on; it tells the room left.
        sequence: opened on it.
        piece: the bytes of a token.
        max_tokens: most tokens of the answer; None is as many as fit the contexts.
        stop: strings that end the answer and are not part of it.

    Raises:
        UsageError: max_tokens is below 1, or a stop string is empty.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        sequence: RunningSequence,
        *,
        piece: Callable[[int], bytes],
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        check_max_tokens(max_tokens)
        self.sequence = sequence
        sequence.max_tokens = max_tokens
        self.finish_reason: FinishReason | None = None
        self._ensemble = ensemble
        self._piece = piece
        self._max_tokens = max_tokens
        self._text = TextStream(stop)

    def take(self, index: int) -> Step:
        """The step of the answer's token at this index; each is taken once, in order."""
        choice = self.sequence.choices[index]
        ended = choice.token in self.sequence.ends
        text = "" if ended else self._text.push(self._piece(choice.token))
        if ended or self._text.stopped is not None:
            self.finish_reason = "stop"
        elif self._max_tokens is not None and index + 1 >= self._max_tokens:
            self.finish_reason = "length"
        elif self._ensemble.room(self.sequence) + len(self.sequence.choices) <= index + 1:
            self.finish_reason = "context"
        elif index % 16 == 15 and goes_in_circles(self._last_tokens(index)):
            self.finish_reason = "repetition"
        if self.finish_reason is not None:
            text += self._text.finish()
            self.sequence.cut(index + 1)  # a round may bring tokens beyond the end
        return Step(
            index=index,
            token=choice.token,
            text=text,
            logprob=choice.logprob,
            source=choice.source,
            finish_reason=self.finish_reason,
            stop=self._text.stopped,
        )

    def _last_tokens(self, index: int) -> list[int]:
        choices = self.sequence.choices[max(0, index + 1 - _LOOKED_AT) : index + 1]
        return [choice.token for choice in choices]


_LONGEST, _TIMES, _AT_LEAST = 48, 6, 120
_LOOKED_AT = max(_AT_LEAST, _LONGEST * _TIMES)


def goes_in_circles(tokens: Sequence[int]) -> bool:
    """Whether the tokens end in one phrase over and over.

    A phrase of up to 48 tokens counts when it stands at the end at least 6 times and over at
    least 120 tokens: a ruled line or a short list is let through.
    """
    for period in range(1, _LONGEST + 1):
        span = max(_AT_LEAST, _TIMES * period)
        if len(tokens) >= span and tokens[-span:-period] == tokens[period - span :]:
            return True
    return False


def check_max_tokens(max_tokens: int | None) -> None:
    """Refuses what is not a number of tokens; None is as many as fit."""
    if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 1):
        raise UsageError(f"max_tokens is {max_tokens}; it must be a whole number, 1 or more")
