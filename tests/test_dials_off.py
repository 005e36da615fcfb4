"""A preset that turns every dial on, and every surface that can switch each off again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eftlocal import Emulator, Recipe, Sampling, Speculation
from eftlocal.cli import options as opt
from eftlocal.cli.app import app
from eftlocal.cli.sweep import _builder
from eftlocal.defaults import Defaults, preset_defaults
from eftlocal.errors import UsageError
from eftlocal.kinds import OFF
from eftlocal.presets.reading import load_presets, user_path
from eftlocal.request import RequestDefaults, read_request
from eftlocal.settings import LIMITS, RANGES
from eftlocal.study.grid import cross, parse_dials
from eftlocal.user_settings import RECIPE
from eftlocal_tui.dials import Dials, recipe_from, recipe_record

ON: dict[str, Any] = {
    "delta_top_p": 0.9,
    "plausibility": 0.1,
    "delta_clip": 2.0,
    "first_tokens": 3,
    "unsure_below": 0.5,
    "top_k": 40,
    "top_p": 0.5,
    "min_p": 0.1,
    "repeat_penalty": 1.3,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "seed": 7,
}
OF_SAMPLING = [name for name in ON if name not in LIMITS]
ROLES = ("base", "tuned", "reference")


def toml(**values: Any) -> str:
    def table(names: list[str] | tuple[str, ...]) -> str:
        pairs = (f"{n} = {values[n]!r}".replace("'", '"') for n in names if n in values)
        return "{" + ", ".join(pairs) + "}"

    roles = "\n".join(f'[preset.roles.{role}]\nfile = "{role}.gguf"' for role in ROLES)
    return (
        f'[[preset]]\nname = "on"\nrecipe = {table(LIMITS)}\n'
        f"sampling = {table(OF_SAMPLING)}\nspeculation = {{length = 4}}\n{roles}\n"
    )


def of_preset(folder: Path, **values: Any) -> Defaults:
    file = folder / "models.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(toml(**values), encoding="utf-8")
    return preset_defaults(load_presets(file)["on"])


@pytest.fixture
def defaults(tmp_path: Path) -> Defaults:
    found = of_preset(tmp_path, **ON)
    assert {name: value(found, name) for name in ON} == ON
    return found


def value(defaults: Defaults | Dials, name: str) -> Any:
    return getattr(defaults.recipe if name in LIMITS else defaults.sampling, name)


def only_off(changed: Defaults | Dials, name: str) -> None:
    expected = ON | {name: RANGES[name].off}
    assert {n: value(changed, n) for n in ON} == expected


@pytest.mark.parametrize("name", ON)
def test_on_the_command_line(name: str, defaults: Defaults) -> None:
    user_path().parent.mkdir(parents=True, exist_ok=True)
    user_path().write_text(toml(**ON), encoding="utf-8")
    given = dict.fromkeys([*ON, *RECIPE])
    only_off(opt.chosen_defaults(defaults, given | {name: OFF}), name)
    flag = "--" + name.replace("_", "-")
    for verb in ("run", "inspect"):  # each reads the word, and then looks for the preset's files
        result = CliRunner().invoke(app, [verb, "Hello", "--preset", "on", flag, OFF])
        assert "must be" not in result.output
        assert result.exit_code != 2, result.output
        wrong = CliRunner().invoke(app, [verb, "Hello", "--preset", "on", flag, "offf"])
        assert wrong.exit_code == 2
        assert f"{flag} is 'offf'; it must be {RANGES[name].rule}" in wrong.output


@pytest.mark.parametrize("name", [name for name in ON if name != "seed"])
def test_in_a_request(name: str, defaults: Defaults) -> None:
    asked = RequestDefaults(recipe=defaults.recipe, sampling=defaults.sampling)
    request = read_request({"prompt": "Hello", name: OFF}, defaults=asked)
    recipe = defaults.recipe if request.recipe is None else request.recipe
    sampling = defaults.sampling if request.sampling is None else request.sampling
    only_off(Defaults(recipe=recipe, sampling=sampling), name)


@pytest.mark.parametrize("name", ON)
def test_in_a_preset(name: str, tmp_path: Path) -> None:
    only_off(of_preset(tmp_path, **ON | {name: OFF}), name)


@pytest.mark.parametrize("name", [name for name in ON if name != "seed"])
def test_along_an_axis_of_a_sweep(name: str, defaults: Defaults) -> None:
    dials = parse_dials({name: f"off,{ON[name]:g}"})
    off, on = cross(dials, _builder(defaults, ROLES, False))
    only_off(Defaults(recipe=off.recipe, sampling=off.sampling), name)
    assert (on.recipe, on.sampling) == (defaults.recipe, defaults.sampling)


@pytest.mark.parametrize("name", ON)
def test_in_the_chat(name: str, defaults: Defaults) -> None:
    before = Dials(defaults.recipe, defaults.sampling, defaults.speculation)
    after = before.turned(name, OFF, ROLES)
    only_off(after, name)
    assert before.difference(after) == f"{name} {ON[name]:g} → off"
    assert after.turned(name, f"{ON[name]:g}", ROLES) == before
    assert recipe_from(recipe_record(after.recipe)) == after.recipe


def test_a_large_seed_is_kept_to_its_last_digit() -> None:
    dials = Dials(Recipe.upscale(), Sampling(), Speculation())
    turned = dials.turned("seed", "9007199254740993", ROLES)
    assert turned.sampling.seed == 2**53 + 1
    assert dials.difference(turned) == "seed off → 9007199254740993"


def test_the_length_of_an_answer(demo_files: dict[str, Path], tmp_path: Path) -> None:
    """Off is as long as the context holds, over a preset or defaults that set a length."""
    most = RANGES["max_tokens"].off
    request = read_request({"prompt": "Hello", "max_tokens": OFF}, defaults=RequestDefaults())
    assert request.max_tokens == most
    file = tmp_path / "off.toml"
    file.write_text(toml().replace("sampling = {}", 'sampling = {max_tokens = "off"}'))
    assert preset_defaults(load_presets(file)["on"]).max_tokens == most
    with Emulator.from_files(
        **demo_files, defaults=Defaults(max_tokens=2), n_ctx=40, threads=1
    ) as emulator:
        assert len(emulator.generate("Hello", ignore_end=True).tokens) == 2
        whole = emulator.generate("Hello", ignore_end=True, max_tokens=OFF)
    assert whole.finish_reason == "context" and len(whole.tokens) > 2


def test_in_python(defaults: Defaults) -> None:
    recipe = defaults.recipe.stabilise(**dict.fromkeys(LIMITS, OFF))  # type: ignore[arg-type]
    assert recipe == Recipe.upscale()
    assert Sampling(**dict.fromkeys(OF_SAMPLING, OFF)) == Sampling(top_p=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "length"), [(0, 0), (False, 0), ("off", 0), (True, None), ("auto", None), (4, 4)]
)
def test_drafts_of_an_answer(given: Any, length: int | None, demo: Emulator) -> None:
    with demo.stream("Hello", speculation=given, max_tokens=4) as stream:
        assert stream.speculation == Speculation(length=length)
        stream.speculation = Speculation(length=2, rule="rejection")
        stream.speculation = given
        assert stream.speculation == Speculation(length=length, rule="rejection")
    for wrong in (17, -1, 0.5, "fast", [], {}):
        with pytest.raises(UsageError, match=r"speculation .* from 1 to 16, auto or off"):
            demo.stream("Hello", speculation=wrong)
