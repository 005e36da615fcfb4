"""Which sequences one call of llama.cpp decodes together, and with how much padding.

Each sequence has a cache of its own, and llama.cpp decodes sequences in one pass over the weights
only where their slots are neighbours and each brings as many tokens; others it takes one after
another, whatever call they stand in (`split_equal` in its llama-batch.cpp). So a gap is filled,
and a shorter span made longer, with padding that is dropped afterwards, where that is cheaper by
the costs of decodes. A whole pass is padded, too, where more rows cost less than so many: with
longer spans, or with idle slots beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from eftlocal.llama import Span
from eftlocal.speculation.costs import LONGEST, Curve, Room

_NEARLY = 1.05  # times the least possible cost: no better division is looked for


class _Pass(NamedTuple):
    """Spans `start` to `end`, in neighbouring slots with as many tokens each."""

    start: int
    end: int
    slots: range
    tokens: int

    @property
    def rows(self) -> int:
        return len(self.slots) * self.tokens


def most_rows(n_seq_max: int) -> int:
    """Rows of logits that one call should be able to give where so many sequences may run.

    llama.cpp holds memory for each from the start. 64 fit where the hidden rows of a prompt's
    tokens are; beyond that, more than eight a sequence are no cheaper together than apart.
    """
    return max(64, 8 * n_seq_max)


def passes(
    spans: Sequence[Span],
    *,
    n_rows: int,
    n_slots: int,
    reach: Callable[[int], int],
    cost: Curve,
) -> list[list[Span]]:
    """Divides spans into calls, padded so that each is one pass, at the least total cost.

    Args:
        spans: one a slot, none with more than n_rows rows.
        n_rows: most rows of a call, which is also the most tokens of one that has padding or that
            several slots share.
        n_slots: slots of the context.
        reach: tokens that a slot can take, padding included; 0 where it can take no padding.
        cost: of a pass by its tokens.

    Returns:
        calls, each in the order of slots, with a span of padding alone where a slot is idle.
    """
    if len(spans) == 1 and not cost.cheaper(len(spans[0].tokens)):
        return [[*spans]]
    division = _Division(spans, n_rows, n_slots, reach, cost)
    return [division.call(each) for each in division.cheapest()]


class _Division:
    """Spans in the order of their slots, and what they may be padded to; see `passes`."""

    def __init__(
        self,
        spans: Sequence[Span],
        n_rows: int,
        n_slots: int,
        reach: Callable[[int], int],
        cost: Curve,
    ) -> None:
        self.spans = sorted(spans, key=lambda span: span.sequence)
        self.slots = [span.sequence for span in self.spans]
        self.counts = [len(span.tokens) for span in self.spans]
        self.n_rows, self.n_slots, self.reach, self.cost = n_rows, n_slots, reach, cost

    def cheapest(self) -> list[_Pass]:
        """The passes at the least total cost; now and then without padding, to see that time."""
        found = []
        for padded in self._cheapest():
            plain = self.plain(padded.start, padded.end)
            look = padded.rows > plain.rows and self.cost.look(plain.rows)
            found.append(plain if look else padded)
        return found

    def _cheapest(self) -> list[_Pass]:
        """All spans in one pass where nothing can be much cheaper, else the best way to cut."""
        count, longest = len(self.slots), max(self.counts)
        if count == 1:
            return [self.padded(0, 1, self.reach(self.slots[0]))]
        neighbours = self.slots[-1] - self.slots[0] + 1 == count
        alike = longest == min(self.counts) <= LONGEST
        if neighbours and alike and count * longest <= self.n_rows:
            together = self.padded(0, count, min(map(self.reach, self.slots)))
            # Two rows can cost more than one does twice: kernels have tiles of several rows.
            if self.cost(together.rows) <= _NEARLY * self.cost.least(count * longest):
                return [together]
        return self._cut()

    def _cut(self) -> list[_Pass]:
        """By dynamic programming over the last pass of the first spans."""
        least, last = [0.0], list[_Pass]()
        for end in range(1, len(self.slots) + 1):
            best, at, found = float("inf"), -1, None
            longest, most = 0, self.n_rows
            for start in range(end - 1, -1, -1):
                longest = max(longest, self.counts[start])
                if start < end - 1:
                    for idle in range(self.slots[start] + 1, self.slots[start + 1]):
                        most = min(most, self.reach(idle))
                most = min(most, max(self.counts[start], self.reach(self.slots[start])))
                tokens = (self.slots[end - 1] - self.slots[start] + 1) * longest
                wide = longest > LONGEST or tokens > self.n_rows or most < longest
                if at >= 0 and wide:
                    break  # wider ranges are longer, and reach no further
                one = self.padded(start, end, most) if self.cost.cheaper(tokens) else None
                cost = least[start] + self.cost(one.rows if one else tokens)
                if at < 0 or cost < best:
                    best, at, found = cost, start, one
            least.append(best)
            last.append(found or self.plain(at, end))
        cut, end = list[_Pass](), len(self.slots)
        while end:
            cut.append(last[end - 1])
            end = cut[-1].start
        return cut[::-1]

    def plain(self, start: int, end: int) -> _Pass:
        """A pass over some spans, none longer than the longest of them."""
        slots = range(self.slots[start], self.slots[end - 1] + 1)
        return _Pass(start, end, slots, max(self.counts[start:end]))

    def padded(self, start: int, end: int, most: int) -> _Pass:
        """The same with up to `most` tokens each, and idle slots, where more rows cost less.

        A prompt is read as it is: not where a span has more tokens than rows.
        """
        of = self.plain(start, end)
        if of.tokens > LONGEST or not self.cost.cheaper(of.rows):
            return of
        if any(len(span.tokens) > span.rows for span in self.spans[start:end]):
            return of
        first, last = of.slots[0], of.slots[-1]
        after, before = self._idle(range(last + 1, self.n_slots)), self._idle(range(first)[::-1])
        room = Room(len(of.slots) + after + before, min(most, LONGEST), self.n_rows)
        width, tokens = self.cost.padded(len(of.slots), of.tokens, room)
        first -= max(0, width - len(of.slots) - after)
        return of._replace(slots=range(first, first + width), tokens=tokens)

    def _idle(self, slots: range) -> int:
        """How many slots from the first on can take padding, whatever it will be."""
        for count, slot in enumerate(slots):
            if slot in self.slots or self.reach(slot) < LONGEST:
                return count
        return len(slots)

    def call(self, of: _Pass) -> list[Span]:
        """The spans of a pass, with its padding."""
        given = {span.sequence: span for span in self.spans[of.start : of.end]}
        spans = (given.get(slot) or Span(slot, (), 0) for slot in of.slots)
        return [span._replace(padding=of.tokens - len(span.tokens)) for span in spans]
