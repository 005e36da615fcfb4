"""Calls in answers: which text is one, however it comes; what conversations say of them."""

from __future__ import annotations

import json
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scripted_model import scripted_model
from tool_templates import HERMES, LLAMA, MISTRAL, XML
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.errors import PromptError, UsageError
from eftlocal.generation import Step
from eftlocal.json_text import MAX_DEPTH
from eftlocal.prompt.messages import validate_messages
from eftlocal.prompt.render import RolePrompt, render_roles
from eftlocal.request import Request, RequestDefaults, read_request
from eftlocal.request_tools import Tools
from eftlocal.server.chunks import ChoiceChunks
from eftlocal.thinking import Marks
from eftlocal.tool_calls import FORMATS, CallFormat, CallReader, ToolCall, _Json

HERMES_FORMAT, MISTRAL_FORMAT, _, LLAMA_FORMAT = FORMATS
NAMES = frozenset(("f", "weather"))
ASK = {"role": "user", "content": "Is it warm?"}


def read(
    text: str, format: CallFormat = HERMES_FORMAT, cuts: Any = (), **options: Any
) -> tuple[str, list[ToolCall]]:
    """Of a text cut at these places, what is text and what calls."""
    reader, said, calls = CallReader(format, NAMES, **options), "", list[ToolCall]()
    ends = [*sorted({cut for cut in cuts if cut < len(text)}), len(text)]
    for begin, end in zip([0, *ends], ends, strict=False):
        found = reader.push(text[begin:end])
        said, calls = said + found.text, calls + found.calls
        assert reader.settled <= end
    found = reader.finish()
    assert reader.settled == len(text)
    return said + found.text, calls + found.calls


# What is a call ----------------------------------------------------------------------------------

F = ToolCall("f", "{}")
JSON_F = '{"name": "f", "arguments": {}}'


@pytest.mark.parametrize(
    ("format", "text", "said", "calls"),
    [
        (HERMES_FORMAT, f"<tool_call>\n{JSON_F}\n</tool_call>", "", [F]),
        (HERMES_FORMAT, f"<tool_call>{JSON_F}", "", [F]),
        (HERMES_FORMAT, f"A \n<tool_call>{JSON_F}</tool_call>\nB\n", "A \n\nB", [F]),
        (HERMES_FORMAT, f"<tool_call>[{JSON_F}, {JSON_F}]</tool_call>", "", [F, F]),
        (HERMES_FORMAT, f"<tool_call>{JSON_F}</tool_call>\n<tool_call>{JSON_F}\n", "", [F, F]),
        (HERMES_FORMAT, '<tool_call>{"name": "f", "parameters": {}}</tool_call>', "", [F]),
        (HERMES_FORMAT, f"{JSON_F}", JSON_F, []),
        (
            HERMES_FORMAT,
            '<tool_call>{"name": "f", "arguments": {</tool_call>\n'
            f"<tool_call>{JSON_F}</tool_call>",
            '<tool_call>{"name": "f", "arguments": {</tool_call>',
            [F],
        ),
        (MISTRAL_FORMAT, f"[TOOL_CALLS] [{JSON_F}]", "", [F]),
        (MISTRAL_FORMAT, f"[TOOL_CALLS]{JSON_F}", "", [F]),
        (LLAMA_FORMAT, f" {JSON_F}", "", [F]),
        (LLAMA_FORMAT, f"{JSON_F}; {JSON_F}\n", "", [F, F]),
        (LLAMA_FORMAT, f"{JSON_F}; and so", "; and so", [F]),
        (LLAMA_FORMAT, f"<|python_tag|>{JSON_F}", "", [F]),
        (LLAMA_FORMAT, f"So: {JSON_F}", f"So: {JSON_F}", []),
        (LLAMA_FORMAT, f"So: <|python_tag|>{JSON_F}", "So:", [F]),
    ],
)
def test_calls_in_each_form(
    format: CallFormat, text: str, said: str, calls: list[ToolCall]
) -> None:
    assert read(text, format) == (said, calls)
    assert read(text, format, range(len(text))) == (said, calls)


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"name": "f"}',
        '{"name": "g", "arguments": {}}',
        '{"name": ["f"], "arguments": {}}',
        '{"name": "f", "arguments": "{}"}',
        '{"name": "f", "arguments": []}',
        '{"name": "f", "arguments": {}, "why": "so"}',
        '{"name": "f", "arguments": {}, "parameters": {}}',
        '{"name": "f", "arguments": {"a": 1, "a": 2}}',
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": {"a": "\\ud800"}}',
        '{"name": "f", "arguments": {"a": "\n"}}',
        '{"name": "f", "arguments": {]}',
        '{"name": "f", "arguments": {"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}}",
        f'[{JSON_F}, {{"name": "g", "arguments": {{}}}}]',
        "f(a=1)",
    ],
)
def test_what_is_no_call_stays_text(inside: str) -> None:
    text = f" <tool_call>\n{inside}\n</tool_call> \n"
    assert read(text) == (text, [])
    assert read(text, HERMES_FORMAT, range(len(text))) == (text, [])


