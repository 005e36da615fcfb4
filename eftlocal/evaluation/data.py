"""Where a task's data come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eftlocal.disk import read_text
from eftlocal.errors import PromptError
from eftlocal.json_text import TextError, parse_json


def read_lines(path: Path, **keys: type) -> list[tuple[str, dict[str, Any]]]:
    """Where each object of a JSONL file stands ("FILE, line 3"), and the object.

    Args:
        keys: that each has to have, and the types of their values; others are its own affair.

    Raises:
        UsageError: the file cannot be read.
        PromptError: it is not UTF-8, holds nothing, or a line is no such object.
    """
    lines = enumerate(read_text(path, not_text=PromptError).split("\n"), 1)
    told = " and ".join(f'"{key}" ({type_.__name__})' for key, type_ in keys.items())
    found = []
    for where, line in ((f"{path}, line {n}", line) for n, line in lines if line.strip()):
        try:
            record = parse_json(line)
        except TextError as error:
            raise PromptError(f"{where}: {error}; one JSON object a line is needed") from None
        if not isinstance(record, dict) or not all(
            isinstance(record.get(key), type_) for key, type_ in keys.items()
        ):
            raise PromptError(f"{where}: an object with {told} is needed")
        found.append((where, record))
    if not found:
        raise PromptError(f"{path} holds nothing; objects with {told} are needed, one a line")
    return found
