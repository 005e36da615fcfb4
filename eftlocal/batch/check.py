"""Every line of an input checked before the first is run, with all faults told together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, count

from eftlocal.batch.line import BadLine, Line, id_of, read_line
from eftlocal.batch.seeds import digest_of, shard_of
from eftlocal.batch.source import Source
from eftlocal.errors import PromptError
from eftlocal.request import RequestDefaults

MAX_FAULTS = 100_000  # remembered; an input with more is not what it was taken for

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
        raise PromptError(f"{source.name}: holds no request; write one JSON object a line")
    return Checked(lines, source.total, to_run, digest.hexdigest(), bad)


def _twice(line: Line, owner: int) -> BadLine:
    name = "" if line.custom_id == id_of(line.number) else "its "
    return BadLine(
        line.number,
        f"{name}custom_id {line.custom_id!r} is that of line {owner}; give each its own",
        line.custom_id,
    )


def _claimed_id(fault: BadLine, first: dict[bytes, int]) -> str:
    """Of a bad line's row: the line's own id, or one that no line before it has."""
    made = id_of(fault.number)
    names = chain((fault.custom_id or made, made), (f"{made}-{i}" for i in count(2)))
    return next(n for n in names if first.setdefault(digest_of(n), fault.number) == fault.number)
