"""How much of the contexts a conversation takes, counted on the engine's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eftlocal.prompt.messages import Message
from eftlocal_tui.engine import Engine, Fit
from eftlocal_tui.engine.tasks import EngineThread, Task

Counted = tuple[int, Fit]


def fit(thread: EngineThread, engine: Engine, messages: Sequence[Message]) -> Task[None, Fit]:
    """What a conversation takes in each role."""
    return thread.submit(lambda _: engine.fits(messages))


def first_that_fits(
    thread: EngineThread,
    engine: Engine,
    begins: Sequence[int],
    messages: Callable[[int], Sequence[Message]],
    share: float,
) -> Task[None, Counted | None]:
    """The first of the places from which on a conversation leaves a share of every context free,
    or else the last, if there is room for an answer; None where there is not.

    Args:
        begins: places, from each of which less is sent than from the one before.
        messages: what is sent from there; called on the engine's thread.
    """

    def work(task: Task[None, Counted | None]) -> Counted | None:
        def count(index: int) -> Counted:
            task.check()
            return begins[index], engine.fits(messages(begins[index]))

        def fits(counted: Counted) -> bool:
            return counted[1].enough and counted[1].leaves(share)

        low, high = 0, len(begins) - 1
        if high < 0:
            return None
        best = count(high)
        if not fits(best):
            return best if best[1].enough else None
        while low < high:  # `high` fits
            middle = (low + high) // 2
            found = count(middle)
            if fits(found):
                best, high = found, middle
            else:
                low = middle + 1
        return best

    return thread.submit(work)
