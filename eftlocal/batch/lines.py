"""Lines of a batch: each read as a request, all checked before the first is run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from eftlocal.batch.source import MAX_LINE, Source, TooLong
from eftlocal.errors import PromptError, UsageError
from eftlocal.json_text import TextError, broken_text, parse_json
from eftlocal.request import Request, RequestDefaults, read_request
from eftlocal.request_fields import BESIDE_A_PROMPT, KNOWN, shown, unknown
from eftlocal.terminal_text import one_line


def seed_of(run_seed: int, custom_id: str) -> int:
    """The seed of a request that gives none, 0 <= seed < 2**32; its neighbours do not matter."""
    return int.from_bytes(_hash(b"eftlocal seed", f"{run_seed}:{custom_id}", 4), "big")


def shard_of(custom_id: str, count: int) -> int:
    """Which of `count` shards runs a request, 0 to count - 1; independent of its seed."""
    return int.from_bytes(_hash(b"eftlocal shard", custom_id, 8), "big") % count


def parse_shard(text: str) -> tuple[int, int] | None:
    """(i, n) of "i/n", i from 1; None for what is no shard."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found and 1 <= int(found[1]) <= int(found[2]):
        return int(found[1]), int(found[2])
    return None


def digest_of(custom_id: str) -> bytes:
    """16 bytes that stand for an id where many are remembered."""
    return _hash(b"eftlocal id", custom_id, 16)


def _hash(purpose: bytes, text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size, person=purpose).digest()


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
            raise PromptError(
                f'it is {shown(record)}; it must be an object, such as {{"prompt": "..."}}'
            )
        custom_id = _custom_id(record)
        if _SURROGATE.search(text) and (broken := broken_text(record)):
            raise PromptError(broken)
        return _line(number, record, custom_id or id_of(number), defaults)
    except (TextError, PromptError, UsageError) as error:
        raise BadLine(number, str(error), custom_id) from None


def _text(data: bytes | TooLong) -> bytes:
    if isinstance(data, TooLong):
        raise PromptError(f"{data.size} bytes, and a line may have {MAX_LINE}; shorten it")
    if not data.strip():
        raise PromptError("it is empty; remove it")
    if not data.strip(b"\0"):
        raise PromptError(
            f"{len(data)} zero bytes and no text, as a crash leaves them; remove them"
        )
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
        raise PromptError(f"{key} is {told}; it must be a string of 1 to {MAX_ID} characters")
    if broken := broken_text({key: custom_id}):
        raise PromptError(broken)
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
        _known(record, _ALPACA | BESIDE_A_PROMPT | {"custom_id"})
        given = {key: record[key] for key in record if key in _ALPACA}
        body = {**_without(record, _ALPACA), "prompt": _alpaca_prompt(record)}
    elif "task_id" in record:
        _known(record, _HUMANEVAL | BESIDE_A_PROMPT | {"custom_id"})
        given = {"task_id": record["task_id"]}
        if not isinstance(given["task_id"], str):
            raise PromptError(f"task_id is {shown(given['task_id'])}; it must be a string")
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
            raise PromptError(unknown(key, known))


def _raw_of(record: Mapping[str, Any]) -> bool | None:
    """Whether an OpenAI line's url is for raw text; None where it has no url."""
    if "body" not in record:
        raise PromptError("body is missing")
    if record.get("method", "POST") != "POST":
        raise PromptError(f'method is {shown(record["method"])}; it must be "POST"')
    if "url" not in record:
        return None
    url = record["url"]
    if not isinstance(url, str) or url not in _RAW_OF_URL:
        raise PromptError(f"url is {shown(url)}; it must be {' or '.join(_RAW_OF_URL)}")
    return _RAW_OF_URL[url]


def _alpaca_prompt(record: Mapping[str, Any]) -> str:
    """The instruction, and what it is about after an empty line."""
    parts = [record["instruction"], record.get("input") or ""]
    for key, part in zip(("instruction", "input"), parts, strict=True):
        if not isinstance(part, str):
            raise PromptError(f"{key} is {shown(part)}; it must be a string")
    return "\n\n".join(part for part in parts if part)


MAX_FAULTS = 100_000  # an input with more is not a batch

Look = Callable[[Line], str | None]
"""What is wrong with a line that was read well; None where nothing is."""


@dataclass(frozen=True)
class Checked:
    """What one pass over an input found.

    Attributes:
        lines: that were checked.
        total: of the whole input, whatever the limit.
        to_run: of them without fault, in the shard.
        sha256: of the whole input, uncompressed, whatever the limit.
        bad: the faults by the numbers of their lines, ascending, those of other shards too.
    """

    lines: int
    total: int
    to_run: int
    sha256: str
    bad: dict[int, BadLine]

    @property
    def faults(self) -> list[BadLine]:
        return list(self.bad.values())


def check(
    source: Source,
    defaults: RequestDefaults,
    *,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
    too_long: Look | None = None,
) -> Checked:
    """Reads every line, and tells what is wrong with any.

    Ids are compared over the whole input: of lines that share one, the first keeps it, and that
    of a bad line's row is refused to every later line. Memory grows by about 150 bytes a line,
    for the ids, and by the faults.

    Args:
        defaults: what lines are read against.
        limit: most lines that are looked at; the others only enter the checksum.
        shard: (i, n), i from 1: only these lines are looked at by `too_long` and counted to_run.
        too_long: a look at what takes models, as `prompt_bound` makes it.

    Raises:
        PromptError: there is no line, or there are more than MAX_FAULTS bad ones.
        PromptError, UsageError: the input cannot be read; see `Source.lines`.
    """
    digest = hashlib.sha256()
    first: dict[bytes, int] = {}
    bad: dict[int, BadLine] = {}
    lines = to_run = 0
    for number, data in source.lines(limit, digest=digest):
        lines += 1
        try:
            line = read_line(number, data, defaults)
            owner = first.setdefault(digest_of(line.custom_id), number)
            if owner != number:
                raise _twice(line, owner)
            if shard is None or shard_of(line.custom_id, shard[1]) == shard[0] - 1:
                if too_long is not None and (why := too_long(line)):
                    raise BadLine(number, why, line.custom_id)
                to_run += 1
        except BadLine as fault:
            fault.row_id = _claimed_id(fault, first)
            # Frames and what was raised before it would keep the line in memory.
            fault.__traceback__ = fault.__context__ = None
            bad[number] = fault
            if len(bad) > MAX_FAULTS:
                raise PromptError(
                    f"{source.name}: more than {MAX_FAULTS} of its first {number} lines are bad; "
                    f"{next(iter(bad.values()))}"
                ) from None
    if not lines:
        raise PromptError(f"{source.name}: no requests in it; write one JSON object per line")
    return Checked(lines, source.total, to_run, digest.hexdigest(), bad)


def _twice(line: Line, owner: int) -> BadLine:
    name = "" if line.custom_id == id_of(line.number) else "its "
    return BadLine(
        line.number,
        f"{name}custom_id {line.custom_id!r} is already used by line {owner}; give each line "
        "its own",
        line.custom_id,
    )


def _claimed_id(fault: BadLine, first: dict[bytes, int]) -> str:
    """Of a bad line's row: the line's own id, or one that no line before it has."""
    made = id_of(fault.number)
    names = chain((fault.custom_id or made, made), (f"{made}-{i}" for i in count(2)))
    return next(n for n in names if first.setdefault(digest_of(n), fault.number) == fault.number)
