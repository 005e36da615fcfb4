"""The fields that a request may have, and what each takes. `request` says what they mean.

A fault is one line that names the field, what is needed there and what was given.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from keyword import iskeyword
from typing import Any, Final

from eftlocal.errors import UsageError
from eftlocal.json_text import broken_text
from eftlocal.kinds import Flag, Kind, Range, RefusedError, Text, Texts
from eftlocal.settings import BODY, LONGEST_STOP, MOST_STOPS, RANGES, SETTINGS
from eftlocal.terminal_text import one_line

MAX_CHOICES = 128  # answers to one request
_TOP = Range(0, 20, whole=True)  # tokens told beside a chosen one

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
    "stream_options": "there is no stream",
}

REFUSED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "functions": ((), "give tools"),
    "function_call": (("none", "auto"), "give tool_choice"),
    "modalities": ((["text"],), "only text is supported"),
    "audio": ((), "only text is supported"),
    "images": ((), "only text is supported"),
    "stream": ((), "the answer comes whole"),
    "influence": ((), "the server tells it, and `eftlocal inspect`"),
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


@dataclass(frozen=True)
class _Shape(Kind):
    """Values of a type; what is in them is checked elsewhere."""

    rule: str
    types: tuple[type, ...]

    def read(self, value: Any) -> Any:
        if isinstance(value, self.types):
            return value
        raise self.refuse(value)


@dataclass(frozen=True)
class _Either(Kind):
    """Values of one kind or the other."""

    rule: str
    kinds: tuple[Kind, Kind]

    def read(self, value: Any) -> Any:
        first, second = self.kinds
        try:
            return first.read(value)
        except RefusedError:
            pass
        try:
            return second.read(value)
        except RefusedError as refused:
            refused.rule = self.rule
            raise


_FLAG, _TEXT, _OBJECT = Flag(), Text(), _Shape("an object", (Mapping,))
_STOP = f"a string of 1 to {LONGEST_STOP} characters, or a list of at most {MOST_STOPS}"
_TOKENS = replace(RANGES["max_tokens"], least=0)  # 0 with echo
_THEIRS: dict[str, Kind] = {
    "model": _TEXT,
    "messages": _Shape("a list of messages", (list,)),
    "prompt": _Shape("a string, token ids, or a list of either", (str, list)),
    "max_tokens": _TOKENS,
    "max_completion_tokens": _TOKENS,
    "temperature": RANGES["temperature"],
    "top_p": RANGES["top_p"],
    "seed": Range(0, 2**63 - 1, whole=True),
    "stop": _Either(
        _STOP,
        (Text(_STOP, 1, LONGEST_STOP), Texts(_STOP, Text(_STOP, 1, LONGEST_STOP), MOST_STOPS)),
    ),
    "n": Range(1, MAX_CHOICES, whole=True),
    "best_of": Range(1, MAX_CHOICES, whole=True),
    "echo": _FLAG,
    "logprobs": _Either(f"true, false, or for a prompt {_TOP.rule}", (_FLAG, _TOP)),
    "top_logprobs": _TOP,
    "presence_penalty": RANGES["presence_penalty"],
    "frequency_penalty": RANGES["frequency_penalty"],
    "logit_bias": _Shape('token ids with numbers (false or "-inf" bans a token)', (Mapping,)),
    "response_format": _OBJECT,
    "tools": _Shape("a list of functions", (list,)),
    "tool_choice": _Shape("auto, none, required, or an object with a function", (str, Mapping)),
    "parallel_tool_calls": _FLAG,
}
_OURS: dict[str, Kind] = {
    "raw": _FLAG,
    **{s.name: s.kind for s in SETTINGS.values() if BODY in s.where and s.name not in _THEIRS},
    "grammar": Text("GBNF text"),
    "json_schema": _OBJECT,
    "regex": Text("a regular expression for the whole answer"),
    "lark": Text("Lark text, as llguidance reads it"),
}
FIELDS: Final[Mapping[str, Kind]] = {**_THEIRS, **_OURS}
OURS: Final = frozenset(_OURS)
"""Fields that OpenAI does not have."""
KNOWN: Final = frozenset((*FIELDS, *IGNORED, *REFUSED))
BESIDE_A_PROMPT: Final = KNOWN - {"messages", "prompt"}

_MEANT = {("seed", -1): None, ("seed", "off"): None, ("top_k", -1): 0}  # written for "none"


def refusal(name: str, value: object) -> str | None:
    """Why a field is refused; None where its value asks for nothing.

    Args:
        name: one of REFUSED.
    """
    harmless, why = REFUSED[name]
    if value is None or value is False or value in ("", [], {}) or value in harmless:
        return None
    return f"{name}: {why}; leave it out"


Body = dict[str, Any]
"""The fields of a request by their names in Python; None where it says nothing."""


_PARAMETERS = {name: f"{name}_" if iskeyword(name) else name for name in FIELDS}
_SILENT: Body = dict.fromkeys(_PARAMETERS.values())


def read_body(body: object) -> Body:
    """The fields of a request; null is as good as absent.

    Raises:
        UsageError: it is no object, or a field is unknown, unsupported, or not what it must be.
    """
    if not isinstance(body, Mapping):
        raise UsageError(f"a request is an object, not {shown(body)}")
    if broken := broken_text(body):
        raise UsageError(broken)
    fields = _SILENT.copy()
    for name, value in body.items():
        if name in FIELDS:
            fields[_PARAMETERS[name]] = _read(name, value)
        elif name not in KNOWN:
            raise UsageError(unknown(str(name), KNOWN))
        elif name in REFUSED and (why := refusal(name, value)):
            raise UsageError(why)
    return fields


def _read(name: str, value: Any) -> Any:
    kind = FIELDS[name]
    if isinstance(value, float) and value.is_integer():
        whole = isinstance(kind, _Either) or (isinstance(kind, Range) and kind.whole)
        value = int(value) if whole else value
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        value = _MEANT.get((name, value), value)
    if value is None:
        return None
    try:
        return kind.given(value)
    except RefusedError as refused:
        where, given = refused.where, shown(refused.value)
        raise UsageError(f"{name}{where} is {given}; it must be {refused.rule}") from None


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


def only(given: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuses what else is in an object."""
    for name in given:
        if name not in known:
            raise UsageError(f"{where}: {unknown(name, frozenset(known))}")


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
