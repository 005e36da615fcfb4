"""What is safe to show: the one definition, for terminals, messages, tables, pages and rows.

Texts of models, files, the hub and people reach the screen. `UNSAFE` is every character that can
do more there than be read:

- Controls (C0 with ESC, BEL and CR, DEL, C1) drive a terminal: they set its title, move its cursor,
  write to its clipboard or make it answer. Newline and tab are left to whoever lays a text out.
- Line and paragraph separators end a line for some readers and not for others.
- Bidirectional marks, embeddings, overrides and isolates make a line read in another order than it
  is stored.
- Unpaired surrogates are not text: writing them fails.
- Format characters without a glyph (word joiners and invisible operators, U+FEFF, annotations,
  shorthand and music controls, tags) hide text in text. So do unassigned ids that Unicode reserves
  for more of their kind, which makes this list independent of Python's version of Unicode.

Left alone are zero-width joiners and spaces and the soft hyphen, which Persian, Khmer or an emoji
need; signs of Arabic and the like that Unicode calls format characters and fonts draw; private use
and other unassigned ids, which take one cell (tomorrow's emoji are among them); and look-alikes: a
Cyrillic letter can look Latin, and no list ends that.
"""

from __future__ import annotations

import json
import numbers
import re
from typing import Any

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u061c\u180e\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
    "\ud800-\udfff"
    "\U0001bca0-\U0001bcaf\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff]"
)
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ELLIPSIS = "…"


def printable(text: str) -> str:
    """A text of any length for a terminal: newlines and tabs stay, the unsafe is U+FFFD.

    A carriage return before a newline is a line end of another system, and goes.
    """
    return UNSAFE.sub(REPLACEMENT, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = 200, tail: int = 0) -> str:
    """A text as one line of at most `limit` characters, for a name, a label or a message.

    White space of any kind is one space, the unsafe is U+FFFD. Of a text that is too long the
    beginning is kept and an ellipsis, and with `tail` so many characters of its end.
    """
    line = _joined(text[: 4 * limit])
    if len(line) <= limit and len(text) <= 4 * limit:
        return line
    end = _joined(text[-4 * tail :])[-tail:] if tail else ""
    return f"{line[: limit - len(end) - 1].rstrip()}{_ELLIPSIS}{end}"


def shown(value: object) -> str:
    """A value that Python code or a person gave, for a message, in short."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a whole number of {value.bit_length()} bits"
    if value is None or isinstance(value, (str, numbers.Number)):
        text = repr(value) if isinstance(value, str) else str(value)
        return text if len(text) <= 44 else f"{text[:40]}..."
    return f"of type {type(value).__name__}"


def shown_json(value: Any, **options: Any) -> str:
    """JSON that may be shown: the unsafe is escaped, so that its reader gets it as it was.

    Args:
        options: of `json.dumps`, such as indent.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON does not have.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    return UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _joined(text: str) -> str:
    return UNSAFE.sub(REPLACEMENT, " ".join(text.split()))
