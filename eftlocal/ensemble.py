"""The roles kept in step: prefill, prefix reuse, rounds, rewinding. Token ids in, token ids out.

A *round* advances every sequence it is given. Each role decodes what its cache lacks of a
sequence, the combiner makes one row of the roles' rows, and a token is drawn and appended to
the sequence, which is how all roles are fed it. Nothing else has to be remembered: a role whose
weight was 0 for a while simply lacks more tokens when it is needed again, and a prompt is only a
long lack. One sequence is a batch of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eftlocal.combine import Combiner
from eftlocal.distribution import Row, log_sum_exp
from eftlocal.errors import EngineError, PromptError
from eftlocal.llama import Context, Span
from eftlocal.recipe import Recipe
from eftlocal.sampling import Filters, Sampling, draw, penalise

_SCORED = 32  # rows of each role held at once while a given text is scored


@dataclass(frozen=True)
class Choice:
    """The token a round chose for a sequence.

    Attributes:
        token: its id.
        logprob: nats, under the combination at temperature 1 before penalties and filters;
            None unless asked for.
        source: "plain" where nothing was drafted.
    """

    token: int
    logprob: float | None = None
    source: str = "plain"


@dataclass(eq=False)
class RunningSequence:
    """One sequence of the ensemble: what each role was given, and the answer they share.

    `recipe` and `sampling` may be changed between rounds; the next token follows the new ones.
    `choices` is the one record of the answer: a token is in it or was never chosen.
    """

    slot: int
    prompts: Mapping[str, Sequence[int]]
    recipe: Recipe
    sampling: Sampling
    seed: int
    choices: list[Choice] = field(default_factory=list)
    reused: Mapping[str, int] = field(default_factory=dict)
    """Tokens of each role's prompt that its cache already held."""

    def tokens(self, start: int = 0) -> list[int]:
        """Token ids of the answer from this index on (negative: that many of the last)."""
        return [choice.token for choice in self.choices[start:]]

    def counts(self) -> Counter[int]:
        """How often each token occurs in the answer."""
        return Counter(choice.token for choice in self.choices)


