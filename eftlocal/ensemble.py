"""The roles kept in step: slots, prefill, prefix reuse, rewinding. Token ids in, rows out.

Each role decodes what its cache *lacks* of a sequence, and drops what the sequence does not have.
Nothing else has to be remembered: a role whose weight was 0 for a while simply lacks more tokens
when it is needed again, a prompt is only a long lack, and a refused draft or an interrupted round
leaves tokens in a cache which the next decode drops. One sequence is a batch of one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.combine import Combiner
from eftlocal.distribution import Row
from eftlocal.errors import EngineError, PromptError
from eftlocal.llama import Context, Span
from eftlocal.recipe import Recipe
from eftlocal.sampling import Sampling
from eftlocal.speculation.drafting import Acceptance, SequenceDrafts
from eftlocal.speculation.settings import MAX_DRAFT, OFF, Speculation

Source = Literal["plain", "accepted", "recovered", "bonus"]
Mask = Callable[[Sequence[int]], NDArray[np.bool_]]
Rows = NDArray[np.float32]

_SCORED = 32  # rows of each role held at once while a given text is scored
_AT_RISK = 4 * MAX_DRAFT  # a cache differs from its sequence in drafts and tokens taken back only


@dataclass(frozen=True)
class Choice:
    """The token a round chose for a sequence.

    Attributes:
        token: its id.
        logprob: nats, under the combination at temperature 1 before penalties and filters;
            None unless asked for.
        source: "accepted" from a draft, "recovered" where a draft was refused, "bonus" after a
            draft that was accepted whole, "plain" where nothing was drafted.
    """

    token: int
    logprob: float | None = None
    source: Source = "plain"


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
        drafting: what is known of its drafts.
        reused: tokens of each role's prompt that its cache already held.
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
    drafting: SequenceDrafts = field(default_factory=SequenceDrafts)
    choices: list[Choice] = field(default_factory=list)
    reused: Mapping[str, int] = field(default_factory=dict)
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
            del self.choices[length:]
            self.drafting.lookup.clear()

    def counts(self) -> Counter[int]:
        """How often each token occurs in the answer."""
        return Counter(choice.token for choice in self.choices)


class Wanted(NamedTuple):
    """The rows that follow the last `rows` tokens of a sequence and a draft after it."""

    sequence: RunningSequence
    draft: Sequence[int] = ()
    rows: int = 1


class Ensemble:
    """One context per role, decoded in step.

    Args:
        contexts: per role, all with the same number of sequences. Closed by their owner.
        vocab_size: tokens of the common vocabulary; rows are cut to it.
        unusable: ids inside it that must never be chosen.
        stop_tokens: ids that end an answer, of all roles together.
        foreign: ids that mean something else to some roles; see `Combiner`.
        pool: threads in which roles can decode side by side, where devices or cores are idle.
        side_by_side: whether they do; it is worth measuring (`speculation.costs`).

    Attributes:
        observer: told the role, rows and seconds of each decode that had no prompt in it.
    """

    def __init__(
        self,
        contexts: Mapping[str, Context],
        *,
        vocab_size: int,
        unusable: Sequence[int] = (),
        stop_tokens: frozenset[int] = frozenset(),
        foreign: Sequence[int] = (),
        pool: ThreadPoolExecutor | None = None,
        side_by_side: bool = False,
    ) -> None:
        self.contexts = dict(contexts)
        self.vocab_size = vocab_size
        self.stop_tokens = stop_tokens
        self.n_ctx = min(context.n_ctx for context in contexts.values())
        self.n_seq_max = min(context.n_seq_max for context in contexts.values())
        self._free = list(range(self.n_seq_max))
        self.unusable = np.asarray(sorted(unusable), dtype=np.intp)
        self.combine = Combiner(
            vocab_size, unusable=unusable, stop_tokens=sorted(stop_tokens), foreign=foreign
        )
        self.observer: Callable[[str, int, float], None] | None = None
        self.n_batch = min(context.n_batch for context in contexts.values())
        self.pool = pool
        self.side_by_side = side_by_side and pool is not None

    def open(
        self,
        prompts: Mapping[str, Sequence[int]],
        *,
        recipe: Recipe,
        sampling: Sampling,
        seed: int = 0,
        max_tokens: int | None = None,
        mask: Mask | None = None,
        speculation: Speculation = OFF,
        acceptance: Acceptance | None = None,
        ends: frozenset[int] | None = None,
    ) -> RunningSequence:
        """Takes a free slot, the one whose cache shares most with the prompts.

        What a cache holds beyond the shared prefix is dropped; nothing is decoded yet.

        Args:
            prompts: token ids for every role of the ensemble. Positions may differ.
            acceptance: what earlier sequences of its kind taught; None knows nothing yet.
            ends: None is the ensemble's stop tokens.
            others: see `RunningSequence`.

        Raises:
            PromptError: a prompt is empty, or leaves no room for an answer in its context.
            EngineError: every slot is taken.
        """
        for role, context in self.contexts.items():
            if not prompts[role]:
                raise PromptError(f"the prompt of {role} is empty; give at least one token")
            if len(prompts[role]) >= context.n_ctx:
                raise PromptError(
                    f"the prompt of {role} has {len(prompts[role])} tokens and its context holds "
                    f"{context.n_ctx}, answer included; shorten the prompt or raise n_ctx"
                )
        if not self._free:
            raise EngineError(f"all {self.n_seq_max} sequences are running; close one first")
        slot = max(self._free, key=lambda free: self._shared(free, prompts))
        reused = {}
        for role, context in self.contexts.items():
            # One token at least must be decoded: its row predicts the first of the answer.
            keep = min(_common(context.tokens(slot), prompts[role]), len(prompts[role]) - 1)
            if context.can_rewind(slot, keep):
                context.rewind(slot, keep)
            else:
                context.clear(slot)
            reused[role] = len(context.tokens(slot))
        sequence = RunningSequence(
            slot,
            prompts,
            recipe,
            sampling,
            seed,
            self.stop_tokens if ends is None else ends,
            max_tokens=max_tokens,
            mask=mask,
            speculation=speculation,
            drafting=SequenceDrafts(acceptance or Acceptance()),
            reused=reused,
        )
        self._free.remove(slot)
        return sequence

    def close(self, sequence: RunningSequence) -> None:
        """Gives the slot back; its caches stay for a later prompt with the same beginning.

        A second call does nothing.
        """
        if not sequence.closed:
            sequence.closed = True
            self._free.append(sequence.slot)

    @property
    def running(self) -> bool:
        """Whether any sequence is open."""
        return len(self._free) < self.n_seq_max

    def room(self, sequence: RunningSequence) -> int:
        """Tokens that can still be appended before some role's context is full."""
        return min(context.n_ctx - sequence.length(role) for role, context in self.contexts.items())

    def decode(self, wanted: Mapping[str, Sequence[Wanted]]) -> dict[str, list[Rows]]:
        """Decodes for each role what its cache lacks of some sequences.

        Rows are views of llama.cpp's memory where one call sufficed: valid until the role's next
        decode. An exception leaves every cache such that the next decode mends it.

        Returns:
            per role, (rows, vocab) float32 for each sequence wanted, in their order.
        """
        parts = [(role, some) for role, some in wanted.items() if some]
        if self.pool is None or not self.side_by_side or len(parts) < 2:
            return {role: self._decode(role, some) for role, some in parts}
        futures: dict[str, Future[list[Rows]]] = {}
        try:
            for role, some in parts:
                futures[role] = self.pool.submit(self._decode, role, some)
            return {role: future.result() for role, future in futures.items()}
        finally:
            # A context must not be touched, nor closed, while a thread decodes with it.
            wait(futures.values())

    def score(
        self, sequence: RunningSequence, tokens: Sequence[int]
    ) -> Iterator[tuple[int, Row, Mapping[str, Row]]]:
        """Appends given tokens; for each yields it with the rows that stood before it.

        Yields:
            (token, combined row (vocab,) float32, each role's row (vocab,) float32), the rows
            valid until the next one.
        """
        count = min(_SCORED, self.n_batch)
        for start in range(0, len(tokens), count):
            chunk = tokens[start : start + count]
            first = len(sequence.choices)
            sequence.choices.extend(Choice(token) for token in chunk[:-1])
            wanted = [Wanted(sequence, rows=len(chunk))]
            of_roles = self.decode(dict.fromkeys(sequence.recipe.roles, wanted))
            for i, token in enumerate(chunk):
                rows = {role: r[i] for role, (r,) in of_roles.items()}
                yield token, self.combine(rows, sequence.recipe.at(first + i)), rows
            sequence.choices.append(Choice(chunk[-1]))

    def _decode(self, role: str, wanted: Sequence[Wanted]) -> list[Rows]:
        context = self.contexts[role]
        spans = [_lacking(context, role, w) for w in wanted]
        began = time.perf_counter()
        rows = _decode_spans(context, spans)
        if self.observer is not None and all(len(s.tokens) == s.rows for s in spans):
            self.observer(role, sum(s.rows for s in spans), time.perf_counter() - began)
        return [r[:, : self.vocab_size] for r in rows]

    def _shared(self, slot: int, prompts: Mapping[str, Sequence[int]]) -> int:
        return sum(
            _common(context.tokens(slot), prompts[role]) for role, context in self.contexts.items()
        )


