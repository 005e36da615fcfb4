"""A walk through every screen of the chat, over an engine that says what it is told to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripted_engine import Script, ScriptedEngine
from tui_driver import Driver, driven

from eftlocal.errors import EngineError
from eftlocal.presets.reading import find
from eftlocal.thinking import Marks
from eftlocal_tui.app import ChatApp
from eftlocal_tui.engine import Loaded, Progress, Report
from eftlocal_tui.screens.full_context import ContextScreen
from eftlocal_tui.settings import Settings

SIZES = {"80x24": (80, 24), "120x40": (120, 40), "200x60": (200, 60)}
THEMES = {"dark": "textual-dark", "light": "textual-light"}
_PROSE = (
    "The Tagus is the longest river of the Iberian Peninsula. It rises in the mountains of "
    "Albarracín in eastern Spain, flows west past Toledo, forms part of the border with Portugal, "
    "and reaches the Atlantic Ocean near Lisbon, more than a thousand kilometres later.\n\n"
)
RICH = (
    "# Three rivers\n\n",
    _PROSE,
    "1. The **Tagus** ends at Lisbon, where two bridges cross its wide mouth, one of them among "
    "the longest in Europe.\n",
    "2. The *Douro* ends at Porto:\n   - it carries the boats of the port wine trade\n"
    "   - it is dammed many times\n",
    "3. The Guadiana is the border.\n\n",
    "```python\ndef longest(rivers: dict[str, int]) -> str:\n"
    '    """The longest river."""\n    return max(rivers, key=rivers.get)\n```\n\n',
    "| River | Length | Ends at |\n|:--|--:|:-:|\n| Tagus | 1,007 km | Lisbon |\n"
    "| Douro | 897 km | Porto |\n\n",
    "> No river is too long for `max`.\n\nSee [the map](https://example.org), and \\(a^2\\).\n",
)
THOUGHT = ("They ask for a sum. ", "17 and 25 make 42, ", "as 17 + 3 is 20 and 22 more is 42.\n")
LOADING = Progress("weights", "OLMo-2-1124-7B.Q4_K_M.gguf", 2e9, 4.4e9)
COMPARED = "Toulouse is a city in {}. It lies on the Garonne, and is known for its aircraft."


class Showing(ScriptedEngine):
    """Greets as the demo does."""

    greets = False

    def _load(self, preset: str | None, n_ctx: int, report: Report) -> Loaded:
        found = super()._load(preset, n_ctx, report)
        demo = find("demo")
        return replace(found, about=demo.notes, questions=demo.questions) if self.greets else found


class Walk:
    def __init__(self, d: Driver, folder: Path, size: str, only: str, keep: Keep) -> None:
        self.d, self._folder, self._size, self._only, self._keep = d, folder, size, only, keep

    async def take(self, name: str) -> None:
        """The screen as it is now, in either theme."""
        if self._only not in name:
            return
        app = self.d.app
        for theme, of in THEMES.items():
            app._themed = False  # it is not the person's choice
            app.theme = of
            await self.d.pilot.pause()
            self._keep(app, self._folder / f"{name}-{self._size}-{theme}.svg")
        app.theme = THEMES["dark"]
        await self.d.pause()


Keep = Callable[[ChatApp, Path], None]


async def every_screen(folder: Path, size: str, only: str, keep: Keep) -> None:
    for part in (_welcome, _answers, _troubles, _views):
        with tempfile.TemporaryDirectory() as private:
            engine = Showing()
            options: dict[str, Any] = {"settings": Settings(), "notifications": True, "wait": False}
            if part is _welcome:
                engine.load_waits.clear()
                engine.progress = [LOADING]
                engine.greets = True
            async with driven(engine, Path(private), size=SIZES[size], **options) as d:
                d.chat.prompt.cursor_blink = False
                await part(d, engine, Walk(d, folder, size, only, keep))
                engine.go()


async def _welcome(d: Driver, engine: Showing, walk: Walk) -> None:
    await d.until(lambda: "OLMo" in d.screen_text())
    await walk.take("welcome-loading")
    engine.load_waits.set()
    await d.ready()
    await walk.take("welcome-demo")
    await d.type("/")
    await walk.take("menu")
    d.chat.prompt.clear()
    await d.type("/set ")
    await d.until(lambda: "temperature" in d.screen_text())
    await walk.take("menu-set")
    d.chat.prompt.clear()
    await d.press("ctrl+t")
    await walk.take("dial")
    await d.press("escape", "ctrl+p")
    await d.until(lambda: "/context" in d.screen_text())
    await walk.take("palette")


async def _answers(d: Driver, engine: Showing, walk: Walk) -> None:
    thinks = Marks("<think>", "</think>", opened=True)
    rest = ("</think>", "17 + 25 = **42**.")
    waits = Script([*THOUGHT, *rest], wait_at=2, marks=thinks)
    slow = Script(["The Tagus ", "ends ", "at Lisbon."], wait_at=2)
    again = Script(["The Douro ends at Porto."])
    engine.scripts = [Script(RICH), waits, slow, again, Script(["Porto, ", "as ", "I said."])]
    engine.given = (waits, slow)
    await d.ready()
    await d.send("/system You are a guide to Portugal, and brief.")
    await d.ask("Which are the three longest rivers of Portugal, and where do they end?")
    await d.pause()
    await walk.take("answer-end")
    await d.press("pageup", "pageup")
    await walk.take("answer-top")
    await d.press("ctrl+end")
    await d.send("What is 17 and 25?")
    await d.until(lambda: "20 and 22" in d.screen_text() or "17 and 25 make" in d.screen_text())
    await walk.take("thinking")
    waits.go.set()
    await d.idle()
    await walk.take("thought")
    await d.press("ctrl+up", "enter")
    await walk.take("thought-unfolded")
    await d.press("escape")
    await d.send("And where does the Tagus end?")
    await d.until(lambda: len(engine.answering) == 3)
    await d.send("And the Douro, which I have asked about again and again, since I like it best?")
    await d.send("Thank you.")
    await walk.take("queued")
    await d.press("escape")
    slow.go.set()
    await d.idle()
    await walk.take("stopped")
    d.chat.prompt.clear()
    await d.press("ctrl+r")
    await d.idle()
    await walk.take("branch")
    await d.press("f4")
    await walk.take("editing")
    await d.press("escape")
    await d.press("ctrl+f")
    await d.press(*"Porto")
    await walk.take("find")
    await d.press("escape", "ctrl+up")
    await walk.take("turn")
    await d.press("m")
    await walk.take("branches")
    await d.press("f1")
    await walk.take("help-branches")
    await d.press("escape", "escape", "escape")
    await d.send("/stats")
    await walk.take("stats")
    await d.send("/set")
    await walk.take("set")
    await d.send("/system")
    await walk.take("dialog-system")
    await d.press("escape")
    await d.send("/context")
    await d.until(lambda: isinstance(d.app.screen, ContextScreen))
    await d.pause()
    await walk.take("context")
    await d.press("escape")
    engine.n_ctx = 200
    await d.send("So which of them is the longest?")
    await d.until(lambda: isinstance(d.app.screen, ContextScreen))
    await d.pause()
    await walk.take("context-full")
    await d.press("escape")
    await d.press("f9")
    await walk.take("toast")


async def _troubles(d: Driver, engine: Showing, walk: Walk) -> None:
    gone = Script(["The Tagus "], error=EngineError("llama.cpp could not decode (code -3)"))
    engine.scripts = [gone]
    await d.ready()
    await d.ask("Where does the Tagus end?")
    await walk.take("failed")
    await d.send("/nosuch")
    await walk.take("unknown-command")
    d.chat.prompt.clear()
    await d.send("/set beta x")
    await walk.take("refused-dial")
    d.chat.prompt.clear()
    await d.send("/preset nosuch")
    await walk.take("unknown-preset")
    d.chat.prompt.clear()
    await d.press("f3", "f7")
    await walk.take("toasts")


async def _views(d: Driver, engine: Showing, walk: Walk) -> None:
    countries = ("France", "Spain", "France")
    compared = [Script([COMPARED.format(country)]) for country in countries]
    engine.scripts = [Script(["Toulouse is in France."]), *compared]
    await d.ready()
    for title in ("Portugal and its rivers", "What does a cooper make?", "Rivers, again " * 12):
        made = d.history.conversations.create()
        d.history.turns.ask(made.id, title, None)
    await d.ask("In which country is Toulouse?")
    await d.press("f5")
    await d.until(lambda: "seed" in d.static("#about"))
    await walk.take("compare")
    await d.press("f1")
    await walk.take("help-compare")
    await d.press("escape", "escape", "ctrl+l")
    await d.until(lambda: "context" in d.screen_text() or True)
    await walk.take("presets")
    await d.press("escape", "f6")
    await d.until(lambda: "1/5" in d.static("#verdict"))
    await d.press("n")
    await walk.take("influence")
    await d.press("f1")
    await walk.take("help-influence")
    await d.press("escape", "escape", "ctrl+o")
    await walk.take("history")
    await d.press("slash", *"rivers")
    await walk.take("history-search")
    await d.press("enter", "r")
    await walk.take("dialog-rename")
    await d.press("escape", "delete")
    await walk.take("dialog-delete")
    await d.press("escape", "f1")
    await walk.take("help-history")
    await d.press("escape", "escape", "f1")
    await walk.take("help-chat")
    await d.press("end")
    await walk.take("help-chat-end")
