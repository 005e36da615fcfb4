"""`eftlocal serve`: presets as an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eftlocal.cli.options import takes
from eftlocal.cli.options import verb_option as _option
from eftlocal.cli.streams import say
from eftlocal.errors import UsageError
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal.server.setup import Setup

_SERVER = "Server"
KEY = "EFTLOCAL_API_KEY"
_PATIENCE = 5.0  # seconds for answers that are being made when the server is to stop


@takes("models", "recipe", "sampling", "length", "drafts", "prompt", "engine")
def serve(
    presets: Annotated[
        list[str] | None,
        typer.Argument(help="Further presets, loaded when they are asked for by name."),
    ] = None,
    host: Annotated[
        str, _option("--host", "Address to listen on (default: 127.0.0.1).", _SERVER)
    ] = "127.0.0.1",
    port: Annotated[
        int, _option("--port", "Port (default: 8080).", _SERVER, min=0, max=65535)
    ] = 8080,
    parallel: Annotated[
        int,
        _option(
            "--parallel", "Answers at once, of each model (default: 4).", _SERVER, min=1, max=256
        ),
    ] = 4,
    queue: Annotated[
        int,
        _option(
            "--queue",
            "Requests that may wait for a model beside those (default: 64).",
            _SERVER,
            min=0,
        ),
    ] = 64,
    loaded: Annotated[
        int | None,
        _option(
            "--loaded",
            "Presets in memory at once (default: as many as fit); the one asked least recently "
            "makes room.",
            _SERVER,
            min=1,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        _option(
            "--allow-host",
            "A further name that clients may call this machine. Repeatable.",
            _SERVER,
        ),
    ] = None,
    *,
    given: Given,
) -> None:
    """Serve presets to OpenAI's clients, on this machine alone unless there is a key.

    The key is read from EFTLOCAL_API_KEY. Example:

    \b
    eftlocal serve --preset demo --port 8080
    """  # fmt: skip
    try:
        import uvicorn

        from eftlocal.server.app import Limits, make_app
    except ImportError:
        raise UsageError(
            "eftlocal serve needs the extra `server`: pip install 'eftlocal[server]'"
        ) from None
    from eftlocal.server.access import Access, is_loopback
    from eftlocal.server.presets import Presets

    key = os.environ.get(KEY, "")
    if not key and not is_loopback(host):
        raise UsageError(f"--host {host} can be reached from elsewhere: set {KEY} to a key, which "
                         "clients then have to send")  # fmt: skip
    setups = _setups(presets or [], given, parallel)
    served = Presets(setups, most=loaded)
    app = Access(make_app(served, Limits(queue)), host, key, allow_host or ())
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=8
    )

    class Server(uvicorn.Server):
        """Whose answers have a few seconds to end once it is told to stop."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            ending = asyncio.create_task(_later(_PATIENCE, served.close))
            await super().shutdown(sockets)
            ending.cancel()

    with _listening(host, port) as listener:
        place = f"[{host}]" if ":" in host else host
        address = f"http://{place}:{listener.getsockname()[1]}"
        say(f"serving {', '.join(setups)} on {address}/v1; Ctrl-C stops")
        sys.stdout.flush()
        Server(config).run(sockets=[listener])


async def _later(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await work()


def _listening(host: str, port: int) -> socket.socket:
    """The socket that is listened on.

    Raises:
        UsageError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
        # For what it accepts: else an answer's last part waits for the client's sign of life.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; give another --port"
        ) from None


def _setups(others: list[str], given: Given, parallel: int) -> dict[str, Setup]:
    """The presets by their names; the options are those of the first."""
    from dataclasses import replace

    from eftlocal.cli.selection import loading_bars, select
    from eftlocal.server.setup import Setup
    from eftlocal.sources import Sources

    selected = select(given)
    with loading_bars() as bars:
        own = replace(selected.sources(bars), defaults=selected.defaults)
        setups = {own.name or "eftlocal": Setup(own, parallel, force=given["force"])}
        for name in others:
            more: Any = {"offline": selected.offline, "progress": bars.download}
            found = Setup(Sources.of_preset(name, **more), parallel, force=given["force"])
            setups.setdefault(name, found)
    return setups
