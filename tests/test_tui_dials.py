"""Dials turned: held down, taken back, reset, chosen again; and the marks that tell of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import DIALS, ROLES, Script, ScriptedEngine
from test_tui_demo import demo
from textual import events
from tui_driver import Driver, asynchronous, driven, driving, load

from eftlocal import Recipe
from eftlocal.errors import UsageError
from eftlocal.settings import LIMITS, SAMPLING
from eftlocal_tui.comparison import Comparison, Question
from eftlocal_tui.dials import DRAFT, Dials, formula_of, kept, recipe_names, restored
from eftlocal_tui.engine import Live, Loaded
from eftlocal_tui.engine.turning import HELD, Turned, Turning
from eftlocal_tui.history import Figures
from eftlocal_tui.screens.dialogs import HelpScreen
from eftlocal_tui.settings import Settings
from eftlocal_tui.widgets.markdown import Streamed
from eftlocal_tui.widgets.side_panel import DialInput
from eftlocal_tui.widgets.turn_view import MarkLine

VALUES = {
    "recipe": ("proxy", "dials", "realign", "contrast", "interpolate", "base", "upscale"),
    "alpha": ("0", "0.5", "2"),
    "beta": ("0", "0.5", "2"),
    "lambda": ("0", "0.5", "1"),
    "strength": ("0", "0.5", "1"),
    "temperature": ("0", "0.7", "2"),
    "top_p": ("0.5", "off"),
    "top_k": ("5", "off"),
    "min_p": ("0.1", "off"),
    "repeat_penalty": ("1.2", "off"),
    "presence_penalty": ("-1", "off"),
    "frequency_penalty": ("1", "off"),
    "seed": ("7", "off"),
    "delta_top_p": ("0.9", "off"),
    "plausibility": ("0.1", "off"),
    "delta_clip": ("4", "off"),
    "first_tokens": ("0", "20", "off"),
    "unsure_below": ("0.5", "off"),
    DRAFT: ("off", "auto", "4"),
}
BLEND = replace(DIALS, recipe=Recipe.interpolate({"tuned": 0.3, "plain": 0.7}))
WRITTEN = replace(DIALS, recipe=Recipe({"base": 1.0, "tuned": 1.2, "reference": -1.2}))
BEGUN = (DIALS, BLEND, WRITTEN, replace(DIALS, recipe=Recipe.proxy(0.8).stabilise(delta_clip=4.0)))
FOUR = (*ROLES, "plain")


def turned(dials: Dials, name: str, text: str, begun: Dials) -> Dials:
    """The same dials where this one does not go there."""
    try:
        return dials.turned(name, text, FOUR, begun)
    except UsageError:
        return dials


# Reset and difference --------------------------------------------------------------------------


def test_every_dial_is_tried_here() -> None:
    assert set(VALUES) >= {*SAMPLING, *LIMITS, DRAFT, "recipe"}


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("one", VALUES)
def test_two_dials_turned_and_reset(begun: Dials, one: str) -> None:
    for other, first in product(VALUES, VALUES[one]):
        for second in VALUES[other]:
            dials = turned(turned(begun, one, first, begun), other, second, begun)
            changes = begun.changes(dials)
            assert bool(changes) == (dials != begun)
            if "recipe" not in (one, other):
                assert set(changes) <= {one, other}
            for name in ("recipe", one, other):
                if name in dials.all():
                    dials = dials.reset(name, begun)
            assert dials == begun
            assert begun.difference(dials) == ""


@given(st.sampled_from(BEGUN), st.data())
def test_whatever_was_turned_is_reset(begun: Dials, data: st.DataObject) -> None:
    dials = begun
    for name in data.draw(st.lists(st.sampled_from(list(VALUES)), max_size=8)):
        now = turned(dials, name, data.draw(st.sampled_from(VALUES[name])), begun)
        before, after = dials.all(), now.all()
        assert dials.difference(now) == "" or before != after
        dials = now
    one = data.draw(st.sampled_from(list(dials.all())))
    once = dials.reset(one, begun)
    assert once.reset(one, begun) == once
    if one != "recipe":
        assert set(dials.changes(once)) <= {one}
    for name in dials.reset("recipe", begun).all():
        dials = dials.reset("recipe", begun).reset(name, begun)
    assert dials == begun


def test_a_dial_that_the_recipe_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="upscale has no alpha; its dials: beta"):
        DIALS.reset("alpha", DIALS)
    with pytest.raises(UsageError, match="base has no beta; its dials: none"):
        DIALS.turned("recipe", "base", ROLES).turned("beta", "1", ROLES)
    with pytest.raises(UsageError, match="unknown dial 'temprature'; did you mean"):
        DIALS.reset("temprature", DIALS)


def test_a_mix_has_two_dials_and_its_own_references() -> None:
    own = {"calm": "base", "happy": "base"}
    roles = ("base", "calm", "happy")
    begun = replace(DIALS, recipe=Recipe.mix({"calm": 0.5, "happy": 0.5}, 1.0, own))
    turned = begun.turned("lambda", "0.3", roles, begun).stepped("alpha", 5)
    assert turned.recipe == Recipe.mix({"calm": 0.3, "happy": 0.7}, 1.5, own)
    nothing = turned.turned("alpha", "0", roles, begun)
    assert nothing.recipe.roles == ("base",)
    assert nothing.turned("alpha", "1.5", roles, begun) == turned  # lambda is still known
    assert turned.reset("alpha", begun).reset("lambda", begun) == begun
    assert restored(kept("moods", turned), begun) == turned
    columns = Comparison(Loaded("moods", roles, turned), turned, Question([], None)).columns
    assert [c.name for c in columns] == ["emulation", "calm alone", "happy alone", "base alone"]


@pytest.mark.parametrize("begun", [BLEND, WRITTEN])
def test_the_recipe_of_the_preset_can_be_chosen_again(begun: Dials) -> None:
    name = begun.shown()["recipe"]
    away = begun.turned("recipe", "proxy", FOUR, begun).turned("alpha", "2", FOUR, begun)
    assert name in recipe_names(away.recipe, FOUR, begun.recipe)
    assert away.turned("recipe", name, FOUR, begun) == begun
    with pytest.raises(UsageError, match="several tuned models"):
        DIALS.turned("recipe", "interpolate", FOUR, DIALS)


@asynchronous
async def test_interpolation_is_chosen_again_on_the_demo(tmp_path: Path) -> None:
    async with driven(demo(models="demo-blend"), tmp_path, size=(120, 40)) as d:
        began = d.chat.dials.now
        await d.send("/set lambda 0.2")
        await d.send("/set recipe tuned")
        await d.ask("Where is Braga?")
        await d.send("/set recipe interpolate")
        assert d.chat.dials.now == began
        await d.ask("Where is Braga?")
        await d.send("/set recipe realign")
        await d.send("/set temperature 1.5")
        await d.send("/reset recipe")
        assert d.chat.dials.now.difference(began) == "temperature 1.5 → 0"
        await d.send("/reset")
        assert d.chat.dials.now == began


@driving(size=(120, 40))
async def test_reset_by_key_and_by_command(d: Driver) -> None:
    await d.send("/set recipe proxy")
    await d.send("/set alpha 2")
    await d.press("ctrl+t", "up", "ctrl+z")
    assert d.chat.dials.now.shown()["alpha"] == "1"  # this recipe is not the preset's
    d.chat.query_one("#recipe").focus()
    await d.press("ctrl+z")
    assert d.chat.dials.now == DIALS
    await d.press("escape")
    await d.send("/set top-p 0.5")
    await d.send("/set seed 9")
    await d.send("/reset top-p")
    assert "top_p 0.5 → 0.95" in d.toasts
    assert DIALS.difference(d.chat.dials.now) == "seed off → 9"
    await d.send("/reset")
    assert d.chat.dials.now == DIALS
    await d.send("/reset")
    assert "Nothing to reset" in d.toasts
    await d.send("/reset alpha")
    assert "upscale has no alpha; its dials: beta" in d.toasts


# Keys that are held ----------------------------------------------------------------------------


async def hold(d: Driver, key: str, times: int) -> None:
    """As a terminal sends a key that is held, faster than the program shows it."""
    for _ in range(times):
        event = events.Key(key, None)
        event.set_sender(d.app)
        assert d.app._driver is not None
        d.app._driver.send_message(event)
    await d.pause()


@driving(size=(120, 40))
async def test_no_step_of_a_held_key_is_lost_and_an_end_is_no_error(d: Driver) -> None:
    tried = {"recipe"}
    for recipe in ("upscale", "proxy", "dials", "steer", "realign", "contrast"):
        await d.chat.dials.turn("recipe", recipe)
        for dial, value in d.chat.dials.now.shown().items():
            if dial in tried:
                continue
            tried.add(dial)
            row = next(row for row in d.chat.query(DialInput) if row.dial == dial)
            row.focus()
            await hold(d, "up", 10)
            share = dial == "top_p"
            wanted = "9" if dial == DRAFT else "1" if share else f"{float(value) + 1:g}"
            await d.until(lambda row=row, wanted=wanted: row.value == wanted)
            for near, key, end in {
                DRAFT: (("15", "up", "16"), ("2", "down", "off")),
                "top_p": (("0.9", "up", "1"), ("0.2", "down", "0.05")),
                "temperature": (("99.8", "up", "100"), ("0.3", "down", "0")),
            }.get(dial, (("99.8", "up", "100"), ("-99.8", "down", "-100"))):
                await d.chat.dials.turn(dial, near)
                row.focus()
                await hold(d, key, 6)
                await d.until(lambda row=row, end=end: row.value == end)
                assert d.chat.dials.now.shown()[dial] == end
    assert d.toasts == ""
    assert tried > {"alpha", "beta", "lambda", "strength", "temperature", "top_p", DRAFT}


@driving(size=(120, 40))
async def test_what_was_typed_into_a_dial_counts_before_a_step(d: Driver) -> None:
    await d.press("ctrl+t")
    await d.until(lambda: isinstance(d.app.focused, DialInput))
    assert isinstance(d.app.focused, DialInput)
    d.app.focused.value = "2"
    await d.press("up")
    assert d.chat.dials.now.shown()["beta"] == "2.1"
    d.app.focused.value = "warm"
    await d.press("up")
    assert d.chat.dials.now.shown()["beta"] == "2.2"
    assert d.toasts == "beta needs a number from -100 to 100, not 'warm'"


# Marks -----------------------------------------------------------------------------------------


class Marks:
    """A writer of an answer, and its clock."""

    def __init__(self) -> None:
        self.dials = DIALS
        self.tokens = 0
        self.marks: list[tuple[int, str]] = []
        self.told: list[object] = []
        self.now = 0.0
        self.turning = Turning(self, self.read, self, self.told.append, lambda: self.now)  # type: ignore[arg-type]
        self.asked = DIALS

    def read(self) -> Dials:
        return self.asked

    def mark(self, what: str, *, again: bool) -> None:
        at = self.marks.pop()[0] if again else self.tokens
        self.marks.append((at, what))

    def token(self, text: str = "x", *, after: float = 0.0, **values: str) -> None:
        """A token, after the dials were turned."""
        self.now += after
        for name, value in values.items():
            self.asked = self.asked.turned(name, value, ROLES)
        self.turning.look()
        self.turning.came(text)
        self.tokens += 1


def test_a_change_is_one_mark() -> None:
    answer = Marks()
    answer.token()
    answer.token(beta="0.5", temperature="0")
    answer.token()
    answer.token(after=HELD, beta="0.6")
    assert answer.marks == [(1, "beta 1 → 0.5, temperature 0.7 → 0"), (3, "beta 0.5 → 0.6")]
    assert answer.told == [Turned(what, again=False) for _, what in answer.marks]


def test_a_dial_that_is_held_is_one_mark() -> None:
    answer = Marks()
    for beta in ("1.1", "1.2", "1.3", "1.4"):
        answer.token(beta=beta, after=HELD / 2)
        answer.token()
    assert answer.marks == [(0, "beta 1 → 1.4 over 6 tokens")]
    assert [told.again for told in answer.told] == [False, True, True, True]  # type: ignore[attr-defined]
    answer.token(beta="1", after=HELD / 2)
    assert answer.marks == [(0, "beta turned and turned back over 8 tokens")]
    answer.token(beta="2", after=HELD)
    assert answer.marks[1:] == [(9, "beta 1 → 2")]


def test_what_no_text_followed_leaves_no_mark() -> None:
    answer = Marks()
    answer.token(beta="0.5", after=HELD, text="")
    answer.token(beta="1")
    answer.token(seed="5")  # it is the next answer's
    answer.token(beta="3", text="")
    assert answer.marks == [] and answer.told == []
    answer.token()
    assert answer.marks == [(4, "beta 1 → 3")]


@driving(Script(["One ", "two ", "three"], wait_at=1), size=(120, 40))
async def test_a_dial_held_between_two_tokens(d: Driver) -> None:
    await d.send("Count")
    await d.until(lambda: d.turns[-1:] == ["One "])
    await d.press("ctrl+t")
    await d.until(lambda: isinstance(d.app.focused, DialInput))
    await hold(d, "down", 4)
    await d.until(lambda: d.chat.dials.now.shown()["beta"] == "0.6")
    d.engine.go()
    await d.idle()
    (mark,) = d.chat.turns.path()[-1].marks
    assert (mark.what, mark.char) == ("beta 1 → 0.6", 8)
    assert [str(line.render()) for line in d.chat.transcript.query(MarkLine)] == [
        "╌╌ from here: beta 1 → 0.6 ╌╌"
    ]


@driving(Script(["One ", "two ", "three"], wait_at=1))
async def test_a_dial_turned_back_before_the_next_token(d: Driver) -> None:
    await d.send("Count")
    await d.until(lambda: d.turns[-1:] == ["One "])
    for value in ("0.5", "1"):
        await d.send(f"/set beta {value}")
    d.engine.go()
    await d.idle()
    assert d.chat.turns.path()[-1].marks == ()
    assert not d.chat.transcript.query(MarkLine)


@driving("one two three four five six")
async def test_marks_on_screen_are_those_that_are_kept(d: Driver) -> None:
    beta = iter(range(2, 100))
    answering = d.engine.answer

    def turning(*args: object, **options: object) -> object:
        """An engine between whose tokens a dial is turned."""
        answer = answering(*args, **options)
        came = answer.__class__.__next__

        class Turned(answer.__class__):  # type: ignore[name-defined]
            def __next__(self) -> object:
                dials = d.chat.dials
                dials.turned = dials.now.turned("beta", f"{next(beta)}", ROLES)
                return came(self)

        answer.__class__ = Turned
        return answer

    d.engine.answer = turning
    await d.ask("Count")
    turn = d.chat.turns.path()[-1]
    (mark,) = turn.marks
    assert mark.what.startswith("beta 1 → ") and mark.what.endswith(" tokens")
    assert [str(line.render()) for line in d.chat.transcript.query(MarkLine)] == [
        f"╌╌ from here: {mark.what} ╌╌"
    ]
    await d.chat.turns.open(turn.conversation)
    assert [str(line.render()) for line in d.chat.transcript.query(MarkLine)] == [
        f"╌╌ from here: {mark.what} ╌╌"
    ]


# An answer that adds nothing, and its figures ---------------------------------------------------


@driving("One.", Script([""]))
async def test_continuing_an_answer_that_had_ended(d: Driver) -> None:
    await d.ask("Go")
    await d.press("f3")
    await d.until(lambda: len(d.engine.heard) == 2)
    await d.idle()
    await d.until(lambda: "the answer had ended; the model added nothing" in d.screen_text())
    assert d.turns == ["Go", "One."]
    assert d.chat.turns.path()[-1].branches == 2


@driving("One.")
async def test_a_stretch_without_text_ends_nobody(d: Driver) -> None:
    """Textual's stream, stopped before it ran, would end the work that stops it."""
    streamed = Streamed()
    await d.chat.transcript.mount(streamed)
    await streamed.append("")
    await streamed.finish()
    await streamed.append("text")
    await streamed.finish()
    assert streamed.raw == "text"


