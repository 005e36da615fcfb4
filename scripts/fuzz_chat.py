"""Type, paste, click and resize at random in the terminal chat, and look for what ends it.

Usage: .venv/bin/python scripts/fuzz_chat.py [--sequences N] [--events N] [--seed S]
       [--engine scripted|demo] [--shrink]

Each sequence is a chat of its own, without a terminal: bytes go through the program's own reading
of keys, and pauses between them are drawn too. A fault is an exception, work that was begun and
dropped (a coroutine that nobody awaited), or a chat that no longer answers to Esc. Its seed is
printed, and `--seed SEED --sequences 1` does the same again (as far as threads let it). The exit
code is 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tui"), str(ROOT / "tests"), str(ROOT / "scripts")]

from fuzzing.terminal_input import Input, sequence
from scripted_engine import Script, ScriptedAnswer, ScriptedEngine
from textual import events
from textual.geometry import Size

from eftlocal.errors import EngineError
from eftlocal_tui.app import ChatApp
from eftlocal_tui.engine.local import LocalEngine, Start
from eftlocal_tui.history import History
from eftlocal_tui.screens.base import Services
from eftlocal_tui.settings import Settings
from eftlocal_tui.terminal.keyboard import Keyboard

ENGINES = ("scripted", "demo")
_PATIENCE = 240.0  # seconds that the chat may take to come to rest, on a busy machine too
_PIECES = ("word ", "line\n", "\n\n", "```py\ncode\n", "```\n", "| a | b |\n|-|-|\n| 1 | 2 |\n")
_PIECES += ("- item\n", "**bold** ", "# head\n", "> quote\n", "日本 ", "<think>\n", "</think>\n")
_TRIES = 150  # runs that shrinking may take


class Random(ScriptedEngine):
    """Answers with random Markdown, at random speeds, and fails now and then."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__(*(_script(draw) for _ in range(60)))

    def answer(self, *args: Any, **options: Any) -> ScriptedAnswer:
        time.sleep(0.002)
        return super().answer(*args, **options)


def _script(draw: random.Random) -> Script:
    pieces = [draw.choice(_PIECES) for _ in range(draw.choice((1, 5, 40, 200)))]
    failed = EngineError("the engine failed") if draw.random() < 0.1 else None
    return Script(pieces, error=failed)


def _engine(name: str, draw: random.Random) -> LocalEngine | Random:
    if name == "demo":
        call = {"max_tokens": 40}
        return LocalEngine(Start("demo", engine={"threads": 1, "n_ctx": 512}, call=call))
    return Random(draw)


class Fuzzed:
    """A chat that a sequence is played to."""

    def __init__(self, folder: Path, engine: str, seed: str) -> None:
        self._folder, self._engine = folder, engine
        self._draw = random.Random(seed)

    async def play(self, inputs: Sequence[Input]) -> None:
        """Raises what the program raises, or TimeoutError where it hangs."""
        rest = list(inputs)
        while rest:  # begun again where it was left
            size = self._draw.choice(((80, 24), (120, 40), (45, 12), (200, 60)))
            services = Services(
                History(self._folder / "chat.db"), _engine(self._engine, self._draw), Settings()
            )
            app = ChatApp(services)
            try:
                async with app.run_test(size=size, notifications=True):
                    while rest and app.is_running and not app._exit:
                        await self._send(app, rest.pop(0))
                    if app.is_running and not app._exit:
                        await _come_to_rest(app)
            finally:
                services.close()

    async def _send(self, app: ChatApp, what: Input) -> None:
        driver = app._driver
        assert driver is not None
        if isinstance(what, str):
            keyboard = Keyboard()
            for event in (*keyboard.feed(what), *keyboard.flush()):
                driver.process_message(event)
        else:
            driver._size = what
            app.post_message(events.Resize(Size(*what), Size(*what)))
        how = self._draw.random()
        if how < 0.5:
            for _ in range(self._draw.randint(0, 8)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(0.001 if how < 0.8 else 0.02)


async def _come_to_rest(app: ChatApp) -> None:
    """Esc leads back to the chat, which has nothing to do."""
    until = time.monotonic() + _PATIENCE
    app.post_message(events.Resize(Size(100, 30), Size(100, 30)))
    while app.is_running and len(app.screen_stack) > 1:
        if app.screen is app.chat and not app.chat.answers.busy and not app.chat.models.loading:
            return
        if time.monotonic() > until:
            raise TimeoutError(f"the chat does not come to rest: {app.screen_stack}")
        app.post_message(events.Key("escape", "\x1b"))
        await asyncio.sleep(0.02)


def run(seed: str, inputs: Sequence[Input], engine: str) -> BaseException | None:
    """Plays a sequence to a chat; what it ended with, where that is a fault."""
    stray: list[BaseException] = []

    async def play(folder: Path) -> None:
        def keep(_: object, context: dict[str, Any]) -> None:
            stray.append(context.get("exception") or RuntimeError(context["message"]))

        asyncio.get_running_loop().set_exception_handler(keep)
        await Fuzzed(folder, engine, seed).play(inputs)

    with (
        tempfile.TemporaryDirectory() as folder,
        _at_home_in(Path(folder)),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        try:
            asyncio.run(play(Path(folder)))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it is a fault
            return error
        gc.collect()
    stray += [RuntimeError(each.message) for each in warned if "awaited" in str(each.message)]
    return stray[0] if stray else None


@contextlib.contextmanager
def _at_home_in(folder: Path) -> Iterator[None]:
    """Files that the chat writes go to a folder of its own."""
    names = ("EFTLOCAL_CONFIG", "EFTLOCAL_DATA", "EFTLOCAL_CACHE", "EFTLOCAL_MODELS")
    before, here = dict(os.environ), Path.cwd()
    os.environ.update({name: str(folder / name) for name in names[:2]})
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)


def shrunk(seed: str, inputs: list[Input], engine: str, fault: BaseException) -> list[Input]:
    """Fewer inputs that end in the same kind of fault."""
    tries, size = 0, len(inputs) // 2
    while size and tries < _TRIES:
        for at in range(0, len(inputs), size):
            fewer = inputs[:at] + inputs[at + size :]
            tries += 1
            if type(run(seed, fewer, engine)) is type(fault):
                inputs = fewer
                break
        else:
            size //= 2
    return inputs


def fuzz(seed: str, count: int, length: int, engine: str, shrink: bool = False) -> int:
    """Runs sequences and tells of each fault; how many there were."""
    faults = 0
    for number in range(count):
        own = seed if count == 1 else f"{seed}-{number}"
        inputs = sequence(own, length)
        fault = run(own, inputs, engine)
        if fault is None:
            continue
        faults += 1
        traceback.print_exception(fault)
        print(f"--seed {own} --sequences 1 --events {length} --engine {engine}", flush=True)
        if shrink:
            print(f"enough: {shrunk(own, inputs, engine, fault)!r}", flush=True)
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--sequences", type=int, default=20)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--shrink", action="store_true", help="look for fewer events that do it")
    asked = parser.parse_args()
    began = time.monotonic()
    faults = fuzz(asked.seed, asked.sequences, asked.events, asked.engine, asked.shrink)
    seconds = time.monotonic() - began
    print(f"{asked.sequences} sequences of {asked.events} in {seconds:.0f} s, {faults} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
