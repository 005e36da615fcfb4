"""Prompts in a file: one a line, or one JSON object a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eftlocal.errors import PromptError
from eftlocal.json_text import TextError, parse_json
from eftlocal.text_file import read_text


def read_records(path: Path, keys: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Where each prompt stands ("FILE, line 3"), and what its line says; empty lines do not count.

    A line of a .jsonl file is an object with some of the keys; any other line is {"prompt": line}.

    Raises:
        UsageError: the file cannot be read.
        PromptError: it is not UTF-8, holds no prompt, or a line is no such object.
    """
    text = read_text(path, not_text=PromptError)
    lines = [(f"{path}, line {n}", line) for n, line in enumerate(text.split("\n"), 1)]
    lines = [(where, line) for where, line in lines if line.strip()]
    if not lines:
        raise PromptError(f"{path} holds no prompt; write one a line")
    if path.suffix.lower() != ".jsonl":
        return [(where, {"prompt": line.strip()}) for where, line in lines]
    return [(where, _object(where, line, keys)) for where, line in lines]


def text_of(where: str, record: dict[str, Any]) -> str:
    """The prompt of a record.

    Raises:
        PromptError: it has none, or none with text in it.
    """
    prompt = record.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(f'{where}: no text under "prompt"; write {{"prompt": "..."}}')
    return prompt


def _object(where: str, line: str, keys: Sequence[str]) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except TextError as error:
        raise PromptError(f"{where}: {error}; write one JSON object a line") from None
    if not isinstance(record, dict):
        raise PromptError(f'{where}: not an object; write {{"prompt": "..."}}')
    for key in record:
        if key not in keys:
            raise PromptError(
                f"{where}: key {key[:40]!r} is not supported; known are {', '.join(keys)}"
            )
    return record
