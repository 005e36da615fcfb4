"""Each dial of an answer, over HTTP: what it does is what it does in Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from serving import QUESTION, Serving, as_served, serving, setup

from eftlocal import Answer, Emulator, Recipe, Sampling
from eftlocal.server.setup import Setup
from eftlocal.settings import BODY, named

PIRATE, KIND = "You are a pirate.", "You are kind."
DRAWN: dict[str, Any] = {"temperature": 3.0, "top_p": 1.0, "seed": 5}
LENGTH = 24
LONG = "[a-e ]{80}"  # as an answer: it goes on, and repeats itself

RECIPES: dict[str, tuple[dict[str, Any], Recipe]] = {
    "recipe": ({"recipe": "base"}, Recipe.single("base")),
    "alpha": ({"alpha": 0.4}, Recipe.proxy(0.4)),
    "beta": ({"beta": 1.6}, Recipe.upscale(1.6)),
    "lambda": ({"recipe": "realign", "lambda": 0.3}, Recipe.realign(0.3)),
    "strength": ({"recipe": "contrast", "strength": 0.6}, Recipe.contrast(0.6)),
    "any_sum": (
        {"recipe": "base=0.5,tuned=1", "any_sum": True},
        Recipe({"base": 0.5, "tuned": 1.0}, any_sum=True),
    ),
    "delta_top_p": ({"delta_top_p": 0.3}, Recipe.upscale().stabilise(delta_top_p=0.3)),
    "plausibility": ({"plausibility": 0.6}, Recipe.upscale().stabilise(plausibility=0.6)),
    "delta_clip": ({"delta_clip": 0.2}, Recipe.upscale().stabilise(delta_clip=0.2)),
    "first_tokens": ({"first_tokens": 2}, Recipe.upscale().stabilise(first_tokens=2)),
    "unsure_below": ({"unsure_below": 0.3}, Recipe.upscale().stabilise(unsure_below=0.3)),
}
"""What is asked with a dial of the recipe, and the recipe that it means with the demo."""

SAMPLING: dict[str, Any] = {
    "temperature": 0.3,
    "top_k": 2,
    "top_p": 0.3,
    "min_p": 0.4,
    "repeat_penalty": 3.0,
    "presence_penalty": 4.0,
    "frequency_penalty": 4.0,
    "seed": 6,
    "logit_bias": {"e": 9.0, "a": -100.0},
}


def with_persona() -> Setup:
    """The demo under a system prompt."""
    plain = setup()
    defaults = replace(plain.sources.defaults, recipe=Recipe.persona(KIND))
    return replace(plain, sources=replace(plain.sources, defaults=defaults))


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving({"demo": setup(), "persona": with_persona()}) as served:
        yield served


@pytest.fixture(scope="module")
def em() -> Iterator[Emulator]:
    with as_served() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def text(em: Emulator) -> str:
    """A text to score: what the demo says, in parts."""
    return em.generate(QUESTION, sampling=Sampling(temperature=0), max_tokens=LENGTH).text


def test_no_dial_is_left_out() -> None:
    dials = named("recipe", "limits", "sampling")
    assert {name for name, dial in dials.items() if BODY in dial.where} == {
        *RECIPES,
        *SAMPLING.keys() - {"logit_bias"},
        "persona",
    }


def chat(server: Serving, **body: Any) -> Any:
    """The text of an answer, and the log-probabilities of its tokens."""
    options = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}], **DRAWN}
    body = {
        **options,
        "regex": LONG,
        "max_tokens": LENGTH,
        "logprobs": True,
        "top_logprobs": 2,
        **body,
    }
    reply = server.post("/v1/chat/completions", body)
    assert reply.status_code == 200, reply.text
    (choice,) = reply.json()["choices"]
    tokens = choice["logprobs"]["content"]
    tops = [[top["logprob"] for top in token["top_logprobs"]] for token in tokens]
    return choice["message"]["content"], [token["logprob"] for token in tokens], tops


def told(answer: Answer) -> Any:
    """The same of an answer in Python."""
    assert answer.logprobs is not None and answer.top_logprobs is not None
    tops = [[min(0.0, value) for _, value in top] for top in answer.top_logprobs]
    return answer.text, [min(0.0, value) for value in answer.logprobs], tops


def same(found: Any, wanted: Any) -> None:
    (text, logprobs, tops), (wanted_text, wanted_logprobs, wanted_tops) = found, wanted
    assert text == wanted_text
    shown = len(logprobs)  # without an end token
    assert len(wanted_logprobs) - shown in (0, 1)
    assert logprobs == pytest.approx(wanted_logprobs[:shown], abs=1e-4)
    for top, wanted_top in zip(tops, wanted_tops, strict=False):
        assert top == pytest.approx(wanted_top, abs=1e-3)


def api(em: Emulator, recipe: Recipe | None = None, **sampling: Any) -> Any:
    given: Any = {"regex": LONG, "max_tokens": LENGTH, "logprobs": True, "top_logprobs": 2}
    return told(
        em.generate(QUESTION, recipe=recipe, sampling=Sampling(**DRAWN | sampling), **given)
    )


@pytest.mark.parametrize("dial", RECIPES)
def test_dials_of_the_recipe(server: Serving, em: Emulator, dial: str, text: str) -> None:
    body, recipe = RECIPES[dial]
    found = chat(server, **body)
    same(found, api(em, recipe))
    assert found != chat(server)
    scored = {"prompt": text, "echo": True, "max_tokens": 0, "logprobs": 1, "model": "demo"}
    values = []
    for more in (body, {}):
        reply = server.post("/v1/completions", {**scored, **more}).json()
        values.append(
            [v for v in reply["choices"][0]["logprobs"]["token_logprobs"] if v is not None]
        )
    known = em.logprobs(text, recipe=recipe).logprobs
    wanted = [max(value, -9999.0) for value in known if value == value]  # JSON has no infinity
    assert values[0] == pytest.approx(wanted, abs=1e-4)
    assert values[0] != pytest.approx(values[1], abs=1e-3)


@pytest.mark.parametrize("dial", SAMPLING)
def test_dials_of_sampling(server: Serving, em: Emulator, dial: str) -> None:
    value = given = SAMPLING[dial]
    if dial == "logit_bias":
        value = {em.text_model.tokenize(text)[-1]: bias for text, bias in given.items()}
        given = {str(token): bias for token, bias in value.items()}
    found = chat(server, **{dial: given})
    same(found, api(em, **{dial: value}))
    assert found[0] != chat(server)[0]


def test_a_persona(server: Serving) -> None:
    with with_persona().sources.load(n_seq_max=2) as em:
        found = chat(server, model="persona", persona=PIRATE)
        same(found, api(em, Recipe.persona(PIRATE)))
        assert found != chat(server, model="persona")
