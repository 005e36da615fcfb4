"""The rows of a batch: what they look like in each format, and the file that they go to."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

from eftlocal.answer import Answer
from eftlocal.bases import Closing
from eftlocal.batch.completion_body import Piece, completion_body, finite, timings_of, usage_of
from eftlocal.batch.lines import digest_of
from eftlocal.disk import write_all
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.journal.journal import SYNC_SECONDS, Journal, Kind, Row, as_line
from eftlocal.journal.manifest import Manifest
from eftlocal.logits.recipe import Recipe
from eftlocal.output_file import STDOUT, check_outputs

if TYPE_CHECKING:
    from eftlocal.batch.lines import Line

Format = Literal["openai", "plain", "alpaca", "humaneval"]
FORMATS: tuple[Format, ...] = get_args(Format)

_REPEATED = ("dataset", "datasplit", "input")
_ANSWER = {"plain": "text", "alpaca": "output", "humaneval": "completion"}


def row_of(
    line: Line,
    answers: Sequence[Answer],
    *,
    format: Format,
    model: str,
    piece: Piece,
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    """The row of a finished line, as plain data for JSON.

    Args:
        answers: one, but in the format openai.
        model: the name that the answers go by: the preset's.
        piece: the bytes of a token.
        recipe: that the answer was drawn under.
    """
    answer = answers[0]
    if format == "openai":
        id = _id(line.custom_id, answer.seed)
        body = completion_body(
            line.request, answers, id=id, created=int(time.time()), model=model, piece=piece,
            recipe=recipe,
        )  # fmt: skip
        response = {"status_code": 200, "request_id": f"req_{id}", "body": body}
        return _openai(line.custom_id, id, response, None)
    own: dict[str, Any] = {"custom_id": line.custom_id}
    if format == "alpaca":
        own |= {name: line.given[name] for name in _REPEATED if name in line.given}
        own["instruction"] = line.given.get("instruction", _asked(line))
        own["generator"] = model
    elif format == "humaneval":
        own["task_id"] = line.given.get("task_id", line.custom_id)
    own[_ANSWER[format]] = answer.text
    own |= {
        "finish_reason": answer.finish_reason,
        "usage": usage_of(answers),
        "timings": timings_of(answer),
        "acceptance": answer.speculation.acceptance,
        "seed": answer.seed,
    }
    if answer.logprobs is not None:
        own["logprobs"] = finite(answer.logprobs)
    return own


def error_row(
    custom_id: str, number: int, message: str, format: Format, code: str = "invalid_request"
) -> dict[str, Any]:
    """The row of a line that has no answer.

    Args:
        number: of the line in the input, from 1.
        message: one line.
        code: a word for programs.
    """
    error = {"code": code, "message": message, "line": number}
    if format == "openai":
        return _openai(custom_id, _id(custom_id, None), None, error)
    return {"custom_id": custom_id, "error": error}


def _openai(custom_id: str, id: str, response: object, error: object) -> dict[str, Any]:
    named = {"id": f"batch_req_{id}", "custom_id": custom_id}
    return named | {"response": response, "error": error}


def custom_id_of(row: Mapping[str, Any], format: Format) -> str:
    """Whose row it is.

    Raises:
        LookupError, TypeError: it is no row of this format.
    """
    custom_id = row["custom_id"]
    if not isinstance(custom_id, str):
        raise TypeError("custom_id")
    if not is_error(row, format):
        answer = row["response"]["body"]["choices"] if format == "openai" else row[_ANSWER[format]]
        if not isinstance(answer, list if format == "openai" else str):
            raise TypeError("answer")
    return custom_id


def is_error(row: Mapping[str, Any], format: Format) -> bool:
    """Whether it says why there is no answer. In OpenAI's form the key must be there.

    Raises:
        LookupError: it is no row of this format.
    """
    return (row["error"] if format == "openai" else row.get("error")) is not None


def _id(custom_id: str, seed: int | None) -> str:
    """The same for the same line, so that a run can be compared with another."""
    return blake2b(f"{seed} {custom_id}".encode(), digest_size=12).hexdigest()


def _asked(line: Line) -> str:
    """The prompt's text, or the last that the user said."""
    prompt = line.request.prompts[0]
    if isinstance(prompt, str):
        return prompt
    said = [m["content"] for m in prompt if isinstance(m, dict) and m["role"] == "user"]
    return said[-1] if said else ""


