"""The prompts of a file, and the answers that may go with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from eftlocal.errors import PromptError, UsageError


class Asked(NamedTuple):
    """One prompt; the answer is given, or None and to be generated."""

    prompt: str
    answer: str | None = None


def read_asked(path: Path) -> tuple[Asked, ...]:
    """One prompt a line; or, from a .jsonl file, the "prompt" and any "answer" of each line.

    Empty lines do not count.

    Raises:
        UsageError: the file cannot be read.
        PromptError: it is not UTF-8, a line is no JSON object with a prompt, or there is none.
    """
    try:
        text = path.read_text("utf-8-sig")
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
        return tuple(_of_json(line, f"{path}, line {n}") for n, line in lines)
    return tuple(Asked(line.strip()) for _, line in lines)


def _of_json(line: str, where: str) -> Asked:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{where}: not JSON ({error}); write one object a line") from None
    if not isinstance(record, dict):
        raise PromptError(f'{where}: no object; write {{"prompt": "..."}}')
    prompt, answer = record.get("prompt"), record.get("answer")
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(f'{where}: no text under "prompt"; write {{"prompt": "..."}}')
    if answer is not None and not (isinstance(answer, str) and answer):
        raise PromptError(f'{where}: "answer" is no text; leave it out to have one generated')
    return Asked(prompt, answer)
