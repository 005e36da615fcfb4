"""Pictures of the main screens at two sizes, as text: `tests/pictures`.

EFTLOCAL_NEW_PICTURES=1 draws them again; look at what changed before keeping them.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path

import pytest
from scripted_engine import Script, ScriptedEngine
from tui_driver import Driver, asynchronous, driven

from eftlocal.presets.reading import load_presets
from eftlocal_tui.engine import Offer
from eftlocal_tui.settings import Settings

PICTURES = Path(__file__).parent / "pictures"
SIZES = {"80x24": (80, 24), "200x60": (200, 60)}
SETTLES = 5.0  # seconds
ROLES = ("base", "tuned", "reference")
ANSWER = [
    "# Braga\n\n",
    "Braga is in **Portugal**:\n\n",
    "- north\n- old\n\n",
    "```python\n",
    "x = 1\n",
    "```\n",
]


async def compare(d: Driver, name: str) -> None:
    """The screen against its picture; what no two runs share is left out."""
    path = PICTURES / f"{name}.txt"
    drawing = bool(os.environ.get("EFTLOCAL_NEW_PICTURES"))
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    until = time.monotonic() + SETTLES
    await d.pause()
    while (text := told(d) + "\n") != known and time.monotonic() < until:
        await asyncio.sleep(0.1)
        await d.pause()
    if drawing:
        path.write_text(text, encoding="utf-8")
    else:
        assert text == known, f"{path.name}: the screen has changed"


def told(d: Driver) -> str:
    """The screen without its scrollbars, whose thumbs' eighths of a row differ between runs."""
    text = re.sub(r"[▁▂▃▄▅▆▇█▔▀](?=[▁▂▃▄▅▆▇█▔▀]*│?$)", " ", d.screen_text(), flags=re.MULTILINE)
    text = re.sub(r" +$", "", text, flags=re.MULTILINE)
    size = r"[\d.]+ [kMG]?B"
    text = re.sub(rf"memory +{size} · {size} free *", "memory SIZE · SIZE free", text)
    text = re.sub(r"(\d+ (?:s|min) ago)(.*)", of_any_age, text)
    text = re.sub(r"seed \d+", "seed N", text)
    return re.sub(r"\S*chat\.toml", "chat.toml", text)


def of_any_age(line: re.Match[str]) -> str:
    """What it would be of a conversation of a few seconds."""
    _, more = line.groups()
    return f"N s ago{more}"


async def begin(d: Driver) -> None:
    d.chat.prompt.cursor_blink = False
    await d.ask("Where is Braga?")
    await d.until(lambda: not d.chat.query_one("#status").render().plain)


@pytest.mark.parametrize("size", SIZES)
@asynchronous
async def test_pictures(tmp_path: Path, size: str) -> None:
    engine = ScriptedEngine(
        Script(ANSWER), Script(["Braga, ", "Portugal."]), Script(["Portugal."]), Script(["Braga?"])
    )
    async with driven(engine, tmp_path, size=SIZES[size], settings=Settings(panel=True)) as d:
        await compare(d, f"welcome-{size}")
        await d.send("/set seed 7")
        await begin(d)
        await compare(d, f"chat-{size}")
        await d.press("f5")
        await d.until(lambda: d.static("#about").startswith("seed "))
        await compare(d, f"compare-{size}")
        await d.press("escape", "f6")
        await d.until(lambda: "1/5" in d.static("#verdict"))
        await compare(d, f"influence-{size}")
        await d.press("escape", "ctrl+o")
        await compare(d, f"history-{size}")
        await d.press("escape", "f1")
        await compare(d, f"help-{size}")
        for name in load_presets():
            d.engine.offers[name] = Offer(
                name, ROLES, 10**9, 0, False, 512, 2 * 10**9, 10**10, True
            )
        await d.press("escape", "ctrl+l")
        await d.until(lambda: len(getattr(d.app.screen, "_offers", ())) == len(d.engine.offers))
        await compare(d, f"models-{size}")
