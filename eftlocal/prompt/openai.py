"""A conversation in OpenAI's form as ours: content in parts of text, the role `developer`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from eftlocal.errors import PromptError
from eftlocal.prompt.messages import Message, validate_messages
from eftlocal.prompt.worker import one_line


def conversation(messages: Sequence[object]) -> tuple[Message, ...]:
    """The checked messages. Parts of one content are lines of it; keys that are null are absent.

    Raises:
        PromptError: naming the message (from 0) and what of it is not supported.
    """
    return tuple(validate_messages([_message(*message) for message in enumerate(messages)]))


def _message(index: int, message: object) -> object:
    if not isinstance(message, Mapping):
        return message
    told = {k: v for k, v in message.items() if v is not None or k in ("role", "content")}
    if told.get("role") == "developer":
        told["role"] = "system"
    content = told.get("content")
    if isinstance(content, list):
        texts = (_text(f"message {index}: part {i}", part) for i, part in enumerate(content))
        told["content"] = "\n".join(texts)
    return told


def _text(where: str, part: object) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        raise PromptError(f'{where}: an object with "type" and "text" is needed')
    if kind != "text":
        named = json.dumps(one_line(kind, 40), ensure_ascii=False)
        raise PromptError(f"{where}: type {named} is not supported; only text is")
    for key in part:
        if key not in ("type", "text"):
            raise PromptError(f"{where}: key {one_line(str(key), 40)!r} is not supported")
    if not isinstance(part.get("text"), str):
        raise PromptError(f"{where}: text must be a string")
    return str(part["text"])
