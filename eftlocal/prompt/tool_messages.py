"""What conversations say of tools: an assistant's calls and what came of them, checked; and as
text, for roles whose templates have no tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from eftlocal.errors import PromptError
from eftlocal.json_text import TextError, broken_text, parse_json
from eftlocal.terminal_text import one_line
from eftlocal.tool_calls import short_id

_ID = re.compile(r"[A-Za-z0-9]{9}")


def checked_calls(where: str, given: object) -> list[dict[str, Any]]:
    """An assistant's `tool_calls`, in OpenAI's form, as templates take them: with arguments that
    are an object, and ids that any template takes.

    Raises:
        PromptError: names what is wrong, and where.
    """
    if isinstance(given, (str, Mapping)) or not isinstance(given, Sequence):
        raise PromptError(f"{where}: a list of calls is needed, not {type(given).__name__}")
    calls = [_call(f"{where}[{i}]", call) for i, call in enumerate(given)]
    if len({call["id"] for call in calls}) < len(calls):
        raise PromptError(f"{where}: two calls have the same id; give each its own")
    return calls


def _call(where: str, call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise PromptError(f'{where}: an object with "id", "type" and "function" is needed')
    if call.get("type", "function") != "function":
        kind = one_line(str(call["type"]), 40)
        raise PromptError(f"{where}: type {kind!r} is not supported; only function is")
    _only(where, call, ("id", "type", "function", "index"))
    _only(f"{where}: function", function, ("name", "arguments"))
    name = function.get("name")
    if not isinstance(name, str) or not name or broken_text(name):
        raise PromptError(f"{where}: function: name must be a string with something in it")
    arguments = _arguments(f"{where}: function: arguments", function.get("arguments"))
    return {
        "id": checked_id(f"{where}: id", call.get("id")),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _only(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key, value in given.items():
        if key not in known and value is not None:
            raise PromptError(f"{where}: {one_line(str(key), 40)!r}: not supported; leave it out")


def _arguments(where: str, given: object) -> dict[str, Any]:
    value = given
    try:
        if isinstance(given, str):
            value = parse_json(given) if given.strip() else {}
    except TextError as error:
        raise PromptError(f"{where}: {error}") from None
    if not isinstance(value, Mapping):
        raise PromptError(f"{where} must be a JSON object, or its text")
    if broken := broken_text(value):
        raise PromptError(f"{where}: {broken}")
    return dict(value)


def checked_id(where: str, given: object) -> str:
    """The id of a call, or another for it: Mistral's templates refuse all but nine letters and
    digits, and an id is nothing but a link."""
    if not isinstance(given, str) or not given or broken_text(given):
        raise PromptError(f"{where} must be the string that names a call")
    if _ID.fullmatch(given):
        return given
    return short_id(given)


def link_results(messages: Sequence[dict[str, Any]]) -> None:
    """Gives each result the name of the function that was called.

    Raises:
        PromptError: a result is of no call before it, or a call has none.
    """
    waiting: dict[str, str] = {}
    for i, message in enumerate([*messages, {"role": ""}]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                raise PromptError(
                    f"message {i}: its tool_call_id is of no call in the assistant's message "
                    "before it, or of one that has its result"
                )
            message["name"] = waiting.pop(message["tool_call_id"])
            continue
        if waiting:
            name = one_line(next(iter(waiting.values())), 40)
            raise PromptError(
                f"message {i - 1}: no result of the call of {name!r} follows; add a message of "
                "the role tool with its tool_call_id"
            )
        calls = message.get("tool_calls", ())
        waiting = {call["id"]: call["function"]["name"] for call in calls}


def has_tools(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there are calls or results in a conversation."""
    return any(m["role"] == "tool" or m.get("tool_calls") for m in messages)


def as_text(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with calls as JSON in the assistant's messages, and results as the user's,
    joined with what the user says next, so that the two take turns."""
    told: list[dict[str, Any]] = []
    joins = False
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            role, content = "user", f"{message['name']}: {content}"
        calls = [
            json.dumps(c["function"], ensure_ascii=False) for c in message.get("tool_calls", ())
        ]
        content = "\n".join([*([content] if content or not calls else []), *calls])
        if role == "user" and joins:
            told[-1] = {**told[-1], "content": f"{told[-1]['content']}\n\n{content}"}
        else:
            others = {
                k: v for k, v in message.items() if k not in ("tool_calls", "tool_call_id", "name")
            }
            told.append({**others, "role": role, "content": content})
        joins = message["role"] == "tool"
    return told
