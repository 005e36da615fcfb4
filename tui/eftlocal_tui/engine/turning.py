"""Dials that are turned while an answer is written, and the marks that tell of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from eftlocal.errors import EftlocalError
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine.answering import LocalAnswering
from eftlocal_tui.history import AnswerWriter

HELD = 1.0  # seconds; what is turned again sooner is one change: a key is held


class Turned(NamedTuple):
    """From here on the answer follows other dials: `beta 1 → 0.5`."""

    what: str
    again: bool  # this is told in the place of the one before


class Refused(NamedTuple):
    """The dials could not be turned as asked; the answer goes on."""

    why: str


class Turning:
    """Has an answer follow the dials, with one mark for each change that its text followed.

    Args:
        dials: those that the next token is to follow.
        tell: for the screen.
        clock: in seconds.
    """

    def __init__(
        self,
        answering: LocalAnswering,
        dials: Callable[[], Dials],
        writer: AnswerWriter,
        tell: Callable[[Turned | Refused], None],
        clock: Callable[[], float],
    ) -> None:
        self._answering, self._dials, self._writer = answering, dials, writer
        self._tell, self._clock = tell, clock
        self._asked = self._followed = answering.dials
        self._run = _Run(self._followed, 0, -math.inf)

    def look(self) -> None:
        """Before a token: it is to follow the dials as they are now."""
        new = self._dials()
        if new is not self._asked:
            self._asked = new
            try:
                self._answering.dials = new
            except EftlocalError as error:
                self._tell(Refused(str(error)))

    def came(self, text: str) -> None:
        """A token came, and is not written yet. One without text shows nothing to mark."""
        now = self._answering.dials
        if not text or now is self._followed:
            return
        # A seed that is set now belongs to the next answer.
        seed = self._followed.sampling.seed
        now = replace(now, sampling=replace(now.sampling, seed=seed))
        before, self._followed = self._followed, self._answering.dials
        changes = before.changes(now)
        if not changes:
            return
        moment, run = self._clock(), self._run
        again = moment - run.last < HELD
        if not again:
            run = _Run(before, self._writer.tokens, moment)
        self._run = run._replace(last=moment, names=(*run.names, *changes))
        what = self._run.told(now, self._writer.tokens)
        self._writer.mark(what, again=again)
        self._tell(Turned(what, again))


class _Run(NamedTuple):
    """Changes that are told as one: the dials before them, the token of the first, the time of
    the last, and which dials they turned."""

    before: Dials
    token: int
    last: float
    names: tuple[str, ...] = ()

    def told(self, now: Dials, token: int) -> str:
        names = ", ".join(dict.fromkeys(self.names))
        what = self.before.difference(now) or f"{names} turned and turned back"
        count = token - self.token
        return f"{what} over {count} token{'s' * (count != 1)}" if count else what
