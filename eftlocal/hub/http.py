"""The one place where requests are made and repeated: none can hang, only the hub gets the token.

Requests run in a thread of their own, so that neither a name that does not resolve nor a byte a
second can hold up a deadline or a Ctrl-C. The client for the hub is the one that huggingface_hub
uses (httpx, later httpx2), with whatever proxy or certificates were set up for it. What may pass
(`Retryable`) is tried again, with growing waits, while it gets anywhere; what cannot (`Fatal`) is
not.
"""

from __future__ import annotations

import importlib
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from queue import Empty, Full, Queue
from time import sleep
from typing import Any, NamedTuple, TypeVar

from eftlocal.disk import readable
from eftlocal.errors import DownloadError, EftlocalError
from eftlocal.hub.local import huggingface_hub
from eftlocal.hub.waiting import check_wait, watched
from eftlocal.presets.schema import FileRef
from eftlocal.terminal_text import one_line

MOST_REDIRECTS = 10
LEAST_RATE = 1024  # bytes a second, over _STALL times the timeout; slower is as good as broken
_STALL = 6
_PATIENCE = 3  # times the timeout, for an answer to begin however it drips
_LONGEST_REPLY = 8 << 20  # bytes
_TICK = 0.1  # seconds; on Windows a wait is not interrupted by Ctrl-C
_NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_NEVER = (501, 505, 506, 510, 511)  # errors of a server that will not pass
_REDIRECTS = (301, 302, 303, 307, 308)
T = TypeVar("T")
_log = logging.getLogger(__name__)
TRIES = 6  # in a row that got nowhere
PROGRESS = 1 << 16  # bytes that a try must bring to have got anywhere
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for


@dataclass(frozen=True)
class Answer:
    """What a server answered, its body still to come.

    Attributes:
        url: what was asked, after redirects.
        ours: it is the hub's own answer, not that of a storage it redirects to.
        target: where a redirect leads, an absolute address; None if it is no redirect.
        chunks: the body's bytes as they come, not decoded. Raises Retryable.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    ours: bool
    target: str | None
    chunks: Iterator[bytes] = field(repr=False)


@contextmanager
def ask_for(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    stop: Callable[[Answer], bool] = lambda _: False,
) -> Iterator[Answer]:
    """Send a request and follow its redirects, as far as `stop` lets.

    Raises:
        Retryable: no answer, or none in time; it may come when asked again.
        Fatal: an address that is none, a certificate that does not fit, too many redirects.
    """
    for _ in range(MOST_REDIRECTS + 1):
        with _exchange(method, url, headers or {}) as answer:
            if answer.target is None or stop(answer):
                yield answer
                return
            url = answer.target
    raise Fatal(f"the server redirects more than {MOST_REDIRECTS} times")


class Reply(NamedTuple):
    """A server's whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def post(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Reply:
    """Send a body to a server other than the hub, which gets neither its token nor its client.

    A redirect is an answer like any other: what is sent goes to nobody but whom it is meant for.

    Args:
        seconds: in which all of the answer has to have come.

    Raises:
        Retryable, Fatal: as `ask_for`.
    """
    client = _own_client()
    sent = {"Accept-Encoding": "identity", "User-Agent": "eftlocal", **headers}
    longer = 2 * seconds  # ends the thread, when nobody waits for it any more
    request = _address(
        client, url, "the address", method="POST", content=body, headers=sent, timeout=longer
    )
    pump = _Pump(lambda: client.send(request, stream=True, auth=None))
    try:
        return pump.whole(seconds)
    finally:
        pump.leave()


@cache
def _own_client() -> Any:
    return _client_library().Client()


def hub_address() -> str:
    """HF_ENDPOINT or the public hub, without a slash at its end."""
    return str(huggingface_hub().constants.ENDPOINT).rstrip("/")


def patience() -> float:
    """Seconds in which an answer has to have begun, and a listing's page to have come."""
    return _PATIENCE * float(huggingface_hub().constants.HF_HUB_ETAG_TIMEOUT)


