"""The routes: what OpenAI's clients, lm-evaluation-harness and monitors ask for."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.sse import EventSourceResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

import eftlocal
from eftlocal.errors import EftlocalError
from eftlocal.json_text import TextError, parse_json
from eftlocal.server.bodies import ChatBody, TextBody
from eftlocal.server.engine_process import EngineProcess, Reply
from eftlocal.server.errors import MODEL_NOT_FOUND, FailedError, error_body
from eftlocal.server.metrics import Metrics
from eftlocal.server.page import add_page
from eftlocal.server.presets import Named, Presets, UnavailableError, listed

MAX_BODY = 8 << 20  # bytes
MAX_TEXT = 1 << 20  # characters to tokenize: some texts of a few megabytes take minutes
_LARGE = 1 << 16  # bytes of a body that takes a while to read
_PING = 15.0  # seconds without a token, after which a stream says that it lives
_FIRST = 5.0  # seconds to learn whether a request is refused, before a stream begins
_STALLED = 60.0  # seconds without reading, after which a stream's client counts as gone
_LEFT = 499  # the status of a request whose client left, as nginx has it

Said = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How much is taken on.

    Attributes:
        waiting: requests to one model that wait beside those that are being answered.
    """

    waiting: int = 64


def make_app(presets: Presets, limits: Limits) -> FastAPI:
    """The application; it loads the first preset as it starts, and ends the engines at its end."""

    first = next(iter(presets.served.values()))
    loads: list[asyncio.Task[None]] = []

    async def load() -> None:
        with suppress(UnavailableError):  # who asks is told
            await presets.engine(first)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loads.append(asyncio.create_task(load()))
        yield
        loads[-1].cancel()
        with suppress(asyncio.CancelledError):
            await loads[-1]
        await presets.close()

    app = FastAPI(title="eftlocal", version=eftlocal.__version__, lifespan=lifespan,
                  docs_url=None, redoc_url=None)  # fmt: skip
    server = _Server(presets, limits)

    @app.exception_handler(FailedError)
    async def failed(_: Request, error: FailedError) -> Response:
        return _error(error.status, error.body, error.retry_after)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        message = f"the server itself failed: {type(error).__name__}"
        return _error(500, error_body(500, message))

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        body = error_body(error.status_code, str(error.detail))
        return _error(error.status_code, body, headers=error.headers)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [listed(of) for of in presets.names().values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return listed(server.named(name))

    @app.post("/v1/chat/completions", openapi_extra=_takes(ChatBody))
    async def chat(request: Request) -> Response:
        return await server.complete(request, ChatBody, raw=False)

    @app.post("/v1/completions", openapi_extra=_takes(TextBody))
    async def complete(request: Request) -> Response:
        return await server.complete(request, TextBody, raw=True)

    @app.get("/health")
    async def health() -> Response:
        if any(served.ready for served in presets.served.values()):
            return JSONResponse({"status": "ok"})
        if loads[-1].done():  # it died: who waits for its health waits for another
            loads[:] = [asyncio.create_task(load())]
        progress = first.engine.progress if first.engine is not None else ""
        message = f"loading model {progress}".strip() if first.loading else "no model is loaded"
        return _error(503, error_body(503, message), retry_after=2)

    @app.get("/metrics")
    async def metrics() -> Response:
        for name, served in presets.served.items():
            server.metrics.deaths.labels(name).set(len(served.deaths))
            state = await served.engine.state() if served.engine and served.ready else {}
            for gauge in ("processing", "deferred", "open"):
                server.metrics.requests_now[gauge].labels(name).set(state.get(gauge, 0))
        return PlainTextResponse(
            server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @app.post("/tokenize")
    async def tokenize(request: Request) -> dict[str, Any]:
        given = await _given(request, dict)
        named = server.named(given.get("model"))
        text = given.get("prompt", given.get("content"))
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            raise FailedError(400, f"prompt: give a string of at most {MAX_TEXT} characters")
        special = given.get("add_special_tokens", True)
        if not isinstance(special, bool):
            raise FailedError(400, "add_special_tokens: give true or false")
        found = await server.told(named, op="tokens", text=text, bos=special, special=True)
        facts = (await server.engine(named)).facts
        return {
            "tokens": found["tokens"],
            "count": len(found["tokens"]),
            "max_model_len": facts["n_ctx"],
        }

    @app.post("/detokenize")
    async def detokenize(request: Request) -> dict[str, Any]:
        given = await _given(request, dict)
        tokens = given.get("tokens")
        if not isinstance(tokens, list) or any(type(token) is not int for token in tokens):
            raise FailedError(400, "tokens: give a list of token ids")
        found = await server.told(server.named(given.get("model")), op="text", tokens=tokens)
        return {"prompt": found["text"]}

    @app.get("/tokenizer_info")
    async def tokenizer_info(model: str | None = None) -> dict[str, Any]:
        facts = (await server.engine(server.named(model))).facts
        names = ("bos_token", "eos_token", "chat_template")
        known = {name: facts[name] for name in names if facts[name]}
        return {**known, "model_max_length": facts["n_ctx"], "vocab_size": facts["vocab_size"]}

    @app.get("/props")
    async def props(model: str | None = None) -> dict[str, Any]:
        named = server.named(model)
        facts = (await server.engine(named)).facts
        return {
            "model": named.name,
            "roles": facts["roles"],
            "recipe": facts["recipe"],
            "n_ctx": facts["n_ctx"],
            "total_slots": named.served.setup.parallel,
            "build_info": f"eftlocal {eftlocal.__version__}",
        }

    @app.get("/v1/eftlocal/dials")
    async def dials(model: str | None = None) -> dict[str, Any]:
        named = server.named(model)
        found: dict[str, Any] = (await server.engine(named)).facts["dials"]
        return {**found, "recipe": "", "recipes": []} if named.role else found

    add_page(app)
    return app


class _Server:
    """Requests to the engines, and what became of them."""

    def __init__(self, presets: Presets, limits: Limits) -> None:
        self._presets, self._limits = presets, limits
        self.metrics = Metrics()

    def named(self, name: object) -> Named:
        """The model of a name."""
        if name is not None and not isinstance(name, str):
            raise FailedError(400, "model: give a string")
        try:
            return self._presets.named(name)
        except EftlocalError as error:
            raise FailedError(404, str(error), param="model", code=MODEL_NOT_FOUND) from None

    async def engine(self, named: Named) -> EngineProcess:
        """The engine of a model, loaded, with room for one more request."""
        most = named.served.setup.parallel + self._limits.waiting
        if (active := named.served.active) >= most:
            raise FailedError(429, f"{active} requests are on their way; ask again", 2)
        try:
            return await self._presets.engine(named.served)
        except UnavailableError as error:
            raise FailedError(503, str(error), error.retry_after) from None

    async def told(self, named: Named, **said: Any) -> Said:
        """The one reply to a question."""
        async with (await self.engine(named)).asking(**said) as replies:
            found: Said = json.loads(_done(await anext(replies)))
            return found

    async def complete(self, request: Request, kind: Any, *, raw: bool) -> Response:
        """The answer to a request, whole or as it comes."""
        name = "unknown"
        try:
            body = await _given(request, kind.model_validate)
            named = self.named(body.model)
            name = named.name
            response = await self._complete(request, body, named, raw=raw)
        except FailedError as error:
            self.metrics.requests.labels(name, str(error.status)).inc()
            raise
        self.metrics.requests.labels(name, str(response.status_code)).inc()
        return response

    async def _complete(self, request: Request, body: Any, named: Named, *, raw: bool) -> Response:
        engine = await self.engine(named)
        said = {
            "op": "answer",
            "body": body.asked(),
            "raw": raw,
            "role": named.role,
            "stream": bool(body.stream),
            "influence": bool(body.influence),
            "model": named.name,
            "name": secrets.token_hex(12),
            "client": [request.client.host if request.client else "", str(body.user)[:200]],
        }
        async with AsyncExitStack() as stack:
            replies = await stack.enter_async_context(engine.asking(**said))
            first = asyncio.ensure_future(anext(replies))
            stack.callback(first.cancel)
            patience = _FIRST if body.stream else None
            if await _left(request, first, patience):
                return Response(status_code=_LEFT)
            if not body.stream:
                reply = first.result()
                data = _done(reply)
                self.metrics.count(named.name, reply.counts)
                return Response(data, media_type="application/json")
            if first.done() and first.result().kind == "error":
                _done(first.result())
            wants_usage = bool((body.stream_options or {}).get("include_usage"))
            events = self._events(replies, first, named, wants_usage=wants_usage)
            return _Stream(events, stack.pop_all())

    async def _events(
        self, replies: AsyncIterator[Reply], first: asyncio.Future[Reply], named: Named, *,
        wants_usage: bool,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        """The events of a stream: chunks, a sign of life where none come, and the end."""
        coming = first
        try:
            while True:
                await asyncio.wait([coming], timeout=_PING)
                if not coming.done():
                    yield b": still working\n\n"
                    continue
                reply = coming.result()
                if reply.kind == "chunk":
                    yield _event(reply.data)
                    coming = asyncio.ensure_future(anext(replies))
                    continue
                if reply.kind == "error":
                    yield _event(json.dumps(error_body(**json.loads(reply.data))).encode())
                    return
                self.metrics.count(named.name, reply.counts)
                if wants_usage:
                    yield _event(reply.data)
                yield _event(b"[DONE]")
                return
        finally:
            coming.cancel()


class _Stream(EventSourceResponse):
    """A stream that ends its request however it ends, and whose client reads on."""

    def __init__(self, events: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._stack = stack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def patiently(message: Any) -> None:
            await asyncio.wait_for(send(message), _STALLED)

        try:
            await super().__call__(scope, receive, patiently)
        finally:
            await self._stack.aclose()


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _done(reply: Reply) -> bytes:
    """What an engine has told.

    Raises:
        FailedError: it is an error.
    """
    if reply.kind == "error":
        said = json.loads(reply.data)
        raise FailedError(retry_after=1 if said["status"] == 503 else None, **said)
    return reply.data


async def _left(request: Request, work: asyncio.Future[Any], seconds: float | None) -> bool:
    """Waits for some work, or for so long; whether the client left before."""
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([work, leaving], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return leaving.done() and not work.done()
    finally:
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _given(request: Request, read: Callable[[dict[str, Any]], T]) -> T:
    """What a body is read as; a large one in a thread, beside which others are answered.

    Raises:
        FailedError: it is no JSON object, too large, or not what it must be.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Which a page of another site cannot send without asking this server first.
        raise FailedError(415, "send the body as Content-Type: application/json")
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY:
            raise FailedError(413, f"the body has more than {MAX_BODY >> 20} MiB; send less")
    work = partial(_parsed, bytes(data), read)
    return await asyncio.to_thread(work) if len(data) > _LARGE else work()


def _parsed(data: bytes, read: Callable[[dict[str, Any]], T]) -> T:
    try:
        found = parse_json(data)
        if not isinstance(found, dict):
            raise FailedError(400, "the body must be a JSON object")
        return read(found)
    except TextError as error:
        raise FailedError(400, f"the body is no JSON: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise FailedError(400, f"{where}: {message}" if where else message) from None


def _error(status: int, body: Any, retry_after: int | None = None, headers: Any = None) -> Response:
    after = {"Retry-After": str(retry_after)} if retry_after is not None else {}
    return JSONResponse(body, status, {**(headers or {}), **after})


def _takes(kind: Any) -> dict[str, Any]:
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