@driving(Script(["never"], wait_at=0), "Then.", size=(120, 40))
async def test_what_was_stopped_before_its_first_token_has_no_figures(d: Driver) -> None:
    await d.send("A long prompt")
    await d.until(lambda: d.engine.answering)
    await d.press("escape")
    await d.idle()
    assert "stopped before the first token" in d.screen_text()
    assert "tok/s" not in d.screen_text() and "0 tokens" not in d.screen_text()
    assert d.chat.turns.path()[-1].figures is None
    await d.send("/stats")
    assert "Last answer: stopped before the first token\nContext:" in d.notes[0]


@driving("One two three.", size=(120, 40))
async def test_one_short_line_of_figures_and_the_rest_on_the_focused_turn(d: Driver) -> None:
    await d.ask("Go")
    assert d.static("AnswerView .foot") == "5 tokens · 20 tok/s · accepted 50%"
    await d.press("ctrl+up")
    whole = "5 tokens in 1.5 s · 20 tok/s · first 0.25 s · accepted 50% · seed 7"
    await d.until(lambda: d.static("AnswerView .foot") == whole)
    await d.press("escape")
    await d.until(lambda: d.static("AnswerView .foot") != whole)


@driving("One two three.", size=(120, 40))
async def test_no_plot_of_acceptance_without_drafts(d: Driver) -> None:
    side = d.chat.side
    for acceptance, lines in ((None, 2), (0.5, 4)):
        side.begin()
        figures = Figures(
            tokens=9, seconds=2.0, first_token=0.2, tokens_per_second=5.0, acceptance=acceptance
        )
        side.show_live(Live(figures, 3.0, 9, 512))
        await d.pause()
        assert d.static("#plots").count("\n") + 1 == lines
        assert ("accept" in d.static("#plots") + d.static("#figures")) == (lines == 4)


