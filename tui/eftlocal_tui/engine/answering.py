"""Answers of an `Emulator` as they come, one or several; what is read for them can be watched."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from eftlocal.answer import AnswerStream
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import RunningSequence
from eftlocal.generation import Step
from eftlocal.scheduler import Call, Scheduler
from eftlocal.thinking import Marks
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import Came, Live, Reading, Watch
from eftlocal_tui.history import figures_of


class LocalAnswering(Iterator[Step]):
    """An answer as it comes. Dials that are set hold from the next token."""

    def __init__(
        self, ensemble: Ensemble, stream: AnswerStream, dials: Dials, watch: Watch | None
    ) -> None:
        self._ensemble, self._stream = ensemble, stream
        self._dials, self._watch = dials, watch

    def __next__(self) -> Step:
        with watched(self._ensemble, self._watch):
            return next(self._stream)

    @property
    def dials(self) -> Dials:
        return self._dials

    @dials.setter
    def dials(self, dials: Dials) -> None:
        # A seed that is set or taken back in the middle belongs to the next answer.
        sampling = replace(dials.sampling, seed=self._stream.sampling.seed)
        if dials.recipe != self._dials.recipe:
            self._stream.recipe = dials.recipe
        if sampling != self._stream.sampling:
            self._stream.sampling = sampling
        self._stream.speculation = dials.speculation
        self._dials = dials

    @property
    def seed(self) -> int:
        return self._stream.seed

    @property
    def marks(self) -> Marks | None:
        """Of its thinking, where the prompt opened it, or a preset says them."""
        return self._stream.marks

    def live(self) -> Live:
        """Costs little more than reading it; still, not for every token."""
        return _live(self._ensemble, self._stream)

    def close(self) -> None:
        self._stream.close()


class LocalAnswers(Iterator[Came]):
    """Several answers that advance together. They take the places that are free; the others wait.
    What concerns one of them is told by `Came.error`; what is raised concerns all.

    Args:
        calls: of the scheduler, one an answer.
        held: closed with them.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        scheduler: Scheduler,
        calls: Sequence[Call],
        watch: Watch | None,
        held: ExitStack,
    ) -> None:
        self._ensemble, self._scheduler, self._calls = ensemble, scheduler, calls
        self._watch, self._held = watch, held
        self._came: deque[Came] = deque()

    def __next__(self) -> Came:
        while not self._came:
            if not self._scheduler:
                raise StopIteration
            if self._watch is not None:  # a step may read a part of a prompt and bring nothing
                self._watch.check()
            with watched(self._ensemble, self._watch):
                came = self._scheduler.step()
            for call, step in came:
                index = self._calls.index(call)
                error = "" if call.error is None else str(call.error)
                self._came.append(Came(index, step, error))
        return self._came.popleft()

    @property
    def marks(self) -> Marks | None:
        streams = (call.stream for call in self._calls)
        return next((stream.marks for stream in streams if stream is not None), None)

    def live(self, index: int) -> Live | None:
        """Figures of one of them; None where it has not begun."""
        stream = self._calls[index].stream
        return None if stream is None else _live(self._ensemble, stream)

    def close(self) -> None:
        self._came.clear()
        self._scheduler.close()
        self._held.close()


@contextmanager
def watched(
    ensemble: Ensemble, watch: Watch | None, roles: Sequence[str] | None = None
) -> Iterator[None]:
    """What is decoded in the block is ended by what `check` raises, and what is read is told.

    Args:
        roles: that read; None is those of the recipe.
    """
    if watch is not None:
        put = watch.put

        def tell(sequence: RunningSequence) -> None:
            put(_reading(ensemble, sequence, roles or sequence.recipe.roles))

        ensemble.check, ensemble.on_read = watch.check, tell
    try:
        yield
    finally:
        ensemble.check = ensemble.on_read = None


def _reading(ensemble: Ensemble, sequence: RunningSequence, roles: Sequence[str]) -> Reading:
    # What a role's token costs grows with its weights, so the pace is even from role to role.
    weights = {role: ensemble.contexts[role].model.weight_bytes for role in roles}
    read = {role: sequence.reading(role) for role in roles}
    longest = max(whole for _, whole in read.values())
    done = sum(weights[role] * count for role, (count, _) in read.items())
    total = sum(weights[role] * whole for role, (_, whole) in read.items())
    return Reading(longest * done // total, longest)


def _live(ensemble: Ensemble, stream: AnswerStream) -> Live:
    answer, contexts = stream.answer(), ensemble.contexts
    used = {role: stream.sequence.length(role) for role in contexts}
    fullest = max(used, key=lambda role: used[role] / contexts[role].n_ctx)
    return Live(
        figures=figures_of(answer),
        draft_length=answer.speculation.drafted_length,
        context_used=used[fullest],
        context_size=contexts[fullest].n_ctx,
    )
