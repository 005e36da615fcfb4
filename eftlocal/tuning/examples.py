"""Prompts with the answers they should get: read from a file, checked as a whole, some held out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eftlocal.disk import read_text
from eftlocal.errors import PromptError, UsageError
from eftlocal.json_text import TextError, parse_json
from eftlocal.prompt.messages import Message, transcript, validate_messages
from eftlocal.terminal_text import one_line

_ANSWERS = ("response", "completion")
_FORM = 'give "prompt" and "response", or "messages"'
_DELIMITERS = ",;\t"
_LISTED = 8  # lines that a note names
_LEAST = 3  # prompts held out: as many as are shown


@dataclass(frozen=True)
class Example:
    """A conversation up to what is to be answered, and the answer.

    Attributes:
        file, line: where it stands.
    """

    messages: tuple[Message, ...]
    answer: str
    file: str = ""
    line: int = 0

    @property
    def prompt(self) -> str:
        return transcript(self.messages)

    @property
    def where(self) -> str:
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True)
class Examples:
    """What a file holds.

    Attributes:
        examples: in its order, each once.
        faults: of the lines that are no example, each naming its line.
        notes: a line about each thing that was left out or changed.
    """

    examples: tuple[Example, ...]
    faults: tuple[PromptError, ...]
    notes: tuple[str, ...]


def read_examples(path: Path) -> Examples:
    """The examples of a JSONL or CSV file.

    A line of JSON is {"prompt": ..., "response": ...}, or {"messages": [...]} whose last message is
    the assistant's; a CSV file has the columns prompt and response. "completion" may stand for
    "response". Blanks at the ends of an answer's lines are taken away: a model tuned on them
    learns little else, because nothing is as easy to predict.

    Raises:
        UsageError: the file cannot be read, or is of another kind.
        PromptError: it is not UTF-8, or holds no example.
    """
    kinds = {".jsonl": _json_lines, ".csv": _table_rows, ".tsv": _table_rows}
    if (read := kinds.get(path.suffix.lower())) is None:
        raise UsageError(f"{path}: examples are a file named .jsonl, .csv or .tsv")
    text = read_text(path, not_text=PromptError)
    examples: dict[str, Example] = {}
    faults: list[PromptError] = []
    trimmed: list[int] = []
    repeated: list[int] = []
    unread: Counter[str] = Counter()
    for line, record in read(path, text):
        try:
            example, changed = _example(record, str(path), line)
        except PromptError as error:
            faults.append(PromptError(f"{path}, line {line}: {error}"))
            continue
        unread.update(record.keys() - {"prompt", "messages", *_ANSWERS})
        key = json.dumps([example.messages, example.answer])
        if key in examples:
            repeated.append(line)
            continue
        examples[key] = example
        if changed:
            trimmed.append(line)
    if not examples and not faults:
        raise PromptError(f"{path}: holds no example; {_FORM}, one a line")
    notes = []
    if repeated:
        notes.append(f"there before, so taken once: {listed(repeated)}")
    if trimmed:
        notes.append(f"blanks around an answer or its lines taken away: {listed(trimmed)}")
    if unread:
        names = ", ".join(one_line(key, 40) for key, _ in unread.most_common(_LISTED))
        notes.append(f"not read, beside prompt and answer: {names}")
    return Examples(tuple(examples.values()), tuple(faults), tuple(notes))


def listed(lines: Sequence[int]) -> str:
    """line 3; or: lines 3, 4, 8 and 20 more."""
    shown = ", ".join(map(str, lines[:_LISTED]))
    more = f" and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return f"line{'s' * (len(lines) > 1)} {shown}{more}"


def _json_lines(_: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except TextError as error:
                yield number, error


def _table_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    head = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:  # what follows cannot be told apart from it
            yield line, TextError(f"not CSV: {error}")
            return
        if row is None:
            return
        if not names:
            names = [cell.strip().lower() for cell in row]
            if "prompt" not in names or not {*_ANSWERS} & {*names} or len({*names}) < len(names):
                raise PromptError(
                    f"{path}: its first line must name the columns, prompt and response among "
                    f"them, each once; it has {', '.join(one_line(name, 40) for name in names)}"
                )
        elif len(row) == len(names):
            yield line, dict(zip(names, row, strict=True))
        elif row:
            counts = f"{len(row)} cells, and the first line {len(names)}"
            yield line, TextError(f'has {counts}; put "quotes" around a text with a {delimiter!r}')


def _example(record: Any, file: str, line: int) -> tuple[Example, bool]:
    """An example, and whether blanks were taken away from its answer.

    Raises:
        PromptError: it is none; without the place.
    """
    if isinstance(record, TextError):
        raise PromptError(str(record))
    if not isinstance(record, dict):
        raise PromptError(f"not an object; {_FORM}")
    given = [key for key in ("messages", *_ANSWERS) if key in record]
    if len(given) != 1 or ("messages" in record) == ("prompt" in record):
        raise PromptError(_FORM)
    if "messages" in record:
        messages = validate_messages(record["messages"])
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise PromptError("the last message must be the assistant's, after another")
        if "reasoning_content" in messages[-1]:
            raise PromptError("reasoning_content of the answer: put it into its content")
    else:
        for key in ("prompt", *given):
            if not isinstance(record[key], str):
                raise PromptError(f'"{key}" must be a string')
            if not record[key].strip():
                raise PromptError(f'no text under "{key}"')
        roles = {"user": record["prompt"], "assistant": record[given[0]]}
        messages = validate_messages([{"role": r, "content": text} for r, text in roles.items()])
    answer = messages.pop()["content"]
    lines = re.sub(r"\r\n?", "\n", answer)
    kept = re.sub(r"[^\S\n]+$", "", lines, flags=re.MULTILINE).strip()
    if not kept:
        raise PromptError("the answer is empty")
    return Example(tuple(messages), kept, file, line), kept != lines


def _place(prompt: str) -> float:
    """Where a prompt stands between 0 and 1, by its text alone."""
    hashed = hashlib.blake2b(prompt.strip().encode(), digest_size=8, person=b"eftlocal tuning")
    return int.from_bytes(hashed.digest(), "big") / 2**64


def is_held_out(prompt: str, share: float) -> bool:
    """Whether a prompt belongs to those that are never trained on.

    It depends on its text alone, so files that share prompts hold the same ones out.

    Args:
        share: of all prompts, 0 to 1.
    """
    return _place(prompt) < share


def split(examples: Iterable[Example], share: float) -> tuple[list[Example], list[Example]]:
    """The examples to train on, and those held out; a prompt stands in one of both only.

    At least three prompts are held out, whatever the share.

    Raises:
        UsageError: there are fewer than four prompts.
    """
    examples = list(examples)
    prompts = sorted({e.prompt.strip() for e in examples}, key=_place)
    if len(prompts) <= _LEAST:
        raise UsageError(
            f"{len(prompts)} different prompts are too few: {_LEAST} are held out to measure with; "
            "50 examples and more teach something"
        )
    chosen = {p for p in prompts[:-1] if is_held_out(p, share)} | {*prompts[:_LEAST]}
    trained = [e for e in examples if e.prompt.strip() not in chosen]
    return trained, [e for e in examples if e.prompt.strip() in chosen]
