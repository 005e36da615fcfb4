"""What tests of the terminal chat share: a program to drive, and waiting for what must come."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from scripted_engine import PATIENCE, Script, ScriptedEngine
from textual import events
from textual.css.stylesheet import Stylesheet
from textual.keys import _character_to_key
from textual.pilot import Pilot
from textual.widgets import Static

from eftlocal_tui.app import ChatApp
from eftlocal_tui.engine import Loaded, Report
from eftlocal_tui.history import Conversation, History
from eftlocal_tui.screens.base import Services, Unasked
from eftlocal_tui.screens.chat import ChatScreen
from eftlocal_tui.settings import Settings
from eftlocal_tui.widgets.transcript import Note
from eftlocal_tui.widgets.turn_view import TurnView

HOPS = 20  # drawing may give widgets more to do, and that more to draw; what never ends is left
BLOCKED = 1.0  # seconds after which a thread is taken for one that the test itself holds up
_CHARACTERS = {"slash": "/", "space": " ", "tab": "\t", "enter": "\r"}


_parse_rules, _parsed = Stylesheet._parse_rules, {}


def _parsed_once(sheet: Stylesheet, *source: Any, **more: Any) -> Any:
    """Rules of a source, which every program of a test run has: parsing them is a tenth of its
    start."""
    key = (source, *more.items(), *sheet._variables.items())
    if key not in _parsed:
        _parsed[key] = _parse_rules(sheet, *source, **more)
    return _parsed[key]


Stylesheet._parse_rules = _parsed_once  # type: ignore[method-assign]


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that drives a program; pytest sees its fixtures."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Driver:
    """A running program."""

    def __init__(self, app: ChatApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def chat(self) -> ChatScreen:
        return self.app.chat

    @property
    def engine(self) -> Any:
        return self.app.services.engine

    @property
    def history(self) -> History:
        return self.app.services.history

    async def pause(self) -> None:
        """Waits until nothing is left to do but to wait for the engine and timers. Pilot's own
        `pause` asks every widget, and takes a process that gets no turn for one without work."""
        loop: Any = asyncio.get_running_loop()
        until = time.monotonic() + BLOCKED
        for _ in range(HOPS):
            while loop._ready or (_reads(loop) and time.monotonic() < until):
                await asyncio.sleep(0 if loop._ready else 0.001)
            self.app.screen._on_timer_update()  # which a timer would do a little later
            if not loop._ready:
                return

    async def press(self, *keys: str) -> None:
        """Keys, one after the other."""
        for key in keys:
            self.put(key)
            await self.pause()

    async def rush(self, *keys: str) -> None:
        """Keys, all at once."""
        for key in keys:
            self.put(key)
        await self.pause()

    def put(self, key: str) -> None:
        """A key, which the program has not read yet."""
        name = _character_to_key(key) if len(key) == 1 and not key.isalnum() else key
        event = events.Key(name, key if len(key) == 1 else _CHARACTERS.get(key))
        event.set_sender(self.app)
        assert self.app._driver is not None
        self.app._driver.send_message(event)

    async def type(self, text: str) -> None:
        """Text in the message box, as if typed, without the cost of every key."""
        self.chat.prompt.insert(text)
        await self.pause()

    async def send(self, text: str) -> None:
        await self.type(text)
        await self.press("enter")

    async def ask(self, text: str) -> None:
        """Sends a message and waits for the whole answer."""
        await self.send(text)
        await self.idle()

    async def until(self, what: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < until, "what the test waits for did not come"
            await self.pause()
            await asyncio.sleep(0.005)

    async def idle(self) -> None:
        await self.until(lambda: not self.chat.answers.busy)
        await self.pause()

    async def ready(self) -> None:
        await self.until(lambda: self.chat.models.loaded is not None)
        await self.pause()

    async def shows(self, kind: type[Unasked[Any]]) -> None:
        """Waits until a screen that opens by itself is drawn: what is pressed then is for it."""
        await self.until(lambda: isinstance(self.app.screen, kind))
        front = self.app.screen
        assert isinstance(front, Unasked)
        await self.until(lambda: front._seen < math.inf)

    @property
    def turns(self) -> list[str]:
        return [view.text for view in self.chat.transcript.query(TurnView)]

    @property
    def notes(self) -> list[str]:
        return [note.said for note in self.chat.transcript.query(Note)]

    @property
    def toasts(self) -> str:
        """What has been notified on the screen in front."""
        return "\n".join(n.message for n in self.app._notifications)

    def static(self, selector: str) -> str:
        return str(self.app.screen.query_one(selector, Static).render())

    def screen_text(self) -> str:
        """What the terminal shows, row by row."""
        width, height = self.app.size
        strips = self.app.screen._compositor.render_strips()
        assert len(strips) == height
        return "\n".join(strip.text[:width].rstrip() for strip in strips)


def _reads(loop: Any) -> bool:
    """Whether a thread of asyncio's own is at work, as Textual's are that read Markdown. Written
    for CPython 3.10 to 3.14, which has no public word for this, nor for what is ready to run."""
    threads = loop._default_executor
    return threads is not None and threads._idle_semaphore._value < len(threads._threads)


def load(engine: Any, preset: str | None, report: Report, *, download: bool = False) -> Loaded:
    """Prepares models and loads them."""
    return engine.prepare(preset, report, download=download)(report)


@asynccontextmanager
async def driven(
    engine: Any,
    folder: Path,
    *,
    size: tuple[int, int] = (100, 30),
    settings: Settings | None = None,
    resume: Callable[[History], Conversation] | None = None,
    wait: bool = True,
    notifications: bool = False,
) -> AsyncIterator[Driver]:
    """The program over an engine and a history of its own."""
    history = History(folder / "chat.db")
    services = Services(history, engine, settings or Settings())
    app = ChatApp(services, resume=resume(history) if resume else None)
    try:
        async with app.run_test(size=size, notifications=notifications) as pilot:
            driver = Driver(app, pilot)
            await driver.until(lambda: any(isinstance(s, ChatScreen) for s in app.screen_stack))
            if wait:
                await driver.ready()
            yield driver
    finally:
        services.close()


def driving(
    *answers: Script | str, **options: Any
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """A test that is given a program, `d`, over a scripted engine; options as in `driven`."""

    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        async def drive(tmp_path: Path, arguments: dict[str, Any]) -> None:
            own = (replace(a, go=Event()) if isinstance(a, Script) else a for a in answers)
            async with driven(ScriptedEngine(*own), tmp_path, **options) as d:
                await test(d, **arguments)

        def run(tmp_path: Path, **arguments: Any) -> None:
            asyncio.run(drive(tmp_path, arguments))

        # For pytest, which looks fixtures and parameters up by name.
        wanted = inspect.signature(test).parameters.values()
        mine = inspect.signature(run).parameters["tmp_path"]
        run.__signature__ = inspect.Signature([mine, *[p for p in wanted if p.name != "d"]])  # type: ignore[attr-defined]
        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        return run

    return decorate
