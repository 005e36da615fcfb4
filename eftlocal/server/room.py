"""Which loaded presets make room for another: the idle ones, the one asked least recently first,
and no more than that takes.

What is needed is planned before anything is loaded, on this machine's devices as in its memory.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from eftlocal.errors import DoesNotFitError
from eftlocal.loading.placement import Held
from eftlocal.server.setup import Setup

# Linux counts files that are mapped as memory that is free, though it is slow to do without them.
_COUNTS_MAPPED = sys.platform == "linux"


class NoRoomError(Exception):
    """Models do not fit; why, in one line.

    Attributes:
        busy: they would, without presets that are answering now.
    """

    def __init__(self, why: str, *, busy: bool) -> None:
        super().__init__(why)
        self.busy = busy


@dataclass(frozen=True)
class Neighbour:
    """A preset that is loaded.

    Attributes:
        idle: it may be put away.
    """

    name: str
    idle: bool
    held: Held


@dataclass(frozen=True)
class Around:
    """What models find where they are to be loaded.

    Attributes:
        free: bytes of the host's memory; None where that is not known.
        neighbours: the one asked least recently first.
        most: of presets at once, these among them; None is as many as fit.
    """

    free: int | None
    neighbours: Sequence[Neighbour]
    most: int | None = None


def leaving(setup: Setup, around: Around) -> list[str]:
    """The names of the presets to put away first. As many idle ones as it takes, so that the models
    fit, and no layer stays off a device that could be on it.

    Raises:
        NoRoomError: that is not enough; not where it is forced.
        EftlocalError: the models cannot be loaded at all; see `loading.loader.prepare`.
    """
    idle = [one for one in around.neighbours if one.idle]
    beyond = 0
    if around.most is not None:
        beyond = max(0, len(around.neighbours) + 1 - around.most)
    if beyond > len(idle):
        raise _busy()
    count = len(idle)
    try:
        best = _layers(setup, around, idle)
    except DoesNotFitError:
        if not setup.force:
            raise _no_room(setup, around) from None
    else:
        fewer = range(beyond, count)
        count = next((n for n in fewer if _is_enough(setup, around, idle[:n], best)), count)
    return [one.name for one in idle[:count]]


def _no_room(setup: Setup, around: Around) -> NoRoomError:
    try:
        _layers(setup, around, around.neighbours)
    except DoesNotFitError as error:
        return NoRoomError(str(error), busy=False)
    return _busy()


def _busy() -> NoRoomError:
    return NoRoomError("the models that are loaded are all answering; ask again", busy=True)


def _is_enough(setup: Setup, around: Around, gone: Sequence[Neighbour], best: int) -> bool:
    try:
        return _layers(setup, around, gone) >= best
    except DoesNotFitError:
        return False


def _layers(setup: Setup, around: Around, gone: Sequence[Neighbour]) -> int:
    """How many layers are on devices if the models are loaded once some neighbours are gone.

    Raises:
        DoesNotFitError: with the numbers.
    """
    free, devices = around.free, Counter[str]()
    for one in gone:
        devices.update(one.held.devices)
    if free is not None:
        free += sum(one.held.host for one in gone)
        if _COUNTS_MAPPED:
            own = {str(source.path.resolve()) for source in setup.sources.roles.values()}
            stay = (one.held.mapped for one in around.neighbours if one not in gone)
            theirs = {file: size for mapped in stay for file, size in mapped.items()}
            free = max(0, free - sum(size for file, size in theirs.items() if file not in own))
    freed = Held(devices=devices)
    prepared = setup.sources.prepare(freed, host_free=free, n_seq_max=setup.parallel, trust=True)
    return sum(sum(placement.split) for placement in prepared.plan.roles.values())
