"""One answer in the making: its prompts, its settings, and the tokens chosen so far. No model.

`RunningSequence.choices` is the one record of an answer; what caches hold of it is the matter of
the `Ensemble`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.drafting import SequenceDrafts
from eftlocal.speculation.settings import OFF, Speculation

Source = Literal["plain", "accepted", "recovered", "bonus"]
Mask = Callable[[Sequence[int]], NDArray[np.bool_]]


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
        top_logprobs: of how many tokens beside.
        drafting: what is known of its drafts.
        reused: tokens of each role's prompt that a cache already held.
        closed: its slot was given back.
    """

    slot: int
    prompts: Mapping[str, Sequence[int]]
    recipe: Recipe
    sampling: Sampling
    seed: int
    ends: frozenset[int]
    max_tokens: int | None = None
    mask: Mask | None = None
    speculation: Speculation = OFF
    logprobs: bool = False
    top_logprobs: int = 0
    drafting: SequenceDrafts = field(default_factory=SequenceDrafts)
    choices: list[Choice] = field(default_factory=list)
    reused: dict[str, int] = field(default_factory=dict)
    closed: bool = False

    def tokens(self, start: int = 0) -> list[int]:
        """Token ids of the answer from this index on (negative: that many of the last)."""
        return [choice.token for choice in self.choices[start:]]

    def length(self, role: str) -> int:
        """Tokens of the role's prompt and of the answer."""
        return len(self.prompts[role]) + len(self.choices)

    def given(self, role: str, start: int, draft: Sequence[int] = ()) -> list[int]:
        """Token ids of the role's prompt, the answer and a draft, from a position on."""
        prompt = self.prompts[role]
        beyond = max(0, start - len(prompt))
        drafted = draft[max(0, beyond - len(self.choices)) :]
        return [*prompt[start:], *self.tokens(beyond), *drafted]

    def cut(self, length: int) -> None:
        """Takes back the answer's tokens beyond a length."""
        if length < len(self.choices):
            self.drafting.lookup.clear()  # first: it is made again from what is there
            del self.choices[length:]

    def counts(self) -> Counter[int]:
        """How often each token occurs in the answer."""
        return Counter(choice.token for choice in self.choices)


class Wanted(NamedTuple):
    """The rows that follow the last `rows` tokens of a sequence and a draft after it."""

    sequence: RunningSequence
    draft: Sequence[int] = ()
    rows: int = 1


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
