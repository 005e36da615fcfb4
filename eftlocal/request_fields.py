"""The fields that a request may have, and their shapes. `request` says what they mean; ranges of
numbers are those of `settings`.

A fault is one line that names the field, what is needed there and what was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eftlocal.errors import UsageError
from eftlocal.json_text import broken_text
from eftlocal.settings import MAX_DRAFT, Off
from eftlocal.speculation.rules import RULES
from eftlocal.terminal_text import one_line

MAX_CHOICES = 128  # answers to one request
MAX_TOP = 20  # tokens told beside a chosen one
MAX_STOPS, MAX_STOP = 64, 1000  # strings, and characters of each

IGNORED: Mapping[str, str] = {
    "user": "nothing is told apart by it",
    "safety_identifier": "nothing is told apart by it",
    "metadata": "nothing is kept of it",
    "store": "nothing is stored",
    "prompt_cache_key": "shared prefixes are always cached",
    "prompt_cache_options": "shared prefixes are always cached",
    "prompt_cache_retention": "shared prefixes are always cached",
    "cache_control": "shared prefixes are always cached",
    "service_tier": "there is one tier",
    "parallel_tool_calls": "there are no tools",
    "stream_options": "there is no stream",
}

REFUSED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "tools": ((), "tools are not supported"),
    "tool_choice": (("none", "auto"), "tools are not supported"),
    "functions": ((), "tools are not supported"),
    "function_call": (("none", "auto"), "tools are not supported"),
    "modalities": ((["text"],), "only text is supported"),
    "audio": ((), "only text is supported"),
    "images": ((), "only text is supported"),
    "stream": ((), "the answer comes whole"),
    "suffix": ((), "text is only gone on with; write the model's own marks into a raw prompt"),
    "prediction": ((), "say draft_source lookup, which drafts from the prompt"),
    "web_search_options": ((), "nothing is searched"),
    "moderation": ((), "nothing is moderated"),
    "reasoning_effort": (
        ("medium",),
        "put it in chat_template_kwargs where the template has it",
    ),
    "verbosity": (("medium",), "say it in a system message"),
}
"""Name to values that ask for nothing, beside null, false and what is empty; and why not."""

_WHOLE = frozenset(
    (
        *("max_tokens", "max_completion_tokens", "seed", "n", "best_of"),
        *("logprobs", "top_logprobs", "top_k", "first_tokens"),
    )
)
_MEANT = {("seed", -1): None, ("seed", "off"): None, ("top_k", -1): 0}  # written for "none"

_Number = Annotated[float | None, Field(description="a number")]
_Flag = Annotated[bool | None, Field(description="true or false")]
_Text = Annotated[str | None, Field(description="a string")]
_Object = Annotated[dict[str, Any] | None, Field(description="an object")]
_Tokens = Annotated[
    Off | Annotated[int, Field(ge=0)] | None,
    Field(description='a whole number, 1 or more, or "off"'),
]
_Dial = Annotated[float | Off | None, Field(description='a number or "off"')]
_Count = Annotated[int | Off | None, Field(description='a whole number or "off"')]
_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP)]


class Body(BaseModel):
    """A request's fields; null is as good as absent. A field's description is what it needs."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    # OpenAI's
    model: _Text = None
    messages: Annotated[list[Any] | None, Field(description="a list of messages")] = None
    prompt: Annotated[
        str | list[Any] | None, Field(description="a string, token ids, or a list of either")
    ] = None
    max_tokens: _Tokens = None
    max_completion_tokens: _Tokens = None
    temperature: _Number = None
    top_p: _Dial = None
    seed: Annotated[
        int | None, Field(ge=0, lt=2**63, description="a whole number from 0 to 2**63 - 1")
    ] = None
    stop: Annotated[
        _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS)] | None,
        Field(
            description=f"a string of 1 to {MAX_STOP} characters, or a list of at most {MAX_STOPS},"
        ),
    ] = None
    n: Annotated[
        int | None, Field(ge=1, le=MAX_CHOICES, description=f"a number from 1 to {MAX_CHOICES}")
    ] = None
    best_of: Annotated[int | None, Field(ge=1, description="the same number as n")] = None
    echo: _Flag = None
    logprobs: Annotated[
        bool | Annotated[int, Field(ge=0, le=MAX_TOP)] | None,
        Field(description=f"true, false, or for a prompt a number from 0 to {MAX_TOP}"),
    ] = None
    top_logprobs: Annotated[
        int | None, Field(ge=0, le=MAX_TOP, description=f"a number from 0 to {MAX_TOP}")
    ] = None
    presence_penalty: _Dial = None
    frequency_penalty: _Dial = None
    logit_bias: Annotated[
        dict[str, float | Literal[False, "-inf"]] | None,
        Field(description='token ids with numbers (false or "-inf" bans a token)'),
    ] = None
    response_format: _Object = None

    # ours
    raw: _Flag = None
    special: _Flag = None
    chat_template_kwargs: _Object = None
    top_k: _Count = None
    min_p: _Dial = None
    repeat_penalty: _Dial = None
    recipe: Annotated[
        str | None, Field(description="a name, or weights such as base=1,tuned=1,reference=-1,")
    ] = None
    alpha: _Number = None
    beta: _Number = None
    lambda_: Annotated[
        float | str | dict[str, float] | None,
        Field(alias="lambda", description="a number, or an object with one for each role"),
    ] = None
    strength: _Number = None
    any_sum: _Flag = None
    delta_top_p: _Dial = None
    plausibility: _Dial = None
    delta_clip: _Dial = None
    first_tokens: _Count = None
    unsure_below: _Dial = None
    loop_guard: Annotated[
        Literal["off"] | Annotated[int, Field(ge=0)] | None,
        Field(description='a number of tokens, or "off",'),
    ] = None
    speculative: Annotated[
        Literal["auto", "off"] | Annotated[int, Field(ge=0, le=MAX_DRAFT)] | None,
        Field(description=f'"auto", "off", or 1 to {MAX_DRAFT}'),
    ] = None
    draft_rule: Annotated[str | None, Field(description=" or ".join(RULES))] = None
    draft_source: Annotated[str | None, Field(description="auto or model or lookup")] = None
    grammar: Annotated[str | None, Field(description="GBNF text")] = None
    json_schema: _Object = None
    regex: Annotated[str | None, Field(description="a regular expression for the whole answer")] = (
        None
    )
    lark: Annotated[str | None, Field(description="Lark text, as llguidance reads it")] = None


