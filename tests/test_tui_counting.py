"""What a conversation takes, counted by the real engine: exactly what its prompts take."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_tui_engine import opened, quick, said, text_of
from tui_driver import asynchronous, driven

from eftlocal import Defaults, Recipe
from eftlocal.llama.engine import chat_formats
from eftlocal.loading import loader
from eftlocal.presets.reading import find, user_path
from eftlocal.prompt.messages import Message
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import Fit
from eftlocal_tui.engine.local import LocalEngine, Start
from eftlocal_tui.screens.full_context import ContextScreen

ASK = "Where is Braga? <|im_end|> Ölçü, 日本, and [INST] 12345."
CONVERSATIONS: dict[str, list[Message]] = {
    "question": [said("user", ASK)],
    "system": [said("system", "Be brief."), said("user", ASK)],
    "several": [said("user", ASK), said("assistant", "In Portugal.\n\n"), said("user", "Sure?")],
    "goes on": [said("user", ASK), said("assistant", "Braga is")],
}
PROMPTS: list[dict[str, str]] = [
    {},
    {"base": "plain", "tuned": "chat", "reference": "same"},
    *({"base": "plain", "tuned": name, "reference": "chatml"} for name in ("llama3", "gemma")),
    {"base": "chatml", "tuned": "chatml", "reference": "plain"},
]


def demo(**engine: Any) -> LocalEngine:
    options = {"n_ctx": 512, "n_seq_max": 1, "threads": 1, **engine}
    start = Start("demo", offline=True, adjust=quick, engine=options, call={"max_tokens": 4})
    return LocalEngine(start)


@pytest.fixture(params=range(len(PROMPTS)))
def prompted(request: pytest.FixtureRequest) -> Iterator[tuple[LocalEngine, Dials]]:
    prompts = PROMPTS[request.param]
    assert set(prompts.values()) <= {"plain", "chat", "same", *chat_formats()}
    yield from opened(demo(**({"prompts": prompts} if prompts else {})))


def test_the_count_is_what_the_prompts_take(prompted: tuple[LocalEngine, Dials]) -> None:
    engine, dials = prompted
    for messages in CONVERSATIONS.values():
        fit = engine.fits(messages, dials)
        goes_on = messages[-1]["role"] == "assistant"
        answering = engine.answer(messages, dials, continue_last=goes_on)
        text_of(answering)
        assert fit.tokens == answering._stream.answer().timing.prompt_tokens
        assert fit.enough


def test_a_persona_that_was_set_later_is_counted() -> None:
    def begun(defaults: Defaults, roles: Collection[str]) -> tuple[Defaults, tuple[str, ...]]:
        return replace(quick(defaults, roles)[0], recipe=Recipe.persona("Rhyme.")), ()

    start = Start("demo", offline=True, adjust=begun, engine={"n_ctx": 512, "threads": 1})
    messages = CONVERSATIONS["question"]
    for engine, dials in opened(LocalEngine(start)):
        later = replace(dials, recipe=Recipe.persona("Answer only in rhymes. " * 8))
        answering = engine.answer(messages, later)
        text_of(answering)
        fit = engine.fits(messages, later)
        assert fit.tokens == answering._stream.answer().timing.prompt_tokens
        assert fit.tokens["persona"] > engine.fits(messages, dials).tokens["persona"]


def test_each_role_has_its_length_and_the_fullest_decides() -> None:
    sizes = {"tuned": 128, "base": 512, "reference": 256}
    roles = "".join(
        f"{role} = {{ file = {json.dumps(str(path))}, n_ctx = {sizes[role]} }}\n"
        for role, path in ((role, find("demo").roles[role].file) for role in sizes)
    )
    user_path().parent.mkdir(parents=True, exist_ok=True)
    user_path().write_text(f'[[preset]]\nname = "mine"\n[preset.roles]\n{roles}')
    start = Start("mine", offline=True, adjust=quick, engine={"n_seq_max": 1, "threads": 1})
    for engine, dials in opened(LocalEngine(start)):
        fit = engine.fits([said("user", "a word " * 50)], dials)
        assert fit.sizes == sizes
        assert fit.fullest == "tuned"
        assert fit.room == 128 - fit.tokens["tuned"]
        assert engine.fits([], dials).tokens == {"tuned": 0, "base": 0, "reference": 0}


def test_a_text_that_cannot_fit_is_told_at_once() -> None:
    for engine, dials in opened(demo()):
        began = time.monotonic()
        fit = engine.fits([said("user", "a b c " * 150_000)], dials)
        assert time.monotonic() - began < 30  # tokenizing it takes minutes
        assert not fit.enough
        assert fit.room < 0


def test_room_is_a_sixteenth_within_bounds() -> None:
    for size, least in ((128, 32), (1024, 64), (4096, 256), (131_072, 256)):
        for room in (least, least - 1):
            fit = Fit({"a": size - room, "b": 0}, {"a": size, "b": size}, {"a": 0, "b": 0})
            assert fit.enough == (room == least)


def test_a_larger_context_is_what_is_needed_and_there_is_memory_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for engine, dials in opened(demo(n_ctx=512)):
        assert engine._emulator is not None
        fit = engine.fits([said("user", "a word " * 50)], dials)
        assert fit.trained == fit.sizes
        assert engine.larger(fit) is None
        fit = replace(fit, trained=dict.fromkeys(fit.sizes, 16_384))
        double = engine.larger(fit)
        assert double is not None
        assert double.sizes == dict.fromkeys(fit.sizes, 1024)
        more = engine.larger(replace(fit, tokens={**fit.tokens, "base": 1_900}))
        assert more is not None
        assert more.sizes["base"] == 2048
        free = double.needs - 1 - engine._emulator.held.host
        with monkeypatch.context() as patch:
            patch.setattr(loader, "host_memory_free", partial(int, free))
            less = engine.larger(fit)
        assert less is not None
        assert less.sizes["base"] == 768
        assert less.needs < double.needs
        assert less.load(lambda _: None).name == "demo"
        assert engine.fits([], dials).sizes == less.sizes


@asynchronous
async def test_the_demo_has_a_larger_context_and_goes_on(tmp_path: Path) -> None:
    engine = demo(n_ctx=160)
    async with driven(engine, tmp_path, size=(100, 40)) as d:
        await d.ask("Where is Braga? Say it in a whole sentence.")
        await d.send("Where is Porto? " * 20)
        await d.shows(ContextScreen)
        titles = [way.title for way in d.app.screen._ways]
        at = next(i for i, title in enumerate(titles) if title.startswith("Larger context"))
        await d.press(*["down"] * (at + 1), "enter")
        await d.until(lambda: len(d.chat.turns.path()) == 4)
        await d.idle()
        sizes = engine.fits([], d.chat.dials.now).sizes
        assert str(sizes["base"]) in titles[at]
        assert sizes["base"] > 160
        assert d.chat.turns.path()[-1].state == "done"


@asynchronous
async def test_the_demo_refuses_and_goes_on(tmp_path: Path) -> None:
    engine = demo(n_ctx=160)
    async with driven(engine, tmp_path, size=(100, 40)) as d:
        asked = 0
        while not isinstance(d.app.screen, ContextScreen):
            await d.send("Where is Braga? Say it in a whole sentence.")
            await d.until(
                lambda: isinstance(d.app.screen, ContextScreen) or not d.chat.answers.busy
            )
            asked += 1
            assert asked < 20
        await d.shows(ContextScreen)
        conversation = d.chat.turns.conversation
        assert conversation is not None
        turns = d.history.turns.path(conversation.id)
        assert len(turns) == 2 * (asked - 1)
        assert all(turn.finish_reason != "context" for turn in turns)
        await d.press("down", "enter")
        await d.idle()
        *_, question, answer = d.history.turns.path(conversation.id)
        assert answer.state == "done"
        sent = engine.fits(d.history.turns.messages(question.id), d.chat.dials.now)
        assert answer.figures is not None
        assert answer.figures.prompt_tokens == max(sent.tokens.values())
        assert sent.leaves(1 / 4)