@contextmanager
def _exchange(method: str, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
    library = huggingface_hub()
    if library.constants.HF_HUB_OFFLINE:
        raise Fatal("HF_HUB_OFFLINE is set; unset it to download")
    timeout = float(library.constants.HF_HUB_DOWNLOAD_TIMEOUT)
    session = library.get_session()
    hub = _address(session, hub_address(), "the hub's address (HF_ENDPOINT)").url
    # Ranges count the bytes of the file itself, so no compression on the way.
    sent = {"Accept-Encoding": "identity", "User-Agent": "eftlocal", **headers}
    request = _address(session, url, "the address", method=method, headers=sent, timeout=timeout)
    ours = _origin(request.url) == _origin(hub)

    def send() -> Any:
        own: dict[str, Any] = {}
        if not ours:  # neither the token nor what the client was set up with is for this server
            request.headers.pop("Authorization", None)
            own["auth"] = None
        elif token := _token(library):  # asks the network, where a login is about to expire
            request.headers["Authorization"] = f"Bearer {token}"
        return session.send(request, stream=True, follow_redirects=False, **own)

    pump = _Pump(send)
    try:
        response = pump.response(patience())
        yield Answer(
            response.status_code,
            response.headers,
            str(request.url),
            ours,
            _target(request.url, response),
            pump.chunks(timeout),
        )
    finally:
        pump.leave()


class _Pump:
    """A request that runs in a thread; what comes is handed over through a short queue."""

    def __init__(self, send: Callable[[], Any]) -> None:
        self._queue: Queue[Any] = Queue(maxsize=16)
        self._left = threading.Event()
        threading.Thread(target=self._run, args=(send,), daemon=True).start()

    def response(self, seconds: float) -> Any:
        """The response, its body unread."""
        until = time.monotonic() + seconds
        while (found := self._next()) is None:
            if time.monotonic() > until:
                raise Retryable(f"no answer within {seconds:g} s")
        return found

    def chunks(self, timeout: float) -> Iterator[bytes]:
        window, waited, came = _STALL * timeout, 0.0, 0
        while True:
            began = time.monotonic()
            chunk = self._next()
            waited += time.monotonic() - began
            if chunk == b"":
                return
            if waited > window:
                if came < LEAST_RATE * window:
                    raise Retryable(
                        f"only {came} bytes came in {window:g} s of waiting", in_vain=True
                    )
                waited, came = 0.0, 0
            if chunk is not None:
                came += len(chunk)
                yield chunk

    def whole(self, seconds: float) -> Reply:
        until, body = time.monotonic() + seconds, bytearray()
        response = self.response(seconds)
        while (chunk := self._next()) != b"":
            body += chunk or b""
            if len(body) > _LONGEST_REPLY:
                raise Fatal(f"the answer is longer than {readable(_LONGEST_REPLY)}")
            if time.monotonic() > until:
                raise Retryable(f"no whole answer within {seconds:g} s")
        return Reply(response.status_code, response.headers, bytes(body))

    def leave(self) -> None:
        """Nobody waits for the rest: the thread ends when it next hears of the server."""
        self._left.set()

    def _next(self) -> Any:
        """What came next; b"" at the end, None if nothing came for a moment."""
        try:
            item = self._queue.get(timeout=_TICK)
        except Empty:
            check_wait()
            return None
        if not isinstance(item, BaseException):
            return item
        meaning = _meaning(item)
        if meaning is item:
            raise item
        raise meaning from item

    def _run(self, send: Callable[[], Any]) -> None:
        try:
            response = send()
            try:
                self._hand_over(response)
                for chunk in response.iter_raw():
                    if chunk:
                        self._hand_over(chunk)
            finally:
                response.close()
            self._hand_over(b"")
        except _Left:
            return
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            with suppress(_Left):
                self._hand_over(error)

    def _hand_over(self, item: Any) -> None:
        while not self._left.is_set():
            with suppress(Full):
                return self._queue.put(item, timeout=_TICK)
        raise _Left


class _Left(Exception):  # noqa: N818 - not an error
    """The request was given up."""


def _meaning(error: BaseException) -> BaseException:
    """What a failure of the client means: Retryable if it may pass, Fatal if not."""
    http = _client_library()
    reason = one_line((str(error).strip().splitlines() or [type(error).__name__])[0])
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = getattr(cause, "verify_message", reason)
            return Fatal(f"the server's certificate is not valid: {why}")
        if isinstance(cause, ssl.SSLError) and not isinstance(
            cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)
        ):
            return Fatal(f"no secure connection: {getattr(cause, 'reason', reason)}")
        if isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_NAME:
            return Fatal(f"no such host: {cause.strerror}")
    # Some versions of the client read a redirect's address even if they do not follow it.
    if isinstance(error, http.InvalidURL) or "location header" in reason:
        return Fatal(f"the server redirects to an address that cannot be read: {reason}")
    if isinstance(error, (http.UnsupportedProtocol, http.LocalProtocolError)):
        return Fatal(reason)
    if isinstance(error, (http.HTTPError, OSError)):
        return Retryable(reason)
    if isinstance(error, (ValueError, OverflowError)):  # of a name or a port that none can have
        return Fatal(f"the server's address cannot be used: {reason}")
    return error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _client_library() -> Any:
    """httpx, or httpx2, whichever this huggingface_hub brings."""
    root = importlib.import_module("huggingface_hub.errors").HfHubHTTPError.__bases__[0]
    return importlib.import_module(root.__module__.partition(".")[0])


