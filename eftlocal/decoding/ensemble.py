"""The roles kept in step: slots, prefill, prefix reuse, rewinding. Token ids in, rows out.

Each role decodes what its cache *lacks* of a sequence, and drops what the sequence does not have.
Nothing else has to be remembered: a role whose weight was 0 for a while simply lacks more tokens
when it is needed again, a prompt is only a long lack, and a refused draft or an interrupted round
leaves tokens in a cache which the next decode drops. One sequence is a batch of one.

A slot belongs to the sequence that says so, as long as somebody holds that sequence and it is not
closed. There is no list of free slots to keep in step, so no interrupt can lose one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from eftlocal.decoding.passes import passes
from eftlocal.decoding.sequence import Point, RunningSequence, Told, Wanted, check_length, common
from eftlocal.decoding.translator import Translator, likely_tokens
from eftlocal.decoding.turns import Turns
from eftlocal.errors import EngineError
from eftlocal.llama import Check, Context, Span
from eftlocal.logits.combine import Combiner
from eftlocal.logits.recipe import BASE, Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.settings import MAX_DRAFT
from eftlocal.speculation.costs import LONGEST, Costs, Curve
from eftlocal.speculation.widths import Widths
from eftlocal.translation.spelling import Spelling
from eftlocal.translation.translation import Translation

Rows = NDArray[np.float32]
T = TypeVar("T")

WORTH_COPYING = 32  # tokens of a prompt whose decoding takes longer than to copy a slot's memory
_AT_RISK = 4 * MAX_DRAFT  # a cache differs from its sequence in drafts and tokens taken back only
_SPELLED = 1024  # and, in another vocabulary, in words that are not settled


class Ensemble:
    """One context per role, decoded in step.

    Args:
        contexts: per role, all with the same number of sequences. Closed by their owner.
        vocab_size: tokens of the common vocabulary; rows are cut to it.
        unusable: ids inside it that must never be chosen.
        stop_tokens: ids that end an answer, of all roles together.
        foreign: ids that mean something else to some roles; see `Combiner`.
        pool: threads in which roles can decode side by side, where devices or cores are idle.
        side_by_side: whether they do; it is worth measuring (`speculation.measurement`).
        widths: by role, the numbers of rows that its calls keep to; none is any number.
        translations: of roles that have another vocabulary.

    Attributes:
        observer: told the role, rows and seconds of each decode that had no prompt in it.
        costs: of a decode by its rows, in any unit, to divide work into calls and to pad them.
        check: called every few milliseconds while a prompt is decoded, by the decoding thread;
            what it raises ends the decode (on the CPU and Metal at once, else after the call) and
            loses nothing.
        on_read: told of a sequence before and after each call that reads a part of its prompts, or
            of a text that is scored; called by whichever threads decode, by several at once.
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
        widths: Mapping[str, Widths] | None = None,
        translations: Mapping[str, Translation] | None = None,
    ) -> None:
        self.contexts = dict(contexts)
        self.translations = dict(translations or {})
        self._translator = Translator(self)
        self.vocab_size = vocab_size
        self.stop_tokens = stop_tokens
        self.n_ctx = min(context.n_ctx for context in contexts.values())
        self.n_seq_max = min(context.n_seq_max for context in contexts.values())
        self._holders: list[Callable[[], RunningSequence | None]] = [lambda: None] * self.n_seq_max
        self._turns = Turns()
        self.unusable = np.asarray(sorted(unusable), dtype=np.intp)
        self.combine = Combiner(
            vocab_size,
            unusable=unusable,
            stop_tokens=sorted(stop_tokens),
            foreign=foreign,
            missing={role: each.rows.missing for role, each in self.translations.items()},
        )
        self.observer: Callable[[str, int, float], None] | None = None
        self.widths = dict(widths or {})
        # A typical shape: the weights are read once, and each row costs about a third of that.
        self.use(Costs({role: Curve({1: 4.0, 2: 5.0}) for role in self.contexts}))
        self.check: Check | None = None
        self.on_read: Told | None = None
        self._abandoned = False
        self._gathered: dict[str, Rows] = {}  # by role (rows, vocab), of decodes in several calls
        self.n_batch = min(context.n_batch for context in contexts.values())
        self.n_rows = min(context.n_rows for context in contexts.values())
        self.pool = pool
        self.side_by_side = side_by_side and pool is not None

    def use(self, costs: Costs) -> None:
        """Divides and pads calls by these costs from now on."""
        costs.restrict({role: widths.rows for role, widths in self.widths.items()})
        self.costs = costs

    def alone(self, work: Callable[[], T]) -> T:
        """Runs `work` while no other thread uses the contexts; see `Turns.alone`.

        Whoever needs the rows of several calls makes all of them inside one `work`.
        """
        return self._turns.alone(work)

    def end(self, free: Callable[[], object]) -> None:
        """Refuses all further work, in every thread; frees once nothing is being decoded."""
        self._turns.end(free)

    def open(
        self,
        prompts: Mapping[str, Sequence[int]],
        *,
        recipe: Recipe,
        sampling: Sampling,
        ends: frozenset[int] | None = None,
        **settings: Any,
    ) -> RunningSequence:
        """Takes a free slot, the one whose cache shares most with the prompts (or the first).

        What a cache holds beyond the shared prefix is dropped; nothing is decoded yet.

        Args:
            prompts: token ids for every role of the ensemble. Positions may differ.
            ends: None is the ensemble's stop tokens.
            settings: the other fields of `RunningSequence`.

        Raises:
            PromptError: a prompt is empty, or leaves no room for an answer in its context.
            EngineError: every slot is taken.
        """
        for role, context in self.contexts.items():
            check_length(role, prompts[role], context.n_ctx)
        free = self.free
        if not free:
            raise EngineError(f"all {self.n_seq_max} sequences are running; close one first")

        def shared(slot: int) -> int:
            each = self.contexts.items()
            return sum(common(context.tokens(slot), prompts[role]) for role, context in each)

        slot = max(free, key=lambda slot: (shared(slot), -slot))
        ends = self.stop_tokens if ends is None else ends
        settings["spellings"] = {r: Spelling(t.speller) for r, t in self.translations.items()}
        sequence = RunningSequence(slot, prompts, recipe, sampling, ends, **settings)
        for role, context in self.contexts.items():
            # One token at least must be decoded: its row predicts the first of the answer.
            keep = min(common(context.tokens(slot), prompts[role]), len(prompts[role]) - 1)
            if context.can_rewind(slot, keep):
                context.rewind(slot, keep)
            else:
                context.clear(slot)
            sequence.reused[role] = len(context.tokens(slot))
        self.share(sequence)
        self._holders[slot] = weakref.ref(sequence)
        return sequence

    def close(self, sequence: RunningSequence) -> None:
        """Gives the slot back; its caches stay for a later prompt with the same beginning.

        A second call does nothing. A sequence that nobody holds any more is closed.
        """
        sequence.closed = True

    def share(self, sequence: RunningSequence) -> None:
        """Copies the beginning of its prompts from slots that hold more of it than its own.

        To be called before its answer begins. Small gains are left alone: a copy takes the whole
        memory of a slot.
        """
        slot = sequence.slot
        for role, context in self.contexts.items():
            prompt, held = sequence.prompts[role], len(context.tokens(sequence.slot))
            shared = [common(context.tokens(s), prompt) for s in range(self.n_seq_max)]
            best = max(range(self.n_seq_max), key=shared.__getitem__)
            keep = min(shared[best], len(prompt) - 1)
            if keep - held >= WORTH_COPYING and context.can_rewind(best, keep):
                context.copy(best, slot)
                context.rewind(slot, keep)
                sequence.reused[role] += keep - held

    def prefill(self, sequence: RunningSequence, cut: int | None = None) -> int:
        """Makes the next call that reads its prompts, for each role that its recipe needs.

        The last token of a prompt is left to a round, which wants its row.

        Args:
            cut: the call ends at a multiple of so many tokens; None is n_batch.

        Returns:
            tokens decoded by the role that lacked most; 0 when only a round is left to do.
        """
        parts = {}
        for role in sequence.recipe.roles:
            context = self.contexts[role]
            held = len(context.tokens(sequence.slot))
            cut_at = min(cut or context.n_batch, context.n_batch)
            count = min(cut_at - held % cut_at, sequence.length(role) - 1 - held)
            if count > 0:
                parts[role] = sequence.given(role, held)[:count]
        self._each_role(lambda role: self._read(role, sequence, parts[role]), parts)
        return max(map(len, parts.values()), default=0)

    def lacks(self, sequence: RunningSequence) -> int:
        """The most tokens that any role of its recipe still has to decode."""
        held = {r: len(self.contexts[r].tokens(sequence.slot)) for r in sequence.recipe.roles}
        return max(sequence.length(role) - count for role, count in held.items())

    def clear(self) -> None:
        """Empties every cache; a running sequence is decoded anew when it goes on."""
        for context in self.contexts.values():
            for slot in range(context.n_seq_max):
                context.clear(slot)

    def move(self, sequence: RunningSequence, slot: int) -> None:
        """Moves a sequence to a free slot, with its caches."""
        if self._holder(slot) is not None:
            raise EngineError(f"slot {slot} is not free")
        for context in self.contexts.values():
            context.copy(sequence.slot, slot)
        self._holders[slot] = weakref.ref(sequence)
        sequence.slot = slot  # from here on it is there, and its old slot is free

    @property
    def free(self) -> list[int]:
        """The slots that no sequence has, in order."""
        return [slot for slot in range(self.n_seq_max) if self._holder(slot) is None]

    @property
    def running(self) -> list[RunningSequence]:
        """The sequences that are open, by their slots."""
        return [s for s in map(self._holder, range(self.n_seq_max)) if s is not None]

    def _holder(self, slot: int) -> RunningSequence | None:
        sequence = self._holders[slot]()
        if sequence is None or sequence.closed or sequence.slot != slot:
            return None
        return sequence

    def room(self, sequence: RunningSequence) -> int:
        """Tokens that can still be appended before some role's context is full; in another
        vocabulary they may be fewer, if they are long."""
        return max(0, min(self._left(role, sequence) for role in self.contexts))

    def safe_room(self, sequence: RunningSequence) -> int:
        """Tokens that can be appended whatever they are."""
        most = {role: translation.most for role, translation in self.translations.items()}
        rooms = (self._left(role, sequence) // most.get(role, 1) for role in self.contexts)
        return max(0, min(rooms))

    def _left(self, role: str, sequence: RunningSequence) -> int:
        return self.contexts[role].n_ctx - sequence.length(role)

    def decode(self, wanted: Mapping[str, Sequence[Wanted]]) -> dict[str, list[Rows]]:
        """Decodes for each role what its cache lacks of some sequences.

        Rows are valid until the role's next decode: views of llama.cpp's memory, or of the
        ensemble's where it took several calls. An exception leaves every cache such that the next
        decode mends it.

        Returns:
            per role, (rows, vocab) float32 for each sequence wanted, in their order.
        """
        parts = {role: some for role, some in wanted.items() if some}
        return self._each_role(lambda role: self._decode(role, parts[role]), parts)

    def refine(self, points: Sequence[Point]) -> None:
        """Improves translated rows that stand beside the base's, in place; see `Translator`."""
        reading = [role for role, each in self.translations.items() if each.candidates]
        points = [point for point in points if BASE in point.rows] if reading else []
        likely = [likely_tokens(point.rows[BASE]) for point in points]
        wanted = {
            role: [(p, ids) for p, ids in zip(points, likely, strict=True) if role in p.rows]
            for role in reading
        }
        parts = {role: some for role, some in wanted.items() if some}
        self._each_role(lambda role: self._translator.refine(role, parts[role]), parts)

    def _each_role(self, work: Callable[[str], T], roles: Collection[str]) -> dict[str, T]:
        """Runs `work` for each role, in parallel where that measured faster."""
        if self.pool is None or not self.side_by_side or len(roles) < 2:
            return {role: work(role) for role in roles}

        def watched(role: str) -> T:
            try:
                return work(role)
            except BaseException:
                self._abandoned = True  # the others end at once
                raise

        futures: dict[str, Future[T]] = {}
        try:
            for role in roles:
                futures[role] = self.pool.submit(watched, role)
            return {role: future.result() for role, future in futures.items()}
        except BaseException:
            self._abandoned = True
            raise
        finally:
            # A context must not be touched, nor closed, while a thread decodes with it.
            wait(futures.values())
            self._abandoned = False

    def _check(self) -> None:
        """Ends a long decode that nobody waits for any more, or that `check` ends."""
        if self._abandoned:
            raise EngineError("another role's decode has ended in an error")
        self._turns.refuse_if_ended()
        if self.check is not None:
            self.check()

    def _decode(self, role: str, wanted: Sequence[Wanted]) -> list[Rows]:
        """The rows wanted, (rows, vocab) float32 for each."""
        if role in self.translations:
            return self._translator.decode(role, wanted)
        return self.rows(role, [self._last_rows(role, each) for each in wanted])

    def rows(self, role: str, spans: Sequence[Span]) -> list[Rows]:
        """Decodes spans in as few calls as it takes; (rows, width) float32 for each."""
        turns = list(self._in_turn(role, spans))
        calls = self._calls(role, turns[0])
        if len(turns) == len(calls) == 1:
            found = dict(self._call(role, calls[0]))
            return [found[span.sequence] for span in spans]
        # llama.cpp's rows live until its next call.
        ends = list(accumulate(span.rows for span in spans))
        memory = self.memory(f"{role} itself", ends[-1], self._width(role))
        kept = {s.sequence: memory[end - s.rows : end] for s, end in zip(spans, ends, strict=True)}
        left = dict(kept)
        for some in turns:
            for call in calls if some is turns[0] else self._calls(role, some):
                for slot, rows in self._call(role, call):
                    left[slot][: len(rows)] = rows
                    left[slot] = left[slot][len(rows) :]
        return [kept[span.sequence] for span in spans]

    def _calls(self, role: str, spans: Sequence[Span]) -> list[list[Span]]:
        context = self.contexts[role]
        fixed = bool(context.cannot_rewind)
        return passes(
            spans,
            n_rows=context.n_rows,
            n_slots=context.n_seq_max,
            reach=lambda slot: 0 if fixed else context.n_ctx - len(context.tokens(slot)),
            cost=self.costs.curves[role],
        )

    def _call(self, role: str, call: Sequence[Span]) -> Iterator[tuple[int, Rows]]:
        """The slots of a call that have rows, and these (rows, vocab) float32."""
        context = self.contexts[role]
        began = context.clock()
        rows = context.decode(call, self._check)[:, : self._width(role)]
        if self.observer is not None:
            count = sum(len(span.tokens) + span.padding for span in call)
            self.observer(role, count, context.clock() - began)
        at = 0
        for span in call:
            if span.rows:
                yield span.sequence, rows[at : at + span.rows]
            at += span.rows

    def _in_turn(self, role: str, spans: Sequence[Span]) -> Iterator[list[Span]]:
        """Spans of tokens with a row each, in parts that one call can take."""
        if role not in self.widths:
            yield list(spans)
            return
        usable = [n for n in self.widths[role].rows if n <= LONGEST]
        while spans:
            counts = [max(n for n in usable if n <= span.rows) for span in spans]
            pairs = list(zip(spans, counts, strict=True))
            yield [s._replace(tokens=s.tokens[:count], rows=count) for s, count in pairs]
            spans = [
                s._replace(tokens=s.tokens[count:], rows=s.rows - count)
                for s, count in pairs
                if s.rows > count
            ]

    def _width(self, role: str) -> int:
        """Tokens of the role's own vocabulary."""
        return self.translations[role].width if role in self.translations else self.vocab_size

    def memory(self, name: str, rows: int, width: int = 0) -> Rows:
        """(rows, width) float32 of this name, overwritten by its next use; 0 is the vocabulary."""
        if name not in self._gathered or len(self._gathered[name]) < rows:
            shape = (rows, width or self.vocab_size)
            self._gathered[name] = np.empty(shape, dtype=np.float32)
        return self._gathered[name][:rows]

    def _last_rows(self, role: str, wanted: Wanted) -> Span:
        """The tokens whose rows are wanted, once the cache holds all that comes before them.

        What is read has calls of its own, which end at multiples of n_batch, so the rows depend
        neither on how much of it a cache already held nor on what a batch reads between rounds.
        """
        sequence, draft, rows = wanted
        length = sequence.length(role) + len(draft)
        return self.reach(role, sequence, lambda at: sequence.given(role, at, draft), length - rows)

    def reach(
        self,
        role: str,
        sequence: RunningSequence,
        given: Callable[[int], list[int]],
        end: int,
    ) -> Span:
        """The tokens after the first `end`, once the cache holds these."""
        context, slot = self.contexts[role], sequence.slot
        held = context.tokens(slot)
        tail = max(0, len(held) - (_SPELLED if role in self.translations else _AT_RISK))
        agreed = tail + common(held[tail:], given(tail))
        # Rows are given for tokens that are decoded now: take back those decoded before.
        keep = min(agreed, end)
        if context.can_rewind(slot, keep):
            context.rewind(slot, keep)
        else:
            context.clear(slot)
            keep = 0
        lacking = given(keep)
        self._read(role, sequence, lacking[: end - keep])
        wanted = lacking[end - keep :]
        return Span(slot, wanted, len(wanted))

    def _read(self, role: str, sequence: RunningSequence, tokens: Sequence[int]) -> None:
        """Decodes tokens of which no row is wanted."""
        context, widths, slot = self.contexts[role], self.widths.get(role), sequence.slot
        while tokens:
            held = len(context.tokens(slot))
            sequence.tell(role, held, self.on_read)
            count = min(len(tokens), context.n_batch - held % context.n_batch)
            if widths is not None:
                count = max(n for n in widths.reads if n <= count)
            context.decode([Span(slot, tokens[:count], 0)], self._check)
            sequence.tell(role, held + count, self.on_read)
            tokens = tokens[count:]
