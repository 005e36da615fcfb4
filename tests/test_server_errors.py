"""What the server refuses: each with its status, and an error object for OpenAI's clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest
from serving import ASKED, KEY, Json, Serving, serving, setup
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.server.app import MAX_BODY

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
LONG = "context_length_exceeded"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving({"demo": setup(parallel=1)}, key=KEY, waiting=2) as served:
        yield served


def send(server: Serving, path: str, body: Any, **headers: str) -> httpx.Response:
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {KEY}",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.post(path, content=data, headers=sent)


def refused(reply: httpx.Response, status: int) -> str:
    """The message of an error, whose object is checked."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and "\n" not in error["message"]
    return str(error["message"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ASKED, "temperatur": 1}, "did you mean temperature"),
        ({"messages": ASKED, "temperature": "hot"}, "temperature"),
        ({"messages": ASKED, "temperature": -1}, "temperature"),
        ({"messages": ASKED, "n": 0}, "n is 0"),
        ({"messages": ASKED, "n": 129}, "n is 129"),
        ({"messages": ASKED, "n": 1.5}, "n is 1.5"),
        ({"messages": ASKED, "max_tokens": 0}, "max_tokens"),
        ({"messages": ASKED, "max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ({"messages": ASKED, "top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"messages": ASKED, "logprobs": True, "top_logprobs": 21}, "top_logprobs is 21"),
        ({"messages": ASKED, "stop": ["x"] * 1000}, "stop"),
        ({"messages": ASKED, "stop": "x" * 50_000}, "stop"),
        ({"messages": ASKED, "stop": [1]}, "stop"),
        ({"messages": ASKED, "stream": "yes"}, "stream"),
        ({"messages": ASKED, "stream_options": {"x": True}}, "'x' is not known"),
        ({"messages": ASKED, "stream_options": 3}, "stream_options"),
        ({"messages": ASKED, "logit_bias": {"999999": 1}}, "outside the vocabulary"),
        ({"messages": ASKED, "logit_bias": {"a": 1}}, "not a token id"),
        ({"messages": ASKED, "response_format": {"type": "xml"}}, "response_format"),
        ({"messages": ASKED, "regex": "("}, "regex"),
        ({"messages": ASKED, "grammar": "x"}, "grammar"),
        ({"messages": ASKED, "grammar": "x" * 200_000}, "grammar"),
        ({"messages": ASKED, "tools": [{"type": "function"}]}, "tools[0]: an object with"),
        ({"messages": ASKED, "prompt": "x"}, "prompt"),
        ({"messages": ASKED, "echo": True, "stream": True}, "echo"),
        ({"messages": ASKED, "model": 3}, "model"),
        ({"messages": ASKED, "recipe": "none such"}, "unknown recipe"),
        ({"messages": [{"role": "user", "content": "x" * 100_000}]}, "context holds"),
        ({"messages": [{"role": "user", "content": "a b " * 900}]}, "context"),
        ([1], "JSON object"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff", "UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1, "a": 2}', "given twice"),
        (b'{"a": 1e999}', "too large"),
        (b"[" * 100_000, "nested"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests(server: Serving, body: Any, message: str, stream: bool) -> None:
    if stream and isinstance(body, dict):
        body = {"stream": True, **body}
    assert message in refused(send(server, CHAT, body), 400)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": ["x"] * 129},
        {"prompt": [1, "x"]},
        {"prompt": [10**9]},
        {"prompt": [-1]},
        {"prompt": {"a": 1}},
        {"prompt": "x", "logprobs": 21},
        {"prompt": "x", "messages": ASKED},
        {"prompt": "x", "best_of": 3},
        {"prompt": "x", "suffix": "y"},
        {"prompt": "x", "n": 100, "max_tokens": 2, "echo": 1},
        {"prompt": [1] * 5000},
    ],
)
def test_bad_texts(server: Serving, body: Json) -> None:
    refused(send(server, TEXT, body), 400)


