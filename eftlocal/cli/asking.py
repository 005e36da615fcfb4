"""The prompt that a person gives: an argument, or stdin."""

from __future__ import annotations

import sys

from eftlocal.disk import decoded, utf_8
from eftlocal.errors import PromptError, UsageError


def read_prompt(prompt: str | None) -> str:
    """The argument; without one, or for `-`, what stdin has.

    Raises:
        UsageError: there is no prompt, and stdin is a terminal.
        PromptError: it is not valid UTF-8, or no prompt.
    """
    from eftlocal.prompt.messages import validate_prompt

    if prompt is None and sys.stdin.isatty():
        raise UsageError("no prompt: give one as an argument, or on stdin")
    if prompt is None or prompt == "-":
        return validate_prompt(decoded(sys.stdin.buffer, "stdin", not_text=PromptError))
    try:  # bytes that the locale did not know stand for themselves
        data = prompt.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return validate_prompt(prompt)  # which says what is wrong
    return validate_prompt(utf_8(data, "the prompt", PromptError))
