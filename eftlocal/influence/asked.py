"""The prompts of a file, and the answers that may go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from eftlocal.errors import PromptError
from eftlocal.prompt.messages import read_records, text_of


class Asked(NamedTuple):
    """One prompt; the answer is given, or None and to be generated."""

    prompt: str
    answer: str | None = None


def read_asked(path: Path) -> tuple[Asked, ...]:
    """The prompts of a file; a line of a .jsonl file may have an "answer".

    Raises:
        UsageError, PromptError: as `read_records`, or an answer is no text.
    """
    return tuple(_asked(*line) for line in read_records(path, ("id", "prompt", "answer")))


def _asked(where: str, record: dict[str, Any]) -> Asked:
    answer = record.get("answer")
    if answer is not None and not (isinstance(answer, str) and answer):
        raise PromptError(f'{where}: "answer" is no text; leave it out to have one generated')
    return Asked(text_of(where, record), answer)
