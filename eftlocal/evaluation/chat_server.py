"""One reply from a model behind OpenAI's HTTP interface, which many servers speak.

The key comes from an environment variable. It goes to that server alone, and where the server
repeats it, it is taken out before anybody sees the text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.hub.http import Fatal, Reply, Retryable, patiently, phrase, post, public, quoted
from eftlocal.hub.remote import failed
from eftlocal.json_text import TextError, parse_json
from eftlocal.terminal_text import one_line

KEY, OPENAI_KEY = "EFTLOCAL_JUDGE_KEY", "OPENAI_API_KEY"
_TRIES = 5
_SECRET = 8  # characters of a key from which on it is one: "none" and "test" are not
_ABOUT_THE_TEXT = re.compile(
    r"context[ _](length|size|window)|too (long|large)|content_(filter|policy)", re.IGNORECASE
)


@dataclass(frozen=True)
class ChatServer:
    """A model of a server.

    Args:
        url: http or https. Without a path, `/v1` is meant; `/chat/completions` follows.
        model: the server's name for it.
        max_tokens: of a reply.
        timeout: seconds in which a reply has to have come; after five tries in a row, with a wait
            of a minute at most between them, it is given up.
        fields: more of the request's body, or instead of what stands there; None leaves one out
            (some models take no temperature).

    Raises:
        UsageError: the address or the key cannot be used.
    """

    url: str
    model: str
    max_tokens: int = 2048
    timeout: float = 300.0
    fields: Mapping[str, Any] = field(default_factory=dict)
    _key: str = field(init=False, repr=False, compare=False)
    _address: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = _checked(self.url)
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        address = f"{parts.scheme}://{parts.netloc}{path or '/v1'}/chat/completions"
        object.__setattr__(self, "_address", address)
        object.__setattr__(self, "_key", _key(parts))

    @property
    def host(self) -> str:
        """Where it is, without a port."""
        return _checked(self.url).hostname or ""

    def reply(self, text: str) -> str:
        """What the model says to a message of the user; of a message that the server will not take
        as it is too long, or has something in it, one line with what the server says.

        Raises:
            EftlocalError: the server refuses everything, or was given up.
        """
        limit = "max_completion_tokens" if _is_openai(_checked(self.url)) else "max_tokens"
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            limit: self.max_tokens,
            **self.fields,
        }
        data = json.dumps({name: value for name, value in body.items() if value is not None})

        def attempt() -> str:
            headers = {"Content-Type": "application/json"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            return self._said(post(self._address, data.encode(), headers, self.timeout))

        about = f"{one_line(self.model, 60)} at {self.host}"
        return patiently(attempt, about, tries=_TRIES, error=EftlocalError)

    def _said(self, reply: Reply) -> str:
        try:
            answer = parse_json(reply.body)
        except TextError:
            answer = None
        if reply.status == 200:
            try:
                content = answer["choices"][0]["message"]["content"] or ""
            except (LookupError, TypeError):
                content = None
            if isinstance(content, str):
                return self._without_key(content)
            raise Retryable("what came is no chat completion")
        if 300 <= reply.status < 400:
            target = quoted(public(reply.headers.get("Location", "")))
            raise Fatal(f"the server redirects to {target}; give the address that it leads to")
        told, code = _complaint(answer)
        told = self._without_key(told)
        if reply.status in (400, 413, 422) and _ABOUT_THE_TEXT.search(f"{code} {told}"):
            return f"{phrase(reply.status)}: {one_line(told)}"
        problem = failed(reply.status, reply.headers)
        if isinstance(problem, Retryable) and code != "insufficient_quota":
            raise problem
        said = f": {quoted(told)}" if told else ""
        raise Fatal(f"the server answered {phrase(reply.status)}{said}{self._cure(reply.status)}")

    def _cure(self, status: int) -> str:
        if status in (401, 403):
            return f"; is {KEY} the right key?" if self._key else f"; set {KEY} to a key"
        return "; check the address and the model's name" if status in (404, 405) else ""

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if len(self._key) >= _SECRET else text


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = None
    if not usable:
        raise UsageError(
            f"{quoted(public(url))} is no address of a server; write it as http://localhost:8080"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            f"the address of {parts.hostname} holds more than a host and a path; "
            f"give a key in the environment, as {KEY}"
        )
    return parts


def _is_openai(parts: SplitResult) -> bool:
    return parts.scheme == "https" and f".{parts.hostname}".endswith(".openai.com")


def _key(parts: SplitResult) -> str:
    names = (KEY, OPENAI_KEY) if _is_openai(parts) else (KEY,)
    name, key = next(((n, k) for n in names if (k := os.environ.get(n, "").strip())), (KEY, ""))
    if not re.fullmatch(r"[!-~]*", key):
        raise UsageError(f"{name} contains a character that no key has; set it again")
    return key


def _complaint(answer: object) -> tuple[str, str]:
    """What an error says in words, and its code; the forms of several servers."""
    if not isinstance(answer, dict):
        return "", ""
    error = answer.get("error", answer)
    if not isinstance(error, dict):
        return str(error), ""
    told = error.get("message") or error.get("detail") or ""
    return str(told), str(error.get("code") or error.get("type") or "")
