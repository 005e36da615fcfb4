"""How long a draft to try: the length that maximises expected tokens per second.

Let S_j be the chance that the first j drafts are all accepted. A round of length k brings
E_k = 1 + S_1 + ... + S_k tokens and costs C_k = drafting + a decode of k + 1 rows per verifying
role; k is chosen for the best E_k / C_k. Costs are measured (`costs`); chances are learned from
what was accepted, by how sure the draft's distribution was. While nothing is drafted, every few
tokens tell what would have been accepted, so that drafting starts again when it pays.

A length depends on rows that were seen before its next token was drawn, never on that token:
discarding a drawn token because it looks bad would change the distribution.

Drafts looked up in the conversation cost no forward pass: prompt lookup decoding (Saxena 2023);
quoting, editing and code repeat whole passages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from eftlocal.settings import MAX_DRAFT
from eftlocal.speculation.costs import Costs, Room
from eftlocal.speculation.settings import Totals

_GRAM = 3  # tokens that must agree before a continuation is worth a look
_LONGEST = 16  # agreement beyond this tells no more


class PromptLookup:
    """Finds the last earlier place where the conversation's last tokens stood."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Appends what the conversation gained."""
        known = self._tokens
        for token in tokens:
            # Entered when its continuation is known: the last tokens never find themselves.
            if len(known) >= _GRAM:
                self._after[tuple(known[-_GRAM:])] = len(known)
            known.append(token)

    def clear(self) -> None:
        """Forgets everything, for a conversation that was cut back."""
        self._tokens.clear()
        self._after.clear()

    def find(self, length: int) -> tuple[list[int], int]:
        """At most `length` tokens that may follow, and how many tokens before them agreed.

        Both empty and 0 where the last tokens occurred nowhere before.
        """
        known = self._tokens
        start = self._after.get(tuple(known[-_GRAM:])) if len(known) >= _GRAM else None
        if start is None:
            return [], 0
        agreed = _GRAM
        while agreed < min(_LONGEST, start) and known[start - agreed - 1] == known[-agreed - 1]:
            agreed += 1
        return known[start : start + length], agreed


_EDGES = (0.3, 0.5, 0.7, 0.85, 0.95, 0.99)  # of confidence: the draft's largest probability
_MATCHES = (5, 8)  # edges of agreed tokens in a lookup
_PRIOR = 0.7  # acceptance before anything is known
_PRIOR_WEIGHT = 2.0
_MEMORY = 0.98  # what is kept of older outcomes at each new one
_GAIN = 1.02  # speculation must promise this much over plain decoding
_WATCHED = 4  # tokens at the beginning, decoded plainly to learn from
_EVERY = 8  # later on, each so many plain tokens


class Rate:
    """A rate that follows what it sees: a decayed mean, begun at a prior."""

    def __init__(self, prior: float = _PRIOR) -> None:
        self._sum, self._count = prior * _PRIOR_WEIGHT, _PRIOR_WEIGHT

    def add(self, outcome: float) -> None:
        """Takes in an outcome, 0.0 to 1.0."""
        self._sum = self._sum * _MEMORY + outcome
        self._count = self._count * _MEMORY + 1.0

    @property
    def mean(self) -> float:
        return self._sum / self._count


class Acceptance:
    """What is known of the acceptance of drafts in one conversation."""

    def __init__(self) -> None:
        self.overall = Rate()
        self.by_confidence = [Rate() for _ in range(len(_EDGES) + 1)]
        self.lookup = [Rate() for _ in range(len(_MATCHES) + 1)]
        self.seen = 0

    def add(self, confidence: float, outcome: float) -> None:
        """A draft by a model: its distribution's largest probability, and what became of it."""
        self.overall.add(outcome)
        self.by_confidence[bisect_right(_EDGES, confidence)].add(outcome)
        self.seen += 1

    def expected(self, confidence: float) -> float:
        return self.by_confidence[bisect_right(_EDGES, confidence)].mean

    def of_match(self, agreed: int) -> Rate:
        """Of looked-up drafts, by the number of tokens before them that agreed."""
        return self.lookup[bisect_right(_MATCHES, agreed)]


