"""Tools over the server by OpenAI's client: answers that a model was written to say, and forced
calls of SmolLM2."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from scripted_model import scripted_model
from serving import ASKED, Serving, serving, setup
from tool_templates import HERMES, LLAMA, MISTRAL, XML

from eftlocal import Defaults, Recipe, Speculation
from eftlocal.server.setup import Setup
from eftlocal.sources import Sources

Json = dict[str, Any]
WEATHER: Json = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"$ref": "#/$defs/unit"},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["C", "F"]}},
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "Today's weather.",
                                      "parameters": WEATHER, "strict": True}},
    {"type": "function", "function": {"name": "now"}},
]  # fmt: skip
CALL = '{"name": "weather", "arguments": {"city": "Málaga", "unit": "C"}}'
ARGUMENTS = {"city": "Málaga", "unit": "C"}
SAID = "Let me look. ☀"
SCRIPTS = {
    "hermes": (HERMES, f"{SAID}\n<tool_call>\n{CALL}\n</tool_call>"),
    "two": (
        HERMES,
        f'<tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "now", "arguments": {{}}}}',
    ),
    "broken": (HERMES, f'<tool_call>\n{CALL[:-1]}</tool_call> and {{"name": "now"}} < text\n'),
    "other": (HERMES, '<tool_call>\n{"name": "none", "arguments": {}}\n</tool_call>'),
    "thinking": (HERMES, f"<think>\n<tool_call>{CALL}</tool_call></think>\n\n{SAID}"),
    "llama": (LLAMA, CALL.replace("arguments", "parameters")),
    "mistral": (MISTRAL, f"[TOOL_CALLS] [{CALL}]"),
}
DONE = "It is warm in Málaga."
PLAIN = Defaults(Recipe.single("tuned"), speculation=Speculation(length=0))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("scripted")

    def scripted(name: str, template: str, answer: str) -> Setup:
        marks = ["[TOOL_CALLS]", "[INST]"] if template == MISTRAL else []
        scripts = {"T": answer, "R": DONE, "N": "Hello."}
        path = scripted_model(folder / f"{name}.gguf", template, scripts, marks)
        files = dict.fromkeys(("base", "tuned", "reference"), path)
        return Setup(Sources.of_files(files, threads=1, trust=True), 4)

    setups = {name: scripted(name, *script) for name, script in SCRIPTS.items()}
    setups["xml"] = scripted("xml", XML, "Nothing.")
    for name, template in (("smol", HERMES), ("smol-list", MISTRAL), ("smol-bare", LLAMA)):
        prompts = {"tuned": template, "base": "plain"}
        files = dict.fromkeys(("base", "tuned", "reference"), smollm2)
        sources = Sources.of_files(files, threads=1, n_ctx=512, prompts=prompts)
        setups[name] = Setup(replace(sources, defaults=PLAIN), 2)
    setups["demo"] = setup(parallel=2)
    with serving(setups) as served:
        yield served


def options(model: str, **more: Any) -> Json:
    if "speculative" in more:
        more["extra_body"] = {"speculative": more.pop("speculative")}
    return {"model": model, "messages": ASKED, "tools": TOOLS, "temperature": 0,
            "max_tokens": 100, **more}  # fmt: skip


def ask(server: Serving, model: str, **more: Any) -> Any:
    return server.client().chat.completions.create(**options(model, **more)).choices[0]


def together(chunks: list[Any]) -> tuple[str, list[tuple[str, str, str]], str | None, list[Any]]:
    """Of a stream's only answer: its text, its calls, why it ended, and its log-probabilities."""
    said, calls, end, scored = "", {}, None, []
    for chunk in chunks:
        for choice in chunk.choices:
            assert end is None, "something follows the end"
            said += choice.delta.content or ""
            for part in choice.delta.tool_calls or []:
                assert part.index == len(calls) and part.type == "function"
                calls[part.index] = (part.id, part.function.name, part.function.arguments)
                assert choice.finish_reason is None
            end = choice.finish_reason
            scored += choice.logprobs.content if choice.logprobs else []
    return said, list(calls.values()), end, scored


def whole(choice: Any) -> tuple[str, list[tuple[str, str]], str | None]:
    calls = [(c.function.name, c.function.arguments) for c in choice.message.tool_calls or []]
    return choice.message.content or "", calls, choice.finish_reason


def test_an_answer_with_a_call(server: Serving) -> None:
    choice = ask(server, "hermes")
    (call,) = choice.message.tool_calls
    assert (choice.message.content, choice.finish_reason) == (SAID, "tool_calls")
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == ARGUMENTS
    assert len(call.id) == 9 and call.id.isalnum()
    assert choice.eftlocal["finish_reason"] == "stop"


@pytest.mark.parametrize("model", ["llama", "mistral"])
def test_other_forms(server: Serving, model: str) -> None:
    choice = ask(server, model)
    assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", ARGUMENTS)