def test_thinking_is_text() -> None:
    call = f"<tool_call>{JSON_F}</tool_call>"
    for text, marks in (
        (f"<think>So {call}</think>\n", None),
        (f"So {call}</think>\n", Marks("<think>", "</think>", opened=True)),
    ):
        for cuts in ((), range(500)):
            assert read(text + call, cuts=cuts, marks=marks) == (text.rstrip(), [F])
            assert read(text[:-9], cuts=cuts, marks=marks) == (text[:-9], [])
    assert read(call, marks=Marks("<think>", "</think>", opened=True), thinks=False) == ("", [F])


def test_as_many_calls_as_are_wanted() -> None:
    for format, text in (
        (HERMES_FORMAT, f"A <tool_call>{JSON_F}</tool_call> B <tool_call>{JSON_F}"),
        (MISTRAL_FORMAT, f"A [TOOL_CALLS][{JSON_F}, {JSON_F}] B"),
    ):
        assert read(text, format, most=1) == ("A", [F])
        assert read(text, format, range(len(text)), most=1) == ("A", [F])


PARTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<think>", "</think>"),
        *("{", "}", "[", "]", '"', "\\", ",", ":", ";", " ", "\n", "<", "a", "é", "1"),
        *(JSON_F, '{"name": "f", "parameters": {"x": "<tool_call>{"}}', '{"name": "f", '),
        '{"name": "weather", "arguments": {"city": "Ö\\"}"}}',
    ]
)
TEXTS = st.lists(PARTS | st.text(max_size=3), max_size=12).map("".join)


@given(TEXTS, st.sampled_from(FORMATS), st.sets(st.integers(1, 200)), st.sampled_from([None, 1]))
@example("<think>a</think><tool_call>" + JSON_F, HERMES_FORMAT, {1, 9}, None)
def test_any_cuts_give_the_same(
    text: str, format: CallFormat, cuts: set[int], most: int | None
) -> None:
    whole = read(text, format, most=most)
    assert read(text, format, cuts, most=most) == whole
    assert read(text, format, range(len(text)), most=most) == whole
    said, calls = whole
    if not calls:
        assert said == text
    for name, arguments in calls:
        assert name in NAMES and isinstance(json.loads(arguments), dict)


LETTERS = st.text(string.ascii_letters + " \n.<[{|é€", max_size=30)
INTEGERS = st.integers(-(2**63), 2**63)
OBJECTS = st.dictionaries(st.text(max_size=5), st.text(max_size=8) | INTEGERS | st.none())


@given(st.lists(st.tuples(LETTERS, OBJECTS), min_size=1, max_size=3), st.sets(st.integers(1, 300)))
def test_calls_that_were_written_are_read(
    written: list[tuple[str, dict[str, Any]]], cuts: set[int]
) -> None:
    def call(arguments: dict[str, Any]) -> str:
        return json.dumps({"name": "weather", "arguments": arguments}, ensure_ascii=False)

    text = "".join(f"{said}<tool_call>\n{call(given_)}\n</tool_call>" for said, given_ in written)
    said, calls = read(text, HERMES_FORMAT, cuts)
    assert [json.loads(arguments) for _, arguments in calls] == [given_ for _, given_ in written]
    assert "".join(said.split()) == "".join("".join(s for s, _ in written).split())


def test_time_grows_with_the_text_alone() -> None:
    """However many marks stand in it, hardly anything is looked at twice."""
    looked = 0

    class Counted(str):
        def __getitem__(self, key: Any) -> Any:
            nonlocal looked
            looked += isinstance(key, int)
            return str.__getitem__(self, key)

    for unit in ('<tool_call>{"', '<tool_call>{"" "', "<tool_call>[{", '<tool_call>{"a":["\\"'):
        text = unit * 500
        for at in range(0, len(text), len(unit)):
            _Json(at + len("<tool_call>")).end(Counted(text))
    assert looked < 4 * 500 * 60


