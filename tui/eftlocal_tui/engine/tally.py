"""What the thinking of an answer takes, counted while it comes."""

from __future__ import annotations

from collections.abc import Callable

from eftlocal.thinking import Marks, parts
from eftlocal_tui.history import Figures, Thought


class ThinkingTally:
    """Tokens and seconds of the thinking, its marks included, from the answer's first token on.

    Args:
        marks: see `eftlocal.thinking.parts`.
        before: what the beginning took that the answer goes on from.
        clock: in seconds.
    """

    def __init__(
        self, marks: Marks | None, before: Thought | None, clock: Callable[[], float]
    ) -> None:
        self._marks = marks
        self._before = before or Thought(tokens=0, seconds=0.0)
        self._clock = clock
        self._began: float | None = None
        self._over = False
        self.thought = before

    def take(self, text: str) -> None:
        """One more token has come; this is the whole text now."""
        if self._began is None:
            self._began = self._clock()
            self._tokens = 0
        self._tokens += 1
        if self._over:
            return
        found = parts(text, self._marks, ended=False)
        self._over = found.answer.start < len(text)
        if found.open:
            seconds = self._clock() - self._began
            self.thought = Thought(
                tokens=self._before.tokens + self._tokens, seconds=self._before.seconds + seconds
            )

    def added_to(self, figures: Figures) -> Figures:
        """The figures of the answer with those of its thinking."""
        return figures.model_copy(update={"thinking": self.thought})