def test_several_calls(server: Serving) -> None:
    said, calls, end = whole(ask(server, "two"))
    assert (said, [name for name, _ in calls], end) == ("", ["weather", "now"], "tool_calls")
    ids = [call.id for call in ask(server, "two").message.tool_calls]
    assert len(set(ids)) == 2
    one = ask(server, "two", parallel_tool_calls=False)
    assert [call.function.name for call in one.message.tool_calls] == ["weather"]
    assert one.message.content is None


@pytest.mark.parametrize("model", ["broken", "other", "thinking"])
def test_what_is_no_call_stays_text(server: Serving, model: str) -> None:
    choice = ask(server, model)
    assert choice.message.tool_calls is None
    assert (choice.message.content, choice.finish_reason) == (SCRIPTS[model][1], "stop")


def test_without_tools_and_with_none(server: Serving) -> None:
    for more in ({"tools": openai.omit}, {"tool_choice": "none"}, {"tools": []}):
        choice = ask(server, "hermes", **more)
        assert (choice.message.content, choice.finish_reason) == ("Hello.", "stop")
    found = server.post("/v1/chat/completions", options("hermes", tool_choice="none")).json()
    assert "tool_calls" not in found["choices"][0]["message"]


def test_an_answer_that_is_cut(server: Serving) -> None:
    """Inside a call it is text; the reason says that it was cut."""
    text = SCRIPTS["hermes"][1]
    for most in (8, 16):
        choice = ask(server, "hermes", max_tokens=most)
        said, calls, end = whole(choice)
        assert (calls, end) == ([], "length")
        assert text.startswith(said) and len(said) > len(SAID) // 2


@pytest.mark.parametrize("model", SCRIPTS)
@pytest.mark.parametrize("speculative", ["off", 4])
def test_a_streams_chunks_are_the_whole(
    server: Serving, model: str, speculative: str | int
) -> None:
    more: Json = {"logprobs": True, "top_logprobs": 1, "speculative": speculative}
    wanted = ask(server, model, **more)
    chunks = list(server.client().chat.completions.create(stream=True, **options(model, **more)))
    said, calls, end, scored = together(chunks)
    assert (said, [call[1:] for call in calls], end) == whole(wanted)
    assert len({id for id, _, _ in calls}) == len(calls)
    assert [(t.token, t.bytes) for t in scored] == [
        (t.token, t.bytes) for t in wanted.logprobs.content
    ]


def test_log_probabilities_are_of_every_token(server: Serving) -> None:
    scored = ask(server, "hermes", logprobs=True).logprobs.content
    assert b"".join(bytes(token.bytes) for token in scored).decode() == SCRIPTS["hermes"][1]


def test_an_answer_without_a_word_is_empty_text(server: Serving) -> None:
    """As null it could not stand in the next request."""
    more: Json = {"stop": SAID[:3]}
    assert ask(server, "hermes", **more).message.content == ""
    with server.client().chat.completions.stream(**options("hermes", **more)) as stream:
        assert stream.get_final_completion().choices[0].message.content == ""


def test_text_comes_before_the_call_is_there(server: Serving) -> None:
    chunks = list(server.client().chat.completions.create(stream=True, **options("hermes")))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", None)
    texts = [delta.content for delta in deltas if delta.content]
    assert len(texts) > 2 and "".join(texts) == SAID
    at = next(i for i, delta in enumerate(deltas) if delta.tool_calls)
    assert not any(delta.content for delta in deltas[at:])


def test_async_streams(server: Serving) -> None:
    async def one(client: openai.AsyncOpenAI, model: str) -> Any:
        stream = await client.chat.completions.create(stream=True, **options(model))
        return together([chunk async for chunk in stream])

    async def work() -> None:
        async with server.later() as client:
            found = await asyncio.gather(*(one(client, m) for m in ["hermes", "two"] * 3))
        for said, calls, end, _ in found[::2]:
            assert (said, len(calls), end) == (SAID, 1, "tool_calls")
        for said, calls, end, _ in found[1::2]:
            assert (said, len(calls), end) == ("", 2, "tool_calls")

    asyncio.run(asyncio.wait_for(work(), 120))


def test_the_accumulating_stream_of_the_client(server: Serving) -> None:
    with server.client().chat.completions.stream(**options("hermes")) as stream:
        for _ in stream:
            pass
        found = stream.get_final_completion().choices[0]
    assert whole(found)[0] == SAID and found.finish_reason == "tool_calls"
    assert json.loads(found.message.tool_calls[0].function.arguments) == ARGUMENTS


@pytest.mark.parametrize("model", ["hermes", "two", "llama", "mistral"])
def test_a_conversation_goes_on_with_the_result(server: Serving, model: str) -> None:
    choice = ask(server, model)
    calls = choice.message.tool_calls
    told = [{"role": "tool", "tool_call_id": c.id, "content": '{"degrees": 25}'} for c in calls]
    after = ask(server, model, messages=[*ASKED, choice.message, *told])
    assert (after.message.content, after.finish_reason) == (DONE, "stop")
    by_others = [c.model_dump() | {"id": f"call_{c.id * 3}"} for c in calls]
    told = [t | {"tool_call_id": c["id"]} for t, c in zip(told, by_others, strict=True)]
    message = {"role": "assistant", "content": None, "tool_calls": by_others}
    after = ask(server, model, messages=[*ASKED, message, *told])
    assert after.message.content == DONE


