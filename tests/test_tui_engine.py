"""The chat's engine over real models: side by side, places that are kept, prompts that are left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import DIALS, PATIENCE
from tui_driver import asynchronous, driven, load

from eftlocal import Recipe, Sampling, Speculation
from eftlocal.defaults import Defaults
from eftlocal.errors import PromptError
from eftlocal.prompt.messages import Message
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import Loaded, Moved, Reading, Watch
from eftlocal_tui.engine.local import LocalAnswering, LocalAnswers, LocalEngine, short_name
from eftlocal_tui.engine.thread import StoppedError
from eftlocal_tui.engine.wanted import PLACES, Start
from eftlocal_tui.screens.influence import InfluenceScreen
from eftlocal_tui.widgets.compare_column import CompareColumn

LONG = "Tell me about the river, the hills beside it and the people who live there. " * 8
NEW = 12  # tokens that the next turn of `conversation` adds to the prompt, at most


def quick(defaults: Defaults, _roles: Collection[str]) -> tuple[Defaults, tuple[str, ...]]:
    """Greedy, and no measuring of drafts."""
    greedy = Sampling(temperature=0.0, seed=1)
    return replace(defaults, sampling=greedy, speculation=Speculation(length=0)), ()


def demo(places: int) -> LocalEngine:
    engine = {"n_seq_max": places, "n_ctx": 512, "threads": 1}
    call = {"max_tokens": 16}
    return LocalEngine(Start("demo", offline=True, adjust=quick, engine=engine, call=call))


def opened(engine: LocalEngine) -> Iterator[tuple[LocalEngine, Dials]]:
    yield engine, load(engine, None, lambda _: None).dials
    engine.close()


@pytest.fixture(params=[PLACES, 3, 2, 1])
def any_places(request: pytest.FixtureRequest) -> Iterator[tuple[LocalEngine, Dials]]:
    yield from opened(demo(request.param))


@pytest.fixture(params=[PLACES, 3, 2])
def several(request: pytest.FixtureRequest) -> Iterator[tuple[LocalEngine, Dials]]:
    yield from opened(demo(request.param))


def said(role: str, text: str) -> Message:
    return Message(role=role, content=text)  # type: ignore[typeddict-item]


def columns_of(dials: Dials) -> list[Dials]:
    recipes = (dials.recipe, Recipe.single("tuned"), Recipe.single("base"))
    return [replace(dials, recipe=recipe) for recipe in recipes]


def decoded(engine: LocalEngine) -> dict[str, int]:
    """Tokens that each role has decoded since it was loaded."""
    assert engine._emulator is not None
    return {role: c.decoded for role, c in engine._emulator.ensemble.contexts.items()}


def free(engine: LocalEngine) -> int:
    assert engine._emulator is not None
    return len(engine._emulator.ensemble.free)


def text_of(answering: LocalAnswering) -> str:
    text = "".join(piece.text for piece in answering)
    answering.close()
    return text


def conversation(engine: LocalEngine, dials: Dials) -> list[Message]:
    """Two turns, answered, so that the caches hold them."""
    messages: list[Message] = []
    for question in ("Where is Braga? Say it in a whole sentence.", "And where is Toulouse?"):
        messages.append(said("user", question))
        messages.append(said("assistant", text_of(engine.answer(messages, dials))))
    return messages


# Side by side ----------------------------------------------------------------------------------


def test_several_answers_have_their_tokens_and_figures(
    any_places: tuple[LocalEngine, Dials],
) -> None:
    engine, dials = any_places
    places = free(engine)
    answers = engine.answers([said("user", "Where is Braga?")], columns_of(dials))
    assert [answers.live(i) for i in range(3)] == [None] * 3
    came = list(answers)
    for index in range(3):
        pieces = [c.step for c in came if c.index == index]
        live = answers.live(index)
        assert all(piece is not None for piece in pieces)
        assert [p.finish_reason is None for p in pieces if p] == [True] * (len(pieces) - 1) + [
            False
        ]
        assert live is not None
        assert live.figures.tokens == len(pieces) > 1
    order = [c.index for c in came]
    if places == 1:
        assert order == sorted(order)
    else:  # as many as there are places began before any of them ended
        first_end = next(i for i, c in enumerate(came) if c.step and c.step.finish_reason)
        assert set(order[:first_end]) == set(range(min(places, 3)))
    answers.close()
    assert free(engine) == places


def test_comparing_keeps_what_the_caches_hold_of_the_conversation(
    several: tuple[LocalEngine, Dials],
) -> None:
    engine, dials = several
    messages = conversation(engine, dials)
    places = free(engine)
    compared = engine.answers(messages[:-1], columns_of(dials))
    assert {came.index for came in compared} == {0, 1, 2}
    compared.close()
    assert free(engine) == places
    assert new_tokens(engine, dials, messages) <= NEW


def test_the_next_turn_reads_the_answer_again_where_there_is_one_place() -> None:
    """What the test above would see if nothing were kept aside."""
    for engine, dials in opened(demo(1)):
        messages = conversation(engine, dials)
        assert new_tokens(engine, dials, messages) <= NEW
        compared = engine.answers(messages[:-1], columns_of(dials))
        assert {came.index for came in compared} == {0, 1, 2}
        compared.close()
        assert new_tokens(engine, dials, messages) > NEW


def new_tokens(engine: LocalEngine, dials: Dials, messages: Sequence[Message]) -> int:
    """What the role that decodes most decodes for the first token of the next turn."""
    before = decoded(engine)
    answering = engine.answer([*messages, said("user", "And Lima?")], dials)
    next(answering)
    answering.close()
    return max(now - before[role] for role, now in decoded(engine).items())


def test_inspecting_an_earlier_answer_keeps_the_conversation(
    several: tuple[LocalEngine, Dials],
) -> None:
    engine, dials = several
    messages = conversation(engine, dials)
    moved = engine.inspect(messages[:1], str(messages[1]["content"]), dials)
    assert moved.tokens
    assert new_tokens(engine, dials, messages) <= NEW


def test_a_turn_finds_its_place_again(several: tuple[LocalEngine, Dials]) -> None:
    engine, dials = several
    messages = conversation(engine, dials)
    assert new_tokens(engine, dials, messages) <= NEW


def test_a_role_that_has_decoded_nothing_yet_is_no_hindrance(
    several: tuple[LocalEngine, Dials],
) -> None:
    engine, dials = several
    alone = replace(dials, recipe=Recipe.single("base"))
    messages = [said("user", "Where is Braga?")]
    text = text_of(engine.answer(messages, alone))
    before = decoded(engine)
    assert before["tuned"] == 0
    compared = engine.answers(messages, columns_of(dials))
    assert {came.index for came in compared if came.step} == {0, 1, 2}
    compared.close()
    assert text == text_of(engine.answer(messages, alone))


def test_a_prompt_that_is_refused_is_told_in_every_column(
    any_places: tuple[LocalEngine, Dials],
) -> None:
    engine, dials = any_places
    places = free(engine)
    answers = engine.answers([said("user", LONG * 20)], columns_of(dials))
    came = list(answers)
    assert sorted(c.index for c in came) == [0, 1, 2]
    assert all(c.step is None and "shorten the prompt" in c.error for c in came)
    answers.close()
    with pytest.raises(PromptError):
        engine.answer([said("user", LONG * 20)], dials)
    assert free(engine) == places


def test_answers_that_are_closed_early_give_their_places_back(
    any_places: tuple[LocalEngine, Dials],
) -> None:
    engine, dials = any_places
    places = free(engine)
    answers = engine.answers([said("user", "Where is Braga?")], columns_of(dials))
    next(answers)
    answers.close()
    assert free(engine) == places
    assert list(answers) == []


def test_a_preset_without_some_roles_is_loaded_with_the_settings_of_the_others() -> None:
    engine = {"n_ctx": 512, "cache_type_k": {"base": "q8_0", "warm": "q4_0", "*": "q5_0"}}
    chat = LocalEngine(Start("demo", offline=True, adjust=quick, engine={**engine, "threads": 1}))
    load(chat, "demo", lambda _: None)
    assert chat._emulator is not None
    assert chat._emulator.roles == ("base", "tuned", "reference")
    chat.close()


def test_as_many_places_are_loaded_as_fit() -> None:
    for engine, _ in opened(LocalEngine(Start("demo", offline=True, adjust=quick))):
        assert free(engine) == PLACES


# Prompts that are left -------------------------------------------------------------------------


class Heard:
    """Hears how far reading is, and stops the work when it is checked for the nth time."""

    def __init__(self, stops_at: int = 0) -> None:
        self.read: list[Reading] = []
        self._left = stops_at

    def put(self, event: Reading, /) -> None:
        self.read.append(event)

    def check(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise StoppedError("stopped")


@pytest.fixture(scope="module")
def slow(smollm2: Path) -> Iterator[tuple[LocalEngine, Dials]]:
    """SmolLM2 in all three roles: a prompt takes it long enough to be left."""
    yield from opened(slow_engine(smollm2))


def slow_engine(
    smollm2: Path, of: Callable[[Start], LocalEngine] = LocalEngine, places: int = PLACES
) -> LocalEngine:
    files = dict.fromkeys(("base", "tuned", "reference"), smollm2)
    engine = {"n_seq_max": places, "n_ctx": 512, "n_batch": 64, "threads": 1}
    return of(Start(files, adjust=quick, engine=engine, call={"max_tokens": 4}))


@pytest.mark.parametrize("call", [1, 2, 20])
def test_a_long_prompt_is_left_and_read_on_later(
    slow: tuple[LocalEngine, Dials], call: int
) -> None:
    engine, dials = slow
    messages = [said("user", f"{call}. {LONG}")]
    before = decoded(engine)
    answering = engine.answer(messages, dials, Heard(call))
    with pytest.raises(StoppedError):
        next(answering)
    assert answering.live().figures.tokens == 0
    answering.close()
    read = [now - before[role] for role, now in decoded(engine).items()]
    prompt = answering.live().figures.prompt_tokens
    assert prompt is not None
    assert min(read) == 0 < prompt
    assert free(engine) == PLACES
    if call == 20:
        again = text_of(engine.answer(messages, dials))
        assert again == text_of(engine.answer(messages, dials))
        assert again


def test_a_comparison_is_left_while_its_prompt_is_read(slow: tuple[LocalEngine, Dials]) -> None:
    engine, dials = slow
    messages = [said("user", f"Compare. {LONG}")]
    answers = engine.answers(messages, columns_of(dials), Heard(5))
    with pytest.raises(StoppedError):
        next(answers)
    answers.close()
    assert free(engine) == PLACES
    short = engine.answers([said("user", "Where is Braga?")], columns_of(dials))
    assert {came.index for came in short if came.step} == {0, 1, 2}
    short.close()


def test_an_inspection_is_left(slow: tuple[LocalEngine, Dials]) -> None:
    engine, dials = slow
    messages = [said("user", f"Inspect. {LONG}")]
    with pytest.raises(StoppedError):
        engine.inspect(messages, "A river.", dials, Heard(3))
    assert free(engine) == PLACES
    assert engine.inspect([said("user", "Hello")], "A river.", dials).tokens


def test_reading_is_told_in_tokens_of_the_longest_prompt(
    slow: tuple[LocalEngine, Dials],
) -> None:
    engine, dials = slow
    messages = [said("user", f"How far? {LONG}")]  # longer than one call

    def told(read: list[Reading]) -> tuple[int, int]:
        done, totals = [one.done for one in read], {one.total for one in read}
        assert done == sorted(done)
        return done[0], totals.pop() if len(totals) == 1 else 0

    heard = Heard()
    read = heard.read
    answering = engine.answer(messages, dials, heard)
    next(answering)
    total = answering.live().figures.prompt_tokens
    first, of = told(read)
    assert (of, read[-1].done) == (total, of - 1)
    assert len(read) > 6  # three roles, and more than one call of each
    assert first < 32  # of the template at most, which another conversation left
    count = len(read)
    text = "".join(step.text for step in answering)
    assert len(read) == count
    answering.close()

    again = Heard()
    asked = [*messages, said("assistant", text), said("user", "And?")]
    answering = engine.answer(asked, dials, again)
    next(answering)
    answering.close()
    assert told(again.read)[0] >= of - 1  # what is held is read

    inspected = Heard()
    engine.inspect(messages, "A river. " * 20, dials, inspected)
    _, of = told(inspected.read)
    assert inspected.read[-1].done == of - 1 > total

    compared = Heard()
    other = [said("user", f"Side by side. {LONG}")]
    answers = engine.answers(other, columns_of(dials), compared)
    while not any(answers.live(i) and answers.live(i).figures.tokens for i in range(3)):
        next(answers)
    answers.close()
    first, of = told(compared.read)
    assert first < 32
    assert compared.read[-1].done == of - 1


class Watched(LocalEngine):
    """Says when a prompt is being read, and waits there until a stop can have been asked for."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.reading, self.go = threading.Event(), threading.Event()
        self.left = False

    def answer(self, messages: Any, dials: Any, watch: Any = None, **more: Any) -> LocalAnswering:
        return super().answer(messages, dials, Slowed(self, watch), **more)

    def answers(self, messages: Any, dials: Any, watch: Any = None) -> LocalAnswers:
        return super().answers(messages, dials, Slowed(self, watch))

    def inspect(self, messages: Any, answer: Any, dials: Any, watch: Any = None) -> Moved:
        try:
            return super().inspect(messages, answer, dials, Slowed(self, watch))
        except StoppedError:
            self.left = True
            raise


