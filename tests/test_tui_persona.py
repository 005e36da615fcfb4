"""A persona in the chat: set, shown, kept with its answers, exported, and cleared."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from test_tui_demo import demo, quick
from textual.widgets import TextArea
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal import Defaults, Recipe
from eftlocal.errors import UsageError
from eftlocal_tui.history import History, to_json, to_markdown

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
        assert models.dials.recipe.persona_prompt == "You are a monk."
        assert models.dials.recipe.weights["persona"] == 1.5
        chat = d.chat.turns.conversation.id
        assert f"persona “{PIRATE}”" in to_markdown(d.history, chat)
        assert PIRATE in json.dumps(json.loads(to_json(d.history, [chat])))
        await d.send("/persona -")
        assert models.dials.recipe.name == "upscale" and PIRATE not in d.static("#about")

    def newest(history: History):
        return history.conversations.list(limit=1)[0]

    async with driven(demo(), tmp_path, resume=newest, notifications=True) as d:
        await d.until(
            lambda: "its persona was “You are a pirate.”" in "\n".join(d.notes) + d.toasts
        )
        assert d.chat.models.dials.recipe.name == "upscale"


@driving("One.")
async def test_it_is_asked_for_where_the_command_is_alone(d: Driver) -> None:
    with pytest.raises(UsageError, match="recipe persona needs one; /persona TEXT gives it"):
        await d.chat.models.turn("recipe", "persona")
    await d.send("/persona")
    d.app.screen.query_one(TextArea).insert("Rhyme.")
    await d.press("ctrl+s")
    await d.until(lambda: "start with `eftlocal chat --persona TEXT`" in d.toasts)
    assert d.chat.models.dials.recipe.name == "upscale"
