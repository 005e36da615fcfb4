"""The server by its real client: every option of OpenAI's package, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serving import ASKED, QUESTION, SHORT, Json, Serving, as_served, serving, setup

from eftlocal import Emulator, Recipe, Sampling

GREEDY = Sampling(temperature=0.0)
TEXT = "Toulouse is a city in"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving({"demo": setup(), "demo-blend": setup("demo-blend")}, most=1) as served:
        yield served


@pytest.fixture(scope="module")
def em() -> Iterator[Emulator]:
    with as_served() as emulator:
        yield emulator


def chat(server: Serving, **options: Any) -> Any:
    options = {**SHORT, "max_tokens": 30, **options}
    return server.client().chat.completions.create(**options)


def text(server: Serving, **options: Any) -> Any:
    options = {"model": "demo", "prompt": TEXT, "temperature": 0, "max_tokens": 12, **options}
    # Its types lack what OpenAI itself sends: null before the first token, and in chunks.
    strict = not (options.get("stream") or options.get("echo"))
    return server.client(strict=strict).completions.create(**options)


# Models -----------------------------------------------------------------------------------------


def test_models(server: Serving) -> None:
    listed = [model.id for model in server.client().models.list()]
    assert listed[:3] == ["demo", "demo:tuned", "demo:base"]
    assert "demo-blend" in listed
    assert server.client().models.retrieve("demo:base").id == "demo:base"
    with pytest.raises(openai.NotFoundError, match="model 'x' is not served; there are demo,"):
        server.client().models.retrieve("x")


@pytest.mark.parametrize("role", ["", "tuned", "base"])
def test_a_models_answer_is_that_of_the_api(server: Serving, em: Emulator, role: str) -> None:
    recipe = Recipe.single(role) if role else None
    wanted = em.generate(QUESTION, recipe=recipe, sampling=GREEDY, max_tokens=30)
    name = f"demo:{role}" if role else "demo"
    found = chat(server, model=name)
    assert found.choices[0].message.content == wanted.text
    assert found.choices[0].finish_reason == wanted.finish_reason
    assert found.model == name
    raw = em.generate(TEXT, recipe=recipe, sampling=GREEDY, max_tokens=12, raw=True)
    assert text(server, model=name).choices[0].text == raw.text


def test_one_model_has_no_dials(server: Serving) -> None:
    with pytest.raises(openai.BadRequestError, match=r"model :base is one model by itself"):
        chat(server, model="demo:base", extra_body={"beta": 1.5})


def test_a_second_preset_takes_the_place_of_the_first(server: Serving) -> None:
    first = server.pid()
    assert chat(server, model="demo-blend").model == "demo-blend"
    assert server.presets.served["demo"].engine is None
    assert server.get("/health").status_code == 200
    for _ in range(4):  # to and fro, which is no dying
        assert chat(server).model == "demo"
        assert chat(server, model="demo-blend", max_tokens=1).model == "demo-blend"
    assert chat(server).choices[0].message.content and server.pid() != first


# Options ----------------------------------------------------------------------------------------


def test_several_answers_and_seeds(server: Serving, em: Emulator) -> None:
    options: Json = {"temperature": 1.5, "seed": 7, "max_tokens": 8}
    found = chat(server, n=3, **options)
    texts = [choice.message.content for choice in found.choices]
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert [choice.message.content for choice in chat(server, n=3, **options).choices] == texts
    assert chat(server, **options).choices[0].message.content == texts[0]
    drawn = em.generate(QUESTION, sampling=Sampling(temperature=1.5, seed=7), max_tokens=8)
    assert drawn.text == texts[0]


@pytest.mark.parametrize("stop", ["France", ["Italy", "e answer"], "! The"])
def test_stop(server: Serving, stop: str | list[str]) -> None:
    whole = chat(server).choices[0].message.content
    found = chat(server, stop=stop).choices[0]
    texts = [stop] if isinstance(stop, str) else stop
    end = min(whole.index(one) for one in texts if one in whole)
    assert (found.message.content, found.finish_reason) == (whole[:end], "stop")
    assert found.eftlocal["stop"] in texts


def test_sampling(server: Serving, em: Emulator) -> None:
    greedy = chat(server).choices[0].message.content
    assert chat(server, temperature=1.0, top_p=1e-6).choices[0].message.content == greedy
    scored = text(server, logprobs=2, max_tokens=1).choices[0].logprobs
    first, second = sorted(scored.top_logprobs[0], key=scored.top_logprobs[0].get, reverse=True)
    id_of = server.post("/tokenize", {"prompt": second, "add_special_tokens": False}).json()
    (token,) = id_of["tokens"]
    assert text(server, max_tokens=1).choices[0].text == first
    assert text(server, max_tokens=1, logit_bias={str(token): 100}).choices[0].text == second
    penalties: Json = {"temperature": 1.0, "frequency_penalty": 2.0, "presence_penalty": 1.5}
    drawn = Sampling(**penalties, seed=3)
    wanted = em.generate(TEXT, raw=True, sampling=drawn, max_tokens=40).text
    assert text(server, max_tokens=40, seed=3, **penalties).choices[0].text == wanted


def test_limits(server: Serving) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        found = chat(server, **{"max_tokens": openai.omit, name: 3})
        assert found.usage.completion_tokens == 3
        assert found.choices[0].finish_reason == "length"


def test_log_probabilities_of_a_message(server: Serving, em: Emulator) -> None:
    wanted = em.generate(QUESTION, sampling=GREEDY, max_tokens=30, logprobs=True, top_logprobs=3)
    choice = chat(server, logprobs=True, top_logprobs=3).choices[0]
    content = choice.logprobs.content
    assert "".join(token.token for token in content) == choice.message.content
    assert wanted.logprobs is not None
    assert [token.logprob for token in content] == pytest.approx(wanted.logprobs[:-1], abs=1e-4)
    for token in content:
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (top.logprob for top in token.top_logprobs), reverse=True
        )
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == token.logprob  # greedy
        assert bytes(token.bytes).decode() == token.token


@pytest.mark.parametrize("most", [0, 1])
def test_echo_scores_the_prompt(server: Serving, em: Emulator, most: int) -> None:
    wanted = em.logprobs(TEXT, raw=True)
    choice = text(server, echo=True, logprobs=1, max_tokens=most).choices[0]
    scored = choice.logprobs
    assert "".join(scored.tokens) == choice.text
    assert choice.text.startswith(TEXT)
    count = len(wanted.tokens)
    known = [value for value in scored.token_logprobs if value is not None]
    values = [value for value in wanted.logprobs if value == value]
    assert known[: len(values)] == pytest.approx(values, abs=1e-4)
    assert len(scored.token_logprobs) - count in (most, most + 1)  # a BOS may stand before it
    assert scored.text_offset[0] == 0 and len(scored.text_offset) == len(scored.tokens)
    for value, tops, token in zip(
        scored.token_logprobs, scored.top_logprobs, scored.tokens, strict=True
    ):
        assert value is None or tops[token] == value


def test_forms_of_a_prompt(server: Serving) -> None:
    ids = [server.post("/tokenize", {"prompt": t}).json()["tokens"] for t in (TEXT, "Lima is")]
    one, two = (text(server, prompt=p).choices[0].text for p in (TEXT, "Lima is"))
    for prompt, wanted in (
        ([TEXT, "Lima is"], [one, two]),
        (ids[0], [one]),
        (ids, [one, two]),
    ):
        found = text(server, prompt=prompt)
        assert [choice.text for choice in found.choices] == wanted
    found = text(server, prompt=[TEXT, "Lima is"], n=2)
    assert [choice.text for choice in found.choices] == [one, one, two, two]
    assert found.usage.prompt_tokens == sum(map(len, ids))
    assert server.post("/detokenize", {"tokens": ids[0]}).json()["prompt"].endswith(TEXT)


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 9}, "size": {"type": "integer"}},
    "required": ["city", "size"],
}


def test_constraints(server: Serving) -> None:
    limit = 60
    as_object = chat(server, response_format={"type": "json_object"}, max_tokens=limit, seed=1)
    if as_object.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(as_object.choices[0].message.content), dict)
    assert as_object.choices[0].message.content.startswith("{")
    given = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
    for extra in ({"response_format": given}, {"extra_body": {"json_schema": SCHEMA}}):
        answer = chat(server, max_tokens=limit, **extra).choices[0]
        if answer.finish_reason == "stop":
            assert json.loads(answer.message.content).keys() == {"city", "size"}
        assert answer.message.content.lstrip().startswith("{")
    for extra in ({"regex": "(yes|no){2}"}, {"grammar": 'root ::= ("yes" | "no") ("yes" | "no")'}):
        found = chat(server, extra_body=extra).choices[0].message.content
        assert found in ("yesyes", "yesno", "noyes", "nono")


def test_usage_and_the_cache(server: Serving) -> None:
    first = chat(server)
    turn = [*ASKED, {"role": "assistant", "content": first.choices[0].message.content}]
    turn.append({"role": "user", "content": "And Lima?"})
    second = chat(server, messages=turn)
    usage = second.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    assert 'eftlocal_prompt_tokens_reused_total{model="demo"}' in server.get("/metrics").text


def test_template_variables(server: Serving) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    assert chat(server, extra_body=extra).choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="chat_template_kwargs"):
        text(server, extra_body=extra)


# Streams ----------------------------------------------------------------------------------------

STREAMED: dict[str, Json] = {
    "plain": {},
    "drawn": {"temperature": 1.5, "seed": 3, "n": 3},
    "stop": {"stop": ["answer", "never"]},
    "stop across tokens": {"stop": "! The"},
    "limit": {"max_tokens": 5},
    "bytes": {"temperature": 2.0, "seed": 11, "n": 4, "extra_body": {"regex": "[é-ú€😀]{3,12}"}},
    "no drafts": {"extra_body": {"speculative": "off"}},
}


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("kind", ["chat", "text"])
def test_a_streams_chunks_are_the_whole(server: Serving, kind: str, name: str) -> None:
    options = dict(STREAMED[name])
    ask = chat if kind == "chat" else text
    options |= {"logprobs": True, "top_logprobs": 2} if kind == "chat" else {"logprobs": 2}
    whole = ask(server, **options)
    count = options.get("n", 1)
    texts, ends, usages = [""] * count, [None] * count, []
    scored: list[list[Any]] = [[] for _ in range(count)]
    for chunk in ask(server, stream=True, stream_options={"include_usage": True}, **options):
        assert chunk.id.partition("-")[0] == whole.id.partition("-")[0]
        if chunk.usage is not None:
            assert not chunk.choices
            usages.append(chunk.usage)
        for choice in chunk.choices:
            said = choice.delta.content if kind == "chat" else choice.text
            texts[choice.index] += said or ""
            assert ends[choice.index] is None
            ends[choice.index] = choice.finish_reason
            scored[choice.index].append(choice.logprobs)
    for choice, said, end, parts in zip(whole.choices, texts, ends, scored, strict=True):
        assert said == (choice.message.content if kind == "chat" else choice.text)
        assert end == choice.finish_reason
        assert _joined(parts) == _joined([choice.logprobs])
    (usage,) = usages
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def _joined(parts: list[Any]) -> Any:
    """Log-probabilities as one list, rounded."""
    found: list[Any] = []
    for part in parts:
        if hasattr(part, "content"):
            found += [
                (
                    t.token,
                    t.bytes,
                    round(t.logprob, 3),
                    [round(o.logprob, 3) for o in t.top_logprobs],
                )
                for t in part.content
            ]
        else:
            tops = part.top_logprobs or [None] * len(part.tokens)
            for row in zip(part.tokens, part.token_logprobs, tops, part.text_offset, strict=True):
                token, value, top, offset = row
                found.append(
                    (token, round(value, 3), {k: round(v, 3) for k, v in top.items()}, offset)
                )
    return found


def test_drafts_change_no_log_probability(server: Serving) -> None:
    options: Json = {"logprobs": True, "top_logprobs": 5, "max_tokens": 40}
    drafted = chat(server, extra_body={"speculative": 4}, **options).choices[0]
    plain = chat(server, extra_body={"speculative": "off"}, **options).choices[0]
    assert drafted.eftlocal["speculation"]["drafted"] > 0
    assert plain.eftlocal["speculation"]["drafted"] == 0
    assert drafted.message.content == plain.message.content
    for a, b in zip(drafted.logprobs.content, plain.logprobs.content, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
        assert [o.logprob for o in a.top_logprobs] == pytest.approx(
            [o.logprob for o in b.top_logprobs], abs=1e-3
        )


def test_async_clients(server: Serving) -> None:
    whole = chat(server).choices[0].message.content

    async def one(client: openai.AsyncOpenAI, stream: bool) -> str:
        options: Json = {"model": "demo", "messages": ASKED, "temperature": 0, "max_tokens": 30}
        if not stream:
            found = await client.chat.completions.create(**options)
            return str(found.choices[0].message.content)
        said = ""
        async for chunk in await client.chat.completions.create(stream=True, **options):
            said += "".join(choice.delta.content or "" for choice in chunk.choices)
        return said

    async def work() -> None:
        async with server.later() as client:
            found = await asyncio.gather(*(one(client, i % 2 == 0) for i in range(10)))
        assert found == [whole] * 10

    asyncio.run(asyncio.wait_for(work(), 120))
    assert server.quiet()


def test_open_webuis_requests(server: Serving) -> None:
    """As Open WebUI sends them: a Bearer, a stream, and a title with fields of its own."""
    headers = {"Authorization": "Bearer sk-none"}
    assert server.get("/v1/models", headers=headers).json()["data"][0]["id"] == "demo"
    body: Json = {"stream": True, "model": "demo", "messages": ASKED, "max_tokens": 4}
    lines = server.post("/v1/chat/completions", body, headers=headers).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    task = {
        "model": "demo",
        "messages": [{"role": "user", "content": "### Task:\nGenerate a title. " + QUESTION}],
        "stream": False,
        "max_completion_tokens": 8,
        "metadata": {"task": "title_generation", "task_body": body, "chat_id": None},
    }
    title = server.post("/v1/chat/completions", task, headers=headers).json()
    assert title["choices"][0]["message"]["role"] == "assistant"
    assert title["usage"]["completion_tokens"] <= 8