# A stream's chunks -------------------------------------------------------------------------------


@given(TEXTS, st.lists(st.integers(1, 6), min_size=1))
def test_chunks_of_any_tokens_are_the_whole(text: str, sizes: list[int]) -> None:
    data, pieces = text.encode(), list[bytes]()
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    tools = Tools(HERMES_FORMAT, tuple({"name": name} for name in NAMES))
    request = Request(((),), logprobs=True, tools=tools)
    sent: list[dict[str, Any]] = []
    chunks = ChoiceChunks(0, request, lambda t, special=False: [*pieces, b""][t], sent.append, "x")
    decoded, steps = b"", list[Step]()
    for token, piece in enumerate(pieces):
        before = decoded.decode("utf-8", "ignore")
        decoded += piece
        now = decoded.decode("utf-8", "ignore")
        steps.append(Step(token, token, now[len(before) :], logprob=-float(token)))
    end = len(pieces)
    steps.append(Step(end, end, "", logprob=0.0, finish_reason="stop"))
    for step in steps:
        chunks.add(step)
    answer: Any = SimpleNamespace(text=text, finish_reason="stop", stop=None, seed=1)
    chunks.end(answer, {})
    said, calls = read(text)
    deltas = [choice["delta"] for choice in sent]
    assert "".join(delta.get("content") or "" for delta in deltas) == said
    told = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in told] == list(range(len(calls)))
    assert [tuple(call["function"].values()) for call in told] == calls
    assert sent[-1]["finish_reason"] == ("tool_calls" if calls else "stop")
    assert not any(choice["finish_reason"] for choice in sent[:-1])
    scored = [one for choice in sent for one in choice["logprobs"]["content"]]
    assert [one["logprob"] for one in scored] == [-float(token) for token in range(end)]


# Templates and conversations ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (HERMES, CallFormat("<tool_call>", "</tool_call>", before="\n", after="\n")),
        (MISTRAL, CallFormat("[TOOL_CALLS]", listed=True, before=" ")),
        (LLAMA, CallFormat("<|python_tag|>", bare=True, key="parameters")),
        (XML, "writes calls of tools in a form that cannot be read here"),
        ("{{ messages[0].content }}", "has no tools"),
        ("{% if tools %}{{ raise_exception('none!') }}{% endif %}", "has no tools"),
        (
            "{{ tools }}{{ messages | map(attribute='content') | join }}"
            "{% if messages | length > 1 %}{{ raise_exception('no!') }}{% endif %}",
            "cannot show tools: the chat template rejects the conversation (line 1): no!",
        ),
        ("{{ tools }}{{ messages[0].content }}", "does not show what tools gave"),
    ],
)
def test_a_templates_form_is_seen(template: str, found: CallFormat | str) -> None:
    seen = RolePrompt(template=template).calls
    assert seen == found or "none!" in template


def test_a_conversation_as_a_template_takes_it() -> None:
    function = {"name": "weather", "arguments": '{"city": "Málaga"}'}
    call = {"id": "call_1", "type": "function", "function": function, "index": 0}
    messages = [
        ASK,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "25"}]},
    ]
    checked = validate_messages(messages)
    (made,) = checked[1]["tool_calls"]
    assert made["function"] == {"name": "weather", "arguments": {"city": "Málaga"}}
    assert checked[1]["content"] == ""
    assert checked[2] == {
        "role": "tool", "content": "25", "tool_call_id": made["id"], "name": "weather",
    }  # fmt: skip
    assert validate_messages(checked) == checked
    seen = render_roles(
        checked, {"tuned": RolePrompt(template=HERMES), "base": RolePrompt("plain"),
                  "reference": RolePrompt("chatml")},
    )  # fmt: skip
    written = '{"name": "weather", "arguments": {"city": "Málaga"}}'
    assert f"<tool_call>\n{written}\n</tool_call>" in str(seen["tuned"])
    assert str(seen["base"]) == (
        f"User: Is it warm?\nAssistant:\n{written}\nUser: weather: 25\nAssistant:\n"
    )
    assert f"<|im_start|>assistant\n{written}<|im_end|>" in str(seen["reference"])
    more = [*checked, {"role": "user", "content": "And?"}]
    joined = str(render_roles(more, {"base": RolePrompt("plain")}, same_as="base")["base"])
    assert joined.endswith("User: weather: 25\n\nAnd?\nAssistant:\n")


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "x"}


