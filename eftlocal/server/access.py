"""Who may ask: the Host and the key of a request, checked before anything else is looked at."""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from eftlocal.server.errors import error_body

OPEN = ("/health",)
"""Paths without a key, beside the chat's page and its files."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Access:
    """An ASGI application that passes on what may be asked.

    Args:
        app: what it is passed on to.
        host: that is listened on.
        key: that a request has to bring; empty is none.
        hosts: further names by which the machine is asked.

    A page of another site could be made to resolve to this machine; its requests still say that
    site's name as Host, so an unknown one is refused (DNS rebinding). A page of another site can
    also ask without reading the answer, and browsers say so (Sec-Fetch-Site; another port of this
    machine is "same-site"): it gets the chat's page and nothing else.
    """

    app: Any
    host: str
    key: str = ""
    hosts: Collection[str] = ()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = self._refused(scope["path"], dict(scope["headers"]))
        if refused is None:
            await self.app(scope, receive, send)
            return
        status, message = refused
        body = json.dumps(error_body(status, message)).encode()
        more = [(b"www-authenticate", b"Bearer")] if status == 401 else []
        start = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": start + more})
        await send({"type": "http.response.body", "body": body})

    def _refused(self, path: str, headers: Mapping[bytes, bytes]) -> tuple[int, str] | None:
        asked = _name_of(headers.get(b"host", b"").decode("latin-1"))
        if is_loopback(self.host) and asked not in {*_LOOPBACK, self.host, *self.hosts}:
            return 403, f"this server is not {asked[:80] or 'without a Host'}; see --allow-host"
        is_page = path == "/" or path.startswith("/static/")
        if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and not is_page:
            return 403, "pages of other sites may not ask this server"
        if not self.key or is_page or path in OPEN:
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.key.encode()):
            return None
        return 401, "the key is missing or wrong; send it as Authorization: Bearer KEY"


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
