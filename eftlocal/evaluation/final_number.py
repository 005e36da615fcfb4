"""The number that an answer to a problem of arithmetic ends with."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(
    r"""(?P<sign>(?<![\w.)])[-−])?(?:[$£€¥]\s?(?P<minus>[-−])?)?   # of 10-4 it is no sign
    (?P<value>(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)
    (?:/(?P<below>0*[1-9]\d*)(?![\d/]))?""",
    re.VERBOSE | re.ASCII,
)
_MARK = re.compile(r"####|\bthe\s+(?:final\s+)?answer\s+is\b:?", re.IGNORECASE)


def final_number(text: str) -> Fraction | None:
    """After the last "####" or "the answer is", the first number; else the text's last one.

    lm-evaluation-harness's flexible-extract, which takes the last number whatever stands before
    it, differs where more is said after the answer.
    """
    marked = marked_number(text)
    return marked if marked is not None else next(iter(reversed(_numbers(text))), None)


def marked_number(text: str) -> Fraction | None:
    """The first number after the last "####" or "the answer is"; None where there is neither.

    As lm-evaluation-harness's strict-match, whatever stands between, as a currency.
    """
    marks = reversed(list(_MARK.finditer(text)))
    return next((n for mark in marks for n in _numbers(text[mark.end() :])[:1]), None)


def _numbers(text: str) -> list[Fraction]:
    """As they are written in English: 1,234.50, -3, $5, 1/2."""
    found = []
    for match in _NUMBER.finditer(text):
        value = Fraction(match["value"].replace(",", "")) / int(match["below"] or 1)
        found.append(-value if match["sign"] or match["minus"] else value)
    return found
