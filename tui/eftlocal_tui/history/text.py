"""Any Python string as valid UTF-8 without NUL, and back; and its beginning to show.

SQLite's functions end a text at a NUL, and UTF-8 has no lone surrogates. Both are written as
U+0010 (data link escape) and four hexadecimal digits, and so is U+0010 itself: nothing is lost,
and the file stays readable for every other program.
"""

from __future__ import annotations

import re

from eftlocal.terminal_text import one_line

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SPECIAL = re.compile("[\x00\x10\ud800-\udfff]")
_ESCAPE = re.compile("\x10([0-9a-f]{4})")


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


def excerpt(text: str, limit: int) -> str:
    """The beginning of a text as one line for the screen, cut at a word if possible."""
    line = one_line(text, limit)
    if len(line) < limit or not line.endswith("…"):
        return line
    space = line.rfind(" ", limit // 2)
    return f"{line[:space]}…" if space > 0 else line
