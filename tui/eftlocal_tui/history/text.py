"""Any Python string as valid UTF-8 without NUL, and back; and any text as one line to show.

SQLite's functions end a text at a NUL, and UTF-8 has no lone surrogates. Both are written as
U+0010 (data link escape) and four hexadecimal digits, and so is U+0010 itself: nothing is lost,
and the file stays readable for every other program.
"""

from __future__ import annotations

import re

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SPECIAL = re.compile("[\x00\x10\ud800-\udfff]")
_ESCAPE = re.compile("\x10([0-9a-f]{4})")
_JOINERS = "\u200c\u200d"  # not printable for Python, but emoji and several scripts need them


def stored(text: str) -> str:
    """The text as the database keeps it. A surrogate pair becomes its character."""
    if _SPECIAL.search(text) is None:
        return text
    text = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _SPECIAL.sub(lambda special: f"\x10{ord(special[0]):04x}", text)


def loaded(text: str) -> str:
    """What `stored` made, undone."""
    if "\x10" not in text:
        return text
    return _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)


def one_line(text: str, limit: int) -> str:
    """The beginning of a text as one line of printable characters, cut at a word if possible."""
    head = text[: 4 * limit]
    line = " ".join("".join(c if c.isprintable() or c in _JOINERS else " " for c in head).split())
    if len(line) <= limit:
        return line
    cut = line[: limit - 1]
    space = cut.rfind(" ", limit // 2)
    return (cut[:space] if space > 0 else cut) + "…"
