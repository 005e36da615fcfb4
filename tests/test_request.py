"""Requests in OpenAI's terms: what each field means, and what is refused in which words."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal import Defaults, Emulator, Recipe, Sampling
from eftlocal.constraint import Constraint
from eftlocal.errors import EftlocalError, PromptError, UsageError
from eftlocal.prompt import messages
from eftlocal.request import Request, RequestDefaults, read_request
from eftlocal.request_fields import FIELDS, IGNORED, KNOWN, OURS, REFUSED
from eftlocal.settings import SETTINGS
from eftlocal.speculation.settings import Speculation
from eftlocal.terminal_text import one_line

DEFAULTS = RequestDefaults(
    Defaults(sampling=Sampling(temperature=0.3, top_p=0.8)), model="demo", vocab_size=1000
)


def read(body: Any, raw: bool | None = None, defaults: RequestDefaults = DEFAULTS) -> Request:
    return read_request(body, defaults=defaults, raw=raw)


def asked(**fields: Any) -> Request:
    return read({"prompt": "Hello", **fields})


def test_a_prompt_alone_takes_every_default() -> None:
    request = read({"prompt": "Hello"})
    assert request == Request(("Hello",), sampling=DEFAULTS.answer.sampling)
    ((prompt, options),) = request.calls(7)
    sampling = Sampling(temperature=0.3, top_p=0.8, seed=7)
    assert (prompt, options.pop("sampling"), options.pop("stop")) == ("Hello", sampling, ())
    assert not any(options.values())  # each leaves it to the emulator


def test_null_is_as_good_as_absent() -> None:
    nulls = dict.fromkeys(FIELDS.keys() - {"prompt"})
    assert read({**nulls, "prompt": "Hello"}) == read({"prompt": "Hello"})


def test_fields_that_ask_for_nothing_here_change_nothing() -> None:
    told = dict.fromkeys(IGNORED, "x") | {"metadata": {"a": [1]}, "store": True}
    assert asked(**told, top_logprobs=0, model="demo", n=1, best_of=1, echo=False) == asked()
    for name, (harmless, _) in REFUSED.items():
        for value in (None, False, [], {}, "", *harmless):
            assert asked(**{name: value}) == asked()
    assert asked(seed=-1, logprobs=False, logit_bias={}).calls(3) == asked().calls(3)
    assert asked(seed="off") == asked()
    assert asked(top_k=-1) == asked(top_k=0)
    assert asked(max_tokens=10.0, seed=5.0, top_k=3.0) == asked(max_tokens=10, seed=5, top_k=3)


def test_its_own_seed_stands_before_the_one_given() -> None:
    assert asked(seed=5).calls(7)[0][1]["sampling"].seed == 5
    assert asked(seed=0).calls(7)[0][1]["sampling"].seed == 0


def test_sampling_keeps_the_defaults_that_are_not_named() -> None:
    request = asked(
        temperature=1,
        top_k=5,
        min_p=0.1,
        repeat_penalty=1.1,
        presence_penalty=-1,
        frequency_penalty=0.5,
        logit_bias={"12": -100},
    )
    assert request.sampling == Sampling(
        temperature=1.0,
        top_p=0.8,
        top_k=5,
        min_p=0.1,
        repeat_penalty=1.1,
        presence_penalty=-1.0,
        frequency_penalty=0.5,
        logit_bias={12: -100.0},
    )


@pytest.mark.parametrize(
    ("fields", "recipe"),
    [
        ({"recipe": "proxy", "alpha": 0.5}, Recipe.proxy(0.5)),
        ({"beta": 2}, Recipe.upscale(2.0)),
        ({"lambda": 0.5}, Recipe.realign(0.5)),
        ({"lambda": {"tuned": 1}}, Recipe.interpolate({"tuned": 1.0})),
        ({"lambda": "tuned=1"}, Recipe.interpolate({"tuned": 1.0})),
        (
            {"recipe": "base=1,tuned=0.5", "any_sum": True},
            Recipe({"base": 1, "tuned": 0.5}, any_sum=True),
        ),
        ({"first_tokens": 3}, Recipe.upscale().stabilise(first_tokens=3)),
        (
            {
                "recipe": "base",
                "delta_top_p": 0.9,
                "plausibility": 0.1,
                "delta_clip": 2,
                "unsure_below": 0.5,
            },
            Recipe.single("base").stabilise(
                delta_top_p=0.9, plausibility=0.1, delta_clip=2.0, unsure_below=0.5
            ),
        ),
    ],
)
def test_recipes(fields: dict[str, Any], recipe: Recipe) -> None:
    assert asked(**fields).recipe == recipe


def test_a_recipe_keeps_the_limits_of_the_default() -> None:
    defaults = RequestDefaults(Defaults(Recipe.upscale().stabilise(delta_top_p=0.5)))
    chosen = read({"prompt": "x", "recipe": "proxy"}, defaults=defaults).recipe
    assert chosen == Recipe.proxy().stabilise(delta_top_p=0.5)


def test_speculation() -> None:
    assert asked(speculative="off").speculation == Speculation(length=0)
    assert asked(speculative=4, draft_rule="rejection").speculation == Speculation(4, "rejection")
    assert asked(draft_source="lookup").speculation == Speculation(source="lookup")


def test_limits_of_the_answer() -> None:
    assert asked(max_tokens=5).max_tokens == 5
    assert asked(max_completion_tokens=5).max_tokens == 5
    assert asked(max_completion_tokens=5, max_tokens=5).max_tokens == 5
    assert asked(stop="\n").stop == ("\n",)
    assert asked(stop="x" * 100).stop == ("x" * 100,)
    assert asked(stop=["a", "b"]).stop == ("a", "b")
    assert asked(stop=[]).stop == ()
    assert asked(logprobs=True).logprobs


def test_constraints() -> None:
    assert asked(grammar='root ::= "a"').constraint == Constraint("grammar", 'root ::= "a"')
    assert asked(regex="a|b").constraint == Constraint("regex", "a|b")
    assert asked(lark='start: "a"').constraint == Constraint("lark", 'start: "a"')
    schema = {"type": "integer"}
    constraint = asked(json_schema=schema).constraint
    assert constraint and constraint.kind == "json_schema" and json.loads(constraint.text) == schema
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert asked(response_format=form) == asked(json_schema=schema)
    assert asked(response_format={"type": "json_object"}) == asked(json_schema={"type": "object"})
    assert asked(response_format={"type": "text"}) == asked()


def test_messages_in_openais_form() -> None:
    parts = [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]
    request = read(
        {
            "messages": [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": parts, "name": None},
            ]
        }
    )
    assert request.prompts[0] == (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One\ntwo"},
    )


def test_what_is_text_to_go_on_with() -> None:
    by_default = RequestDefaults(raw=True)
    conversation = [{"role": "user", "content": "x"}]
    assert not read({"prompt": "x"}).raw
    assert read({"prompt": "x", "raw": True}).raw
    assert read({"prompt": "x"}, raw=True).raw
    assert read({"prompt": "x"}, defaults=by_default).raw
    assert not read({"prompt": "x", "raw": False}, defaults=by_default).raw
    assert not read({"messages": conversation}, defaults=by_default).raw


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "a request is an object, not an empty list"),
        ({}, "messages or prompt is missing"),
        ({"prompt": "x", "messages": []}, "messages and prompt exclude each other; leave one out"),
        ({"prompt": 5}, "prompt is 5; it must be a string, token ids, or a list of either"),
        ({"prompt": []}, "the prompt is an empty list; give it some text"),
        ({"prompt": ["x", " "]}, "the prompt is empty; give it some text"),
        ({"prompt": ["x", 5]}, "prompt[0]: a token id is needed, not str"),
        ({"prompt": [[5], []]}, "prompt[0]: a token id is needed, not list"),
        ({"prompt": [5, True]}, "prompt[1]: a token id is needed, not bool"),
        ({"prompt": [5, -1]}, "prompt[1]: token -1 is outside the vocabulary of 1000"),
        ({"prompt": [[5], [1000]]}, "prompt[0]: token 1000 is outside the vocabulary of 1000"),
        (
            {"prompt": [5], "raw": False},
            "raw is false, and the prompt is token ids, which are read as they stand",
        ),
        ({"prompt": "x", "echo": True}, "echo is for text to go on with; add raw, or leave it out"),
        ({"prompt": "x", "top_logprobs": 2}, "top_logprobs needs logprobs: true"),
        (
            {"messages": [{"role": "user", "content": "x"}], "logprobs": 2},
            "logprobs is 2; it must be true or false, and top_logprobs has the number",
        ),
        (
            {"prompt": "x", "logprobs": 2, "top_logprobs": 3},
            "logprobs is 2 and top_logprobs 3; leave one of them out",
        ),
        (
            {"prompt": ["x"] * 2, "n": 65},
            "2 prompts with 65 answers each are more than 128; ask for fewer",
        ),
        ({"prompt": "x", "best_of": 3}, "best_of is 3 and n 1: no answer is left out; say n alone"),
        ({"prompt": " "}, "the prompt is empty; give it some text"),
        ({"messages": "x"}, 'messages is "x"; it must be a list of messages'),
        ({"messages": []}, "messages: the list is empty, so there is nothing to answer"),
        (
            {"messages": [{"role": "judge", "content": "x"}]},
            "message 0: role 'judge' is not known: use system, user, assistant, tool",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            'message 0: part 0: type "image_url" is not supported; only text is',
        ),
        (
            {"messages": [{"role": "user", "content": ["x"]}]},
            'message 0: part 0: an object with "type" and "text" is needed',
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "message 0: part 0: text must be a string",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "", "x": 1}]}]},
            "message 0: part 0: 'x': not supported; leave it out",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}], "raw": True},
            "messages: text to go on with is given as prompt",
        ),
        ({"prompt": "a\ud800"}, "prompt: not valid text: an unpaired surrogate at character 1"),
    ],
)
def test_a_body_that_is_refused(body: Any, message: str) -> None:
    with pytest.raises((UsageError, PromptError)) as refused:
        read(body)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temprature": 1}, "field 'temprature' is not known; did you mean temperature?"),
        ({"zzz\n": 1}, "field 'zzz' is not known; leave it out"),
        ({"tools": [{}]}, 'tools[0]: an object with "type": "function" and "function" is needed'),
        ({"stream": True}, "stream: the answer comes whole; leave it out"),
        ({"echo": 0}, "echo is 0; it must be true or false"),
        ({"model": "gpt-4o"}, 'model "gpt-4o" is not loaded; say "demo" or leave it out'),
        ({"n": 0}, "n is 0; it must be a whole number from 1 to 128"),
        ({"n": True}, "n is true; it must be a whole number from 1 to 128"),
        ({"top_logprobs": 21}, "top_logprobs is 21; it must be a whole number from 0 to 20"),
        (
            {"logprobs": 21},
            "logprobs is 21; it must be true, false, or for a prompt a whole number from 0 to 20",
        ),
        ({"temperature": "hot"}, 'temperature is "hot"; it must be a number from 0 to 100'),
        ({"temperature": True}, "temperature is true; it must be a number from 0 to 100"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be a whole number, 0 or more, or off"),
        (
            {"alpha": 10**400},
            f"alpha is 1{'0' * 38}…; it must be a number from -100 to 100",
        ),
        ({"seed": -2}, "seed is -2; it must be a whole number, 0 or more"),
        (
            {"seed": 2**63},
            f"seed is {2**63}; it must be {2**63 - 1} or less",
        ),
        (
            {"max_tokens": 0},
            "max_tokens is 0; it must be a whole number, 1 or more, or off",
        ),
        (
            {"max_tokens": "9"},
            'max_tokens is "9"; it must be a whole number, 0 or more, or off',
        ),
        (
            {"max_tokens": 4, "max_completion_tokens": 5},
            "max_tokens is 4 and max_completion_tokens 5; leave one of them out",
        ),
        (
            {"stop": ["a", 1]},
            "stop[1] is 1; it must be a string of 1 to 1000 characters, or a list of at most 64",
        ),
        (
            {"stop": ""},
            "stop is an empty string; it must be a string of 1 to 1000 characters, or a list "
            "of at most 64",
        ),
        (
            {"stop": ["a"] * 65},
            "stop is a list; it must be a string of 1 to 1000 characters, or a list of at most 64",
        ),
        (
            {"lambda": [1]},
            "lambda is a list; it must be a number, or one for each tuned role, as in "
            "tuned=0.3,plain=0.7",
        ),
        (
            {"logit_bias": {"1": [1]}},
            "logit_bias of token 1 is of type list; it must be a number from -1000 to 1000",
        ),
        ({"logit_bias": {"x": 1}}, 'logit_bias: "x" is not a token id'),
        ({"logit_bias": {"01": 1}}, 'logit_bias: "01" is not a token id'),
        ({"logit_bias": {"1000": 1}}, "logit_bias: token 1000 is outside the vocabulary of 1000"),
        (
            {"logit_bias": {"1": 1001}},
            "logit_bias of token 1 is 1001; it must be a number from -1000 to 1000",
        ),
        (
            {"recipe": "guidance", "strength": 1},
            "recipe guidance needs the role unguided, and there are only base, tuned, reference; "
            "load with this recipe",
        ),
        ({"recipe": "steer"}, "recipe steer needs alpha"),
        (
            {"recipe": {"base": 1}},
            "recipe is an object; it must be a name, or weights such as "
            "base=1,tuned=1,reference=-1",
        ),
        (
            {"lambda": {"tuned": "1"}},
            'lambda[tuned] is "1"; it must be a number from -100 to 100',
        ),
        (
            {"plausibility": 1},
            "plausibility is 1; it must be a number of 0 or more and below 1, or off",
        ),
        (
            {"speculative": "fast"},
            'speculative is "fast"; it must be a whole number from 1 to 16, auto or off',
        ),
        (
            {"speculative": 17},
            "speculative is 17; it must be a whole number from 1 to 16, auto or off",
        ),
        (
            {"speculative": "off", "draft_rule": "coupled"},
            "draft_rule needs drafts; add speculative auto",
        ),
        ({"draft_source": "guess"}, 'draft_source is "guess"; it must be auto, model or lookup'),
        (
            {"grammar": "a", "json_schema": {}},
            "grammar and json_schema exclude each other; leave one out",
        ),
        ({"regex": "a", "lark": "b"}, "regex and lark exclude each other; leave one out"),
        ({"json_schema": {"not": {}}}, "JSON schema: not is not supported"),
        ({"regex": "a("}, "regex: unclosed group"),
        ({"lark": "start: x"}, 'Lark grammar: line 1, column 8: unknown name: "x"'),
        ({"guided_regex": "a"}, "field 'guided_regex' is not known; give regex"),
        (
            {"response_format": {"type": "regex"}},
            "response_format: type: text, json_object or json_schema is needed, not "
            '"regex"; give the field regex instead',
        ),
        (
            {"response_format": {"type": "xml"}},
            'response_format: type: text, json_object or json_schema is needed, not "xml"',
        ),
        (
            {"response_format": {"type": "json_schema"}},
            'response_format: json_schema: an object with "schema" is needed',
        ),
        (
            {"response_format": {"type": "json_object", "schema": {}}},
            "response_format: field 'schema' is not known; leave it out",
        ),
        (
            {"metadata": {"a": ["b", "\udc00"]}},
            "metadata.a[1]: not valid text: an unpaired surrogate at character 0",
        ),
        (
            {"metadata": {"\udc00": 1}},
            "metadata: key '�': not valid text: an unpaired surrogate at character 0",
        ),
    ],
)
def test_a_field_that_is_refused_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, PromptError)) as refused:
        asked(**fields)
    assert str(refused.value) == message


def test_what_would_be_lost_is_refused_by_name() -> None:
    for name, (_, why) in REFUSED.items():
        with pytest.raises(UsageError) as refused:
            asked(**{name: ["x"]})
        assert str(refused.value) == f"{name}: {why}; leave it out"
    with pytest.raises(UsageError, match="function_call: give tool_choice"):
        asked(function_call={"name": "f"})


def test_prompts_in_each_form() -> None:
    assert read({"prompt": ["a", "b"]}).prompts == ("a", "b")
    assert read({"prompt": [5, 6, 999]}, raw=True).prompts == ((5, 6, 999),)
    request = read({"prompt": [[5, 6], [7]]})
    assert (request.prompts, request.raw) == (((5, 6), (7,)), True)
    systems = read({"prompt": ["a", "b"]}, defaults=RequestDefaults(system="Rhyme."))
    assert [prompt[0]["content"] for prompt in systems.prompts] == ["Rhyme."] * 2


def test_each_answer_has_a_seed_of_its_own() -> None:
    calls = asked(prompt=["a", "b"], n=2, seed=7).calls(1)
    assert [prompt for prompt, _ in calls] == ["a", "a", "b", "b"]
    seeds = [options["sampling"].seed for _, options in calls]
    assert seeds[0] == 7 and len(set(seeds)) == 4 and all(0 <= s < 2**32 for s in seeds)
    assert seeds == [o["sampling"].seed for _, o in asked(prompt=["c"], n=4, seed=7).calls(2)]


@pytest.mark.parametrize(
    ("fields", "raw", "logprobs", "top"),
    [
        ({"logprobs": True}, None, True, 0),
        ({"logprobs": True, "top_logprobs": 5}, None, True, 5),
        ({"logprobs": 0}, True, True, 0),
        ({"logprobs": 3}, True, True, 3),
        ({"logprobs": 3.0, "top_logprobs": 3}, True, True, 3),
        ({"logprobs": None}, True, False, 0),
    ],
)
def test_logprobs_in_both_forms(
    fields: dict[str, Any], raw: bool | None, logprobs: bool, top: int
) -> None:
    request = read({"prompt": "x", **fields}, raw)
    assert (request.logprobs, request.top_logprobs) == (logprobs, top)


def test_echo() -> None:
    scored = read({"prompt": "x", "echo": True, "logprobs": 1, "max_tokens": 0}, raw=True)
    assert scored.echo and scored.calls(1)[0][1]["prompt_logprobs"]
    assert not read({"prompt": "x", "echo": True}, raw=True).calls(1)[0][1]["prompt_logprobs"]


@pytest.mark.parametrize(
    ("body", "raw", "message"),
    [
        ({"messages": []}, True, "messages: text to go on with is given as prompt"),
        ({"prompt": "x"}, False, "prompt: a conversation is given as messages"),
        ({}, True, "prompt is missing"),
        ({}, False, "messages is missing"),
        (
            {"prompt": "x", "raw": False},
            True,
            "raw is false, and its url says otherwise; leave one out",
        ),
    ],
)
def test_what_its_url_rules_out_is_refused(body: Any, raw: bool, message: str) -> None:
    with pytest.raises((UsageError, PromptError)) as refused:
        read(body, raw)
    assert str(refused.value) == message


def test_guidance_by_nothing_is_refused() -> None:
    defaults = RequestDefaults(
        Defaults(Recipe.guidance(1.0)), roles=("tuned", "unguided"), unguided_by_system=True
    )
    system = [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "x"}]
    assert read({"messages": system}, defaults=defaults).recipe is None
    for body in ({"prompt": "x"}, {"messages": system[1:]}):
        with pytest.raises(UsageError, match="give them as a system message"):
            read(body, defaults=defaults)
    assert read({"prompt": "x", "recipe": "tuned"}, defaults=defaults).recipe is not None


def test_a_name_given_where_none_is_loaded() -> None:
    with pytest.raises(UsageError, match=r'^model "x" is not loaded; leave it out$'):
        read({"prompt": "x", "model": "x"}, defaults=RequestDefaults())


def test_deep_nesting_is_refused() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(UsageError, match="nested too deeply"):
        asked(json_schema=deep)


def test_the_options_are_those_of_an_emulator(demo: Emulator) -> None:
    request = asked(temperature=0, max_tokens=5, logprobs=True, recipe="tuned", speculative="off")
    ((prompt, options),) = request.calls(3)
    answer = demo.generate(prompt, **options)
    assert answer.seed == 3
    assert len(answer.tokens) <= 5
    assert (
        answer.text
        == demo.generate(
            "Hello", sampling=Sampling(temperature=0.0), max_tokens=5, recipe="tuned"
        ).text
    )


SURROGATES = st.sampled_from(["\ud800", "a\udfff"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | SURROGATES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(sorted(KNOWN)) | st.text()
WORDS = st.sampled_from(
    ["proxy", "auto", "off", "base=1", "tuned=1", "json_object", "user", "text"]
)
SHAPED = (
    st.fixed_dictionaries({"type": WORDS | JSON}, optional={"json_schema": JSON, "text": JSON})
    | st.fixed_dictionaries({"role": WORDS, "content": JSON})
    | st.dictionaries(st.sampled_from(["1", "tuned", "base"]), st.floats() | st.integers())
)
VALUES = JSON | WORDS | SHAPED | st.lists(SHAPED, max_size=2)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.sampled_from([None, True, False]))
def test_anything_gives_a_request_or_one_line(body: dict[str, Any], raw: bool | None) -> None:
    for fields in (body, {"prompt": "x", **body}):
        try:
            request = read(fields, raw)
        except EftlocalError as error:
            assert isinstance(error, (UsageError, PromptError))
            assert str(error)
            assert one_line(str(error), 10_000) == str(error)
            assert len(str(error)) <= 400
        else:
            assert request.calls(1)[0][1]["sampling"].seed is not None
            repr(request).encode()


# Every field of OpenAI's API has its fate, and docs/fields.md tells it ----------------------------

# Of the package openai 3.57: parameters of chat completions and of completions, fields of messages.
PARAMETERS = """
audio best_of echo frequency_penalty function_call functions logit_bias logprobs
max_completion_tokens max_tokens messages metadata modalities model moderation n
parallel_tool_calls prediction presence_penalty prompt prompt_cache_key prompt_cache_options
prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop
store stream stream_options suffix temperature tool_choice tools top_logprobs top_p user verbosity
web_search_options
"""
MESSAGE = "annotations audio content function_call name refusal role tool_call_id tool_calls"
PART = "prompt_cache_breakpoint text type"


def test_every_field_of_openais_has_one_fate() -> None:
    assert set(PARAMETERS.split()) <= KNOWN
    assert len(KNOWN) == len(FIELDS) + len(IGNORED) + len(REFUSED)
    assert KNOWN - set(PARAMETERS.split()) == OURS | {"cache_control", "images", "influence"}
    fates = {*messages.IGNORED, *messages.REFUSED, *messages.OF_TOOLS}
    assert set(MESSAGE.split()) - {"role", "content"} <= fates
    assert not messages.IGNORED.keys() & messages.REFUSED.keys()
    part: dict[str, Any] = {"type": "text", "text": "x"} | dict.fromkeys(PART.split(), "text")
    assert messages.validate_messages([{"role": "user", "content": [part]}])


def test_the_page_is_what_the_code_says() -> None:
    script = Path(__file__).parents[1] / "scripts" / "write_fields.py"
    written = runpy.run_path(str(script))
    pages = written["pages"]()
    for name, page in pages.items():
        assert (written["DOCS"] / name).read_text("utf-8") == page, "run scripts/write_fields.py"
    both = pages["fields.md"] + pages["dials.md"]
    assert all(f"| `{name}` |" in both for name in KNOWN)
    assert all(f"| `{name}` |" in pages["dials.md"] for name in SETTINGS)
