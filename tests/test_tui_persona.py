"""A persona in the chat: set, shown, kept with its answers, exported, and cleared."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_engine import ROLES
from test_tui_demo import demo, quick
from textual.widgets import TextArea
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal import Defaults, Recipe
from eftlocal.errors import EngineError, UsageError
from eftlocal_tui.history import History, to_json, to_markdown
from eftlocal_tui.screens.dialogs import Confirm

PIRATE = "You are a pirate."


@asynchronous
async def test_a_persona_of_the_demo(tmp_path: Path) -> None:
    def begun(defaults: Defaults, roles: Collection[str]) -> tuple[Defaults, tuple[str, ...]]:
        return replace(quick(defaults, roles)[0], recipe=Recipe.persona(PIRATE)), ()

    async with driven(demo(adjust=begun), tmp_path, size=(120, 40)) as d:
        models = d.chat.models
        assert PIRATE in d.static("#about")
        assert "base + 1.0 × (persona − tuned)" in d.static("#about")
        assert models.loaded is not None and models.loaded.name == "demo"
        await d.send("/set alpha 1.5")
        await d.ask("Where is Braga?")
        turn = d.chat.turns.path()[1]
        assert turn.settings is not None
        assert turn.settings.recipe == {"text": "persona", "alpha": 1.5, "persona": PIRATE}
        await d.send("/persona You are a monk.")  # now at once, and alpha stays
        assert d.chat.dials.now.recipe.persona_prompt == "You are a monk."
        assert d.chat.dials.now.recipe.weights["persona"] == 1.5
        chat = d.chat.turns.conversation.id
        assert f"persona “{PIRATE}”" in to_markdown(d.history, chat)
        assert PIRATE in json.dumps(json.loads(to_json(d.history, [chat])))
        await d.send("/persona -")
        assert d.chat.dials.now.recipe.name == "upscale" and PIRATE not in d.static("#about")

    def newest(history: History):
        return history.conversations.list(limit=1)[0]

    async with driven(demo(), tmp_path, resume=newest, notifications=True) as d:
        models = d.chat.models
        await d.until(lambda: "“You are a pirate.”; /persona brings it back" in d.toasts)
        assert d.chat.dials.now.recipe.name == "upscale"
        await d.chat.dials.turn("temperature", "0.25")
        await d.send("/persona")
        await d.press("ctrl+s")  # the box has it
        await d.shows(Confirm)
        assert "B of memory then." in d.app.screen._question
        await d.press("tab", "enter")
        await d.until(lambda: models.loaded is not None and "persona" in models.loaded.roles)
        await d.until(lambda: d.chat.dials.now.recipe.persona_prompt == PIRATE)
        assert d.chat.dials.now.recipe.weights["persona"] == 1.5
        assert d.chat.dials.now.shown()["temperature"] == "0.25"
        await d.ask("Where is Porto?")
        turn = d.chat.turns.path()[-1]
        assert turn.settings is not None and turn.settings.recipe["persona"] == PIRATE


@driving("One.", "Two.")
async def test_the_role_is_loaded_where_it_is_missing(d: Driver) -> None:
    with pytest.raises(UsageError, match="recipe persona needs one; /persona TEXT gives it"):
        await d.chat.dials.turn("recipe", "persona")
    await d.send("/persona")
    d.app.screen.query_one(TextArea).insert("Rhyme.")
    await d.press("ctrl+s")
    await d.shows(Confirm)
    assert "loads the models again; they take 2.5 GB of memory" in d.app.screen._question
    await d.press("escape")
    await d.idle()
    assert d.chat.dials.now.recipe.name == "upscale" and d.engine.roles == ROLES
    d.engine.refuses[None], d.engine.gives_up = EngineError("no memory"), True
    for ends in ("is loaded again", ""):
        await d.send("/persona Rhyme.")
        await d.shows(Confirm)
        await d.press("tab", "enter")
        if ends:
            await d.until(lambda ends=ends: d.notes and ends in d.notes[-1])
            assert d.chat.dials.now.recipe.name == "upscale"
            d.engine.refuses.clear()
    models = d.chat.models
    await d.until(lambda: models.loaded and d.chat.dials.now.recipe.persona_prompt == "Rhyme.")
    await d.ask("Hello")
    assert d.engine.heard[-1][1].recipe.persona_prompt == "Rhyme."