@driving("One.", "Two.", size=(120, 40))
async def test_figures_are_of_what_is_on_screen(d: Driver) -> None:
    await d.ask("Go")
    conversation = d.chat.turns.path()[-1].conversation
    for leave in ("/preset demo", "/clear", f"/load {conversation}"):
        assert "context" in d.static("#figures")
        await d.send(leave)
        await d.ready()
        await d.until(lambda: "context" not in d.static("#figures"))
        assert d.static("#plots") == ""
        await d.ask("Again")


# What they mean --------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", BEGUN)
def test_every_dial_is_explained(begun: Dials) -> None:
    for name in recipe_names(begun.recipe, FOUR, begun.recipe):
        dials = begun.turned("recipe", name, FOUR, begun)
        for dial in dials.all():
            assert dials.told(dial)
            if dial != "recipe":
                assert "{dial.reset}" in dials.explained(dial, begun)


def test_names_of_models_are_without_their_quantization() -> None:
    files = {"base": "OLMo-7B-Q4_K_M", "tuned": "OLMo-1B-Instruct.q8_0", "reference": "OLMo-1B-F16"}
    assert formula_of(Recipe.proxy(), files) == "OLMo-7B + 1.0 × (OLMo-1B-Instruct − OLMo-1B)"
    files = {"base": "m-Q8_0", "tuned": "m-Q4_0", "reference": "m-F16"}
    assert formula_of(Recipe.proxy(), files) == "m-Q8_0 + 1.0 × (m-Q4_0 − m-F16)"
    files |= {"reference": "m-Q4_0"}  # as where tuned is that with an adapter
    assert formula_of(Recipe.proxy(), files) == "base + 1.0 × (tuned − reference)"


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
@asynchronous
async def test_the_panel_says_what_the_recipe_and_the_dial_do(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    async with driven(ScriptedEngine(), tmp_path, size=size) as d:
        await d.press("ctrl+t")
        await d.until(lambda: isinstance(d.app.focused, DialInput))
        about = " ".join(d.static("#about").split())
        loaded = d.chat.models.ready
        assert formula_of(loaded.dials.recipe, loaded.files) in about
        assert "The small tuned model, with what a larger base knows." in about
        assert "0: the small tuned model alone\n1: all that" in d.static("#explained")
        assert "Ctrl+Z goes back" in d.static("#explained")
        rows = [row.rpartition("│")[2] for row in d.screen_text().split("\n")]
        shown = " ".join(" ".join(rows).replace("▎", "").split())
        for said in ("what a larger base knows.", "0: the small tuned model"):
            assert said in shown
        await d.press("up")
        assert "+ 1.1 ×" in d.static("#about")
        await d.press("escape")
        await d.until(lambda: not d.chat.query_one("#explained").display)
        await d.send("/set recipe proxy")
        assert "+ 1.0 ×" in d.static("#about")


@driving(size=(120, 40))
async def test_set_explains(d: Driver) -> None:
    await d.send("/set beta")
    assert d.notes[-1].startswith("beta = 1\n0: the small tuned model alone; 1: all that size adds")
    assert "Takes a number from -100 to 100." in d.notes[-1]
    await d.send("/set delta-clip")
    assert d.notes[-1].startswith("delta_clip = off\nLimit the delta to this many nats\n")
    await d.send("/set recipe")
    assert "proxy: The base, with the fine-tuning of a smaller model." in d.notes[-1]
    assert "interpolate" not in d.notes[-1]
    await d.send("/set alpha")
    assert "upscale has no alpha; its dials: beta" in d.toasts


@pytest.mark.parametrize("preset", ["demo", "demo-blend", "demo-down"])
@asynchronous
async def test_the_demo_says_that_it_is_a_toy_and_what_to_ask(tmp_path: Path, preset: str) -> None:
    async with driven(demo(models=preset), tmp_path, size=(80, 24)) as d:
        assert "A toy of 5 million parameters" in d.screen_text()
        questions = d.chat.models.ready.questions
        assert len(questions) == 3 and all(text in d.screen_text() for text in questions)
        for question in (*questions, questions[0]):
            await d.press("tab")
            assert d.chat.prompt.text == question
        assert d.app.focused is d.chat.prompt
        await d.press("enter")
        await d.idle()
        await d.press("tab")  # in a conversation the key goes on to what is next
        assert d.chat.prompt.text == ""


def test_the_demo_is_as_large_as_it_says_and_its_questions_work() -> None:
    engine = demo(call={"max_tokens": 24})
    loaded = load(engine, None, lambda _: None)
    assert engine._emulator is not None
    base = GGUFReader(engine._emulator.models["base"].path)
    assert round(sum(int(tensor.n_elements) for tensor in base.tensors) / 1e6) == 5
    for question, fact in zip(loaded.questions, ("France", "mammal", "chemist"), strict=True):
        messages = [{"role": "user", "content": question}]
        text = {
            recipe.name: "".join(step.text for step in engine.answer(messages, dials))
            for recipe in (loaded.dials.recipe, Recipe.single("tuned"))
            for dials in [replace(loaded.dials, recipe=recipe)]
        }
        assert fact in text["upscale"] and fact not in text["tuned"]
    engine.close()


# The line of keys ------------------------------------------------------------------------------


def keys_shown(d: Driver) -> str:
    return d.screen_text().split("\n")[-1].strip()


@driving("One.", size=(80, 24))
async def test_the_line_of_keys_is_of_what_has_the_focus(d: Driver) -> None:
    ends = "F1 Help ^P Commands ^Q Quit"
    assert keys_shown(d).startswith("F5 Compare F6 Influence ") and keys_shown(d).endswith(ends)
    before = keys_shown(d)
    await d.ask("Go")
    await d.press("ctrl+up")
    await d.until(lambda: keys_shown(d).startswith("c Copy "))
    assert "Esc Back" in keys_shown(d) and "Compare" not in keys_shown(d)
    await d.press("escape", "ctrl+t")
    await d.until(lambda: keys_shown(d) == f"↑ More ↓ Less ^Z Reset Esc Back {ends}")
    await d.press("escape")
    await d.until(lambda: keys_shown(d) == before)
    await d.press("ctrl+b")
    for width in range(79, 40, -7):
        await d.pilot.resize_terminal(width, 24)
        await d.pause()
        shown = keys_shown(d)
        assert shown.endswith(ends)
        assert before.startswith(shown.removesuffix(ends).strip())


@driving(settings=Settings(keys={"chat.compare": "f11"}), size=(80, 24))
async def test_the_line_of_keys_has_the_keys_that_are_set(d: Driver) -> None:
    assert keys_shown(d).startswith("F11 Compare F6 Influence ")
    at = d.screen_text().split("\n")[-1].index("Help")
    await d.pilot.click("KeyBar", offset=(at, 0))
    await d.until(lambda: isinstance(d.app.screen, HelpScreen))