_BATCH = Kind("batch", "a row of a batch in this format", "give another output file")


def check_output(output: str, source: str) -> None:
    """Refuses an output before anything is read or loaded. Nothing is written.

    Args:
        source: the input's path, or "-".

    Raises:
        UsageError: it is the input under this or another name, or cannot be written.
    """
    given = None if source == STDOUT or not Path(source).exists() else Path(source)
    if output != STDOUT:
        check_outputs({}, {"the input": given}, rows={"the output": Path(output)})
    elif sys.stdout is None or getattr(sys.stdout, "name", "") == os.devnull:  # see cli.streams
        raise UsageError("stdout is closed, so no row would be kept; name an output file")
    elif given is not None and _goes_to(given):
        raise UsageError(f"stdout goes into the input {source}; name an output file")


def _goes_to(file: Path) -> bool:
    """Whether stdout does."""
    try:
        shown = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # no file of the system's
        return False
    return stat.S_ISREG(shown.st_mode) and os.path.samestat(shown, file.stat())


class Output(Closing):
    """Opens or creates the output of a batch.

    Args:
        path: of the file; a name ending in .gz is gzip. "-" is stdout, which remembers nothing.
        manifest: of the batch.
        retry_errors: error rows that are there are taken out first, so that their lines are
            answered again.

    Attributes:
        finished: 16-byte digests of the ids that have a row.
        failed: how many of these rows are errors.

    Raises:
        UsageError: the file holds another batch (the line says what differs), something else or
            an id twice, or is in use; it cannot be written; or stdout's errors are to be retried.
    """

    def __init__(
        self,
        path: str | Path,
        manifest: Manifest,
        *,
        format: Format,
        retry_errors: bool = False,
    ) -> None:
        self.path = str(path)
        self.finished: set[bytes] = set()
        self.failed = 0
        self._format = format
        self._rows: Journal | _Stdout
        if self.path == STDOUT:
            if retry_errors:
                raise UsageError("--retry-errors needs an output file: stdout has no earlier rows")
            self._rows = _Stdout()
        else:
            self._rows = Journal(
                Path(path),
                manifest,
                kind=_BATCH,
                take=self._take,
                keep=self._is_answer if retry_errors else None,
                sync_seconds=SYNC_SECONDS,
            )

    def __contains__(self, custom_id: str) -> bool:
        return digest_of(custom_id) in self.finished

    @property
    def rows(self) -> int:
        """Rows in the file: an interrupt may come between the write and what follows it."""
        return self._rows.rows

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row; once this returns, it outlives the process (the machine: a second later).

        Raises:
            EftlocalError: the disk refuses; the rows before it are kept.
            UsageError: its id has a row.
        """
        custom_id = custom_id_of(row, self._format)
        if custom_id in self:
            raise UsageError(f"{self.path}: id {custom_id!r} has a row already")
        self._rows.add(row)
        self._count(custom_id, row)  # it is in the file, even if the disk refuses next
        self._rows.sync()

    def sync(self) -> None:
        """Puts rows on the disk that have waited for a second; call it now and then."""
        self._rows.sync()

    def close(self) -> None:
        self._rows.close()

    def _take(self, row: Row) -> None:
        custom_id = custom_id_of(row, self._format)
        if custom_id in self:
            raise UsageError(
                f"{self.path}: id {custom_id!r} is in it twice; remove one of the two rows, or "
                "give another output file"
            )
        self._count(custom_id, row)

    def _count(self, custom_id: str, row: Row) -> None:
        self.finished.add(digest_of(custom_id))
        self.failed += is_error(row, self._format)

    def _is_answer(self, row: Row) -> bool:
        custom_id_of(row, self._format)
        return not is_error(row, self._format)


class _Stdout:
    """Rows for a pipe. Unbuffered, so that a reader who goes away is noticed at the row."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._file: BinaryIO = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
        self.rows = 0

    def add(self, row: Row) -> None:
        try:
            write_all(self._file, as_line(row) + b"\n")
            self.rows += 1
            self._file.flush()
        except OSError as error:
            raise EftlocalError(
                f"stdout: {error.strerror or error}; the rows before this one were written"
            ) from None

    def sync(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """It is not ours to close."""
