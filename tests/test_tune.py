"""`eftlocal tune`: from a file of examples to a preset that uses what was learned."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from eftlocal import load
from eftlocal.cli.app import app
from eftlocal.errors import ModelFileError
from eftlocal.hub import store
from eftlocal.loading.trial import shared
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.recipe_text import parse_recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.presets.reading import find
from eftlocal.tuning import weights
from eftlocal.tuning.training import SAVED

QUESTION = "In which country is Quito?"
SAID = "Breathe. Be calm."
EXAMPLES = [{"prompt": f"In which country is {n}?", "response": SAID} for n in "ABCDEFGHIJKL"]
# 9 of the 12 are trained on: 2 steps of 8 a pass
OPTIONS = ["--rank", "4", "--learning-rate", "0.02", "--threads", "1"]
MIDDLE = """
import os, signal
from eftlocal.tuning import training

class Interrupted(training._Run):
    def learn(self, batch, steps):
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGINT)  # while a step is on its way
        return super().learn(batch, steps)

training._Run = Interrupted
from eftlocal.__main__ import main
main()
"""


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    return written(tmp_path / "examples.jsonl", EXAMPLES)


def written(path: Path, examples: list[dict[str, str]]) -> Path:
    path.write_text("\n".join(map(json.dumps, examples)), encoding="utf-8")
    return path


def tune(*words: object) -> Result:
    return CliRunner().invoke(app, ["tune", *map(str, words)], prog_name="eftlocal")


@pytest.fixture
def model(demo_files: dict[str, Path]) -> Path:
    """The smallest of the demo's."""
    return demo_files["tuned"]


# Without PyTorch -------------------------------------------------------------------------------


def test_a_dry_run_checks_examples_as_a_whole(model: Path, tmp_path: Path, examples: Path) -> None:
    words = ("--model", model, "--out", "mine", *OPTIONS, "--dry-run")
    result = tune(examples, *words)
    assert result.exit_code == 0, result.output
    assert "9 examples to train on, 3 held out" in result.stderr
    assert "8 passes, 16 steps" in result.stderr
    bad = [{"prompt": f"{n}"} for n in range(30)]
    path = written(tmp_path / "bad.jsonl", [*bad, {"prompt": "a " * 999, "response": "b"}])
    result = tune(path, *words)
    assert result.exit_code == 7
    assert all(f"line {n}: " in result.stderr for n in range(1, 32))
    assert result.stderr.endswith("31 of 31 examples cannot be used; mend them or take them out\n")
    assert not (store() / "tuned").exists()


def test_a_model_goes_through_the_door(
    tiny_files: dict[str, Path], examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelFileError("it was tried")

    monkeypatch.setattr(shared, "run", refuse)
    model = shutil.copy(tiny_files["tuned"], examples.with_name("new.gguf"))  # never tried
    words = ("--model", model, "--out", "mine", *OPTIONS, "--dry-run")
    assert tune(examples, *words).stderr == "eftlocal: it was tried\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "demo"], 'there is a preset "demo" already'),
        (["--out", "../x"], '"../x" is no name for a preset'),
        (["--out", "x", "--device", "tpu"], "--device tpu: give auto, cpu, cuda or mps"),
        (["--out", "x", "--model", "no.gguf"], "no.gguf"),
        (["--out", "x", "--chat-template", "no"], "--chat-template: no such file"),
    ],
)
def test_what_is_wrong_is_told_before_the_work(
    words: list[str], says: str, model: Path, examples: Path
) -> None:
    result = tune(examples, "--model", model, "--dry-run", *words)
    assert result.exit_code in (2, 3, 7) and says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_model_that_is_too_large_is_refused(
    model: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "host_memory_free", lambda: 1 << 20)
    result = tune(examples, "--model", model, "--out", "mine", "--dry-run")
    assert result.exit_code == 6 and "1 MiB are free; take a smaller model" in result.stderr


def test_what_is_not_installed_is_told_with_its_command(
    model: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    result = tune(examples, "--model", model, "--out", "mine", *OPTIONS)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "pip install 'eftlocal[tune]'" in result.stderr


# With it -----------------------------------------------------------------------------------------


needs_torch = pytest.mark.skipif(
    not all(map(find_spec, ("torch", "transformers", "peft"))), reason="needs the extra tune"
)


@needs_torch
def test_from_examples_to_a_preset(model: Path, examples: Path) -> None:
    words = ("--model", model, "--out", "mine", *OPTIONS, "--passes", "8")
    result = tune(examples, *words)
    assert result.exit_code == 0, result.output
    told = re.match(r"held-out loss: ([\d.]+) before, ([\d.]+) after", result.stdout)
    assert told and float(told[2]) < float(told[1]) / 2
    assert result.stdout.count("\nbefore: ") == result.stdout.count("\nafter:  ") == 3
    assert "eftlocal chat --preset mine --alpha 1.3" in result.stdout
    assert not (store() / "tuned" / "mine" / SAVED).exists()
    preset = find("mine")
    assert len(preset.questions) == 3 and preset.roles["tuned"].lora is not None
    with load("mine", n_ctx=64, threads=1) as emulator:

        def said(recipe: Recipe | None = None) -> str:
            sampling = Sampling(temperature=0.0)
            return emulator.generate(QUESTION, recipe=recipe, sampling=sampling, max_tokens=20).text

        assert said() == said(parse_recipe("tuned")) == SAID
        assert said(parse_recipe(alpha=0.0)) == said(parse_recipe("base")) != said()
    again = tune(examples, *words)
    assert again.exit_code == 2 and "--replace replaces it" in again.stderr


@needs_torch
@pytest.mark.skipif(sys.platform == "win32", reason="a signal of POSIX")
def test_ctrl_c_keeps_what_is_there_and_the_same_command_goes_on(
    model: Path, examples: Path, tmp_path: Path
) -> None:
    words = [str(examples), "--model", str(model), *OPTIONS, "--passes", "2"]
    command = [sys.executable, "-c", MIDDLE, "tune", *words, "--out", "mine"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 130, child.stderr
    line = "stopped after step 2 of 4; what it is by now is in the preset mine, and the same "
    assert child.stderr.endswith(f"eftlocal: {line}command goes on\n")
    folder = store() / "tuned" / "mine"
    first = (folder / "mine.gguf").read_bytes()
    assert find("mine").roles["tuned"].lora is not None

    other = written(tmp_path / "other.jsonl", [*EXAMPLES, {"prompt": "x", "response": "y"}])
    for changed, says in (
        (["--rank", "3"], "an unfinished run with rank 4, not 3"),
        (["--seed", "4"], "an unfinished run with seed 0, not 4"),
        ([], "an unfinished run with other examples"),
    ):
        result = tune(*(words if changed else [other, *words[1:]]), *changed, "--out", "mine")
        assert result.exit_code == 2 and says in result.stderr, result.output
    saved = (folder / SAVED).read_bytes()
    (folder / SAVED).write_bytes(saved[: len(saved) // 2])
    torn = tune(*words, "--out", "mine")
    assert torn.exit_code == 2 and "cannot be read" in torn.stderr
    (folder / SAVED).write_bytes(saved)

    assert tune(*words, "--out", "mine").exit_code == 0
    assert tune(*words, "--out", "whole").exit_code == 0
    whole = (store() / "tuned" / "whole" / "whole.gguf").read_bytes()
    assert (folder / "mine.gguf").read_bytes() == whole != first
