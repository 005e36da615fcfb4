"""What a conversation is: read in OpenAI's form on every surface, written out as plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Literal, TypedDict, TypeGuard, cast

from eftlocal.errors import PromptError
from eftlocal.terminal_text import one_line

Role = Literal["system", "user", "assistant"]
ROLES = ("system", "user", "assistant")

# What clients send beside role and content, and what becomes of it. docs/fields.md is made of it.
IGNORED = {
    "name": "chat templates have no place for it",
    "annotations": "citations of an earlier answer are no part of its text",
    "cache_control": "prompts that begin alike are always read once",
    "prompt_cache_breakpoint": "prompts that begin alike are always read once",
}
REFUSED = {
    "tool_calls": "tools are not supported",
    "tool_call_id": "tools are not supported",
    "function_call": "tools are not supported",
    "refusal": "put its text into content",
    "audio": "only text is supported",
    "reasoning_content": "put what the model is to read into content",
}
_IGNORED_IN_PART = ("cache_control", "prompt_cache_breakpoint")


class Message(TypedDict):
    """One turn of a conversation. `content` may be empty; it must be text that UTF-8 can hold."""

    role: Role
    content: str


def validate_messages(messages: object) -> list[Message]:
    """A checked copy of a conversation that came from outside.

    As in OpenAI's form, the role may be `developer` (it becomes `system`) and the content a list
    of parts of type "text" (they become lines). A key that is null or empty is as good as absent;
    IGNORED and REFUSED say what becomes of the others.

    Raises:
        PromptError: names the message (from 0) and what is wrong with it.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise PromptError(f"messages: a list is needed, not {type(messages).__name__}")
    if not messages:
        raise PromptError("messages: the list is empty, so there is nothing to answer")
    return [_message(f"message {i}", message) for i, message in enumerate(messages)]


def _message(where: str, message: object) -> Message:
    if not isinstance(message, Mapping):
        raise PromptError(f"{where}: an object is needed, not {type(message).__name__}")
    for key in ("role", "content"):
        if key not in message:
            raise PromptError(f"{where}: {key!r} is missing")
    for key, value in message.items():
        if key in ("role", "content", *IGNORED) or value is None or value in ("", [], {}):
            continue
        why = REFUSED.get(key, "not supported; leave it out")
        raise PromptError(f"{where}: {one_line(str(key), 40)!r}: {why}")
    role, content = message["role"], message["content"]
    role = "system" if role == "developer" else role
    if role not in ROLES:
        raise PromptError(
            f"{where}: role {one_line(str(role), 40)!r} is not known: use {', '.join(ROLES)}"
        )
    if isinstance(content, (list, tuple)):
        content = "\n".join(_text(f"{where}: part {i}", part) for i, part in enumerate(content))
    if not isinstance(content, str):
        raise PromptError(f"{where}: content must be a string, not {type(content).__name__}")
    _check_text(f"{where}: content", content)
    return Message(role=cast(Role, role), content=content)


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
        raise PromptError("the prompt is empty; say something")
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
            f"{what} is not valid text: half of a surrogate pair at character {error.start}"
        ) from None


def plain_text(messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
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
    return text + before["assistant"] if add_generation_prompt else text
