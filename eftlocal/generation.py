"""One answer in the making: its limits, its text, why it ended. Every surface uses it.

A `Generation` takes the tokens that rounds choose for its sequence and gives `Step` records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from eftlocal import repetition
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import Choice, RunningSequence, Source
from eftlocal.text import TextStream

FinishReason = Literal["stop", "length", "context", "repetition"]

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
        loop_guard: int = repetition.LOOP_GUARD,
    ) -> None:
        self.sequence = sequence
        sequence.max_tokens = max_tokens
        self._ensemble = ensemble
        self._piece = piece
        self._max_tokens = max_tokens
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
        elif self._max_tokens is not None and index + 1 >= self._max_tokens:
            reason = "length"
        elif self._ensemble.room(self.sequence) + len(self.sequence.choices) <= index + 1:
            reason = "context"
        elif index % _EVERY == _EVERY - 1 and self._goes_in_circles(index + 1):
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

    def _goes_in_circles(self, count: int) -> bool:
        """Whether the answer's first `count` tokens end in what the loop guard is for."""
        guard = self._loop_guard
        if not guard or count < guard:
            return False
        tokens = self._tokens(count - guard, count)
        length = repetition.repeated_phrase(tokens)
        if not length:
            return False
        phrase = b"".join(map(self._piece, tokens[-length:])).decode("utf-8", "replace")
        if not repetition.is_of_numbers(phrase):
            return True
        guard *= repetition.OF_NUMBERS
        return count >= guard and repetition.repeated_phrase(self._tokens(count - guard, count)) > 0

    def _tokens(self, start: int, end: int) -> list[int]:
        return [choice.token for choice in self.sequence.choices[start:end]]
