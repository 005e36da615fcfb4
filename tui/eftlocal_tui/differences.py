"""Where texts that begin alike part, and which words one has that another has not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

_ALONE = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff01-\uffef"  # letters that are words
_WORD = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+")
_MOST = 1_500  # words after the common beginning; the work grows with their square


class Beginning(NamedTuple):
    """What texts have in common at their beginning: words, and where they end in the texts."""

    words: int
    end: int


def common_beginning(texts: Sequence[str]) -> Beginning:
    """Of two texts or more: whole words, with all the white space before them."""
    words = end = 0
    if len(texts) > 1:
        for each in zip(*map(_WORD.finditer, texts), strict=False):
            reached = each[0].end()
            first = texts[0][end:reached]
            if any(t[end : w.end()] != first for t, w in zip(texts, each, strict=True)):
                break
            words, end = words + 1, reached
    return Beginning(words, end)


def foreign_words(text: str, other: str, begin: int) -> list[tuple[int, int]]:
    """Stretches (start, end) of `text` that `other` has not, both from `begin` on; words that
    stand side by side are one stretch. Nothing where there are too many to compare."""
    mine, theirs = list(_WORD.finditer(text, begin)), _WORD.findall(other, begin)
    if max(len(mine), len(theirs)) > _MOST:
        return []
    matcher = SequenceMatcher(None, [word[0] for word in mine], theirs, autojunk=False)
    return [
        (mine[first].start(), mine[last - 1].end())
        for kind, first, last, _, _ in matcher.get_opcodes()
        if kind in ("replace", "delete")
    ]
