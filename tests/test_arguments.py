"""The Python API's door: whatever comes in works, or is one line that names it."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eftlocal
from eftlocal import Defaults, Emulator, Recipe, Sampling, Speculation, arguments
from eftlocal.arguments import AnswerOptions, LoadOptions
from eftlocal.errors import EftlocalError, EngineError, UsageError
from eftlocal.llama import Context, Span
from eftlocal.scheduler import Scheduler
from eftlocal.settings import CONTEXT
from eftlocal.study.influence import inspect as inspect_answer

GREEDY = Sampling(temperature=0.0)
HALF = "a\ud800"
ODD: list[Any] = [
    *(0, -1, True, 1.5, float("nan"), 10**30, np.int64(3), np.float32(2), np.array([1, 2])),
    *("", "x", HALF, b"x", Path("x"), "off", "\0"),
    *([], {}, [None], [HALF], [1], {"a": 1}, {1: 2}, {"type": HALF}, (), set(), iter([])),
    *(object(), print, int, Sampling, GREEDY, Recipe.upscale(), Speculation(), Defaults(), ...),
]


def one_line(work: Callable[[], object]) -> str:
    """What a refusal says, of one line; empty where it works. Nothing else may be raised."""
    try:
        work()
    except EftlocalError as error:
        said = str(error)
        assert said and "\n" not in said and len(said) < 500
        said.encode()
        return said
    return ""


@pytest.mark.parametrize(
    ("options", "method"),
    [(AnswerOptions, Emulator.stream), (LoadOptions, Emulator.from_files)],
)
def test_every_option_is_typed_checked_and_told_of(options: Any, method: Any) -> None:
    for name in options.__annotations__:
        with pytest.raises(UsageError, match=name.replace("json_", "")):
            arguments.checked(name, object())
        assert re.search(rf"\b{name}\b", method.__doc__)
    named = inspect.signature(Emulator.from_files).parameters.values()
    named = [p.name for p in named if p.kind is p.KEYWORD_ONLY and p.name != "defaults"]
    assert sorted([*named, *CONTEXT]) == sorted(LoadOptions.__annotations__)


@pytest.mark.parametrize("name", AnswerOptions.__annotations__)
def test_any_value_of_any_option(tiny: Emulator, name: str) -> None:
    for value in ODD:
        options: dict[str, Any] = {"max_tokens": 1, "raw": True, name: value}
        said = one_line(lambda options=options: tiny.generate("Hello", **options))  # type: ignore[misc]
        if said and name not in ("raw", "continue_last", "special"):
            first = "draft" if name == "speculation" else name
            assert name in said.replace(" ", "_").lower() or first in said or name == "recipe"
        assert not tiny.ensemble.running


def test_any_prompt_and_any_message(tiny: Emulator) -> None:
    call: Any
    for value in ODD:
        for call in (tiny.generate, tiny.stream, tiny.chat):
            one_line(lambda call=call, value=value: call(value, max_tokens=1))  # type: ignore[misc]
        for messages in ([value], [{"role": "user", "content": value}], [{"role": value}]):
            one_line(lambda messages=messages: tiny.tokenize(messages))  # type: ignore[misc]
    assert "the prompt is" in one_line(lambda: tiny.generate(5))  # type: ignore[arg-type]


def test_any_value_elsewhere(tiny: Emulator) -> None:
    stream = tiny.stream("Hello", raw=True, sampling=GREEDY, max_tokens=4)
    text: Any
    for value in ODD:
        text = value
        one_line(lambda text=text: tiny.piece(text))  # type: ignore[misc]
        one_line(lambda text=text: tiny.logprobs(text))  # type: ignore[misc]
        one_line(lambda text=text: tiny.logprobs("x", prompt=text, raw=True))  # type: ignore[misc]
        one_line(lambda text=text: tiny.logprobs("x", recipe=text))  # type: ignore[misc]
        one_line(lambda text=text: Scheduler(tiny, parallel=text, prefill=8))  # type: ignore[misc]
        one_line(lambda text=text: inspect_answer(tiny, "x", text))  # type: ignore[misc]
        for name in ("recipe", "sampling", "speculation"):
            one_line(lambda name=name, text=text: setattr(stream, name, text))  # type: ignore[misc]
    for name in ("recipe", "sampling"):
        assert f"{name} is None" in one_line(lambda name=name: setattr(stream, name, None))  # type: ignore[misc]
    assert "sampling=Sampling(top_p=...)" in one_line(lambda: setattr(stream, "top_p", 0.5))
    stream.sampling, stream.recipe = GREEDY, Recipe.upscale()
    assert len(list(stream)) == 4
    assert not tiny.ensemble.running


@pytest.mark.parametrize(
    "name",
    [
        *("prompts", "defaults", "n_ctx", "n_seq_max", "threads", "gpu_layers", "force", "trust"),
        *("progress", "checking", "system_in_user", "chat_template_kwargs", "base", "other"),
    ],
)
def test_any_value_at_loading(tiny_files: dict[str, Path], name: str) -> None:
    for value in ODD:
        if name in ("progress", "checking") and callable(value):
            continue  # it would be called
        given: dict[str, Any] = {**tiny_files, "n_ctx": 64, "threads": 1, name: value}

        def work(given: dict[str, Any] = given) -> None:
            Emulator.from_files(**given).close()

        one_line(work)
        if name not in (*tiny_files, "other", "defaults"):
            one_line(lambda name=name, value=value: eftlocal.load("none", **{name: value}))  # type: ignore[misc]
    for value in ODD:
        one_line(lambda value=value: eftlocal.load(value))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda em: em.generate("x", sampling={"temperature": 0}),
            "sampling is of type dict; it must",
        ),
        (lambda em: em.generate("x", recipe=0.5), "recipe is 0.5; it must be a Recipe, or text"),
        (lambda em: em.generate("x", recipe={"base": 1}), "recipe is of type dict; it must be"),
        (lambda em: em.generate("x", recipe=""), "recipe"),
        (lambda em: em.generate("x", max_tokens=True), "max_tokens is True; it must be a whole"),
        (
            lambda em: em.generate("x", stop=b"x"),
            "stop is of type bytes; it must be a list",
        ),
        (lambda em: em.generate("x", stop=[1]), "stop[0] is 1; it must be a string"),
        (lambda em: em.generate("x", stop=[HALF]), "stop[0] is not valid text"),
        (lambda em: em.generate("x", grammar=Path("g")), "grammar is of type"),
        (lambda em: em.generate("x", json_schema=[1]), "json_schema is of type list; it must be"),
        (lambda em: em.generate("x", temprature=1), "no option 'temprature'; temperature is given"),
        (lambda em: em.generate("x", top_p=1), "sampling=Sampling(top_p=...)"),
        (lambda em: em.chat([], beta=2), "recipe=Recipe.upscale(beta=...)"),
        (lambda em: em.stream("x", max_token=1), "did you mean max_tokens?"),
        (lambda em: em.notes(5), "recipe is 5; it must be a Recipe, or text"),
        (lambda em: em.notes(raw_text=5), "raw_text is 5; it must be a string"),
        (lambda em: em.stream("x", zzz=1), "there are raw, special, continue_last"),
        (lambda em: em.stream("x", temp=1), "no option 'temp'; temperature is given as sampling="),
        (lambda em: em.stream("x", stream=1), "no option 'stream'; there are raw, special"),
        (lambda em: em.tokenize("x", rawt=True), "no option 'rawt'; did you mean raw?"),
        (lambda em: inspect_answer(em, "x", temp=1), "no option 'temp'; temperature is given as"),
        (lambda em: inspect_answer(em, "x", "y", special=3), "special is 3; it must be"),
        (
            lambda em: em.models["base"].piece(1.0),
            "token 1.0 is not a token id; give a whole number",
        ),
        (lambda em: em.models["base"].piece("a"), "token 'a' is not a token id"),
        (lambda _: Recipe.interpolate(1), "lambdas: 1; they must be a mapping of roles to numbers"),
        (lambda _: Recipe.single(5), "weight: 5 is no role; give its name"),
        (lambda _: Recipe.single(""), "weight: '' is no role"),
        (lambda _: Recipe({"base": 1}, judge={"": 1}), "judge weight: '' is no role"),
        (lambda _: eftlocal.load("x.GGUF"), "--base FILE --tuned FILE --reference FILE (in Python"),
        (lambda em: em.logprobs(HALF), "text is not valid text"),
        (lambda em: em.logprobs(b"x"), "text is of type bytes; it must be a string"),
        (lambda em: em.piece(-1), "token is -1; it must be a whole number, 0 or more"),
        (lambda em: em.piece(10**9), "token 1000000000 is outside the vocabulary of"),
        (lambda em: em.piece("a"), "token is 'a'; it must be a whole number"),
        (lambda em: Scheduler(em, parallel=9), "parallel is 9; the emulator was loaded for 1 to 4"),
        (lambda em: Scheduler(em, prefill=0), "prefill is 0; it must be a whole number, 1 or more"),
        (lambda _: Emulator.from_files(), "give at least one file"),
        (lambda _: Emulator.from_files(base=None), "base is None; it must be a path"),
        (
            lambda _: Emulator.from_files(base="x", threads="2"),
            "threads is '2'; it must be a whole",
        ),
        (
            lambda _: Emulator.from_files(base="x", prompts=["chat"]),
            "prompts is of type list; it must be",
        ),
        (lambda _: Emulator.from_files(base="x", prompts={"base": 1}), "prompts['base'] is 1"),
        (lambda _: Emulator.from_files(base="x", n_seq_max=0), "n_seq_max is 0"),
        (lambda _: eftlocal.load(None), "preset is None; it must be a string"),
        (lambda _: eftlocal.load("demo", recipe=1), "recipe is 1; it must be a Recipe"),
        (lambda _: eftlocal.load("demo", n_ctx=0), "n_ctx is 0; it must be a whole number, 1"),
        (lambda _: Sampling(temperature="0.7"), "temperature is"),
        (lambda _: Sampling(logit_bias=[1]), "logit_bias"),
        (lambda _: Recipe(None), "weights"),
        (lambda _: Defaults(recipe={}), "recipe is of type dict; it must be a Recipe"),
        (lambda _: Defaults(stop="x"), "stop: a list of strings is needed"),
    ],
)
def test_what_is_said(tiny: Emulator, call: Callable[[Emulator], object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(tiny)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_accepted(tiny: Emulator) -> None:
    call: dict[str, Any] = {"raw": True, "sampling": GREEDY, "recipe": "base=1"}
    plain = tiny.generate("Hello", max_tokens=3, **call)
    numbers = tiny.generate("Hello", max_tokens=np.int64(3), stop=None, loop_guard=None, **call)
    assert numbers.tokens == plain.tokens
    tuples = tiny.generate("Hello", max_tokens=3, stop=("\0",), json_schema=None, **call)
    assert tuples.tokens == plain.tokens
    assert tiny.piece(np.int32(plain.tokens[0])) == tiny.piece(plain.tokens[0])


@pytest.mark.parametrize("token", [-1, 10**9, 2**31, -(2**31), 2**32 + 5])
def test_ids_that_are_no_tokens_never_reach_llama_cpp(tiny: Emulator, token: int) -> None:
    model = tiny.models["base"]
    with pytest.raises(UsageError, match="outside the vocabulary"):
        model.piece(token)
    assert not model.end_tokens([token])
    with Context(model, n_ctx=64, n_threads=1) as context:
        with pytest.raises(EngineError):
            context.decode([Span(0, [1, token])])
        assert context.tokens(0) == []
        assert len(context.decode([Span(0, [1, 2])])) == 1
    with pytest.raises(EftlocalError):
        inspect_answer(tiny, "x", [token])


@pytest.mark.parametrize("slot", [-1, 4, 10**9])
def test_slots_that_are_none(tiny: Emulator, slot: int) -> None:
    context = tiny.ensemble.contexts["base"]
    works: list[Callable[[], object]] = [
        lambda: context.tokens(slot),
        lambda: context.clear(slot),
        lambda: context.rewind(slot, 0),
        lambda: context.can_rewind(slot, 1),
        lambda: context.copy(slot, 0),
        lambda: context.copy(0, slot),
        lambda: context.decode([Span(slot, [1])]),
    ]
    for work in works:
        with pytest.raises(EngineError, match="there is no sequence"):
            work()
    with pytest.raises(EngineError, match="cannot rewind"):
        context.rewind(0, -1)


def test_sizes_that_are_none(tiny: Emulator) -> None:
    model = tiny.models["base"]
    for size in ({"n_ctx": 2**31 - 1, "n_seq_max": 200}, {"n_ctx": 8, "n_seq_max": 257}):
        with pytest.raises(EftlocalError):
            Context(model, n_threads=1, **size)


def test_settings_are_plain_data() -> None:
    sampling = Sampling(logit_bias={5: -1.0, 7: 2.0}, seed=3)
    plain = asdict(sampling)
    assert type(plain["logit_bias"]) is dict
    again = json.loads(json.dumps(plain))
    again["logit_bias"] = {int(token): bias for token, bias in again["logit_bias"].items()}
    assert Sampling(**again) == sampling
    recipe = Recipe.upscale(0.5).stabilise(delta_top_p=0.9)
    assert json.loads(json.dumps(asdict(recipe)))["weights"] == dict(recipe.weights)
    for one in (sampling, recipe, Speculation(length=3), Defaults(recipe, sampling)):
        for same in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert same == one and hash(same) == hash(one)


def test_answers_can_be_kept(tiny: Emulator) -> None:
    answer = tiny.generate("Hello", raw=True, sampling=GREEDY, max_tokens=3, logprobs=True)
    for same in (copy.copy(answer), copy.deepcopy(answer), pickle.loads(pickle.dumps(answer))):
        assert same == answer
    assert json.loads(json.dumps(asdict(answer)))["text"] == answer.text


def test_types_are_for_those_who_check_too() -> None:
    """What they see is in `typed_use.py`, which mypy checks."""
    assert (Path(eftlocal.__file__).parent / "py.typed").exists()


def test_every_public_name_is_there() -> None:
    assert {*eftlocal.__all__, "__version__"} == {*dir(eftlocal)}
    for name in eftlocal.__all__:
        assert getattr(eftlocal, name).__module__.startswith("eftlocal.")
