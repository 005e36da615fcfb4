"""Prompts as they come from outside, checked: conversations in OpenAI's form, token ids, variables
of chat templates, and files of prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeGuard, cast, get_args

from eftlocal.disk import read_text
from eftlocal.errors import PromptError, UsageError
from eftlocal.json_text import TextError, parse_json
from eftlocal.prompt.tool_messages import checked_calls, checked_id, link_results
from eftlocal.terminal_text import one_line

Role = Literal["system", "user", "assistant", "tool"]
ROLES = get_args(Role)

# What clients send beside role and content, and what becomes of it. docs/fields.md is made of it.
IGNORED = {
    "name": "chat templates do not use it",
    "annotations": "citations are not part of an answer's text",
    "cache_control": "shared prefixes are always cached",
    "prompt_cache_breakpoint": "shared prefixes are always cached",
}
REFUSED = {
    "function_call": "give tool_calls",
    "refusal": "put its text in content",
    "audio": "only text is supported",
}
_THINKING = "reasoning_content"
OF_TOOLS = {
    "tool_calls": "assistant",
    "tool_call_id": "tool",
}
"""Fields about tools, and the role whose messages may have them."""
_TAKEN = ("role", "content", _THINKING, *OF_TOOLS)
_IGNORED_IN_PART = ("cache_control", "prompt_cache_breakpoint")


class _Message(TypedDict):
    role: Role
    content: str


class Message(_Message, total=False):
    """One turn of a conversation. `content` may be empty; it must be text that UTF-8 can hold.

    An answer may have its thinking apart, without marks: `reasoning.told` says what becomes of it.
    Calls are in OpenAI's form, with arguments that are objects; a result has the call's id, and
    the name of its function.
    """

    reasoning_content: str
    tool_calls: list[dict[str, Any]]
    tool_call_id: str
    name: str


Prompt = str | Sequence[Message] | Sequence[int]
"""A text, a conversation, or token ids."""


def validate_messages(messages: object) -> list[Message]:
    """A checked copy of a conversation that came from outside.

    As in OpenAI's form, the role may be `developer` (it becomes `system`) and the content a list
    of parts of type "text" (they become lines). A key that is null or empty is as good as absent.
    An assistant's may have `reasoning_content`, and `tool_calls`, of which each is answered by a
    message of the role `tool`. IGNORED and REFUSED say what becomes of the others.

    Raises:
        PromptError: names the message (from 0) and what is wrong with it.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise PromptError(f"messages: a list is needed, not {type(messages).__name__}")
    if not messages:
        raise PromptError("messages: the list is empty, so there is nothing to answer")
    checked = [_message(f"message {i}", message) for i, message in enumerate(messages)]
    link_results(cast(list[dict[str, Any]], checked))
    return checked


def _message(where: str, message: object) -> Message:
    if not isinstance(message, Mapping):
        raise PromptError(f"{where}: an object is needed, not {type(message).__name__}")
    calls = message.get("tool_calls")
    for key in ("role",) if calls else ("role", "content"):
        if key not in message:
            raise PromptError(f"{where}: {key!r} is missing")
    for key, value in message.items():
        if key in (*_TAKEN, *IGNORED) or value is None or value in ("", [], {}):
            continue
        why = REFUSED.get(key, "not supported; leave it out")
        raise PromptError(f"{where}: {one_line(str(key), 40)!r}: {why}")
    role, content = message["role"], message.get("content")
    role = "system" if role == "developer" else role
    if role not in ROLES:
        raise PromptError(
            f"{where}: role {one_line(str(role), 40)!r} is not known: use {', '.join(ROLES)}"
        )
    for key, whose in OF_TOOLS.items():
        if message.get(key) and role != whose:
            raise PromptError(f"{where}: {key!r} is for messages of the role {whose}")
    if content is None and calls:
        content = ""
    if isinstance(content, (list, tuple)):
        content = "\n".join(_text(f"{where}: part {i}", part) for i, part in enumerate(content))
    if not isinstance(content, str):
        raise PromptError(f"{where}: content must be a string, not {type(content).__name__}")
    _check_text(f"{where}: content", content)
    checked = Message(role=cast(Role, role), content=content)
    if thinking := message.get(_THINKING):
        if role != "assistant" or not isinstance(thinking, str):
            raise PromptError(f"{where}: {_THINKING} is the text of an assistant's thinking")
        _check_text(f"{where}: {_THINKING}", thinking)
        checked["reasoning_content"] = thinking
    if calls:
        checked["tool_calls"] = checked_calls(f"{where}: tool_calls", calls)
    if role == "tool":
        checked["tool_call_id"] = checked_id(f"{where}: tool_call_id", message.get("tool_call_id"))
    return checked


