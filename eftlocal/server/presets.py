"""The presets that are served: each loaded when it is asked for, and put away for another."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.logits.recipe import BASE, TUNED
from eftlocal.server.engine import Setup
from eftlocal.server.engine_process import EngineDiedError, EngineProcess

_RESTARTS, _WITHIN = 5, 600.0  # of one engine, in so many seconds
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
        engine: None while it is not loaded.
        used: when it was asked last, by time.monotonic().
    """

    setup: Setup
    created: int = field(default_factory=lambda: int(time.time()))
    engine: EngineProcess | None = None
    used: float = 0.0
    starts: deque[float] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    loading: bool = False

    @property
    def ready(self) -> bool:
        return self.engine is not None and self.engine.alive and not self.loading


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
        async with served.lock:
            if served.engine is not None and served.engine.alive:
                return served.engine
            await self._make_room(served)
            now = time.monotonic()
            while served.starts and now - served.starts[0] > _WITHIN:
                served.starts.popleft()
            if len(served.starts) > _RESTARTS:
                wait = int(_WITHIN - (now - served.starts[0])) + 1
                raise UnavailableError("the engine died too often; it rests", wait)
            served.starts.append(now)
            served.loading, served.engine = True, EngineProcess()
            try:
                await served.engine.load(served.setup)
            except EngineDiedError as error:
                served.engine = None
                raise UnavailableError(f"the model cannot be loaded: {error}") from None
            except BaseException:
                await served.engine.close()
                served.engine = None
                raise
            finally:
                served.loading = False
            return served.engine

    async def close(self) -> None:
        """Ends all engines."""
        engines = [served.engine for served in self.served.values() if served.engine is not None]
        await asyncio.gather(*(engine.close() for engine in engines))

    async def _make_room(self, served: Served) -> None:
        async with self._room:
            while True:
                others = [
                    (other.used, other)
                    for other in self.served.values()
                    if other is not served and other.engine is not None
                ]
                if len(others) < self._most:
                    return
                idle = [pair for pair in others if pair[1].ready and not _active(pair[1])]
                if not idle:
                    raise UnavailableError("all models that fit are answering; ask again", 5)
                _, oldest = min(idle, key=lambda pair: pair[0])
                engine, oldest.engine = oldest.engine, None
                if engine is not None:
                    await engine.close()


def _active(served: Served) -> int:
    return served.engine.active if served.engine is not None else 0


def listed(named: Named) -> dict[str, Any]:
    """A model as OpenAI lists it."""
    return {
        "id": named.name,
        "object": "model",
        "created": named.served.created,
        "owned_by": "eftlocal",
    }