class Ensemble:
    """One context per role, decoded in step.

    Args:
        contexts: per role, all with the same number of sequences. Closed by their owner.
        vocab_size: tokens of the common vocabulary; rows are cut to it.
        unusable: ids inside it that must never be chosen.
        stop_tokens: ids that end an answer, of all roles together.
    """

    def __init__(
        self,
        contexts: Mapping[str, Context],
        *,
        vocab_size: int,
        unusable: Sequence[int] = (),
        stop_tokens: frozenset[int] = frozenset(),
    ) -> None:
        self.contexts = dict(contexts)
        self.vocab_size = vocab_size
        self.stop_tokens = stop_tokens
        self.n_ctx = min(context.n_ctx for context in contexts.values())
        self.n_seq_max = min(context.n_seq_max for context in contexts.values())
        self._free = list(range(self.n_seq_max))
        self.unusable = np.asarray(sorted(unusable), dtype=np.intp)
        self._combine = Combiner(vocab_size, unusable=unusable, stop_tokens=sorted(stop_tokens))
        self._filter = Filters(vocab_size)
        self._scratch = np.empty(vocab_size, dtype=np.float32)

    def open(
        self,
        prompts: Mapping[str, Sequence[int]],
        *,
        recipe: Recipe,
        sampling: Sampling,
        seed: int = 0,
    ) -> RunningSequence:
        """Takes a free slot, the one whose cache shares most with the prompts.

        What a cache holds beyond the shared prefix is dropped; nothing is decoded yet.

        Args:
            prompts: token ids for every role of the ensemble. Positions may differ.

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
        sequence = RunningSequence(slot, prompts, recipe, sampling, seed, reused=reused)
        self._free.remove(slot)
        return sequence

    def close(self, sequence: RunningSequence) -> None:
        """Gives the slot back; its caches stay for a later prompt with the same beginning."""
        self._free.append(sequence.slot)

    def room(self, sequence: RunningSequence) -> int:
        """Tokens that can still be appended before some role's context is full."""
        return min(
            context.n_ctx - len(sequence.prompts[role]) - len(sequence.choices)
            for role, context in self.contexts.items()
        )

    def round(
        self, sequences: Sequence[RunningSequence], *, logprobs: bool = False
    ) -> list[list[Choice]]:
        """Advances every sequence; returns the tokens chosen and appended for each.

        Interrupted or failing, it leaves each sequence either as it was or advanced.
        """
        rows = self._rows(sequences, 1)
        choices = []
        for sequence, of_roles in zip(sequences, rows, strict=True):
            row = self._combine({role: r[0] for role, r in of_roles.items()}, sequence.recipe)
            normaliser = log_sum_exp(row, self._scratch) if logprobs else None
            unpenalised = row.copy() if logprobs and sequence.sampling.penalised else row
            if sequence.sampling.penalised:
                penalise(row, sequence.sampling, sequence.counts())
            candidates = self._filter(row, sequence.sampling)
            token = draw(candidates, sequence.seed, len(sequence.choices))
            logprob = None if normaliser is None else float(unpenalised[token]) - normaliser
            choices.append([Choice(token, logprob)])
        for sequence, chosen in zip(sequences, choices, strict=True):
            sequence.choices.extend(chosen)
        return choices

    def score(
        self, sequence: RunningSequence, tokens: Sequence[int]
    ) -> Iterator[tuple[int, Row, Mapping[str, Row]]]:
        """Appends given tokens; for each yields it with the rows that stood before it.

        Yields:
            (token, combined row (vocab,) float32, each role's row (vocab,) float32), the rows
            valid until the next one.
        """
        count = min(_SCORED, *(context.n_batch for context in self.contexts.values()))
        for start in range(0, len(tokens), count):
            chunk = tokens[start : start + count]
            sequence.choices.extend(Choice(token) for token in chunk[:-1])
            (of_roles,) = self._rows([sequence], len(chunk))
            for i, token in enumerate(chunk):
                rows = {role: r[i] for role, r in of_roles.items()}
                yield token, self._combine(rows, sequence.recipe), rows
            sequence.choices.append(Choice(chunk[-1]))

    def _rows(
        self, sequences: Sequence[RunningSequence], count: int
    ) -> list[dict[str, NDArray[np.float32]]]:
        """For each sequence, (count, vocab) float32 per role of its recipe: the rows that
        follow its last `count` tokens."""
        rows: list[dict[str, NDArray[np.float32]]] = [{} for _ in sequences]
        for role, context in self.contexts.items():
            taking_part = [i for i, s in enumerate(sequences) if role in s.recipe.roles]
            if taking_part:
                found = _decode_lacking(context, role, [sequences[i] for i in taking_part], count)
                for i, of_sequence in zip(taking_part, found, strict=True):
                    rows[i][role] = of_sequence[:, : self.vocab_size]
        return rows

    def _shared(self, slot: int, prompts: Mapping[str, Sequence[int]]) -> int:
        return sum(
            _common(context.tokens(slot), prompts[role]) for role, context in self.contexts.items()
        )


def _decode_lacking(
    context: Context, role: str, sequences: Sequence[RunningSequence], count: int
) -> list[NDArray[np.float32]]:
    """Decodes what a role's cache lacks of each sequence, in as few calls as its batch allows.

    Returns (count, vocab) float32 per sequence, views of llama.cpp's memory where one call
    sufficed.
    """
    lacking: list[Span] = []
    for sequence in sequences:
        held = len(context.tokens(sequence.slot))
        prompt = sequence.prompts[role]
        whole = [*prompt[held:], *sequence.tokens(max(0, held - len(prompt)))]
        if len(whole) < count:  # the rows are of tokens decoded before: take those back
            kept = held - count + len(whole)
            if context.can_rewind(sequence.slot, kept):
                context.rewind(sequence.slot, kept)
            else:
                context.clear(sequence.slot)
            whole = [*prompt, *sequence.tokens()][len(context.tokens(sequence.slot)) :]
        lacking.append(Span(sequence.slot, whole, count))

    if sum(len(span.tokens) for span in lacking) <= context.n_batch:
        rows = context.decode(lacking)
        return [rows[i * count : (i + 1) * count] for i in range(len(lacking))]
    copied = []
    for span in lacking:
        # Rows live until the next call, so with several calls they are copied out.
        head, tail = list(span.tokens[:-count]), span.tokens[-count:]
        spare = context.n_batch - len(tail)  # the last call carries the tail and some head
        cut = max(0, len(head) - spare)
        for start in range(0, cut, context.n_batch):
            context.decode(
                [Span(span.sequence, head[start : min(start + context.n_batch, cut)], 0)]
            )
        copied.append(context.decode([Span(span.sequence, [*head[cut:], *tail], count)]).copy())
    return copied


def _common(held: Sequence[int], wanted: Sequence[int]) -> int:
    """Length of the common prefix."""
    for i, (a, b) in enumerate(zip(held, wanted, strict=False)):
        if a != b:
            return i
    return min(len(held), len(wanted))
