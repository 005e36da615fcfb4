"""Whether a text names something."""

from __future__ import annotations

import re


def mentions(text: str, value: str) -> bool:
    """Whether the value stands in the text as whole words: Nigeria does not mention Niger."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None
