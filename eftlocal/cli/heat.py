"""The answer as coloured text for a terminal. Colour is never the only sign."""

from __future__ import annotations

from rich.text import Text

from eftlocal.influence.inspection import Inspection
from eftlocal.influence.measures import Measure
from eftlocal.terminal_text import printable

LEVELS = (0.1, 0.3, 0.6)  # a token is at the last level that its measure reaches
# Ink is given with the paper, so that both are readable on dark and light terminals.
_UP = (
    "",
    "#000000 on #ffe0b8",
    "underline #000000 on #ffb866",
    "bold underline #000000 on #ff9447",
)
_DOWN = (
    "",
    "#000000 on #d4e6ff",
    "underline #000000 on #9cc7ff",
    "bold underline #000000 on #6fb0ff",
)
_MARKS = (("", ""), ("", ""), ("‹", "›"), ("«", "»"))


def level(value: float) -> int:
    """0 to 3, of the size of a measure."""
    return sum(abs(value) >= step for step in LEVELS)


def heat(found: Inspection, measure: Measure) -> Text:
    """The answer with every token shaded, and marked from the second level on."""
    text = Text()
    values = measure.values(found).tolist()
    for token, value in zip(found.tokens, values, strict=True):
        shown = token.text if token.text and not token.control else token.label
        text.append_text(_marked(printable(shown), value))
    return text


def legend(measure: Measure) -> Text:
    """What shades and marks mean."""
    text = Text(f"{measure.name}: ")
    text.append_text(Text("below 0.1", style=_UP[0]))
    for step in LEVELS:
        text.append(", ")
        text.append_text(_marked(f"from {step:g}", step))
    if measure.signed:
        text.append("; lost: ")
        text.append_text(_marked("to -0.3", -0.3))
    return text


def _marked(shown: str, value: float) -> Text:
    reached = level(value)
    before, after = _MARKS[reached]
    if reached > 1 and value < 0:
        before += "-"
    style = (_DOWN if value < 0 else _UP)[reached]
    body = shown.rstrip("\n")
    breaks = shown[len(body) :]
    if reached and breaks:  # a line break that was moved must be seen
        body += "↵" * len(breaks)
    text = Text()
    text.append(before + body + after, style=style)
    text.append(breaks)
    return text
