"""Rows of roles that have another vocabulary than the base: which calls give them.

A call decodes places of the answer whose tokens continue each other; where a longer token takes the
place of some, another call follows.

*Candidates*: a translated row says of a base token only how its first piece is liked. For the
tokens that the base finds most probable, the role also decodes the other pieces, each token as a
draft that is dropped again, and the row takes the probability of the whole. The role's last
candidate is the base's first choice, so if that is chosen, its pieces are in the cache already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.decoding.sequence import Point, RunningSequence, Wanted
from eftlocal.llama import Span
from eftlocal.logits.distribution import Ids, Row, top_k
from eftlocal.translation.spelling import Place, extends

if TYPE_CHECKING:
    from eftlocal.decoding.ensemble import Ensemble

CANDIDATES = 16  # of the base's tokens, at most
_LIKELY = 4.0  # nats below the base's best token, from where on one is no candidate


class _Candidate(NamedTuple):
    """A base token in a role's pieces.

    Attributes:
        token: its id.
        place: where the role stands after it.
        begin: how many of the role's tokens of the answer come before its pieces, and before the
            path.
        path: tokens that these pieces continue or replace.
        open: the bytes of the path in whose place a longer token is reckoned with.
    """

    token: int
    place: Place
    begin: int
    path: Sequence[int]
    open: bytes


class Translator:
    """Decodes an ensemble's roles of other vocabularies."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble

    def decode(self, role: str, wanted: Sequence[Wanted]) -> list[NDArray[np.float32]]:
        """The rows wanted, (rows, vocab) float32 of log-probabilities for each."""
        ensemble, n_rows = self._ensemble, self._ensemble.contexts[role].n_rows
        translate = ensemble.translations[role].rows
        ends = list(accumulate(each.rows for each in wanted))
        memory = ensemble.memory(role, ends[-1])
        found = [memory[end - w.rows : end] for w, end in zip(wanted, ends, strict=True)]
        legs = [
            list(_legs(each.sequence.places(role, each.rows, each.draft), n_rows))
            for each in wanted
        ]
        done = [0] * len(wanted)
        while some := [i for i, left in enumerate(legs) if left]:
            spans, parts = [], []
            for i in some:
                leg = legs[i].pop(0)
                begin = leg[0].length - leg[0].path
                spans.append(self._span(role, wanted[i].sequence, leg[-1], begin))
                parts.append((i, begin, leg))
            for rows, (i, begin, leg) in zip(ensemble.rows(role, spans), parts, strict=True):
                for place in leg:
                    last = place.length - begin
                    path = place.tokens(place.length - place.path)
                    own = rows[last - place.path : last + 1]
                    translate(list(own), found[i][done[i]], path, place.open)
                    done[i] += 1
        return found

    def refine(self, role: str, points: Sequence[tuple[Point, Ids]]) -> None:
        """Gives candidates their whole probability, in the role's rows of these points, each with
        the base's likely tokens there."""
        ensemble, whole = self._ensemble, self._ensemble.translations[role].rows.whole
        left = [(point, self._candidates(role, point, likely)) for point, likely in points]
        while left := [(point, some) for point, some in left if some]:
            now: dict[int, tuple[Point, _Candidate]] = {}  # one a slot
            for point, some in left:
                if point.sequence.slot not in now:
                    now[point.sequence.slot] = point, some.pop(0)
            spans = [
                self._span(role, point.sequence, each.place, each.begin, less=1)
                for point, each in now.values()
            ]
            for rows, (point, each) in zip(ensemble.rows(role, spans), now.values(), strict=True):
                pieces = each.place.tokens(each.begin)
                point.rows[role][each.token] = whole(each.token, rows, pieces, each.path, each.open)

    def _candidates(self, role: str, point: Point, likely: Ids) -> list[_Candidate]:
        """The likely tokens that are no single token of the role's, in their order."""
        ensemble, translation = self._ensemble, self._ensemble.translations[role]
        sequence = point.sequence
        (place, *_) = sequence.places(role, point.back, point.draft)
        context = ensemble.contexts[role]
        room = context.n_ctx - len(sequence.prompts[role])
        found = []
        for token in likely[~translation.rows.known[likely]].tolist():
            after = translation.speller.after(place, token)
            goes_on = extends(place, after)
            begin = place.length - max(place.path, 0 if goes_on else 1)
            if not goes_on:
                known = max(0, begin - 1)
                mine, theirs = place.tokens(known)[:-1], after.tokens(known)
                if theirs[: len(mine)] != mine:
                    continue  # it changes more than the last token
            if after.length <= room and 0 < after.length - begin <= context.n_rows:
                found.append(_Candidate(token, after, begin, place.tokens(begin), place.open))
        return found

    def _span(
        self, role: str, sequence: RunningSequence, place: Place, begin: int, *, less: int = 0
    ) -> Span:
        """The tokens of a place but for the last `less`, with the rows from the one after `begin`
        tokens of the answer on."""
        prompt = sequence.prompts[role]

        def given(start: int) -> list[int]:
            tokens = [*prompt[start:], *place.tokens(max(0, start - len(prompt)))]
            return tokens[: len(tokens) - less]

        return self._ensemble.reach(role, sequence, given, len(prompt) + begin - 1)


def likely_tokens(base: Row) -> Ids:
    """The ids that a base's row (vocab,) finds likely, the likeliest last."""
    ids = top_k(base, CANDIDATES)
    ids = ids[base[ids] >= base.max() - _LIKELY]
    ascending: Ids = ids[np.argsort(base[ids], kind="stable")]
    return ascending


def _legs(places: Sequence[Place], most: int) -> Iterator[list[Place]]:
    """Places in parts, in each of which the tokens continue each other, of `most` rows at most."""
    leg: list[Place] = []
    for place in places:
        if leg and not (
            extends(leg[-1], place)
            and place.length - place.path >= leg[0].length - leg[0].path
            and place.length - leg[0].length + leg[0].path < most
        ):
            yield leg
            leg = []
        leg.append(place)
    yield leg
