"""Take pictures of the terminal chat.

Usage: .venv/bin/python scripts/picture_chat.py [docs]
       .venv/bin/python scripts/picture_chat.py --screens FOLDER [--size 80x24] [--only NAME]

The first takes the README's: the running program over the demo's models. The second takes every
screen, over a scripted engine, in three sizes, dark and light: to be looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tui"), str(ROOT / "tests"), str(ROOT / "scripts")]

from picturing.screens import SIZES, every_screen
from textual.pilot import Pilot

from eftlocal.defaults import Defaults
from eftlocal_tui.app import ChatApp
from eftlocal_tui.engine.local import LocalEngine
from eftlocal_tui.engine.wanted import Start
from eftlocal_tui.history import History
from eftlocal_tui.screens.base import Services
from eftlocal_tui.settings import Settings

QUESTIONS = ("What is the capital of Portugal?", "In which country is Toulouse?")
SIZE = (110, 26)
PATIENCE = 3_000  # looks


async def until(pilot: Pilot[None], what: Callable[[], object]) -> None:
    for _ in range(PATIENCE):
        if what():
            await pilot.pause()
            return
        await pilot.pause(0.02)
    raise SystemExit("what the picture needs did not come")


def keep(app: ChatApp, path: Path) -> None:
    svg = app.export_screenshot(title="eftlocal chat")
    # The fonts of the machine that shows it will do: a picture must not ask the network.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), "utf-8")
    print(f"{path}: {path.stat().st_size} bytes")


def seeded(defaults: Defaults, _roles: Collection[str]) -> tuple[Defaults, tuple[str, ...]]:
    sampled = replace(defaults.sampling, seed=1, temperature=0.3)
    return replace(defaults, sampling=sampled), ()


async def take(folder: Path, services: Services) -> None:
    app = ChatApp(services)
    async with app.run_test(size=SIZE) as pilot:
        chat = app.chat
        chat.prompt.cursor_blink = False
        await until(pilot, lambda: chat.models.loaded is not None)
        for question in QUESTIONS:
            chat.prompt.insert(question)
            await pilot.press("enter")
            await until(pilot, lambda: not chat.answers.busy and len(chat.turns.path()) % 2 == 0)
        keep(app, folder / "chat.svg")
        await pilot.press("f5")
        await until(pilot, lambda: "seed" in str(app.screen.query_one("#about").render()))
        keep(app, folder / "chat-compare.svg")
        await pilot.press("escape", "f6")
        await until(pilot, lambda: "1/" in str(app.screen.query_one("#verdict").render()))
        await pilot.press("n")
        await pilot.pause()
        keep(app, folder / "chat-influence.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs")
    parser.add_argument("--screens", type=Path, metavar="FOLDER")
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--only", default="", metavar="NAME")
    options = parser.parse_args()
    if options.screens is not None:
        options.screens.mkdir(parents=True, exist_ok=True)
        sizes = [options.size] if options.size else list(SIZES)
        for size in sizes:
            asyncio.run(every_screen(options.screens, size, options.only, keep))
        return
    folder: Path = options.folder
    with tempfile.TemporaryDirectory() as private:
        os.environ["EFTLOCAL_CONFIG"] = private
        services = Services(
            History(Path(private) / "chat.db"),
            LocalEngine(Start("demo", offline=True, adjust=seeded)),
            Settings(panel=True),
        )
        try:
            asyncio.run(take(folder, services))
        finally:
            services.close()


if __name__ == "__main__":
    main()