def _address(session: Any, url: str, what: str, method: str = "HEAD", **options: Any) -> Any:
    """A request for an address, as the client itself reads it."""
    try:
        request = session.build_request(method, url, **options)
    except (_client_library().InvalidURL, ValueError) as error:
        raise Fatal(f"{what} {quoted(public(url))} cannot be read: {error}") from error
    if not _is_web(request.url):
        raise Fatal(f"{what} {quoted(public(url))} is neither http nor https")
    return request


def _target(url: Any, response: Any) -> str | None:
    """Where a redirect leads; None if the response is none."""
    if response.status_code not in _REDIRECTS:
        return None
    locations = response.headers.get_list("Location")
    if len(locations) != 1:
        raise Fatal(
            f"the server redirects ({response.status_code}) and gives {len(locations)} addresses"
        )
    library = _client_library()
    what = "the server redirects to an address that"
    try:
        target = url.join(locations[0])
    except (library.InvalidURL, ValueError) as error:
        raise Fatal(f"{what} cannot be read: {quoted(locations[0])}: {error}") from error
    if not _is_web(target):
        raise Fatal(f"{what} is neither http nor https: {quoted(locations[0])}")
    if target.userinfo and _origin(target) != _origin(url):
        raise Fatal(f"{what} holds a user's name: {quoted(locations[0])}")
    if url.scheme == "https" and target.scheme == "http":
        raise Fatal(f"{what} is not secure, from one that is: {quoted(locations[0])}")
    return str(target)


def _is_web(url: Any) -> bool:
    return url.scheme in ("http", "https") and bool(url.host) and (url.port or 0) < 1 << 16


def _origin(url: Any) -> tuple[str, bytes, int]:
    return url.scheme, url.raw_host, url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def _token(library: Any) -> str | None:
    if library.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    try:
        token = library.get_token()
    except (OSError, ValueError, _client_library().HTTPError) as error:
        raise Fatal("cannot read the hub's token; run `hf auth login`") from error
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise Fatal(
            "the hub's token contains an invalid character; correct HF_TOKEN, "
            "or run `hf auth login`"
        )
    return token or None


def public(address: str) -> str:
    """The address without the user's name and password that may be in it."""
    return re.sub(r"//[^/]*@", "//", address)


def quoted(text: str) -> str:
    """Text of a server as it may stand in a message: one short line, quoted."""
    return f'"{one_line(text, 100)}"'


def may_pass(status: int) -> bool:
    """Whether an error is one that a server may get over."""
    return status in (408, 425, 429) or (500 <= status < 600 and status not in _NEVER)


def phrase(status: int) -> str:
    """404 (Not Found)."""
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


class Retryable(Exception):  # noqa: N818 - an interruption to recover from, not an error
    """A try that may succeed when repeated.

    Attributes:
        wait: seconds, if the server said how long to wait.
        in_vain: whatever came, it came too slowly to be waited for.
    """

    def __init__(self, reason: str, wait: float | None = None, *, in_vain: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.in_vain = in_vain


class Fatal(Exception):  # noqa: N818 - the caller knows the file, and makes the error
    """A try that would fail in the same way when repeated."""


def patiently(
    attempt: Callable[[], T],
    ref: FileRef | str,
    *,
    tries: int,
    gained: Callable[[], int] = lambda: 0,
    error: type[EftlocalError] = DownloadError,
) -> T:
    """Repeat `attempt` while it breaks; give up after `tries` in a row without progress.

    Progress is the most bytes there have ever been, so that a server that knows no ranges and
    always breaks at the same place cannot keep us for ever.

    Args:
        ref: what an error is about.
        error: its kind.

    Raises:
        EftlocalError: it was given up, or was hopeless.
    """
    most, failures = gained(), 0
    while True:
        try:
            return attempt()
        except Retryable as broken:
            reason = broken
        except Fatal as hopeless:
            raise error(f"{ref}: {hopeless}{_kept(gained())}") from hopeless
        progress = gained() - most >= PROGRESS and not reason.in_vain
        failures = 0 if progress else failures + 1
        most = max(most, gained())
        if failures >= tries:
            raise error(
                f"{ref}: gave up after {tries} tries without progress ({reason}){_kept(gained())}"
            ) from reason
        wait = 2.0 ** max(0, failures - 1) if reason.wait is None else reason.wait
        wait = min(wait, _LONGEST_WAIT)
        _log.warning("%s: %s; trying again in %g s", ref, reason, wait)
        if watched():
            until = time.monotonic() + wait
            while time.monotonic() < until:
                check_wait()
                sleep(_TICK)
        else:
            sleep(wait)


def _kept(size: int) -> str:
    return f"; {readable(size)} are kept, run it again to go on" if size else ""
