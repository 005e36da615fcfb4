"""Rows of an output file, by format. Every row of every format carries its custom_id.

openai: OpenAI Batch's output lines. plain: the text and what it took. alpaca: what AlpacaEval
reads as outputs. humaneval: samples as HumanEval's evaluation reads them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, get_args

from eftlocal.answer import Answer
from eftlocal.batch.completion_body import Piece, completion_body, finite, timings_of, usage_of
from eftlocal.logits.recipe import Recipe

if TYPE_CHECKING:
    from eftlocal.batch.line import Line

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
            line.request,
            answers,
            id=id,
            created=int(time.time()),
            model=model,
            piece=piece,
            recipe=recipe,
        )
        response = {"status_code": 200, "request_id": f"req_{id}", "body": body}
        return {
            "id": f"batch_req_{id}",
            "custom_id": line.custom_id,
            "response": response,
            "error": None,
        }
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
    custom_id: str, number: int, message: str, code: str, *, format: Format
) -> dict[str, Any]:
    """The row of a line that has no answer.

    Args:
        number: of the line in the input, from 1.
        message: one line.
        code: a word for programs, such as "invalid_request".
    """
    error = {"code": code, "message": message, "line": number}
    if format == "openai":
        return {
            "id": f"batch_req_{_id(custom_id, None)}",
            "custom_id": custom_id,
            "response": None,
            "error": error,
        }
    return {"custom_id": custom_id, "error": error}


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
