"""The settings file in the chat: at its start, for other models, in every answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import isolate
from tui_driver import load
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.user_settings import settings_path
from eftlocal_tui.engine import Progress
from eftlocal_tui.engine.local import LocalEngine
from eftlocal_tui.engine.wanted import Start


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The chat with a settings file and options; what it would begin with."""
    isolate(monkeypatch, tmp_path)
    found: list[Start] = []

    def run_chat(*_: object, default: Start, **__: object) -> None:
        found.append(default)

    monkeypatch.setattr("eftlocal_tui.app.run_chat", run_chat)
    engines = []

    def start(settings: str, *options: str) -> LocalEngine:
        settings_path().parent.mkdir(parents=True, exist_ok=True)
        settings_path().write_text(settings, encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.setattr("eftlocal.cli.chat._is_terminal", lambda: True)
            result = CliRunner().invoke(app, ["chat", "--threads", "1", *options])
        assert result.exit_code == 0, result.output
        engines.append(LocalEngine(found[-1]))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def unheard(_: Progress) -> None:
    """Nobody listens."""


FILE = """
temperature = 0.25
max_tokens = 3
speculative = "off"
beta = 0.5
"""


def test_defaults_hold_for_every_preset(started: Any) -> None:
    engine = started(FILE, "--top-k", "7")
    loaded = load(engine, None, unheard)
    for preset in (None, "demo-down", "demo"):
        if preset:
            loaded = load(engine, preset, unheard)
        shown = loaded.dials.all()
        assert (shown["temperature"], shown["top_k"], shown["speculative"]) == ("0.25", "7", "off")
        if preset != "demo-down":  # whose recipe has no beta
            assert shown["beta"] == "0.5"
            table = loaded.dials.turned("min_p", "0.1", ()).table(loaded.dials, loaded.preset)
            rows = dict(line.split(maxsplit=1) for line in table.split("\n"))
            assert rows["top_k"].split(maxsplit=1) == ["7", "your options or settings"]
            assert rows["min_p"].split(maxsplit=1) == ["0.1", "turned here, was off"]
            assert rows["seed"].split() == ["off", "default"]
        answering = engine.answer([{"role": "user", "content": "Where is Braga?"}], loaded.dials)
        assert len(list(answering)) <= 3
        answering.close()


def test_a_recipe_that_is_not_for_other_models_is_left_out_and_told(started: Any) -> None:
    engine = started('recipe = "tuned=1,plain=1,base=-1"\nany_sum = true\nspeculative = "off"')
    loaded = load(engine, "demo-blend", unheard)
    assert "plain" in loaded.dials.recipe.weights
    loaded = load(engine, "demo", unheard)
    assert "plain" not in loaded.dials.recipe.weights
    assert any("settings.toml: recipe does not go with these models" in n for n in loaded.notes)


def test_a_recipe_that_was_typed_holds_as_far_as_it_goes(started: Any) -> None:
    options = ("--preset", "demo-blend", "--speculative", "off", "--any-sum")
    engine = started("", *options, "--recipe", "tuned=1,plain=1,base=-1")
    assert load(engine, None, unheard).dials.recipe.weights["plain"] == 1.0
    loaded = load(engine, "demo", unheard)
    assert loaded.dials.recipe.name == "upscale"
    assert any("the recipe is that of the preset" in note for note in loaded.notes)
