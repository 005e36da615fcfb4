"""One answer in the making: its prompts, its settings, the tokens chosen so far, and its turn in a
round. No model.

`RunningSequence.choices` is the one record of an answer; what caches hold of it is the matter of
the `Ensemble`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import PromptError, TooLongError
from eftlocal.logits.candidates import Candidates
from eftlocal.logits.distribution import Row
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.drafting import Plan, SequenceDrafts
from eftlocal.speculation.rules import Draft
from eftlocal.speculation.settings import OFF, Speculation
from eftlocal.translation.spelling import Place, Spelling

Source = Literal["plain", "accepted", "recovered", "bonus"]
Mask = Callable[[Sequence[int]], NDArray[np.bool_]]
Told = Callable[["RunningSequence"], object]


@dataclass(frozen=True)
class Choice:
    """The token a round chose for a sequence.

    Attributes:
        token: its id.
        logprob: nats, under the combination at temperature 1 before penalties and filters;
            None unless asked for.
        top: the most probable tokens there with theirs, as many as were asked for.
        source: "accepted" from a draft, "recovered" where a draft was refused, "bonus" after a
            draft that was accepted whole, "plain" where nothing was drafted.
    """

    token: int
    logprob: float | None = None
    source: Source = "plain"
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class RunningSequence:
    """One sequence of the ensemble: what each role was given, and the answer they share.

    `choices` is the one record of the answer: a token is in it or was never chosen, and its last
    tokens may be taken back. All settings may be changed between rounds; the next token follows
    the new ones.

    Attributes:
        prompts: token ids for every role; positions differ where lengths do.
        max_tokens: how long the answer may become; drafts do not go beyond it.
        ends: token ids that end the answer.
        mask: which tokens may follow the answer's tokens, (>= vocab,) bool; None is all.
        speculation: how drafts are made for it.
        logprobs: whether its choices carry log-probabilities.
        top_logprobs: how many of the most probable tokens they carry, too.
        drafting: what is known of its drafts.
        reused: tokens of each role's prompt that a cache already held.
        scored: tokens of a given text after its prompts, of which the rows are wanted.
        read: tokens that a role's cache held when that was told last (`Ensemble.on_read`).
        spellings: of roles with another vocabulary: their own tokens of the answer.
        closed: its slot was given back.
    """

    slot: int
    prompts: Mapping[str, Sequence[int]]
    recipe: Recipe
    sampling: Sampling
    ends: frozenset[int]
    seed: int = 0
    max_tokens: int | None = None
    mask: Mask | None = None
    speculation: Speculation = OFF
    logprobs: bool = False
    top_logprobs: int = 0
    drafting: SequenceDrafts = field(default_factory=SequenceDrafts)
    choices: list[Choice] = field(default_factory=list)
    reused: dict[str, int] = field(default_factory=dict)
    scored: int = 0
    read: dict[str, int] = field(default_factory=dict)
    spellings: Mapping[str, Spelling] = field(default_factory=dict)
    closed: bool = False

    def tokens(self, start: int = 0) -> list[int]:
        """Token ids of the answer from this index on (negative: that many of the last)."""
        return [choice.token for choice in self.choices[start:]]

    def length(self, role: str) -> int:
        """Tokens of the role's prompt and of the answer, in its vocabulary."""
        if role in self.spellings:
            return len(self.prompts[role]) + self.places(role, 1)[0].length
        return len(self.prompts[role]) + len(self.choices)

    def pieces(self) -> dict[str, int]:
        """By role of another vocabulary, about how many of its tokens one of the answer takes."""
        count = max(1, len(self.choices))
        lengths = {role: self.places(role, 1)[0].length for role in self.spellings}
        return {role: max(1, round(length / count)) for role, length in lengths.items()}

    def places(self, role: str, count: int, draft: Sequence[int] = ()) -> list[Place]:
        """Where a role of another vocabulary stands after the answer and a draft: the last
        `count` places."""
        spelling = self.spellings[role]
        spelling.extend(self.tokens(len(spelling)))
        return spelling.last(count, draft)

    def tell(self, role: str, held: int, told: Told | None) -> None:
        """Notes the tokens that a role's cache holds while it reads, and tells it."""
        if told is not None:
            self.read[role] = held
            told(self)

    def reading(self, role: str) -> tuple[int, int]:
        """Tokens that the role has read of its prompt and of a text that is scored, and all."""
        whole = len(self.prompts[role]) + self.scored
        return min(self.read.get(role, self.reused.get(role, 0)), whole), whole

    def given(self, role: str, start: int, draft: Sequence[int] = ()) -> list[int]:
        """Token ids of the role's prompt, the answer and a draft, from a position on."""
        prompt = self.prompts[role]
        beyond = max(0, start - len(prompt))
        if role in self.spellings:
            return [*prompt[start:], *self.places(role, 1, draft)[0].tokens(beyond)]
        drafted = draft[max(0, beyond - len(self.choices)) :]
        return [*prompt[start:], *self.tokens(beyond), *drafted]

    def cut(self, length: int) -> None:
        """Takes back the answer's tokens beyond a length."""
        if length < len(self.choices):
            self.drafting.lookup.clear()  # first: it is made again from what is there
            for spelling in self.spellings.values():
                spelling.cut(length)
            del self.choices[length:]