def called(**changes: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{**CALL, **changes}]}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{**ASK, "tool_calls": [CALL]}], "message 0: 'tool_calls' is for messages of the role a"),
        ([{**ASK, "tool_call_id": "a"}], "message 0: 'tool_call_id' is for messages of the role t"),
        ([ASK, RESULT], "message 1: its tool_call_id is of no call"),
        ([ASK, called()], "message 1: no result of the call of 'f' follows"),
        ([ASK, called(), ASK], "message 1: no result of the call of 'f' follows"),
        ([ASK, called(), RESULT, RESULT], "message 3: its tool_call_id is of no call"),
        ([ASK, called(), {**RESULT, "tool_call_id": None}], "message 2: tool_call_id must be"),
        ([ASK, called(), {**RESULT, "content": None}], "message 2: content must be a string"),
        ([ASK, {"role": "assistant", "tool_calls": {"a": 1}}], "message 1: tool_calls: a list of"),
        ([ASK, {"role": "assistant", "tool_calls": ["a"]}], r"message 1: tool_calls\[0\]: an obj"),
        ([ASK, {"role": "assistant", "tool_calls": [CALL, CALL]}], "message 1: .* the same id"),
        ([ASK, called(id=5)], r"message 1: tool_calls\[0\]: id must be the string"),
        ([ASK, called(type="custom")], r"message 1: tool_calls\[0\]: type 'custom' is not"),
        ([ASK, called(colour=1)], r"message 1: tool_calls\[0\]: 'colour': not supported"),
        ([ASK, called(function={"arguments": "{}"})], r".*\[0\]: function: name must be"),
        ([ASK, called(function={"name": "f", "arguments": "{"})], ".*function: arguments: not J"),
        ([ASK, called(function={"name": "f", "arguments": "[]"})], ".*arguments must be a JSON ob"),
        ([ASK, called(function={"name": "f", "arguments": {"a": "\ud800"}})], ".*surrogate"),
        ([ASK, {**called(), "function_call": {}, "tool_calls": None}], "message 1: content must"),
        ([{"role": "assistant", "content": "x", "function_call": {"name": "f"}}],
         "message 0: 'function_call': give tool_calls"),
    ],
)  # fmt: skip
def test_bad_messages_are_named(messages: object, expected: str) -> None:
    with pytest.raises(PromptError, match=f"^{expected}"):
        validate_messages(messages)


# Requests ----------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "f", "description": "It fs.", "strict": True}}
DEFAULTS = RequestDefaults(call_format=lambda: HERMES_FORMAT)


def asked(defaults: RequestDefaults = DEFAULTS, **fields: Any) -> Request:
    return read_request({"messages": [ASK], "tools": [TOOL], **fields}, defaults=defaults)


def test_what_a_template_is_shown() -> None:
    request = asked(chat_template_kwargs={"enable_thinking": False})
    none = {"type": "object", "properties": {}, "additionalProperties": False}
    shown = {"name": "f", "description": "It fs.", "parameters": none}
    assert request.chat_template_kwargs == {
        "enable_thinking": False, "tools": [{"type": "function", "function": shown}],
    }  # fmt: skip
    assert request.constraint is None and request.tools is not None and request.tools.parallel
    assert asked(tool_choice="none").tools is None
    assert asked(tool_choice="none").chat_template_kwargs is None
    assert asked(tools=None, tool_choice="auto", parallel_tool_calls=True).tools is None
    assert asked(tool_choice="none", json_schema={"type": "object"}).constraint is not None


def test_a_forced_call_is_a_constraint() -> None:
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        constraint = asked(tool_choice=choice).constraint
        assert constraint is not None and constraint.kind == "lark"
    described = {"a": {"type": "string", "description": "as in [temperature=0.5]"}}
    tools = _function(parameters={"properties": described})
    assert asked(**tools, tool_choice="required").constraint
    assert asked(tool_choice="required").tools.parallel  # type: ignore[union-attr]
    assert not asked(tool_choice=choice).tools.parallel  # type: ignore[union-attr]