@dataclass(frozen=True)
class Plan:
    """The costs of a round by its length, for one sequence of a round of `width` alike ones.

    Attributes:
        draft: seconds of decoding one draft token (all drafting roles).
        bonus: the same for the last one, which waits until all drafts are accepted.
        verify: (MAX_DRAFT + 1,) seconds of decoding k + 1 rows in the verifying roles.
        together: the same in all roles, as a looked-up draft needs.
    """

    draft: float
    bonus: float
    verify: Sequence[float]
    together: Sequence[float]

    @classmethod
    def of(
        cls,
        costs: Costs,
        drafting: Sequence[str],
        verifying: Sequence[str],
        width: int,
        room: Room | None = None,
        *,
        side_by_side: bool = False,
        pieces: Mapping[str, int] | None = None,
    ) -> Plan:
        """Side by side, the slowest role counts, and the last draft is decoded beside it.

        drafting: roles that verify, too, write a draft in their own tokens, one by one.
        room: to which calls can be padded; None is what one sequence alone can have.
        pieces: tokens that one of the answer's takes in roles of another vocabulary.
        """
        room, of = room or Room(), pieces or {}

        def seconds(roles: Collection[str], rows: int) -> float:
            each = [costs.padded(r, width, rows * of.get(r, 1), room) / width for r in roles]
            return max(each, default=0.0) if side_by_side else sum(each)

        lengths = range(1, MAX_DRAFT + 2)
        draft, bonus = seconds(drafting, 1), 0.0 if side_by_side else seconds(drafting, 1)
        if set(drafting) <= set(verifying):
            draft = sum(of.get(r, 1) * costs.padded(r, width, 1, room) / width for r in drafting)
            bonus = 0.0
        together = {*drafting, *verifying}
        return cls(
            draft=draft,
            bonus=bonus,
            verify=[seconds(verifying, n) for n in lengths],
            together=[seconds(together, n) for n in lengths],
        )

    @property
    def plain(self) -> float:
        """Tokens per second without a draft."""
        return 1.0 / self.together[0]

    def longest(
        self,
        most: int,
        chance: float,
        later: float,
        *,
        made: int = 0,
        chances: float = 1.0,
        tokens: float = 1.0,
    ) -> tuple[int, float]:
        """The best length of a model's draft, and its tokens per second.

        Args:
            most: longest allowed.
            chance: that the next draft is accepted if all before it are; its row is at hand.
            later: the same of those after it, unseen yet.
            made: drafts made so far.
            chances: S of these.
            tokens: E of these.
        """
        spent = self.draft * (made + 1)  # the row after the last draft made is at hand
        best, rate = made, tokens / (spent + self.verify[made])
        chances *= chance
        for k in range(made + 1, most + 1):
            tokens += chances
            seconds = spent + self.draft * (k - made - 1) + self.bonus * chances + self.verify[k]
            if tokens / seconds > rate:
                best, rate = k, tokens / seconds
            chances *= later
        return best, rate

    def lookup(self, most: int, chance: float) -> tuple[int, float]:
        """The best length of a looked-up draft, and its tokens per second."""
        best, rate, tokens, power = 0, self.plain, 1.0, 1.0
        for k in range(1, most + 1):
            power *= chance
            tokens += power
            if tokens / self.together[k] > rate:
                best, rate = k, tokens / self.together[k]
        return best, rate


@dataclass
class SequenceDrafts:
    """What is known of one sequence's drafts, and what became of them."""

    acceptance: Acceptance = field(default_factory=Acceptance)
    lookup: PromptLookup = field(default_factory=PromptLookup)
    totals: Totals = field(default_factory=Totals)
    plain: int = 0
    """Tokens decoded without a draft."""

    def due(self) -> bool:
        """Whether to learn from this plainly decoded token; called once for each."""
        self.plain += 1
        return self.acceptance.seen < _WATCHED or self.plain % _EVERY == 0

    @property
    def watching(self) -> bool:
        """Whether too little is known to choose a length."""
        return self.acceptance.seen < _WATCHED


def worth(rate: float, plain: float) -> bool:
    """Whether a round of this rate is to be preferred to plain decoding."""
    return rate > _GAIN * plain