class Slowed(Heard):
    def __init__(self, engine: Watched, watch: Watch) -> None:
        super().__init__()
        self._engine, self._watch = engine, watch

    def check(self) -> None:
        self._engine.reading.set()
        assert self._engine.go.wait(PATIENCE)
        self._watch.check()


@asynchronous
async def test_escape_ends_the_reading_of_a_long_prompt(tmp_path: Path, smollm2: Path) -> None:
    engine = slow_engine(smollm2, Watched, places=2)
    assert isinstance(engine, Watched)
    async with driven(engine, tmp_path) as d:
        await d.send(LONG)
        await d.until(engine.reading.is_set)
        await d.press("escape")
        engine.go.set()
        await d.idle()
        answer = d.chat.turns.path()[-1]
        assert (answer.state, answer.text) == ("stopped", "")
        assert max(decoded(engine).values()) == 0
        await d.type("Hello")
        engine.reading.clear()
        engine.go.clear()
        await d.press("f5")
        await d.until(engine.reading.is_set)
        columns = list(d.app.screen.query(CompareColumn))
        await d.press("escape")
        engine.go.set()
        await d.until(lambda: d.screen_text().count("stopped") == 3)
        assert [column.text for column in columns] == [""] * 3
        await d.press("escape", "enter")
        await d.idle()
        assert d.chat.turns.path()[-1].state == "done"


