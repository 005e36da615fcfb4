"""What a conversation is: checked when it comes from outside, written out as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict, cast

from eftlocal.errors import PromptError
from eftlocal.prompt.worker import one_line

Role = Literal["system", "user", "assistant"]
ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """One turn of a conversation. `content` may be empty; it must be text that UTF-8 can hold."""

    role: Role
    content: str


def validate_messages(messages: object) -> list[Message]:
    """A checked copy of a conversation that came from outside.

    Raises PromptError naming the index of the message (from 0) and what is wrong with it.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise PromptError(f"messages: a list is needed, not {type(messages).__name__}")
    if not messages:
        raise PromptError("messages: the list is empty, so there is nothing to answer")
    return [_validate_message(f"message {i}", message) for i, message in enumerate(messages)]


def _validate_message(where: str, message: object) -> Message:
    if not isinstance(message, Mapping):
        raise PromptError(f"{where}: an object is needed, not {type(message).__name__}")
    for key in ("role", "content"):
        if key not in message:
            raise PromptError(f"{where}: {key!r} is missing")
    for key in message:
        if key not in ("role", "content"):
            raise PromptError(f"{where}: key {one_line(str(key), 40)!r} is not supported")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise PromptError(
            f"{where}: role {one_line(str(role), 40)!r} is not known: use {', '.join(ROLES)}"
        )
    if not isinstance(content, str):
        raise PromptError(f"{where}: content must be a string, not {type(content).__name__}")
    _check_text(f"{where}: content", content)
    return Message(role=cast(Role, role), content=content)


def validate_prompt(text: str) -> str:
    """The text of one prompt, as it came.

    Raises PromptError when there is nothing in it but white space, or when UTF-8 cannot hold it.
    """
    if not text.strip():
        raise PromptError("the prompt is empty; say something")
    _check_text("the prompt", text)
    return text


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
    text = "".join(before[m["role"]] + m["content"] + after[m["role"]] for m in messages)
    return text + before["assistant"] if add_generation_prompt else text