def test_no_such_thing(server: Serving) -> None:
    body = {"messages": ASKED, "model": "gpt-4o"}
    for stream in (False, True):
        assert "not served" in refused(send(server, CHAT, {**body, "stream": stream}), 404)
    headers = {"Authorization": f"Bearer {KEY}"}
    refused(server.get("/v1/none", headers=headers), 404)
    refused(server.get(CHAT, headers=headers), 405)
    refused(server.get("/v1/models/none", headers=headers), 404)
    refused(server.get("/props?model=none", headers=headers), 404)


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        (CHAT, {"messages": ASKED, "temperature": -1}, "temperature", None),
        (CHAT, {"messages": ASKED, "stop": [1]}, "stop", None),
        (CHAT, {"messages": ASKED, "regex": "("}, "regex", None),
        (CHAT, {"messages": ASKED, "top_logprobs": 2}, "top_logprobs", None),
        (CHAT, {"messages": ASKED, "temperatur": 1}, "temperatur", None),
        (CHAT, {"messages": ASKED, "stream": "yes"}, "stream", None),
        (CHAT, {}, "messages", None),
        (CHAT, {"messages": ASKED, "recipe": "none such"}, None, None),
        (CHAT, {"messages": "x"}, "messages", None),
        (CHAT, {"messages": [{"role": "x", "content": "y"}]}, "messages", None),
        (TEXT, {"prompt": " "}, "prompt", None),
        (TEXT, {"prompt": "x", "tools": [{}]}, "tools", None),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 100_000}]}, "messages", LONG),
        (CHAT, {"messages": [{"role": "user", "content": "a b " * 900}]}, "messages", LONG),
        (TEXT, {"prompt": [1] * 5000}, "prompt", LONG),
        (TEXT, {"prompt": [-1]}, "prompt", None),
        ("/tokenize", {"prompt": 3}, "prompt", None),
        ("/detokenize", {"tokens": 3}, "tokens", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_name_the_field(
    server: Serving, path: str, body: Json, param: str | None, code: str | None, stream: bool
) -> None:
    if path in (CHAT, TEXT):
        body = {"stream": stream, **body}
    reply = send(server, path, body)
    refused(reply, 400)
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_a_model_that_is_not_served_for_openais_client(server: Serving) -> None:
    client = server.client(api_key=KEY)
    with pytest.raises(openai.NotFoundError) as found:
        client.chat.completions.create(model="gpt-4o", messages=ASKED)
    assert (found.value.code, found.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="demo", messages=ASKED, temperature=-1)
    assert (wrong.value.code, wrong.value.param) == (None, "temperature")
    with pytest.raises(openai.AuthenticationError) as unknown:
        server.client().models.list()
    assert unknown.value.code == "invalid_api_key"


def test_bodies(server: Serving) -> None:
    large = b'{"messages": "' + b"x" * MAX_BODY + b'"}'
    assert "MiB" in refused(send(server, CHAT, large), 413)
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        refused(send(server, CHAT, {"messages": ASKED}, Content_Type=kind), 415)
    found = send(server, CHAT, {"messages": ASKED, "max_tokens": 1},
                 Content_Type="application/json; charset=utf-8")  # fmt: skip
    assert found.status_code == 200


def test_tokens(server: Serving) -> None:
    for path, body in (
        ("/tokenize", {}),
        ("/tokenize", {"prompt": 3}),
        ("/tokenize", {"prompt": "x" * (1 << 21)}),
        ("/tokenize", {"prompt": "x", "add_special_tokens": "no"}),
        ("/detokenize", {"tokens": "x"}),
        ("/detokenize", {"tokens": [0.5]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [10**12]}),
    ):
        refused(send(server, path, body), 400)


def test_who_may_ask(server: Serving) -> None:
    body = {"messages": ASKED, "max_tokens": 1}
    for key in ("", "Bearer", "Bearer x", "Bearer " + KEY + "x", f"Basic {KEY}", "Bearer \xff"):
        reply = send(server, CHAT, body, Authorization=key)
        assert "Authorization: Bearer KEY" in refused(reply, 401)
        assert reply.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/metrics", "/props", "/openapi.json", "/static/../v1/models"):
        refused(server.get(path), 401)
    assert server.get("/health").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        server.client().models.list()
    assert server.client(api_key=KEY).models.list().data
    for host in ("example.org", "127.0.0.1.example.org", "", "[", "localhost.example.org:80"):
        assert "this server is not" in refused(send(server, CHAT, body, Host=host), 403)
    for host in ("localhost", "LOCALHOST:1", "[::1]:8080", "127.0.0.1:9"):
        assert send(server, CHAT, body, Host=host).status_code == 200


def test_pages_of_other_sites_may_not_ask(server: Serving) -> None:
    """Browsers say where a request comes from, of a form, an image or a script, too."""
    key = {"Authorization": f"Bearer {KEY}"}
    body = {"messages": ASKED, "max_tokens": 1}
    paths = ("/v1/models", "/props", "/metrics", "/health", "/tokenizer_info")
    told = {"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200}
    for site, status in told.items():
        headers = {**key, "Sec-Fetch-Site": site}
        for path in paths:
            assert server.get(path, headers=headers).status_code == status
        assert send(server, CHAT, body, Sec_Fetch_Site=site).status_code == status
        for path in ("/", "/static/chat.js"):  # which say nothing of the models
            assert server.get(path, headers={"Sec-Fetch-Site": site}).status_code == 200
    message = refused(server.get("/none", headers={"Sec-Fetch-Site": "cross-site"}), 403)
    assert message == "pages of other sites may not ask this server"


def test_a_full_queue(server: Serving) -> None:
    async def work() -> list[Any]:
        async with server.later(api_key=KEY) as client:
            ask = client.chat.completions.create
            return await asyncio.gather(
                *(ask(model="demo", messages=ASKED, max_tokens=40) for _ in range(12)),
                return_exceptions=True,
            )

    found = asyncio.run(work())
    full = [one for one in found if isinstance(one, openai.RateLimitError)]
    assert len(full) >= 5  # one is answered, two wait
    assert int(full[0].response.headers["retry-after"]) > 0
    assert full[0].code == "rate_limit_exceeded"
    assert sum(hasattr(one, "choices") for one in found) == 12 - len(full) >= 3


def test_elsewhere_only_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EFTLOCAL_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        found = CliRunner().invoke(app, ["serve", "--preset", "demo", "--host", host])
        assert found.exit_code != 0
        assert "EFTLOCAL_API_KEY" in found.output