@asynchronous
async def test_leaving_the_influence_view_ends_its_reading(tmp_path: Path, smollm2: Path) -> None:
    engine = slow_engine(smollm2, Watched, places=2)
    assert isinstance(engine, Watched)
    engine.go.set()
    async with driven(engine, tmp_path) as d:
        await d.ask(40 * "Hello ")  # calls of fewer than 32 tokens are not watched
        engine.reading.clear()
        engine.go.clear()
        await d.press("f6")
        await d.until(engine.reading.is_set)
        assert isinstance(d.app.screen, InfluenceScreen)
        before = decoded(engine)
        await d.press("escape")
        engine.go.set()
        await d.until(lambda: engine.left)
        assert decoded(engine) == before
        await d.ask("Go on")
        assert d.chat.turns.path()[-1].state == "done"


def test_prompts_chosen_at_the_start(demo_files: dict[str, Path]) -> None:
    template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{{ more }}{% endfor %}"
    engine = {
        "n_ctx": 512,
        "threads": 1,
        "prompts": {"tuned": template, "base": "plain"},
        "system_in_user": True,
        "chat_template_kwargs": {"more": " please"},
    }
    chat = LocalEngine(Start(demo_files, adjust=quick, engine=engine, call={"max_tokens": 4}))
    for loaded, _ in opened(chat):
        answering = loaded.answer(
            [said("system", "Be brief."), said("user", "Where?")], load(loaded, None, print).dials
        )
        assert loaded._emulator is not None
        told, model = answering._stream.sequence.prompts, loaded._emulator.models["tuned"]
        texts = {r: b"".join(map(model.piece, ids)).decode() for r, ids in told.items()}
        assert texts["tuned"] == texts["reference"] == "Be brief.\n\nWhere? please"
        assert texts["base"] == "Be brief.\n\nUser: Where?\nAssistant:\n"
        answering.close()
        load(loaded, "demo", print)  # whose own prompts then stand


def test_short_names_of_model_files() -> None:
    assert short_name(Path("/m/SmolLM2-1.7B.Q4_K_M.gguf")) == "SmolLM2-1.7B.Q4_K_M"
    assert short_name(Path("/m/Big-00001-of-00012.gguf")) == "Big"
    loaded = Loaded("x", ("base", "tuned"), DIALS, files={"base": "base", "tuned": "Small"})
    assert [loaded.file_of(role) for role in ("base", "tuned", "none")] == ["", "Small", ""]
