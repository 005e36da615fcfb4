"""The presets that are served: each loaded when it is asked for, and put away for another where
the memory has no room for both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.loading.host import host_memory_free
from eftlocal.loading.placement import Held
from eftlocal.logits.recipe import BASE, TUNED
from eftlocal.server.engine_process import EngineDiedError, EngineProcess
from eftlocal.server.room import Around, Neighbour, NoRoomError
from eftlocal.server.setup import Setup

_AGAIN = 5  # seconds until a preset that found no room looks for it again
_DEATHS, _WITHIN = 5, 600.0  # of one preset's engines in so many seconds; then it rests
_ALONE = (TUNED, BASE)


class UnavailableError(Exception):
    """A model cannot answer now; when to ask again, in seconds, where that is known."""

    def __init__(self, why: str, retry_after: int | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


@dataclass(eq=False)
class Served:
    """One preset.

    Attributes:
        engine: None while it is not loaded; it may be loading, or dead.
        used: when it was asked last, by time.monotonic().
        deaths: when engines of it ended by themselves, or could not be loaded; likewise.
        waiting: requests that wait until it is loaded.
        refused: why there was no room for it, and until when, by time.monotonic(), nobody looks
            again.
    """

    setup: Setup
    created: int = field(default_factory=lambda: int(time.time()))
    engine: EngineProcess | None = None
    used: float = 0.0
    deaths: list[float] = field(default_factory=list)
    waiting: int = 0
    refused: tuple[float, NoRoomError] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    loading: bool = False

    @property
    def ready(self) -> bool:
        """Whether it can answer now."""
        return self.engine is not None and self.engine.alive and not self.loading

    @property
    def active(self) -> int:
        """Requests that are on their way."""
        return self.waiting + (self.engine.active if self.engine is not None else 0)

    def rest(self) -> int:
        """Seconds until an engine may be started again."""
        now = time.monotonic()
        recent = [then for then in self.deaths if now - then < _WITHIN]
        return int(_WITHIN - (now - recent[0])) + 1 if len(recent) > _DEATHS else 0

    def died(self) -> None:
        """To be called when an engine has died."""
        self.deaths.append(time.monotonic())


@dataclass(frozen=True)
class Named:
    """What a client's `model` means.

    Attributes:
        name: as it is listed.
        role: of the one model by itself; empty is the emulation.
    """

    name: str
    served: Served
    role: str = ""


class Presets:
    """All that is served.

    Args:
        setups: by their names; the first is what a request without a model means.
        most: loaded at once; None is as many as fit. The one that was not asked for the longest
            time makes room.
        free: tells the bytes of the host's memory that are free; None where that is not known.
    """

    def __init__(
        self,
        setups: Mapping[str, Setup],
        *,
        most: int | None = None,
        free: Callable[[], int | None] = host_memory_free,
    ) -> None:
        self.served = {name: Served(setup) for name, setup in setups.items()}
        self._most, self._free = most, free
        self._closed = False
        self._loading = asyncio.Lock()  # one after the other: each sees what is left

    def names(self) -> dict[str, Named]:
        """Every model: the emulations, and the models that they are made of by themselves."""
        found = {}
        for name, served in self.served.items():
            found[name] = Named(name, served)
            for role in _ALONE:
                if role in served.setup.sources.roles:
                    found[f"{name}:{role}"] = Named(f"{name}:{role}", served, role)
        return found

    def named(self, name: str | None) -> Named:
        """What a model's name means.

        Raises:
            UsageError: nothing; which there are.
        """
        names = self.names()
        if name is None:
            return next(iter(names.values()))
        if name not in names:
            raise UsageError(f"model {name[:80]!r} is not served; there are {', '.join(names)}")
        return names[name]

    async def engine(self, served: Served) -> EngineProcess:
        """The engine of a preset, loaded.

        Raises:
            UnavailableError: it cannot be loaded, or not now, or keeps dying.
        """
        served.used = time.monotonic()
        served.waiting += 1
        try:
            async with served.lock:
                if served.engine is None or not served.engine.alive:
                    await self._load(served)
                assert served.engine is not None
                return served.engine
        finally:
            served.waiting -= 1

    async def _load(self, served: Served) -> None:
        if wait := served.rest():
            raise UnavailableError("the engine died too often; it rests", wait)
        async with self._loading:
            if self._closed:
                raise UnavailableError("the server is stopping")
            if served.refused is not None and time.monotonic() < served.refused[0]:
                raise _unavailable(served.refused[1])
            served.loading, served.engine = True, EngineProcess(served.died)
            try:
                around = partial(self._around, served)
                await served.engine.load(served.setup, around, self._put_away)
            except BaseException as error:
                await served.engine.close()
                served.engine = None
                if isinstance(error, NoRoomError):
                    served.refused = time.monotonic() + _AGAIN, error
                    raise _unavailable(error) from None
                if not isinstance(error, (EngineDiedError, ValueError)):  # or it said nonsense
                    raise
                served.died()
                raise UnavailableError(f"the model cannot be loaded: {error}") from None
            finally:
                served.loading = False

    async def close(self) -> None:
        """Ends all engines, and starts none any more. What is being answered ends with an error."""
        self._closed = True
        engines = [served.engine for served in self.served.values() if served.engine is not None]
        await asyncio.gather(*(engine.close() for engine in engines))

    def _around(self, served: Served) -> Around:
        """What is loaded beside a preset."""
        others = [(n, one) for n, one in self.served.items() if one is not served and one.ready]
        others.sort(key=lambda other: other[1].used)
        neighbours = [
            Neighbour(name, not one.active, Held(**one.engine.facts["held"]))
            for name, one in others
            if one.engine is not None
        ]
        return Around(self._free(), neighbours, self._most)

    async def _put_away(self, names: Sequence[str]) -> None:
        """Ends the engines of these presets, unless they have been asked meanwhile."""
        for name in names:
            served = self.served[name]
            if served.engine is not None and served.ready and not served.active:
                engine, served.engine = served.engine, None
                await engine.close()


def _unavailable(error: NoRoomError) -> UnavailableError:
    if error.busy:
        return UnavailableError(str(error), _AGAIN)
    return UnavailableError(f"the model cannot be loaded: {error}")


def listed(named: Named) -> dict[str, Any]:
    """A model as OpenAI lists it."""
    return {
        "id": named.name,
        "object": "model",
        "created": named.served.created,
        "owned_by": "eftlocal",
    }