@dataclass(eq=False)
class Turn:
    """What a round knows of one sequence.

    Attributes:
        recipe: of the first token to come; a schedule may change it for the later ones.
        most: longest draft that fits, in tokens.
        plan: costs that decide the length; None where it is given.
        drafter: the recipe whose rows drafts are drawn from; None where there are none.
        writer: the role of another vocabulary whose own text is drafted; see `Writer`.
        drafts: (k,) drafted tokens, in order, each with what it was drawn from.
        tokens: (k,) their ids.
        confidences: (k,) how sure the drafting model was of each, 0 to 1; none of what was found.
        chances: expected chance that all drafts so far are accepted.
        expected: tokens that the round is expected to bring.
        found: token ids that a lookup proposes, used or not.
        agreed: tokens that agreed before it.
        rows: (<= k + 1,) positions from the first token to come on; at each, the rows at hand by
            role, (vocab,) float32. Row i stands before draft i, row k before the bonus.
        choices: what was chosen, 1 to k + 1 tokens.
    """

    sequence: RunningSequence
    recipe: Recipe
    most: int = 0
    plan: Plan | None = None
    drafter: Recipe | None = None
    writer: str | None = None
    drafts: list[Draft] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    chances: float = 1.0
    expected: float = 1.0
    found: list[int] = field(default_factory=list)
    agreed: int = 0
    rows: list[dict[str, Row]] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)

    @cached_property
    def counts(self) -> Counter[int]:
        """How often each token occurs in the answer before this round."""
        return Counter(self.sequence.tokens())

    @property
    def accepted(self) -> int:
        """How many drafts were accepted."""
        return sum(choice.source == "accepted" for choice in self.choices)

    def complete(self, position: int) -> bool:
        """Whether all rows of a position are at hand that the recipe needs."""
        return set(self.recipe.roles) <= self.rows[position].keys()

    def draft(self, token: int, candidates: Candidates | None) -> None:
        """Appends a draft; see `Draft`."""
        self.drafts.append(Draft(token, candidates))
        self.tokens.append(token)

    def propose(self, tokens: Iterable[int]) -> None:
        """Drafts given tokens, up to what would end the answer."""
        for token in tokens:
            self.draft(token, None)
            if token in self.sequence.ends:
                break

    def add_rows(self, role: str, rows: Iterable[Row], first: int) -> None:
        """Rows (vocab,) of a role, from a position on."""
        for position, row in enumerate(rows, first):
            while len(self.rows) <= position:
                self.rows.append({})
            self.rows[position][role] = row


class Wanted(NamedTuple):
    """The rows that follow the last `rows` tokens of a sequence and a draft after it."""

    sequence: RunningSequence
    draft: Sequence[int] = ()
    rows: int = 1


class Point(NamedTuple):
    """A place of a sequence and a draft after it, where rows are at hand.

    Attributes:
        back: which of the last places it is, from 1 for the one after the whole draft.
        rows: (vocab,) by role.
    """

    sequence: RunningSequence
    draft: Sequence[int]
    back: int
    rows: Mapping[str, Row]


def common(held: Sequence[int], wanted: Sequence[int]) -> int:
    """Length of the common prefix."""
    held, wanted = list(held), list(wanted)
    low, high = 0, min(len(held), len(wanted))
    if held[:high] == wanted[:high]:
        return high
    while high - low > 1:  # the first `low` agree, the first `high` do not
        middle = (low + high) // 2
        if held[low:middle] == wanted[low:middle]:
            low = middle
        else:
            high = middle
    return low


def check_length(role: str, prompt: Sequence[int], n_ctx: int) -> None:
    """Raises PromptError for a prompt that is empty, or leaves no room for an answer."""
    if not prompt:
        raise PromptError(f"the prompt of {role} is empty; give at least one token")
    if len(prompt) >= n_ctx:
        raise TooLongError(
            f"the prompt of {role} has {len(prompt)} tokens and its context holds {n_ctx}, answer "
            "included; shorten the prompt or raise n_ctx",
            role,
            len(prompt),
        )
