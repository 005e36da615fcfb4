"""Errors as OpenAI's clients read them."""

from __future__ import annotations

import re
from typing import Any

from eftlocal.request_fields import KNOWN

CONTEXT_LENGTH = "context_length_exceeded"
MODEL_NOT_FOUND = "model_not_found"
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_FIELDS = KNOWN | {"tokens", "add_special_tokens"}
_UNKNOWN = re.compile(r"field '(\w+)' is not known")
_NAMED = re.compile(r"(?:the )?(\w+)(?=[\[.:]| is | are | needs | and )")
_MESSAGE = re.compile(r"message \d+: ")


class FailedError(Exception):
    """A request that ends in an error; the arguments are those of `error_body`.

    Attributes:
        retry_after: seconds; None where that is not known.
        body: the error object.
    """

    def __init__(
        self,
        status: int,
        message: str,
        retry_after: int | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        self.body = error_body(status, message, param=param, code=code)


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error object.

    Args:
        param: the field that is wrong; None is the one that the message names at its beginning.
        code: what programs tell it by; None is that of the status.
    """
    if param is None and status == 400:
        param = _field_of(message)
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
    code = code or _CODES.get(status)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _field_of(message: str) -> str | None:
    if unknown := _UNKNOWN.match(message):
        return unknown[1]
    if _MESSAGE.match(message):
        return "messages"
    named = _NAMED.match(message)
    return named[1] if named and named[1] in _FIELDS else None