FORCED: list[Any] = ["required", {"type": "function", "function": {"name": "weather"}}]


@pytest.mark.parametrize("model", ["smol", "smol-list", "smol-bare"])
@pytest.mark.parametrize("choice", FORCED)
def test_a_forced_call(server: Serving, model: str, choice: Any) -> None:
    more: Json = {"tool_choice": choice, "parallel_tool_calls": False}
    greedy = ask(server, model, **more)
    for found in (greedy, ask(server, model, **more, temperature=1.0, seed=1)):
        assert (found.message.content, found.finish_reason) == (None, "tool_calls")
        (call,) = found.message.tool_calls
        if call.function.name == "now":
            assert (choice, call.function.arguments) == ("required", "{}")
        else:
            jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    chunks = server.client().chat.completions.create(stream=True, **options(model, **more))
    said, calls, end, _ = together(list(chunks))
    assert (said, [call[1:] for call in calls], end) == whole(greedy)


def test_forced_calls_are_written_as_the_template_would(server: Serving) -> None:
    now = {"type": "function", "function": {"name": "now"}}
    for model, wanted in (
        ("smol", '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'),
        ("smol-list", '[TOOL_CALLS] [{"name": "now", "arguments": {}}]'),
        ("smol-bare", '{"name": "now", "parameters": {}}'),
        ("mistral", ' [{"name": "now", "arguments": {}}]'),  # its mark is a control token
    ):
        found = ask(server, model, tool_choice=now, logprobs=True)
        assert whole(found) == ("", [("now", "{}")], "tool_calls")
        text = b"".join(bytes(token.bytes) for token in found.logprobs.content).decode()
        assert text == wanted


def test_one_models_own_template_counts(server: Serving) -> None:
    assert ask(server, "hermes:base").message.tool_calls
    with pytest.raises(openai.BadRequestError, match="chat template of base has no tools"):
        ask(server, "smol:base")


OBJECT = {"type": "json_object"}
TOLD = {"role": "tool", "tool_call_id": "x", "content": "x"}


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("demo", {}, "tools: the chat template of tuned has no tools; leave out what is of tools"),
        ("xml", {}, "tools: the chat template of tuned writes calls of tools in a form that"),
        ("hermes", {"tools": [{}]}, r"tools\[0\]: an object with"),
        ("hermes", {"tools": [{"type": "custom", "function": {}}]}, 'type is "custom"'),
        ("hermes", {"tools": [*TOOLS, TOOLS[0]]}, "tools: the name weather is given twice"),
        ("hermes", {"tools": [TOOLS[0]] * 129}, "tools: 129 of them with .* at most 128"),
        ("hermes", {"tool_choice": "always"}, 'tool_choice is "always"'),
        ("hermes", {"tool_choice": {"type": "function", "function": {"name": "x"}}},
         'function "x" is not among the tools'),
        ("hermes", {"tools": openai.omit, "tool_choice": "required"}, "tool_choice: there are no"),
        ("hermes", {"tool_choice": "required", "response_format": OBJECT},
         "tools and response_format exclude each other"),
        ("hermes", {"functions": [{"name": "x"}], "tools": openai.omit}, "functions: give tools"),
        ("hermes", {"messages": [*ASKED, TOLD]}, "message 1: its tool_call_id is of no call"),
        ("hermes", {"tool_choice": "required", "tools": [{"type": "function", "function": {
            "name": "x", "parameters": {"type": "object", "not": {}}}}]},
         "tools: parameters of x: JSON schema: "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_refused(
    server: Serving, model: str, more: Json, message: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        server.client().chat.completions.create(**options(model, stream=stream, **more))


def test_raw_text_has_no_tools(server: Serving) -> None:
    with pytest.raises(openai.BadRequestError, match="tools are for a conversation"):
        server.client().completions.create(model="demo", prompt="x", extra_body={"tools": TOOLS})


def test_no_text_of_a_tool_is_read_as_a_special_token(server: Serving) -> None:
    """What arguments, results and descriptions say stays text: each of its bytes is a token."""

    def tokens(model: str, text: str) -> int:
        function = {"name": "now", "arguments": json.dumps({text: [text]})}
        called = [{"id": "a", "type": "function", "function": function}]
        messages = [
            *ASKED,
            {"role": "assistant", "content": text, "tool_calls": called},
            {"role": "tool", "tool_call_id": "a", "content": text},
        ]
        tool = {"type": "function", "function": {"name": "now", "description": text}}
        more = options(model, messages=messages, tools=[tool])
        return int(server.client().chat.completions.create(**more).usage.prompt_tokens)

    assert tokens("hermes", "x<|end|>\ny") == tokens("hermes", "x<.end|>\ny")
    assert tokens("mistral", "x[TOOL_CALLS]y") == tokens("mistral", "x(TOOL_CALLS]y")
