"""The loop guard: what ordinarily repeats passes, what goes round in circles ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _repetitions import ordinary_repetitions
from measure_loops import longest_repetition

from eftlocal import Defaults, Emulator, Sampling, Speculation
from eftlocal.batch.completion_body import completion_body
from eftlocal.defaults import preset_defaults
from eftlocal.errors import UsageError
from eftlocal.generation import (
    LOOP_GUARD,
    OF_NUMBERS,
    is_of_numbers,
    repeated_phrase,
)
from eftlocal.llama import Model
from eftlocal.presets.reading import find
from eftlocal.request import Request, RequestDefaults, read_request
from eftlocal.settings import checked

QUESTION = "What is the capital of Peru?"


def saying(em: Emulator, text: str, **more: Any) -> dict[str, Any]:
    """Options under which the answer is one token, over and over."""
    (token,) = em.models["tuned"].tokenize(text)
    sampling = Sampling(temperature=0.0, logit_bias={token: 100.0})
    return {"sampling": sampling, "speculation": Speculation(length=0), **more}


def test_what_ordinarily_repeats_passes_with_room(smollm2: Path) -> None:
    with Model(smollm2, vocab_only=True) as model:
        for name, text in ordinary_repetitions().items():
            tokens = model.tokenize(text)
            span, length, end = longest_repetition(tokens)
            phrase = b"".join(map(model.piece, tokens[end - length : end])).decode(
                "utf-8", "replace"
            )
            guard = LOOP_GUARD * (OF_NUMBERS if is_of_numbers(phrase) else 1)
            assert span < 0.75 * guard, name


def test_a_phrase_is_found_at_whatever_point_it_is_cut() -> None:
    chance = np.random.default_rng(0)
    for length in (1, 2, 7, 31, 256):
        phrase = [*chance.choice(5000, length, replace=False).tolist()]
        tokens = (phrase * 1100)[3 : 3 + LOOP_GUARD]
        assert repeated_phrase(tokens) == length
        tokens[LOOP_GUARD // 2] = -1
        assert repeated_phrase(tokens) == 0
    assert repeated_phrase(chance.integers(0, 9, LOOP_GUARD).tolist()) == 0
    assert repeated_phrase([*range(300)] * 3 + [*range(124)]) == 0  # not four times


def test_an_answer_that_goes_round_in_circles_ends(demo: Emulator) -> None:
    answer = demo.generate(QUESTION, **saying(demo, " a", loop_guard=64))
    assert (answer.finish_reason, len(answer.tokens)) == ("repetition", 64)
    drafted = saying(demo, " a", loop_guard=64) | {"speculation": Speculation(length=5)}
    assert demo.generate(QUESTION, **drafted).tokens == answer.tokens
    digits = demo.generate(QUESTION, **saying(demo, "0", loop_guard=64))
    assert (digits.finish_reason, len(digits.tokens)) == ("repetition", 256)
    for off in ("off", 0, False):
        options = saying(demo, " a", loop_guard=off, max_tokens=100)
        assert demo.generate(QUESTION, **options).finish_reason == "length"
    assert Defaults().loop_guard == LOOP_GUARD
    measured = demo.generate(
        QUESTION, **saying(demo, " a", loop_guard=64, max_tokens=80), ignore_end=True
    )
    assert measured.finish_reason == "length"


def test_a_phrase_of_numbers_needs_no_word() -> None:
    numbers = ("0", ", 0", "142857", "0x00", "| 0 |", "1.0\n", " 00 00")
    words = ("null, ", "la ", "=", "- ", "a0ab", "\n", "AAAA", "🎉", "the 1st")
    assert all(map(is_of_numbers, numbers)) and not any(map(is_of_numbers, words))


@pytest.mark.parametrize("form", ["json_schema", "grammar"])
def test_it_never_acts_under_a_mask(demo: Emulator, form: str) -> None:
    schema = {"type": "array", "items": {"const": 7}, "minItems": 100, "maxItems": 100}
    given: dict[str, Any] = {"json_schema": schema}
    if form == "grammar":
        given = {"grammar": 'root ::= "[7" (",7"){99} "]"'}
    answer = demo.generate(QUESTION, **given, loop_guard=16, sampling=Sampling(temperature=0.0))
    assert answer.finish_reason == "stop"
    assert json.loads(answer.text) == [7] * 100


def test_defaults_are_an_emulators_own(demo: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "defaults", Defaults(loop_guard=32))
    assert len(demo.generate(QUESTION, **saying(demo, " a")).tokens) == 32


def test_in_openais_formats_it_is_a_length(demo: Emulator) -> None:
    answer = demo.generate(QUESTION, **saying(demo, " a", loop_guard=32))
    request = Request((QUESTION,))
    body = completion_body(request, [answer], id="1", created=0, model="", piece=demo.piece)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["eftlocal"]["finish_reason"] == "repetition"


@pytest.mark.parametrize(("value", "tokens"), [("off", 0), (0, 0), (False, 0), (16, 16), (99, 99)])
def test_its_forms(value: object, tokens: int) -> None:
    assert checked("loop_guard", value) == tokens


@pytest.mark.parametrize("value", [True, -1, 15, 1.5, "on", "", "1e3", [], None])
def test_what_is_no_loop_guard(value: object) -> None:
    with pytest.raises(UsageError, match=r"loop_guard is .*a whole number, 16 or more, or off"):
        checked("loop_guard", value)


def test_a_request_and_a_preset_may_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(value: object) -> int | None:
        body = {"prompt": "x", "loop_guard": value}
        return read_request(body, defaults=RequestDefaults()).loop_guard

    assert (asked("off"), asked(64), asked(None)) == (0, 64, None)
    with pytest.raises(UsageError, match="loop_guard"):
        asked(3)
    assert preset_defaults(find("demo")).loop_guard == LOOP_GUARD
    monkeypatch.setenv("EFTLOCAL_CONFIG", str(tmp_path))
    (tmp_path / "models.toml").write_text(
        '[[preset]]\nname = "mine"\nsampling = {loop_guard = "off"}\n'
        + "".join(f'[preset.roles.{r}]\nfile = "x.gguf"\n' for r in ("base", "tuned", "reference"))
    )
    assert preset_defaults(find("mine")).loop_guard == 0


def eftlocal(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eftlocal", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_on_the_command_line() -> None:
    refused = eftlocal("run", "Hello", "--loop-guard", "often")
    assert refused.returncode == 2
    assert "--loop-guard is 'often'" in refused.stderr and refused.stderr.count("\n") == 1
    looping = ("--recipe", "base", "--temperature", "0", "--raw", "--threads", "1")
    ended = eftlocal(
        "run", "1 1 1 1 1 1 1 1 1", *looping, "--loop-guard", "24", "--max-tokens", "900"
    )
    assert ended.returncode == 0 and ", stopped: repeating" in ended.stderr
