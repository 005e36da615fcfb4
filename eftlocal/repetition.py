"""Whether an answer goes round in circles: one phrase over and over, without end.

The loop guard is a number of tokens: an answer ends when so many of its last tokens are one phrase
repeated, at least four times. Numbers repeat for good reasons (a row of zeros, 1/7 to a thousand
digits), so a phrase of digits and marks without a word is let go on four times as long.

The default is measured (`scripts/measure_loops.py`). Of 61 lists, tables, drawings, refrains and
pieces of code written out with SmolLM2's tokens the longest repetition of words is 599 tokens (200
lines of null), of marks 401 and of numbers 2,998 (1,000 zeros in an array). A greedy SmolLM2 that
loops does not come out of it again, so a guard of any length finds it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral

from eftlocal.errors import UsageError
from eftlocal.terminal_text import shown

LOOP_GUARD = 1024
"""Tokens of repetition after which an answer is ended, unless something else is said."""

OF_NUMBERS = 4  # times as many tokens, for a phrase of numbers
LEAST = 16  # tokens of a loop guard
_TIMES = 4

_WORD = re.compile(r"([^\W\d_])(?!\1)[^\W\d_]", re.IGNORECASE)  # two letters that differ


def loop_guard_tokens(name: str, value: object) -> int:
    """A loop guard from its forms: a number of tokens, or "off" (0, False), which is 0.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if value is False or (isinstance(value, str) and value == "off"):
        return 0
    if isinstance(value, Integral) and not isinstance(value, bool):
        tokens = int(value)
        if tokens == 0 or tokens >= LEAST:
            return tokens
    raise UsageError(
        f"{name} is {shown(value)}; it must be a number of tokens from {LEAST}, or off"
    )


def repeated_phrase(tokens: Sequence[int]) -> int:
    """Tokens of the shortest phrase that these are, over and over; 0 where they are none.

    A phrase may begin and end anywhere in it, and stands there at least four times.
    """
    last = tokens[-1]
    for length in range(1, len(tokens) // _TIMES + 1):
        if tokens[-1 - length] == last and tokens[length:] == tokens[:-length]:
            return length
    return 0


def is_of_numbers(phrase: str) -> bool:
    """Whether there are digits in it and no word."""
    return any(map(str.isdigit, phrase)) and not _WORD.search(phrase)
