"""Prompts to answer: built-in ones, or those of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eftlocal.errors import PromptError, UsageError
from eftlocal.evaluate.questions import read

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
    """One prompt a line, or from a .jsonl file the "prompt" of each line; empty lines do not count.

    Raises:
        UsageError: the file cannot be read.
        PromptError: it is not UTF-8, a line is no JSON object with a prompt, or there is none.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{path} is not valid UTF-8 at byte {error.start}; convert it to UTF-8"
        ) from None
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise PromptError(f"{path} holds no prompt; write one a line")
    if path.suffix.lower() == ".jsonl":
        return tuple(_prompt_of(json_, f"{path}, line {n}") for n, json_ in lines)
    return tuple(line.strip() for _, line in lines)


def _prompt_of(line: str, where: str) -> str:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{where}: not JSON ({error}); write one object a line") from None
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(f'{where}: no text under "prompt"; write {{"prompt": "..."}}')
    return prompt
