"""The prompt that a person gives: an argument, or stdin."""

from __future__ import annotations

import sys

from eftlocal.errors import PromptError, UsageError


def read_prompt(prompt: str | None) -> str:
    """The argument; without one, or for `-`, what stdin has.

    Raises:
        UsageError: there is no prompt, and stdin is a terminal.
        PromptError: it is not valid UTF-8, or no prompt.
    """
    from eftlocal.prompt.messages import validate_prompt

    if prompt is not None and prompt != "-":
        try:  # bytes that the locale did not know stand for themselves
            where, data = "the prompt", prompt.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return validate_prompt(prompt)  # which says what is wrong
    elif prompt is None and sys.stdin.isatty():
        raise UsageError("no prompt: give one as an argument, or on stdin")
    else:
        where, data = "stdin", sys.stdin.buffer.read()
    try:
        return validate_prompt(data.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{where} is not valid UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; "
            "convert the text to UTF-8"
        ) from None