def _lacking(context: Context, role: str, wanted: Wanted) -> Span:
    """What a cache lacks, after it was cut back to where it agrees with its sequence."""
    sequence, draft, rows = wanted
    held = context.tokens(sequence.slot)
    tail = max(0, len(held) - _AT_RISK)
    agreed = tail + _common(held[tail:], sequence.given(role, tail, draft))
    # Rows are given for tokens that are decoded now: take back those decoded before.
    keep = min(agreed, sequence.length(role) + len(draft) - rows)
    if context.can_rewind(sequence.slot, keep):
        context.rewind(sequence.slot, keep)
    else:
        context.clear(sequence.slot)
        keep = 0
    return Span(sequence.slot, sequence.given(role, keep, draft), rows)


def _decode_spans(context: Context, spans: Sequence[Span]) -> list[Rows]:
    """Decodes spans in as few calls as the batch allows; (rows, vocab) float32 for each."""
    ready, room = [], context.n_batch
    for span in spans:
        cut = max(0, len(span.tokens) - room)
        for start in range(0, cut, room):
            context.decode([Span(span.sequence, span.tokens[start : min(start + room, cut)], 0)])
        ready.append(Span(span.sequence, span.tokens[cut:], span.rows))
    calls: list[list[Span]] = [[]]
    for span in ready:
        if sum(len(s.tokens) for s in calls[-1]) + len(span.tokens) > room:
            calls.append([])
        calls[-1].append(span)
    found: list[Rows] = []
    for call in calls:
        rows, at = context.decode(call), 0
        if len(calls) > 1:  # rows live until the next call
            rows = rows.copy()
        for span in call:
            found.append(rows[at : at + span.rows])
            at += span.rows
    return found


def _common(held: Sequence[int], wanted: Sequence[int]) -> int:
    """Length of the common prefix."""
    for i, (a, b) in enumerate(zip(held, wanted, strict=False)):
        if a != b:
            return i
    return min(len(held), len(wanted))
