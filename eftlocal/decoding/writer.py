"""Drafts of a role that has another vocabulary: what it would write, in the base's tokens.

Its translated rows know of most tokens of the base only how they begin, so what is drawn from them
is a poor draft. Instead the role goes on in its own tokens, the likeliest each time, and the base's
tokenizer reads the text. Such a draft is a proposal like a looked-up one: the answer does not
depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import Turn
from eftlocal.llama import Span
from eftlocal.logits.distribution import Row
from eftlocal.translation.spelling import Place, Spelling
from eftlocal.translation.translation import Translation


class Writer:
    """Writes the drafts of turns that have a `writer`, all of them together."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble

    def __call__(self, turns: Sequence[Turn]) -> None:
        texts = [self._begun(turn, turn.writer) for turn in turns if turn.writer is not None]
        writing = texts
        while writing := [text for text in writing if text.goes_on]:
            for role in dict.fromkeys(text.role for text in writing):
                some = [text for text in writing if text.role == role]
                spans = [self._span(text) for text in some]
                for text, (row,) in zip(some, self._ensemble.rows(role, spans), strict=True):
                    text.go_on(row)
        for text in texts:
            text.draft()

    def _begun(self, turn: Turn, role: str) -> _Text:
        (before,) = turn.sequence.places(role, 1)
        translation = self._ensemble.translations[role]
        room = self._ensemble.contexts[role].n_ctx - turn.sequence.length(role)
        room = min(room, translation.most * turn.most)  # not all that is written comes to tokens
        return _Text(turn, role, translation, before, room)

    def _span(self, text: _Text) -> Span:
        sequence = text.turn.sequence
        prompt, answer = sequence.prompts[text.role], text.before.length

        def given(start: int) -> list[int]:
            start_in_answer = max(0, start - len(prompt))
            written = text.tokens[max(0, start_in_answer - answer) :]
            return [*prompt[start:], *text.before.tokens(start_in_answer), *written]

        end = len(prompt) + answer + len(text.tokens) - 1
        return self._ensemble.reach(text.role, sequence, given, end)


@dataclass(eq=False)
class _Text:
    """What a role writes after an answer.

    Attributes:
        before: where the role stands after the answer.
        room: of its tokens, at most.
        tokens: its own.
        sure: least probability of those since the last base token that they made.
        goes_on: whether another one is wanted.
    """

    turn: Turn
    role: str
    translation: Translation
    before: Place
    room: int
    tokens: list[int] = field(default_factory=list)
    sure: float = 1.0
    goes_on: bool = True

    def __post_init__(self) -> None:
        self._read = Spelling(self.translation.back)

    def go_on(self, row: Row) -> None:
        """Adds the likeliest token of a row (width,), unless the draft is long enough."""
        turn, known = self.turn, self.turn.confidences
        token, sure = self.translation.rows.likeliest(row)
        self.sure = min(self.sure, sure)
        if self._wanted() <= len(known):
            self.goes_on = False
            return
        (before,) = self._read.last(1)
        self.tokens.append(token)
        self._read.extend([token])
        (place,) = self._read.last(1)
        ended = token in self.translation.back.base_ends
        # A longer token may yet take the place of the last one.
        made = place.length if ended or not place.path else place.length - 1
        del known[made:]
        if made > len(known):
            known += [self.sure] * (made - len(known))
            self.sure = 1.0
        stands_for_text = place is not before
        room = len(self.tokens) < self.room
        self.goes_on = stands_for_text and not ended and made < turn.most and room

    def _wanted(self) -> int:
        """Tokens of the base that are worth drafting, as far as is known."""
        turn = self.turn
        if turn.plan is None:
            return turn.most
        acceptance = turn.sequence.drafting.acceptance
        chances, expected = 1.0, 1.0
        for sure in turn.confidences:
            chances *= acceptance.expected(sure)
            expected += chances
        return turn.plan.longest(
            turn.most,
            acceptance.expected(self.sure),
            acceptance.overall.mean,
            made=len(turn.confidences),
            chances=chances,
            tokens=expected,
        )[0]

    def draft(self) -> None:
        """Gives the turn the tokens of the base that are certain."""
        turn = self.turn
        (place,) = self._read.last(1)
        turn.propose(place.tokens()[: min(len(turn.confidences), turn.most)])
        del turn.confidences[len(turn.drafts) :]
