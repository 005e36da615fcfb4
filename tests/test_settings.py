"""The table of settings: every surface takes, refuses and switches off the same."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from settings_files import own_preset, table, toml, write_settings
from typer.testing import CliRunner

from eftlocal import Emulator, Recipe, Sampling, Speculation, arguments
from eftlocal.cli import option_rules as rules
from eftlocal.cli import options as opt
from eftlocal.cli.app import app
from eftlocal.cli.eval_run import _builder
from eftlocal.defaults import Defaults, preset_defaults
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.evaluation.grid import cross, parse_dials
from eftlocal.kinds import OFF, Range
from eftlocal.request import RequestDefaults, read_request
from eftlocal.request_fields import read_body
from eftlocal.settings import (
    AXIS,
    BODY,
    CHAT,
    FILE,
    LIMITS,
    LINE,
    PRESET,
    RANGES,
    SETTINGS,
    Setting,
)
from eftlocal.user_settings import RECIPE, Given, from_environment, from_file
from eftlocal_tui.dials import Dials, recipe_from, recipe_record

NUMBERS = [s for s in SETTINGS.values() if isinstance(s.kind, Range)]
ROLES = ("base", "tuned", "reference")


# Every surface takes and refuses the same ---------------------------------------------------------


def on_the_line(setting: Setting, value: Any) -> Any:
    return opt.option(setting.name).parser(str(value))


def in_a_request(setting: Setting, value: Any) -> Any:
    return read_body({"prompt": "x", setting.name: value})[setting.parameter]


def in_a_preset(setting: Setting, value: Any) -> Any:
    tables = {"recipe": "recipe", "limits": "recipe", "sampling": "sampling", "length": "sampling"}
    if setting.group == "drafts":
        return own_preset(f"speculation = {{length = {toml(value)}}}").settings()[setting.name]
    if setting.group in tables:
        table = f"{tables[setting.group]} = {{{setting.name} = {toml(value)}}}"
        return own_preset(table).settings()[setting.name]
    return own_preset("", f"{setting.name} = {toml(value)}").settings()[f"{setting.name} of base"]


def in_the_file(setting: Setting, value: Any) -> Any:
    write_settings(f"{setting.name} = {toml(value)}")
    return from_file()[setting.name].value


def in_the_environment(setting: Setting, value: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(setting.variable, str(value))
        return from_environment()[setting.name].value


def in_the_chat(setting: Setting, value: Any) -> Any:
    recipe = Recipe.contrast(0.5) if setting.name == "strength" else Recipe.dials()
    before = Dials(recipe, Sampling(), Speculation())
    after = before.turned(setting.name, str(value), ROLES)
    of = after.recipe if setting.name in LIMITS else after.sampling
    return getattr(of, setting.name, value)


def on_an_axis(setting: Setting, value: Any) -> Any:
    dials = parse_dials({setting.name: str(value)})
    ((found,),) = dials.values()
    _builder(Defaults(), ROLES, Given({}, {}))({setting.name: found})
    return found


def in_python(setting: Setting, value: Any) -> Any:
    name = "speculation" if setting.name == "speculative" else setting.parameter
    if name == "threads" and isinstance(value, int) and value > len(os.sched_getaffinity(0)):
        raise UsageError(f"threads is {value}")  # of this machine
    return arguments.checked(name, value)


SURFACES = {
    "line": (LINE, on_the_line),
    "request": (BODY, in_a_request),
    "preset": (PRESET, in_a_preset),
    "file": (FILE, in_the_file),
    "environment": (FILE, in_the_environment),
    "chat": (CHAT, in_the_chat),
    "axis": (AXIS, on_an_axis),
    "python": (None, in_python),
}


def ends(kind: Range) -> list[Any]:
    found = [kind.least] * (not kind.above) + [kind.most] * (not kind.below)
    return [int(end) for end in found] if kind.whole else found


def outside(kind: Range, name: str) -> list[Any]:
    step = 1 if kind.whole else 0.5
    below = kind.least if kind.above else kind.least - step
    above = kind.most if kind.below else kind.most + step
    special = {("top_k", -1), ("seed", -1)}  # which clients send for none
    found = [int(below), int(above)] if kind.whole else [below, above]
    return [v for v in found if v not in (kind.off, kind.auto) and (name, v) not in special]


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
def test_each_surface_takes_the_ends_and_the_words_and_refuses_what_is_outside(
    setting: Setting, surface: str
) -> None:
    where, given = SURFACES[surface]
    if where is not None and where not in setting.where:
        pytest.skip("it is not given there")
    kind = setting.kind
    assert isinstance(kind, Range)
    for end in ends(kind):
        if surface == "python" and setting.name == "threads" and end != 1:
            continue
        assert given(setting, end) == end
    for word, value in kind.words.items():
        assert given(setting, word) in (word, value)
    switches = [True, False] * (surface != "python")  # numbers, not switches
    for wrong in (*outside(kind, setting.name), *switches):
        if (
            setting.name == "max_tokens"
            and surface == "request"
            and wrong == 0
            and wrong is not False
        ):
            continue  # with echo it means something
        with pytest.raises(EftlocalError) as refused:
            given(setting, wrong)
        told = str(refused.value)
        name = "speculation" if setting.name == "speculative" else setting.name
        assert "\n" not in told
        assert any(
            n in told for n in (name, setting.name, setting.flag, setting.variable, "length")
        )


def test_every_setting_has_an_option_where_it_says_so() -> None:
    for setting in SETTINGS.values():
        if LINE in setting.where:
            group = "recipe" if setting.group == "limits" else setting.group
            assert setting.parameter in opt.GROUPS[group]
    assert set(opt.axes("", {})) == {s.parameter for s in SETTINGS.values() if AXIS in s.where}


# Off, over a preset that turns every dial on ------------------------------------------------------

ON: dict[str, Any] = {
    **{"delta_top_p": 0.9, "plausibility": 0.1, "delta_clip": 2.0},
    **{"first_tokens": 3, "unsure_below": 0.5},
    **{"top_k": 40, "top_p": 0.5, "min_p": 0.1, "repeat_penalty": 1.3},
    **{"presence_penalty": 0.5, "frequency_penalty": 0.5, "seed": 7},
}
OF_SAMPLING = [name for name in ON if name not in LIMITS]


def of_preset(**values: Any) -> Defaults:
    top = f"recipe = {table(values, LIMITS)}\nsampling = {table(values, OF_SAMPLING)}\n"
    return preset_defaults(own_preset(f"{top}speculation = {{length = 4}}"))


def value(defaults: Defaults | Dials, name: str) -> Any:
    return getattr(defaults.recipe if name in LIMITS else defaults.sampling, name)


def off_on_the_line(name: str, on: Defaults) -> Defaults:
    for verb in ("run", "inspect"):  # each reads the word, and then looks for the preset's files
        call = [verb, "Hello", "--preset", "mine", SETTINGS[name].flag, OFF]
        result = CliRunner().invoke(app, call)
        assert "must be" not in result.output and result.exit_code != 2, result.output
    return rules.chosen_defaults(on, dict.fromkeys([*ON, *RECIPE]) | {name: OFF})


def off_in_a_request(name: str, on: Defaults) -> Defaults:
    request = read_request({"prompt": "Hello", name: OFF}, defaults=RequestDefaults(on))
    return Defaults(request.recipe or on.recipe, request.sampling or on.sampling)


def off_in_a_preset(name: str, on: Defaults) -> Defaults:
    return of_preset(**ON | {name: OFF})


def off_on_an_axis(name: str, on: Defaults) -> Defaults:
    build = _builder(on, ROLES, Given({}, {}))
    off, back = cross(parse_dials({name: f"off,{ON[name]:g}"}), build)
    assert (back.recipe, back.sampling) == (on.recipe, on.sampling)
    return Defaults(off.recipe, off.sampling)


def off_in_the_chat(name: str, on: Defaults) -> Dials:
    before = Dials(on.recipe, on.sampling, on.speculation)
    after = before.turned(name, OFF, ROLES)
    assert before.difference(after) == f"{name} {ON[name]:g} → off"
    assert after.turned(name, f"{ON[name]:g}", ROLES) == before
    assert recipe_from(recipe_record(after.recipe)) == after.recipe
    return after


OFFS: list[Callable[[str, Defaults], Defaults | Dials]] = [
    *(off_on_the_line, off_in_a_request, off_in_a_preset, off_on_an_axis, off_in_the_chat)
]


@pytest.mark.parametrize("switched", OFFS, ids=lambda switched: switched.__name__)
@pytest.mark.parametrize("name", ON)
def test_one_dial_is_off_and_the_others_stay(
    name: str, switched: Callable[[str, Defaults], Defaults | Dials]
) -> None:
    if name == "seed" and switched in (off_in_a_request, off_on_an_axis):
        pytest.skip("a seed there is of one answer")
    on = of_preset(**ON)
    assert {n: value(on, n) for n in ON} == ON
    after = switched(name, on)
    assert {n: value(after, n) for n in ON} == ON | {name: RANGES[name].off}


def test_off_in_python() -> None:
    on = of_preset(**ON).recipe
    assert on.stabilise() == on
    assert on.stabilise(**dict.fromkeys(LIMITS, OFF)) == Recipe.upscale()  # type: ignore[arg-type]
    assert Sampling(**dict.fromkeys(OF_SAMPLING, OFF)) == Sampling(top_p=1.0)  # type: ignore[arg-type]


def test_a_large_seed_is_kept_to_its_last_digit() -> None:
    dials = Dials(Recipe.upscale(), Sampling(), Speculation())
    turned = dials.turned("seed", "9007199254740993", ROLES)
    assert turned.sampling.seed == 2**53 + 1
    assert dials.difference(turned) == "seed off → 9007199254740993"


def test_the_length_of_an_answer(demo_files: dict[str, Path]) -> None:
    """Off is as long as the context holds, over a preset or defaults that set a length."""
    most = RANGES["max_tokens"].off
    request = read_request({"prompt": "Hello", "max_tokens": OFF}, defaults=RequestDefaults())
    assert request.max_tokens == most
    assert preset_defaults(own_preset('sampling = {max_tokens = "off"}')).max_tokens == most
    with Emulator.from_files(
        **demo_files, defaults=Defaults(max_tokens=2), n_ctx=40, threads=1
    ) as emulator:
        assert len(emulator.generate("Hello", ignore_end=True).tokens) == 2
        whole = emulator.generate("Hello", ignore_end=True, max_tokens=OFF)
    assert whole.finish_reason == "context" and len(whole.tokens) > 2


@pytest.mark.parametrize(
    ("given", "length"),
    [(0, 0), (False, 0), ("off", 0), (True, None), ("auto", None), (4, 4), ("4", 4), (None, None)],
)
def test_lengths_of_drafts(given: Any, length: int | None, demo: Emulator) -> None:
    assert Speculation(given) == Speculation(length=length)
    if given is None:  # of an answer: the emulator's own
        return
    with demo.stream("Hello", speculation=given, max_tokens=4) as stream:
        assert stream.speculation == Speculation(length=length)
        stream.speculation = Speculation(length=2, rule="rejection")
        stream.speculation = given
        assert stream.speculation == Speculation(length=length, rule="rejection")


@pytest.mark.parametrize(
    "wrong", [17, -1, 0.5, 1.0, "fast", "", "17", "-1", [], {}, 10**400, math.nan]
)
def test_other_lengths_are_refused(wrong: Any, demo: Emulator) -> None:
    assert Speculation(np.int64(3)).length == 3  # type: ignore[arg-type]
    for call in (Speculation, lambda length: demo.stream("Hello", speculation=length)):
        with pytest.raises(UsageError, match=r"^speculation .* from 1 to 16, auto or off"):
            call(wrong)
