"""Classes of token: a simple, written-down rule that says of each token what kind it is.

Proxy-tuning's analysis (Liu et al. 2024, section 6) sets numbers against the words around them in
worked sums, and finds words of style and caution moved most elsewhere. The word lists here are
English and short on purpose: they are samples of a kind, not dictionaries. Other languages get
the classes that need no list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

CLASSES = {
    "end": "a control token, which ends the answer as a rule",
    "newline": "white space with a line break in it",
    "white space": "other white space",
    "number": "digits, with or without a sign, separators or a space before them",
    "punctuation": "no letter and no digit",
    "continuation": "the rest of a word that an earlier token began",
    "reasoning": "begins a word such as because, so, therefore, if, first, total",
    "caution": "begins a word such as may, might, however, important, unfortunately",
    "style": "begins a word such as here, sure, please, certainly, overall, great",
    "name": "begins a word with a capital that does not begin a sentence",
    "word": "begins any other word",
}

_WORDS = {
    "reasoning": """because so therefore thus hence since if then first second third next finally
        let suppose given assume consider means implies follows conclude total sum equals each per
        step""",
    "caution": """may might could perhaps possibly probably likely seems generally typically often
        however although though but while not no cannot never unfortunately sorry apologize
        important note worth careful depends depending respect respectful evidence please""",
    "style": """here sure certainly absolutely course great good well glad happy thank thanks
        welcome hope overall additionally moreover furthermore also summary conclusion example
        hello hi dear let's feel free""",
}
_KIND = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_NUMBER = re.compile(r"\s*[+\-−]?\d[\d.,:/]*\s*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"(?:^|[.!?:;\n*\-•\"“(])\s*$")


def classes_of(texts: Sequence[str], controls: Sequence[bool]) -> list[str]:
    """The class of every token of an answer, from its text and what stands around it.

    Args:
        texts: (n,) what each token completes (`InspectedToken.text`).
        controls: (n,) whether it is a control token.
    """
    whole, found, at = "".join(texts), [], 0
    for text, control in zip(texts, controls, strict=True):
        found.append("end" if control else _class(whole, at, at + len(text)))
        at += len(text)
    return found


def _class(whole: str, start: int, end: int) -> str:
    text = whole[start:end]
    if not text:
        return "continuation"  # a part of a character
    if text.isspace():
        return "newline" if "\n" in text else "white space"
    if _NUMBER.fullmatch(text):
        return "number"
    first = next((i for i in range(start, end) if whole[i].isalpha()), None)
    if first is None:
        return "number" if any(c.isdigit() for c in text) else "punctuation"
    if first == start > 0 and (whole[start - 1].isalpha() or whole[start - 1] in "'’"):
        return "continuation"
    word = _WORD.match(whole, first)
    kind = _KIND.get(word.group().lower().replace("’", "'")) if word else None
    if kind is not None:
        return kind
    if whole[first].isupper() and not _SENTENCE_END.search(whole[:first][-8:]):
        return "name"
    return "word"
