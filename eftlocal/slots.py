"""How threads and streams share an ensemble's sequences: who gets one, and who has to wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

from eftlocal.answer import AnswerStream
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import RunningSequence
from eftlocal.errors import EngineError

T = TypeVar("T")

_PAUSE = 0.005  # seconds between two looks for a slot that another thread has given back


class Slots:
    """The slots of an ensemble, and the streams that have them.

    Args:
        ensemble: whose `running` sequences say which slots are taken.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self.streams: WeakSet[AnswerStream] = WeakSet()

    def when_free(self, work: Callable[[], T]) -> T:
        """Runs `work`, which opens a sequence, once a slot is free, in `Ensemble.alone`."""
        found: list[T] = []

        def attempt() -> None:
            if self.make_free():
                found.append(work())

        while True:
            self._ensemble.alone(attempt)
            if found:
                return found[0]
            time.sleep(_PAUSE)

    def make_free(self) -> bool:
        """Frees a slot where none is free, by ending a stream that nobody reads any more.

        To be called inside `Ensemble.alone`.

        Returns:
            whether a slot is free now; if not, other threads have all of them for a while.

        Raises:
            EngineError: all are a scheduler's.
        """
        if self._ensemble.free:
            return True
        me = threading.current_thread()
        streams = {stream.sequence: stream for stream in self.streams}
        left: list[tuple[bool, float, RunningSequence]] = []
        for sequence in self._ensemble.running:
            stream = streams.get(sequence)
            # Other work is done alone: what it has left here was interrupted.
            abandoned = stream is None or stream.abandoned
            if abandoned or (stream is not None and stream.reader is me):
                left.append((not abandoned, stream.started if stream else 0.0, sequence))
        if left:
            self._ensemble.close(min(left, key=lambda one: one[:2])[2])
            return True
        if all(stream.reader is None for stream in streams.values() if stream.open):
            most = self._ensemble.n_seq_max
            raise EngineError(f"a scheduler uses all {most} sequences; add this call to it")
        return False
