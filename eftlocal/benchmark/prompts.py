"""Prompts to answer: built-in ones, or those of a file."""

from __future__ import annotations

from pathlib import Path

from eftlocal.evaluate.questions import read
from eftlocal.prompt.messages import read_records, text_of

# Telling, explaining, code, quoting, a list, a summary: drafts fare differently on each.
BUILT_IN = (
    "What is the difference between weather and climate? Explain it to a ten-year-old.",
    "Write a Python function that merges two sorted lists, with a docstring and type hints.",
    "Correct the spelling and give the whole text back: Teh quick brown fox jumps ovr the lazy "
    "dog, and the dog, beeing lazy, does not even look up when the fox jumps ovr it agian.",
    "Give me five tips for a first job interview, one line each.",
    "Summarise in two sentences: A glacier is a large mass of ice that moves slowly over land. It "
    "forms where more snow falls each year than melts. Its weight presses the lower layers to ice, "
    "and the ice flows downhill, carving valleys and carrying rock with it.",
    "Write a short letter to a neighbour about a parcel that was delivered to the wrong house.",
)

_FOLDER = Path(__file__).parents[1] / "demo"


def built_in(preset: str) -> tuple[str, ...]:
    """The prompts for a preset. The demo's models know nothing but what they are asked here."""
    if preset == "demo":
        asked = read(_FOLDER / "questions.json", "validation").first(2)
        return tuple(question.text for question in asked.questions)
    return BUILT_IN


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file; the errors are those of `read_records`."""
    return tuple(text_of(where, record) for where, record in read_records(path, ("id", "prompt")))