_FIELDS = {field.alias or name: field for name, field in Body.model_fields.items()}
FIELDS = frozenset(_FIELDS)
OURS = frozenset(list(_FIELDS)[list(_FIELDS).index("raw") :])
"""Fields that OpenAI does not have."""
KNOWN = frozenset((*FIELDS, *IGNORED, *REFUSED))
SETTINGS = KNOWN - {"messages", "prompt"}
"""What may stand beside a prompt."""


def refusal(name: str, value: object) -> str | None:
    """Why a field is refused; None where its value asks for nothing.

    Args:
        name: one of REFUSED.
    """
    harmless, why = REFUSED[name]
    if value is None or value is False or value in ("", [], {}) or value in harmless:
        return None
    return f"{name}: {why}; leave it out"


def as_meant(name: str, value: Any) -> Any:
    """A value in the form that `Body` takes: 10.0 is 10; no seed is -1 or "off", no top_k -1."""
    if name in _WHOLE and isinstance(value, float) and value.is_integer():
        value = int(value)
    meant = isinstance(value, (int, str)) and not isinstance(value, bool)
    return _MEANT.get((name, value), value) if meant else value


def read_body(body: object) -> Body:
    """The fields of a request.

    Raises:
        UsageError: it is no object, or a field is unknown, unsupported or of a wrong shape.
    """
    if not isinstance(body, Mapping):
        raise UsageError(f"a request is an object, not {shown(body)}")
    if broken := broken_text(body):
        raise UsageError(broken)
    fields = {}
    for name, value in body.items():
        if name in FIELDS:
            fields[name] = as_meant(name, value)
        elif name not in KNOWN:
            raise UsageError(unknown(str(name), KNOWN))
        elif name in REFUSED and (why := refusal(name, value)):
            raise UsageError(why)
    try:
        return Body.model_validate(fields)
    except ValidationError as refused:
        # Of a union's branches the one is meant that came furthest.
        error = max(refused.errors(include_url=False), key=lambda e: len(e["loc"]))
        name = str(error["loc"][0])
        where = "".join(f"[{step}]" for step in error["loc"][1:] if isinstance(step, int))
        needed, given = _FIELDS[name].description, error["input"]
        raise UsageError(f"{name}{where}: {needed} is needed, not {shown(given)}") from None


_ELSEWHERE = {
    "system": "give a message of the role system, or --system",
    "chat_template": "it is one for the whole run: --chat-template",
    "preset": "it is one for the whole run: --preset",
    "guided_json": "give json_schema",
    "guided_regex": "give regex",
    "guided_grammar": "give grammar (GBNF) or lark",
    "guided_choice": "give regex, as in yes|no",
    "structured_outputs": "give json_schema, regex, grammar (GBNF) or lark",
}
"""Where to give what people look for in a line."""


@lru_cache(maxsize=256)  # a file as a rule has the same fault in every line
def unknown(name: str, known: frozenset[str]) -> str:
    """What to say of a field that is not known."""
    near = get_close_matches(name[:40], sorted(known - IGNORED.keys() - REFUSED.keys()), 1)
    hint = f"did you mean {near[0]}?" if near else "leave it out"
    hint = _ELSEWHERE.get(name, hint)
    return f"field {one_line(name, 40)!r} is not known; {hint}"


def shown(value: object) -> str:
    """A JSON value for a message, in short."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return json.dumps(one_line(value, 40), ensure_ascii=False) if value else "an empty string"
    if value is None or isinstance(value, (bool, int, float)):
        return one_line(json.dumps(value), 40)
    return f"a value of type {type(value).__name__}"
