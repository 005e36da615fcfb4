"""Answers of an emulator as the screens see them: one by itself, or several advancing together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from eftlocal.answer import AnswerStream
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.emulator import Emulator
from eftlocal.generation import Step
from eftlocal.prompt.messages import Message
from eftlocal.scheduler import Scheduler
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine.protocol import Came, Check, Live, Piece
from eftlocal_tui.history import figures_of


class LocalAnswering:
    """See `protocol.Answering`."""

    def __init__(
        self, emulator: Emulator, stream: AnswerStream, dials: Dials, check: Check | None
    ) -> None:
        self._ensemble = emulator.ensemble
        self._stream = stream
        self._dials = dials
        self._check = check

    def __iter__(self) -> LocalAnswering:
        return self

    def __next__(self) -> Piece:
        with checked(self._ensemble, self._check):
            return _piece(next(self._stream))

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

    def live(self) -> Live:
        return _live(self._ensemble, self._stream)

    def close(self) -> None:
        self._stream.close()


class LocalAnswers:
    """See `protocol.Answers`. They take the places that are free; the others wait.

    Args:
        options: what each is given, as in `Emulator.stream`.
        held: closed with them.
    """

    def __init__(
        self,
        emulator: Emulator,
        messages: Sequence[Message],
        options: Sequence[Mapping[str, Any]],
        check: Check | None,
        held: ExitStack,
    ) -> None:
        self._ensemble = emulator.ensemble
        self._check = check
        self._held = held
        self._scheduler = Scheduler(emulator, parallel=len(self._ensemble.free))
        self._calls = [self._scheduler.add(list(messages), **one) for one in options]
        self._came: deque[Came] = deque()

    def __iter__(self) -> LocalAnswers:
        return self

    def __next__(self) -> Came:
        while not self._came:
            if not self._scheduler:
                raise StopIteration
            if self._check is not None:  # a step may read a part of a prompt and bring nothing
                self._check()
            with checked(self._ensemble, self._check):
                came = self._scheduler.step()
            for call, step in came:
                index = self._calls.index(call)
                error = "" if call.error is None else str(call.error)
                self._came.append(Came(index, None if step is None else _piece(step), error))
        return self._came.popleft()

    def live(self, index: int) -> Live | None:
        stream = self._calls[index].stream
        return None if stream is None else _live(self._ensemble, stream)

    def close(self) -> None:
        self._came.clear()
        self._scheduler.close()
        self._held.close()


@contextmanager
def checked(ensemble: Ensemble, check: Check | None) -> Iterator[None]:
    """What is decoded in the block is ended by what `check` raises."""
    ensemble.check = check
    try:
        yield
    finally:
        ensemble.check = None


def _piece(step: Step) -> Piece:
    return Piece(step.text, step.token, step.source, step.finish_reason)


def _live(ensemble: Ensemble, stream: AnswerStream) -> Live:
    answer, contexts = stream.answer(), ensemble.contexts
    used = {role: n + answer.timing.tokens for role, n in answer.timing.prompt_tokens.items()}
    fullest = max(used, key=lambda role: used[role] / contexts[role].n_ctx)
    return Live(
        figures=figures_of(answer),
        draft_length=answer.speculation.drafted_length,
        context_used=used[fullest],
        context_size=contexts[fullest].n_ctx,
    )
