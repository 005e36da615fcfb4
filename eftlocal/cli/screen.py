"""Model text made safe for a terminal."""

from __future__ import annotations

import sys
import unicodedata


def printable(text: str, *, terminal: bool | None = None) -> str:
    """The text without what would drive a terminal: escape sequences and other controls.

    Newlines and tabs stay. A pipe or file gets the text as it is (`terminal` None asks stdout).
    """
    if not (sys.stdout.isatty() if terminal is None else terminal):
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if _drives(character) else character for character in text
    )


def _drives(character: str) -> bool:
    # Cc are the C0 and C1 controls; the bidirectional overrides could disguise what is shown.
    if character in "\n\t":
        return False
    return unicodedata.category(character) == "Cc" or character in "\u202a\u202b\u202d\u202e"
