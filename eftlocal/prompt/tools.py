"""What a chat template makes of tools: whether it shows them, and how it writes calls.

Both are seen in what it renders: a conversation with a tool, a call and its result, whose words
stand nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from eftlocal.errors import PromptError
from eftlocal.llama.model import Model
from eftlocal.prompt.messages import Message
from eftlocal.prompt.template import ChatTemplate, is_template
from eftlocal.tool_calls import ARGUMENTS, FORMATS, CallFormat

_NAME, _ARGUMENTS, _ASKED, _RESULT = "tool_q7x", {"key_q7x": "value q7x"}, "asked q7x", "told q7x"
_PROPERTIES = {name: {"type": "string"} for name in _ARGUMENTS}
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "a tool",
        "parameters": {"type": "object", "properties": _PROPERTIES},
    },
}
_FUNCTION = {"name": _NAME, "arguments": _ARGUMENTS}
_ID = "call00q7x"
_CALL = {"id": _ID, "type": "function", "function": _FUNCTION}
_USER = Message(role="user", content=_ASKED)
_CALLED = Message(role="assistant", content="", tool_calls=[_CALL])
_TOLD = Message(role="tool", content=_RESULT, tool_call_id=_ID, name=_NAME)


def call_format(template: ChatTemplate, variables: Mapping[str, Any]) -> CallFormat | str:
    """How a template writes calls, or in words why none can be read.

    Args:
        variables: of the template, as a role has them.
    """
    return _seen(template, json.dumps(dict(variables), sort_keys=True))


def for_model(found: CallFormat, model: Model) -> CallFormat:
    """The format over a model's tokens: control tokens among its marks have no text elsewhere."""
    control = frozenset(model.special_tokens(user_defined=False))
    spelled = {
        mark: model.tokenize(mark, parse_special=True, continues=True)
        for mark in (found.opens, found.closes)
        if mark
    }
    marks = [(mark, ids[0]) for mark, ids in spelled.items() if len(ids) == 1 and ids[0] in control]
    return replace(found, control=tuple(marks))


@lru_cache(maxsize=64)
def _seen(template: ChatTemplate, variables: str) -> CallFormat | str:
    if not is_template(template.source):
        return "has no tools"
    given = json.loads(variables)
    try:
        offered = template.render([_USER], {**given, "tools": [_TOOL]})
        if _NAME not in offered:
            return "has no tools"
        told = template.render([_USER, _CALLED, _TOLD], {**given, "tools": [_TOOL]})
    except PromptError as error:
        return f"cannot show tools: {error}"
    if _RESULT not in told:
        return "does not show what tools gave"
    found = _read(offered.rpartition(_ASKED)[2], told.rpartition(_ASKED)[2])
    return found or "writes calls of tools in a form that cannot be read here"


def _read(before: str, text: str) -> CallFormat | None:
    """The format of the call in a text.

    Args:
        before: what a prompt ends with, after the user's message.
        text: what follows that message where the answer to it is the call.
    """
    for begin in (at for at, letter in enumerate(text) if letter in "{["):
        try:
            value, end = json.JSONDecoder().raw_decode(text, begin)
        except (ValueError, RecursionError):
            continue
        listed = isinstance(value, list)
        one = value[0] if listed and len(value) == 1 else value
        keys = [key for key in ARGUMENTS if isinstance(one, dict) and one.get(key) == _ARGUMENTS]
        if not keys or one.get("name") != _NAME:
            continue
        head, tail = text[:begin], text[end:]
        for known in FORMATS:
            ends = tail.lstrip().startswith(known.closes)
            marked = head.rstrip().endswith(known.opens) and ends
            if marked or (known.bare and before.startswith(head.rstrip())):
                opened = head.rpartition(known.opens)[2] if marked else ""
                closed = tail.partition(known.closes)[0] if known.closes else ""
                return replace(known, key=keys[0], listed=listed, before=opened, after=closed)
        return None
    return None