def _function(**fields: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **fields}}]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": "f"}, 'tools is "f"; it must be a list of functions'),
        ({"tools": [{"type": "function"}]}, r"tools\[0\]: an object with"),
        ({"tools": [{**TOOL, "type": "web"}]}, r'tools\[0\]: type is "web"; only function'),
        ({"tools": [{**TOOL, "x": 1}]}, r"tools\[0\]: field 'x' is not known"),
        ({"tools": [TOOL, TOOL]}, "tools: the name f is given twice"),
        (_function(name="a b"), r'tools\[0\]: name is "a b"'),
        (_function(description=1), r"tools\[0\]: description is 1"),
        (_function(strict="yes"), r'tools\[0\]: strict is "yes"'),
        (_function(parameters=[]), r"tools\[0\]: parameters must be a JSON schema"),
        (_function(parameters={"type": "string"}), r"tools\[0\]: parameters must be a JSON schema"),
        (_function(colour=1), r"tools\[0\]: function: field 'colour' is not known"),
        (_function(description="x" * 70_000), "tools: 1 of them with 70079 char.*128 with 65536"),
        ({"tool_choice": 3}, "tool_choice is 3"),
        ({"tool_choice": {"type": "function"}}, "tool_choice is an object; it must be auto"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, 'function "g" is not'),
        ({"tools": None, "tool_choice": "required"}, "tool_choice: there are no tools to call"),
        ({"tool_choice": "required", "regex": "a"}, "tools and regex exclude each other"),
        ({"json_schema": {"type": "object"}}, "tools and json_schema exclude each other"),
        ({"chat_template_kwargs": {"tools": []}}, "tools are given twice"),
        ({"messages": None, "prompt": "x", "raw": True}, "tools are for a conversation"),
        ({**_function(parameters={"properties": {"a": {"type": "date"}}}),
          "tool_choice": "required"}, "tools: parameters of f: JSON schema: "),
    ],
)  # fmt: skip
def test_what_is_refused_of_tools(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}|{message}"):
        asked(**fields)


def test_where_nothing_reads_calls() -> None:
    for fields in ({}, {"tools": None, "messages": [ASK, called(), RESULT]}):
        with pytest.raises(UsageError, match="tools are not supported here"):
            asked(RequestDefaults(), **fields)


# Batches -----------------------------------------------------------------------------------------


def test_lines_of_a_batch(tmp_path: Path) -> None:
    text = 'Hm.\n<tool_call>\n{"name": "f", "arguments": {"a": [1, "é"]}}\n</tool_call>'
    scripts = {"T": text, "R": "Done.", "N": "Hello."}
    model = scripted_model(tmp_path / "m.gguf", HERMES, scripts)
    lines = [
        {"messages": [ASK], "tools": [TOOL]},
        {"messages": [ASK, called(), RESULT], "tools": [TOOL], "tool_choice": "auto"},
        {"messages": [ASK], "tools": [TOOL], "tool_choice": "none"},
        {"messages": [ASK], "tools": [TOOL], "tool_choice": "required", "max_tokens": 80},
        {"messages": [ASK], "tools": [{**TOOL, "type": "web"}]},
    ]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({**line, "temperature": 0}) + "\n" for line in lines))
    files = [f"--{role}={model}" for role in ("base", "tuned", "reference")]
    run = ["batch", str(source), str(output), *files, "--trust", "--threads=1"]
    run.append("--skip-invalid")
    found = CliRunner().invoke(app, run)
    rows = {row["custom_id"]: row for row in map(json.loads, output.read_text().splitlines())}
    assert len(rows) == 5, found.output
    first, second, third, fourth = (
        rows[f"line-{i}"]["response"]["body"]["choices"][0] for i in range(1, 5)
    )
    (call,) = first["message"]["tool_calls"]
    assert (first["message"]["content"], first["finish_reason"]) == ("Hm.", "tool_calls")
    assert json.loads(call["function"]["arguments"]) == {"a": [1, "é"]}
    assert (second["message"]["content"], third["message"]["content"]) == ("Done.", "Hello.")
    assert fourth["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert "type is" in rows["line-5"]["error"]["message"]
    again = tmp_path / "again.jsonl"
    CliRunner().invoke(app, ["batch", str(source), str(again), *run[3:]])
    ids = [json.loads(row)["response"] for row in again.read_text().splitlines()]
    assert call["id"] in json.dumps(ids)
    plain = tmp_path / "plain.jsonl"
    CliRunner().invoke(app, ["batch", str(source), str(plain), *run[3:], "--format", "plain"])
    assert "no place for tools; use --format openai" in plain.read_text()
