"""`eftlocal worker`: this machine's devices, offered over llama.cpp's RPC."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eftlocal.cli.options import takes
from eftlocal.cli.streams import say, tell
from eftlocal.errors import EngineError, UsageError
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal.llama import Device

_WARNING = (
    "llama.cpp's RPC is a proof of concept, fragile and insecure: never run it on an open network "
    "or in a sensitive environment"
)


@takes(also=["threads", "verbose"])
def worker(
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback needs --insecure.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any that is free.")
    ] = 50052,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="A device to offer, as `eftlocal doctor` names it (default: all GPUs, or else "
            "the CPU). Repeatable.",
            metavar="<name>",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep large tensors in this folder, so that they are sent only once."),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Listen where other machines can connect: any of them can read and write this "
            "process's memory.",
        ),
    ] = False,
    *,
    given: Given,
) -> None:
    """Offer this machine's GPUs, or its CPU, to eftlocal elsewhere: see `eftlocal run --rpc`.

    It serves one program at a time, until Ctrl-C. llama.cpp's RPC is a proof of concept, fragile
    and insecure: never run it on an open network or in a sensitive environment.
    """
    address = _free_address(host, port)
    if not ip_address(address[0]).is_loopback:
        if not insecure:
            raise UsageError(f"--host {host}: {_WARNING}; add --insecure if yours is neither")
        tell(f"warning: {_WARNING}")
    if cache is not None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--cache {cache}: no folder can be there: {error.strerror}") from None

    from eftlocal import llama
    from eftlocal.loading.host import check_threads
    from eftlocal.loading.placement import gib
    from eftlocal.selftest import read_build_facts, with_rpc

    check_threads(given["threads"], given.named("threads"))
    if not llama.has_rpc():
        raise EngineError(
            f"this llama.cpp was built without RPC; to build it in: {with_rpc(read_build_facts())}"
        )
    chosen = _chosen(llama.devices(), device or ())
    shown = socket.gethostname() if address[0] == "0.0.0.0" else address[0]
    say(f"worker at {address[0]}:{address[1]}, for one program at a time; Ctrl-C ends it")
    for one in chosen:
        say(f"  {one.name}: {one.description}, {gib(one.memory_free)} free")
    say(f'to use it: eftlocal run "..." --rpc base={shown}:{address[1]}')
    sys.stdout.flush()
    if not given["verbose"]:  # llama.cpp prints there
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    threads = given["threads"] or llama.default_threads()
    serving = threading.Thread(
        target=llama.serve,
        args=(address, chosen),
        kwargs={"threads": threads, "cache": cache},
        daemon=True,
    )
    serving.start()
    while serving.is_alive():  # native code would keep a Ctrl-C waiting
        serving.join(0.5)
    raise EngineError(f"llama.cpp cannot offer its devices at {address[0]}:{address[1]}")


def _free_address(host: str, port: int) -> tuple[str, int]:
    """The IPv4 address and port, which nothing listens on.

    Raises:
        UsageError: there is no such address here, or the port is taken.
    """
    if ":" in host:
        raise UsageError(f"--host {host}: it must be an IPv4 address or a name, without a port")
    try:
        resolved = socket.gethostbyname(host)
        with socket.socket(socket.AF_INET) as probe:
            if sys.platform != "win32":  # where it means that others may take the port over
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((resolved, port))
            return resolved, int(probe.getsockname()[1])
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise UsageError(
                f"--port {port}: another program listens there; give another port, or 0 for any"
            ) from None
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"--host {host} --port {port}: cannot listen there: {why}") from None


def _chosen(there: Sequence[Device], names: Sequence[str]) -> list[Device]:
    """The devices of these names; without any, the GPUs, or else the CPU."""
    by_name = {device.name: device for device in there}
    for name in names:
        if name not in by_name:
            raise UsageError(f"--device {name}: there is none; there are {', '.join(by_name)}")
    if names:
        return [by_name[name] for name in dict.fromkeys(names)]
    gpus = [device for device in there if device.is_gpu]
    return gpus or [device for device in there if device.kind == "cpu"]
