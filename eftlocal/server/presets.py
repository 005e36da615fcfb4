"""The presets that are served: each loaded when it is asked for, and put away for another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.logits.recipe import BASE, TUNED
from eftlocal.server.engine_process import EngineDiedError, EngineProcess
from eftlocal.server.setup import Setup

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
    """

    setup: Setup
    created: int = field(default_factory=lambda: int(time.time()))
    engine: EngineProcess | None = None
    used: float = 0.0
    deaths: list[float] = field(default_factory=list)
    waiting: int = 0
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
        most: loaded at once; the one that was not asked for the longest time makes room.
    """

    def __init__(self, setups: Mapping[str, Setup], *, most: int) -> None:
        self.served = {name: Served(setup) for name, setup in setups.items()}
        self._most = most
        self._closed = False
        self._room = asyncio.Lock()

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
            UnavailableError: it cannot be loaded, or keeps dying.
        """
        served.used = time.monotonic()
        served.waiting += 1
        try:
            async with served.lock:
                if self._closed:
                    raise UnavailableError("the server is stopping")
                if served.engine is None or not served.engine.alive:
                    await self._load(served)
                assert served.engine is not None
                return served.engine
        finally:
            served.waiting -= 1

    async def _load(self, served: Served) -> None:
        if wait := served.rest():
            raise UnavailableError("the engine died too often; it rests", wait)
        await self._make_room(served)
        served.loading, served.engine = True, EngineProcess(served.died)
        try:
            await served.engine.load(served.setup)
        except BaseException as error:
            await served.engine.close()
            served.engine = None
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

    async def _make_room(self, served: Served) -> None:
        async with self._room:
            while True:
                others = [other for other in self.served.values() if other is not served]
                held = [other for other in others if other.loading or other.ready]
                if len(held) < self._most:
                    return
                idle = [other for other in held if other.ready and not other.active]
                if not idle:
                    raise UnavailableError("all models that fit are answering; ask again", 5)
                oldest = min(idle, key=lambda other: other.used)
                engine, oldest.engine = oldest.engine, None
                if engine is not None:
                    await engine.close()


def listed(named: Named) -> dict[str, Any]:
    """A model as OpenAI lists it."""
    return {
        "id": named.name,
        "object": "model",
        "created": named.served.created,
        "owned_by": "eftlocal",
    }