def _text(where: str, part: object) -> str:
    """The text of one part of a content."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        raise PromptError(f'{where}: an object with "type" and "text" is needed')
    if kind != "text":
        named = json.dumps(one_line(kind, 40), ensure_ascii=False)
        raise PromptError(f"{where}: type {named} is not supported; only text is")
    for key, value in part.items():
        if key not in ("type", "text", *_IGNORED_IN_PART) and value is not None:
            raise PromptError(f"{where}: {one_line(str(key), 40)!r}: not supported; leave it out")
    if not isinstance(part.get("text"), str):
        raise PromptError(f"{where}: text must be a string")
    return str(part["text"])


def validate_prompt(text: str) -> str:
    """The text of one prompt, as it came.

    Raises PromptError when there is nothing in it but white space, or when UTF-8 cannot hold it.
    """
    if not text.strip():
        raise PromptError("the prompt is empty; give it some text")
    _check_text("the prompt", text)
    return text


def is_ids(prompt: object) -> TypeGuard[Sequence[int]]:
    """Whether a prompt is meant as token ids, whatever else is wrong with it."""
    if isinstance(prompt, (str, bytes, Mapping)) or not isinstance(prompt, Sequence):
        return False
    return bool(prompt) and isinstance(prompt[0], Integral)


def validate_ids(ids: Sequence[object], vocab_size: int | None) -> tuple[int, ...]:
    """Token ids of one prompt, which are read as they stand.

    Args:
        vocab_size: ids below it are tokens; None leaves that unchecked.

    Raises:
        PromptError: names the first that is none.
    """
    found = []
    for i, given in enumerate(ids):
        if isinstance(given, bool) or not isinstance(given, Integral):
            raise PromptError(f"prompt[{i}]: a token id is needed, not {type(given).__name__}")
        token = int(given)
        if token < 0 or (vocab_size is not None and token >= vocab_size):
            size = "" if vocab_size is None else f" of {vocab_size}"
            raise PromptError(f"prompt[{i}]: token {token} is outside the vocabulary{size}")
        found.append(token)
    return tuple(found)


def _check_text(what: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{what} is not valid text: an unpaired surrogate at character {error.start}"
        ) from None


def plain_text(messages: Sequence[Message]) -> str:
    """A conversation as plain text, for bases in which chat markers are untrained.

    The system's text, then `User: ...` and, on a line of its own, `Assistant:`, under which the
    answer begins: the answer's tokens are shared with chat formats, where it begins a line too,
    and so without a space. An answer stands exactly as it was generated, so that a second turn
    begins with the text of the first.
    """
    before = {"system": "", "user": "User: ", "assistant": "Assistant:\n"}
    after = {"system": "\n\n", "user": "\n", "assistant": "\n"}
    told = [m for m in messages if m["content"].strip() or m["role"] != "system"]
    text = "".join(before[m["role"]] + m["content"] + after[m["role"]] for m in told)
    return text + before["assistant"]


def transcript(prompt: Prompt) -> str:
    """A prompt for people to read: of one message the text alone; token ids have none."""
    if isinstance(prompt, str):
        return prompt
    messages = [part for part in prompt if isinstance(part, Mapping)]
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


OWN = ("messages", "add_generation_prompt", "bos_token", "eos_token")


def check_variables(variables: Mapping[str, Any], given: str = "chat_template_kwargs") -> None:
    """Raises UsageError for one that is no JSON value, or not the caller's to set.

    Args:
        given: what the message calls them.
    """
    if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
        raise UsageError(f"{given}: a mapping is needed, as in {{'enable_thinking': False}}")
    for name in OWN:
        if name in variables:
            raise UsageError(f"{given}: {name!r} is set by eftlocal; leave it out")
    try:
        json.dumps(dict(variables))
    except RecursionError:
        raise UsageError(f"{given}: nested too deeply; make it flatter") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{given}: a value is not a JSON value: {error}") from None


def read_records(path: Path, keys: Sequence[str] | None) -> list[tuple[str, dict[str, Any]]]:
    """Where each prompt stands ("FILE, line 3"), and what its line says; empty lines do not count.

    A line of a .jsonl file is an object with some of the keys; any other line is {"prompt": line}.

    Args:
        keys: None allows any.

    Raises:
        UsageError: the file cannot be read.
        PromptError: it is not UTF-8, holds no prompt, or a line is no such object.
    """
    text = read_text(path, not_text=PromptError)
    lines = [(f"{path}, line {n}", line) for n, line in enumerate(text.split("\n"), 1)]
    lines = [(where, line) for where, line in lines if line.strip()]
    if not lines:
        raise PromptError(f"{path} holds no prompt; write one a line")
    if path.suffix.lower() != ".jsonl":
        return [(where, {"prompt": line.strip()}) for where, line in lines]
    return [(where, _object(where, line, keys)) for where, line in lines]


def text_of(where: str, record: dict[str, Any]) -> str:
    """The prompt of a record.

    Raises:
        PromptError: it has none, or none with text in it.
    """
    prompt = record.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(f'{where}: no text under "prompt"; write {{"prompt": "..."}}')
    return prompt


def _object(where: str, line: str, keys: Sequence[str] | None) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except TextError as error:
        raise PromptError(f"{where}: {error}; write one JSON object a line") from None
    if not isinstance(record, dict):
        raise PromptError(f'{where}: not an object; write {{"prompt": "..."}}')
    for key in record:
        if keys is not None and key not in keys:
            raise PromptError(
                f"{where}: key {key[:40]!r} is not supported; known are {', '.join(keys)}"
            )
    return record
