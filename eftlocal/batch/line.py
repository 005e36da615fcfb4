"""One line of a batch as a request: OpenAI's form, short forms, AlpacaEval's and HumanEval's.

The form is told from the line's own keys. Whatever a line holds, the outcome is a `Line` or a
`BadLine` with one printable line of what is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eftlocal.batch.source import MAX_LINE, TooLong
from eftlocal.errors import PromptError, UsageError
from eftlocal.json_text import TextError, broken_text, parse_json
from eftlocal.request import Request, RequestDefaults, read_request
from eftlocal.request_fields import KNOWN, SETTINGS, shown, unknown
from eftlocal.terminal_text import one_line

MAX_ID = 512  # characters of a custom_id

# Where the authors end a completion (Chen et al. 2021, arXiv 2107.03374, section 2).
HUMANEVAL_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")

_OPENAI = frozenset(("custom_id", "method", "url", "body"))
_SHORT = KNOWN | {"custom_id", "body", "instruction", "task_id"}
_ALPACA = frozenset(("instruction", "input", "output", "generator", "dataset", "datasplit", "text"))
_HUMANEVAL = frozenset(("task_id", "prompt", "entry_point", "canonical_solution", "test"))
_RAW_OF_URL = {"/v1/chat/completions": False, "/v1/completions": True}
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Line:
    """A line that can be run.

    Attributes:
        number: from 1.
        custom_id: its own, or "line-N".
        given: fields of the input that its form's output repeats; empty for OpenAI's.
    """

    number: int
    custom_id: str
    request: Request
    given: Mapping[str, Any] = field(default_factory=dict)


class BadLine(PromptError):  # noqa: N818 - it stands for the line
    """A line that cannot be run.

    Attributes:
        number: from 1.
        reason: the message without the line's number.
        custom_id: None where none could be read.
        row_id: of its row of the output; once the whole input was checked, no other line has it.
    """

    def __init__(self, number: int, reason: str, custom_id: str | None = None) -> None:
        self.number = number
        self.reason = one_line(reason, 500)
        self.custom_id = custom_id
        self.row_id = custom_id or id_of(number)
        super().__init__(f"line {number}: {self.reason}")


def id_of(number: int) -> str:
    """The custom_id of a line that gives none."""
    return f"line-{number}"


def read_line(number: int, data: bytes | TooLong, defaults: RequestDefaults) -> Line:
    """A line of the input.

    Args:
        number: of the line, from 1.
        data: without what ends it, as `Source.lines` gives it.

    Raises:
        BadLine: whatever is wrong with it; with its custom_id where that could be read.
    """
    custom_id = None
    try:
        text = _text(data)
        try:
            record = parse_json(text)
        except TextError:
            custom_id = _legible_id(text)
            raise
        if not isinstance(record, dict):
            raise _LineError(
                f'an object is needed, such as {{"prompt": "..."}}, not {shown(record)}'
            )
        custom_id = _custom_id(record)
        if _SURROGATE.search(text) and (broken := broken_text(record)):
            raise _LineError(broken)
        return _line(number, record, custom_id or id_of(number), defaults)
    except (TextError, _LineError, PromptError, UsageError) as error:
        raise BadLine(number, str(error), custom_id) from None


class _LineError(ValueError):
    """Says what is wrong with a line."""


def _text(data: bytes | TooLong) -> bytes:
    if isinstance(data, TooLong):
        raise _LineError(f"it has {data.size} bytes, and a line may have {MAX_LINE}; shorten it")
    if not data.strip():
        raise _LineError("it is empty; remove it")
    if not data.strip(b"\0"):
        raise _LineError(f"{len(data)} zeros and no text, as a crash leaves them; remove them")
    return data


def _legible_id(text: bytes) -> str | None:
    """The custom_id of an object that is refused for something inside it."""
    try:
        record = json.loads(text, parse_int=len)
        return _custom_id(record) if isinstance(record, dict) else None
    except (ValueError, RecursionError):
        return None


def _custom_id(record: Mapping[str, Any]) -> str | None:
    """The line's own id. HumanEval's is its task."""
    key = "custom_id" if "custom_id" in record or "body" in record else "task_id"
    custom_id = record.get(key)
    if custom_id is None and key not in record:
        return None
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_ID:
        told = f"{len(custom_id)} characters" if isinstance(custom_id, str) else shown(custom_id)
        raise _LineError(f"{key}: a string of 1 to {MAX_ID} characters is needed, not {told}")
    if broken := broken_text({key: custom_id}):
        raise _LineError(broken)
    return custom_id


def _line(number: int, record: dict[str, Any], custom_id: str, defaults: RequestDefaults) -> Line:
    raw: bool | None = None
    body: Any
    given: dict[str, Any] = {}
    if "body" in record or "url" in record or "method" in record:
        _known(record, _OPENAI)
        raw = _raw_of(record)
        body = record.get("body")
    elif "instruction" in record:
        _known(record, _ALPACA | SETTINGS | {"custom_id"})
        given = {key: record[key] for key in record if key in _ALPACA}
        body = {**_without(record, _ALPACA), "prompt": _alpaca_prompt(record)}
    elif "task_id" in record:
        _known(record, _HUMANEVAL | SETTINGS | {"custom_id"})
        given = {"task_id": record["task_id"]}
        if not isinstance(given["task_id"], str):
            raise _LineError(f"task_id: a string is needed, not {shown(given['task_id'])}")
        body = {**_without(record, _HUMANEVAL), "prompt": record.get("prompt")}
        if body.get("stop") is None:
            body["stop"] = list(HUMANEVAL_STOP)
        raw = True
    else:
        _known(record, _SHORT)
        body = _without(record, frozenset())
    return Line(number, custom_id, read_request(body, defaults=defaults, raw=raw), given)


def _without(record: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {key: record[key] for key in record if key not in names and key != "custom_id"}


def _known(record: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuses unknown fields."""
    for key in record:
        if key not in known:
            raise _LineError(unknown(key, known))


def _raw_of(record: Mapping[str, Any]) -> bool | None:
    """Whether an OpenAI line's url is for text to go on with; None where it has no url."""
    if "body" not in record:
        raise _LineError("body is missing")
    if record.get("method", "POST") != "POST":
        raise _LineError(f'method: "POST" is needed, not {shown(record["method"])}')
    if "url" not in record:
        return None
    url = record["url"]
    if not isinstance(url, str) or url not in _RAW_OF_URL:
        raise _LineError(f"url: {' or '.join(_RAW_OF_URL)} is needed, not {shown(url)}")
    return _RAW_OF_URL[url]


def _alpaca_prompt(record: Mapping[str, Any]) -> str:
    """The instruction, and what it is about after an empty line."""
    parts = [record["instruction"], record.get("input") or ""]
    for key, part in zip(("instruction", "input"), parts, strict=True):
        if not isinstance(part, str):
            raise _LineError(f"{key}: a string is needed, not {shown(part)}")
    return "\n\n".join(part for part in parts if part)
