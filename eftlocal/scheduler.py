"""Continuous batching: many answers at once over one ensemble, joining and leaving between rounds.

Each step of the scheduler admits what waits, decodes a bounded part of the prompts that are still
to be read, and advances all other answers by one round. So a long prompt holds nobody up for
long, a finished answer's place is taken at once, and a prompt's beginning that another one shares
is decoded once and copied. Prompts and rounds are separate calls: a row's bits then depend less
on what else is decoded.

Who uses it (a batch, a server) adds calls and reads what `step` brings. Threads may share one: a
call is added at once, the other methods wait for the step that is being done.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from eftlocal.answer import Answer, AnswerStream
from eftlocal.arguments import checked
from eftlocal.bases import Closing
from eftlocal.decoding.ensemble import WORTH_COPYING
from eftlocal.decoding.sequence import RunningSequence, common
from eftlocal.emulator import Emulator
from eftlocal.errors import AnswerError, EftlocalError, EngineError, PromptError, UsageError
from eftlocal.generation import Step
from eftlocal.prompt.messages import Prompt
from eftlocal.prompt.reader import ReadPrompt
from eftlocal.speculation.measurement import rows_for

Work = Callable[[], Generator[int, None, Any]]
"""Begins something that decodes in a sequence of its own, in parts that end where it yields."""

_NEARLY = 0.95  # of the best rate: more sequences would take memory and time for little


@dataclass(eq=False)
class Call:
    """One answer that is asked for, or work in the place of one.

    Attributes:
        prompt, options: what `Emulator.stream` takes; the prompt may have been read already.
        work: what is done instead of an answer. It gets the next place that is free, and one part
            of it is done in each step.
        found: what the work returned.
        opening: what its place is taken by, until its prompt was scored where that is asked for.
        stream: the answer in the making, once it has a place; it may be read and closed at any
            time, and its dials turned, but only the scheduler advances it.
        owners: whose it is, from the widest on (a client, its request): who holds the fewest
            places gets the next.
        error: why there is no answer; the other calls go on.
    """

    prompt: Prompt | ReadPrompt
    options: Mapping[str, Any] = field(default_factory=dict)
    owners: tuple[Hashable, ...] = ()
    work: Work | None = None
    found: Any = None
    opening: Generator[int, None, Any] | None = None
    stream: AnswerStream | None = None
    error: EftlocalError | None = None
    ended: bool = False

    def answer(self) -> Answer:
        """What has come so far.

        Raises:
            PromptError, UsageError: the call was refused.
            AnswerError: its answer could not go on.
            UsageError: it has not begun.
        """
        if self.error is not None:
            raise self.error
        if self.stream is None:
            raise UsageError("the call has not begun; call step() of its scheduler")
        return self.stream.answer()


class CallStep(NamedTuple):
    """What a step brought one call: a token, or None where it ended without one."""

    call: Call
    step: Step | None


class Scheduler(Closing):
    """Advances many calls over one emulator, which nothing else may use meanwhile.

    Args:
        emulator: with no stream open.
        parallel: most answers at once; None is as many as the emulator was loaded for.
        prefill: about how many tokens of prompts are decoded between two rounds: more is more
            throughput, less a steadier flow of the running answers. None is as many as one call
            takes (n_batch): prompts are then read in the calls in which an answer alone reads them.

    Raises:
        UsageError: parallel or prefill is out of its range.
    """

    def __init__(
        self, emulator: Emulator, *, parallel: int | None = None, prefill: int | None = None
    ) -> None:
        places = emulator.ensemble.n_seq_max
        parallel = checked("parallel", parallel)
        if parallel is not None and parallel > places:
            raise UsageError(
                f"parallel is {parallel}; the emulator was loaded for 1 to {places} sequences"
            )
        self.emulator = emulator
        self.parallel: int = parallel or places
        self._prefill: int | None = checked("prefill", prefill)
        self._waiting: deque[Call] = deque()
        self._opening: list[Call] = []
        self._reading: list[Call] = []
        self._running: list[Call] = []

    @property
    def waiting(self) -> int:
        """Calls that have no place yet."""
        return len(self._waiting)

    @property
    def reading(self) -> int:
        """Calls whose prompts are not read yet."""
        return len(self._reading)

    @property
    def active(self) -> int:
        """Calls that have one."""
        return len(self._opening) + len(self._reading) + len(self._running)

    def __bool__(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._waiting) or self.active > 0

    def add(
        self, prompt: Prompt | ReadPrompt, *, owners: tuple[Hashable, ...] = (), **options: Any
    ) -> Call:
        """Asks for an answer; the other arguments are those of `Emulator.stream`."""
        return self._added(Call(prompt, options, owners))

    def add_work(self, work: Work, *, owners: tuple[Hashable, ...] = ()) -> Call:
        """Asks for some work between the rounds; the call's last step comes when it is done."""
        return self._added(Call("", owners=owners, work=work))

    def _added(self, call: Call) -> Call:
        self._waiting.append(call)
        return call

    def cancel(self, call: Call) -> None:
        """Ends a call here. What has come stays in its stream; an ended call stays as it is."""
        self.emulator.ensemble.alone(lambda: self._cancel(call))

    def _cancel(self, call: Call) -> None:
        if call in self._waiting:
            self._waiting.remove(call)
        if call in self._opening:
            self._opening.remove(call)
            if call.opening is not None:
                call.opening.close()
        if call.stream is not None:
            call.stream.close()
        call.ended = True
        self._drop_ended()

    def step(self) -> list[CallStep]:
        """Admits, reads prompts, and advances the running answers by one round.

        Interrupted or failing it can be called again: every answer is as it was, or advanced.

        Returns:
            what came, in the order of the answers' admission; an answer's last step has a
            finish_reason. A call that is refused, cannot go on, or is for its prompt's
            log-probabilities alone, ends without a step.

        Raises:
            EngineError: llama.cpp failed. All calls are kept.
        """
        return self.emulator.ensemble.alone(self._step)

    def _step(self) -> list[CallStep]:
        self._drop_ended()
        came = self._admit()
        self._close_gaps()
        self._read_prompts()
        if self._running:
            came += self._advance()
            # Taken one answer at a time: an interrupt here leaves the others' tokens pending.
            for call in self._running:
                came += [CallStep(call, step) for step in _stream(call).ready()]
        self._drop_ended()
        return came

    def _advance(self) -> list[CallStep]:
        """One round; gives the calls that it ended because their answers cannot go on."""
        try:
            self.emulator.rounds([_sequence(call) for call in self._running])
            return []
        except AnswerError:  # whose it is shows when each goes by itself
            return [CallStep(call, None) for call in self._running if not self._goes_on(call)]

    def _goes_on(self, call: Call) -> bool:
        try:
            self.emulator.rounds([_sequence(call)])
            return True
        except AnswerError as error:
            call.error, call.ended = error, True
            _stream(call).close()
            return False

    def close(self) -> None:
        """Ends all calls here."""
        for call in [*self._waiting, *self._opening, *self._reading, *self._running]:
            self.cancel(call)

    def _admit(self) -> list[CallStep]:
        ended = []
        left = self._prefill or math.inf  # tokens of prompts to be scored
        for call in list(self._opening):
            if left > 0:
                left, found = self._open(call, left)
                ended += found
        while self._waiting and self.active < self.parallel:
            call = self._next()
            self._opening.append(call)  # and then the other: an interrupt between loses none
            self._waiting.remove(call)
            left, found = self._open(call, left)
            ended += found
        return ended

    def _next(self) -> Call:
        """Work, or the waiting call whose owners hold the fewest places; of such, the oldest."""
        active = (*self._opening, *self._reading, *self._running)
        held = Counter(share for call in active for share in _shares(call))
        return min(
            self._waiting,
            key=lambda call: (call.work is None, [held[share] for share in _shares(call)]),
        )

    def _open(self, call: Call, left: float) -> tuple[float, list[CallStep]]:
        """Opens a call, which may score about so many tokens of its prompt; gives what is left of
        them, and the call where it has ended already."""
        try:
            while call.stream is None:
                done, count = self._advance_opening(call)
                left -= count
                if done:
                    break
                if call.work is not None:
                    return 0, []  # one part is enough for a step
                if left <= 0:
                    return left, []
        except (PromptError, UsageError) as error:
            call.error = error
        goes_on = call.error is None and call.work is None and _stream(call).open
        if goes_on and call not in (*self._reading, *self._running):
            self._reading.append(call)
        self._opening = [other for other in self._opening if other is not call]
        if goes_on or call.ended:
            return left, []
        call.ended = True
        return left, [CallStep(call, None)]

    def _advance_opening(self, call: Call) -> tuple[bool, int]:
        """One part of what is to be done first, or of work: whether that was the last one, and how
        many tokens it scored."""
        if call.opening is None:
            if not self.emulator.slots.make_free():
                raise EngineError("other threads' answers use all sequences; close one")
            begin = call.work or partial(self.emulator.opening, call.prompt, **call.options)
            call.opening = begin()
        opening, call.opening = call.opening, None  # an interrupt ends it: it begins anew
        try:
            count = next(opening)
        except StopIteration as end:
            if call.work is not None:
                call.found = end.value
            else:
                call.stream = end.value
                call.stream.reader = None
            return True, 0
        call.opening = opening
        return False, count

    def _close_gaps(self) -> None:
        """Moves the last answers into free slots before them: neighbours are decoded together."""
        ensemble = self.emulator.ensemble
        active = [_sequence(call) for call in (*self._reading, *self._running)]
        active.sort(key=lambda sequence: -sequence.slot)
        for sequence, slot in zip(active, ensemble.free, strict=False):
            if slot < sequence.slot:
                ensemble.move(sequence, slot)

    def _read_prompts(self) -> None:
        """Decodes prompts, up to a number of tokens."""
        ensemble = self.emulator.ensemble
        left = self._prefill or ensemble.n_batch
        before: list[RunningSequence] = []
        reading = list(self._reading)
        if self._prefill:  # a short one does not wait for a long one
            reading.sort(key=lambda call: ensemble.lacks(_sequence(call)))
        for call in reading:
            sequence = _sequence(call)
            if left > 0 and not self._prefix_is_being_read(sequence, before):
                ensemble.share(sequence)
                while left > 0 and (read := ensemble.prefill(sequence, self._prefill)):
                    left -= read
            if ensemble.lacks(sequence) <= 1:
                if call not in self._running:
                    self._running.append(call)
                self._reading.remove(call)
            else:
                before.append(sequence)

    def _prefix_is_being_read(
        self, sequence: RunningSequence, before: Sequence[RunningSequence]
    ) -> bool:
        """Whether a prompt that is being read will soon hold more of this one's beginning."""
        contexts = self.emulator.ensemble.contexts
        for other in before:
            for role in set(sequence.recipe.roles) & set(other.recipe.roles):
                same = common(other.prompts[role], sequence.prompts[role])
                held, theirs = (len(contexts[role].tokens(s.slot)) for s in (sequence, other))
                if theirs < same and held + WORTH_COPYING <= same:
                    return True
        return False

    def _drop_ended(self) -> None:
        """Lets go of calls that ended, whoever ended them."""
        for calls in (self._reading, self._running):
            for call in calls:
                call.ended = call.ended or not _stream(call).open
            calls[:] = [call for call in calls if not call.ended]


def best_parallel(emulator: Emulator) -> int:
    """Sequences to run side by side: the fewest that bring about the most tokens per second.

    From measured costs of decodes, which are measured now if they are not known; as many as the
    emulator was loaded for where they cannot be.
    """
    places, costs = emulator.ensemble.n_seq_max, emulator.measure()
    if costs is None:
        return places
    roles = emulator.defaults.recipe.roles
    counts = sorted({places, *(n for n in rows_for(places) if n <= places)})
    rates = {n: n / sum(costs(role, n) for role in roles) for n in counts}
    return min(n for n in counts if rates[n] >= _NEARLY * max(rates.values()))


def _shares(call: Call) -> list[tuple[Hashable, ...]]:
    return [call.owners[: i + 1] for i in range(len(call.owners))]


def _stream(call: Call) -> AnswerStream:
    assert call.stream is not None
    return call.stream


def _sequence(call: Call) -> RunningSequence:
    return _stream(call).sequence
