"""The terminal chat over the demo's real models."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tui_driver import asynchronous, driven, load

from eftlocal import Recipe, Speculation
from eftlocal.defaults import Defaults
from eftlocal.errors import UsageError
from eftlocal.logits.recipe_text import parse_recipe
from eftlocal.study.inspection import COMBINATION
from eftlocal_tui.engine import Progress
from eftlocal_tui.engine.local import LocalEngine
from eftlocal_tui.engine.wanted import Start
from eftlocal_tui.history import History
from eftlocal_tui.widgets.compare_column import CompareColumn

RECIPES = {
    "upscale": Recipe.upscale(),
    "proxy": Recipe.proxy(1.5),
    "realign": Recipe.realign(1.5),
    "tuned": Recipe.single("tuned"),
    "base=1,tuned=1": parse_recipe("base=1,tuned=1", any_sum=True),
}
QUESTION = [{"role": "user", "content": "Where is Braga?"}]


def quick(defaults: Defaults, _roles: Collection[str]) -> tuple[Defaults, tuple[str, ...]]:
    """Greedy, and no measuring of drafts."""
    greedy = replace(defaults.sampling, temperature=0.0)
    return replace(defaults, sampling=greedy, speculation=Speculation(length=0)), ()


def demo(**changes: object) -> LocalEngine:
    start = Start("demo", offline=True, adjust=quick, call={"max_tokens": 24})
    return LocalEngine(replace(start, **changes))


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    engine = demo()
    yield engine
    engine.close()


def test_the_engine_loads_reports_and_answers(engine: LocalEngine) -> None:
    reports: list[Progress] = []
    with pytest.raises(UsageError, match="no models are loaded"):
        engine.answer(QUESTION, None)  # type: ignore[arg-type]
    loaded = load(engine, None, reports.append)
    assert loaded.name == "demo"
    assert set(loaded.roles) == {"base", "tuned", "reference"}
    assert {(r.stage, r.name) for r in reports} == {("weights", role) for role in loaded.roles}
    answering = engine.answer(QUESTION, loaded.dials)
    pieces = list(answering)
    assert pieces[-1].finish_reason is not None
    live = answering.live()
    assert live.figures.tokens == len(pieces)
    assert 0 < live.context_used < live.context_size
    again = list(engine.answer(QUESTION, loaded.dials))
    assert [p.token for p in again] == [p.token for p in pieces]


def test_dials_set_in_the_middle_hold_from_the_next_token(engine: LocalEngine) -> None:
    loaded = load(engine, None, lambda _: None)
    base = list(engine.answer(QUESTION, replace(loaded.dials, recipe=Recipe.single("base"))))
    answering = engine.answer(QUESTION, loaded.dials)
    first = [next(answering).token for _ in range(3)]
    answering.dials = replace(loaded.dials, recipe=Recipe.single("base"))
    rest = [piece.token for piece in answering]
    # The same, asked for from the beginning: base goes on after the emulation's first tokens.
    whole = engine.answer(QUESTION, loaded.dials)
    assert [next(whole).token for _ in range(3)] == first
    whole.dials = replace(loaded.dials, recipe=Recipe.single("base"))
    assert [piece.token for piece in whole] == rest
    assert base  # and it is one of the models that can answer alone


def test_a_seed_set_in_the_middle_waits_for_the_next_answer(engine: LocalEngine) -> None:
    loaded = load(engine, None, lambda _: None)
    answering = engine.answer(QUESTION, loaded.dials)
    seed = answering.seed
    next(answering)
    sampling = replace(loaded.dials.sampling, seed=5)
    answering.dials = replace(loaded.dials, sampling=sampling)
    next(answering)
    assert answering.seed == seed
    answering.close()


def test_moved_tokens_add_up_to_the_answer(engine: LocalEngine) -> None:
    loaded = load(engine, None, lambda _: None)
    pieces = list(engine.answer(QUESTION, loaded.dials))
    moved = engine.inspect(QUESTION, [p.token for p in pieces], loaded.dials)
    assert len(moved.tokens) == len(pieces)
    text = "".join(piece.text for piece in pieces)
    assert "".join(token.text for token in moved.tokens).startswith(text)
    assert moved.sides == ("tuned", "base")
    for token in moved.tokens:
        assert all(0.0 <= token.distances[COMBINATION, side] <= 1.0 for side in moved.sides)
    for token in moved.tokens:
        assert set(token.candidates) == {"base", "tuned", "reference", "combination"}


@asynchronous
async def test_chat_compare_influence_and_resume(tmp_path: Path) -> None:
    async with driven(demo(), tmp_path) as d:
        await d.ask("Where is Braga?")
        answer = d.turns[1]
        assert answer
        assert d.chat.turns.path()[1].figures is not None
        await d.send("/set beta 0.5")
        await d.press("ctrl+r")
        await d.idle()
        assert d.chat.turns.path()[1].branches == 2
        assert d.chat.turns.path()[1].settings.recipe["beta"] == 0.5
        await d.press("f5")
        await d.until(lambda: d.static("#about").startswith("seed "))  # all have ended
        columns = list(d.app.screen.query(CompareColumn))
        assert all(column.text for column in columns)
        await d.press("right", "k")
        assert d.chat.turns.path()[1].text == columns[1].text
        assert d.chat.turns.path()[1].branches == 3
        await d.press("i")
        await d.until(lambda: "1/" in d.static("#verdict"))
        assert d.static("#head").startswith("Influence on tuned alone")
        await d.press("escape")
        await d.press("escape", "f6")
        await d.until(lambda: "1/" in d.static("#verdict"))
        await d.press("escape")
        await d.ask("And where is Paris?")
        turns = d.turns

    def newest(history: History):
        return history.conversations.list(limit=1)[0]

    async with driven(demo(), tmp_path, resume=newest) as d:
        assert d.turns == turns
        assert d.chat.dials.now.recipe.weights["base"] == 0.5
        await d.send("/preset demo-blend")
        await d.until(
            lambda: d.chat.models.loaded is not None and d.chat.models.loaded.name == "demo-blend"
        )
        await d.until(lambda: "lambda" in d.chat.dials.now.shown())
        await d.chat.dials.turn("lambda", "0.25")
        assert d.chat.dials.now.recipe.weights["tuned"] == 0.25
        assert d.chat.dials.now.recipe.weights["plain"] == 0.75


@pytest.mark.parametrize("recipe", ["upscale", "proxy", "realign", "tuned", "base=1,tuned=1"])
@asynchronous
async def test_verdicts_have_the_numbers_that_the_models_score(tmp_path: Path, recipe: str) -> None:
    def adjust(defaults: Defaults, roles: Collection[str]) -> tuple[Defaults, tuple[str, ...]]:
        return replace(quick(defaults, roles)[0], recipe=RECIPES[recipe]), ()

    engine = demo(adjust=adjust)
    async with driven(engine, tmp_path) as d:
        await d.ask("In which country is Toulouse?")
        await d.press("f6")
        await d.until(lambda: "1/" in d.static("#verdict"))
        emulator, answer = engine._emulator, d.chat.turns.path()[-1].text
        assert emulator is not None
        prompt = "In which country is Toulouse?"
        scored = emulator.logprobs(answer, prompt=prompt, recipe=RECIPES[recipe])
        names = [name for name in scored.roles if RECIPES[recipe].weights[name] > 0]
        for i in range(len(scored.tokens)):
            told = dict(re.findall(r"(\w+)(?: alone)? ([<>]?\d+%)", d.static("#verdict")))
            expected = {name: scored.roles[name][i] for name in names}
            if len(RECIPES[recipe].roles) > 1:
                expected["together"] = scored.logprobs[i]
            assert told.keys() >= expected.keys()
            for name, logprob in expected.items():
                chance, shown = 100 * math.exp(logprob), float(told[name].strip("<>%"))
                # One decode's rows differ from another's in their last bits.
                edge = {"<": chance < 1.1, ">": chance > 98.9}
                near = abs(chance - shown) <= 0.6
                assert edge.get(told[name][0], near), (i, name, chance, told[name])
            await d.press("right")


@asynchronous
async def test_a_model_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"nothing of the kind")
    engine = LocalEngine(Start({"base": wrong, "tuned": wrong, "reference": wrong}, adjust=quick))
    async with driven(engine, tmp_path, wait=False) as d:
        await d.until(lambda: d.notes)
        assert "wrong.gguf" in d.notes[0]
        assert "\n" not in d.notes[0]
        await d.send("/preset demo")
        await d.ready()
