"""Devices of other processes and machines, over llama.cpp's RPC; and a worker that offers its own.

llama.cpp ends the process when the connection to a worker breaks, and waits for ever for one that
is silent. So whatever a worker takes part in is called in a thread of its own, beside which the
caller waits. Its callback for such ends keeps the thread that saw the break for ever, and the
caller raises. What that call held is never touched again: it stays in memory until the process
ends.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from eftlocal.errors import EngineError, WorkerError
from eftlocal.llama.engine import (
    Device,
    described,
    device_list,
    ggml,
    llama_cpp,
    of_workers,
    start,
)
from eftlocal.native import SignalsLater

VERSION = (7, 0)  # of ggml-rpc.h: a worker's first number must be the same, the second not larger
_HELLO, _CAPABILITIES = 14, 24  # the first command, and the bytes that follow it
_GREETING_S = 5.0  # for a worker to answer the first command
_SILENCE_S = 600.0  # a call of many tokens takes minutes on a slow machine
_STOP_S = 2.0  # for a call to end after Ctrl-C
_LOOK_S = 0.05
_WHO_S = 10.0  # after which a broken connection is taken for that of a call that does not end

T = TypeVar("T")
_pointer, _text, _size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t


@dataclass(eq=False)
class Worker:
    """A worker whose devices models can be put on.

    Attributes:
        endpoint: as it was given, host:port.
        name: what llama.cpp calls it.
        address: the host's, and the port.
        devices: with their free memory when it was last asked.
        models: that are loaded on it. It serves one connection at a time, and they share ours.
        lost: why it cannot be used any more; empty as long as it can.
    """

    endpoint: str
    name: str
    address: tuple[str, int]
    devices: tuple[Device, ...] = ()
    models: int = 0
    lost: str = ""

    def __post_init__(self) -> None:
        # llama.cpp remembers which graph a device computed last, for all threads at once.
        self.lock = threading.Lock()

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine and listens on loopback."""
        return self.address[0].startswith("127.")

    def require(self) -> None:
        if self.lost:
            raise WorkerError(f"worker {self.endpoint}: {self.lost}")


_workers: dict[tuple[str, int], Worker] = {}
_calls: list[Sequence[Worker]] = []  # the workers of each call that goes on
_ends: list[list[Sequence[Worker]]] = []  # those calls, at each end that llama.cpp was kept from


def has_rpc() -> bool:
    """Whether this build of llama.cpp has RPC."""
    return bool(llama_cpp.llama_supports_rpc())


def connect(endpoint: str) -> Worker:
    """The worker at host:port, and what its devices have free; this build has RPC.

    Raises:
        WorkerError: there is none, or it cannot be used; the line says why and what to do.
    """
    start()
    host, _, port = endpoint.rpartition(":")
    with SignalsLater() as later:
        # llama.cpp takes other spellings of an address for other workers.
        address = _waited(lambda: (_resolved(host, endpoint), int(port)), later)
        worker = _workers.get(address)
        if worker is None or worker.lost:
            # What follows the number is only a part of the name: it parts it from a lost one.
            again = f" {time.monotonic_ns()}" if worker else ""
            worker = Worker(endpoint, f"{address[0]}:{address[1]}{again}", address)
        worker.endpoint = endpoint
        if not worker.models:
            _waited(lambda: _greet(address, endpoint), later)
        one = worker
        worker.devices = with_workers([worker], lambda: _devices(one), later)
    _workers[address] = worker
    return worker


def _resolved(host: str, endpoint: str) -> str:
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise WorkerError(f"worker {endpoint}: no address of {host} is known: {why}") from None


def _greet(address: tuple[str, int], endpoint: str) -> None:
    """Says the first words of the protocol, which llama.cpp would die of if they were wrong."""
    answer = b""
    try:
        with (
            socket.create_connection(address, _GREETING_S) as link,
            suppress(ConnectionResetError, BrokenPipeError),
        ):
            link.sendall(struct.pack("=BQ", _HELLO, _CAPABILITIES) + bytes(_CAPABILITIES))
            while len(answer) < 11 and (more := link.recv(64)):
                answer += more
    except ConnectionRefusedError:
        problem = "nothing listens there; start it on that machine with `eftlocal worker`"
    except TimeoutError:
        problem = (
            f"no answer in {_GREETING_S:.0f} s: it serves one program at a time, and another may "
            "have it, or a firewall is between"
        )
    except OSError as error:
        problem = f"{error.strerror or error}; check the address and the network"
    else:
        if len(answer) < 11 or struct.unpack_from("=Q", answer)[0] != _CAPABILITIES + 4:
            problem = "it does not answer as a worker of this llama.cpp does; is it of another one?"
        else:
            major, minor, patch = answer[8:11]
            if major == VERSION[0] and minor <= VERSION[1]:
                return
            problem = (
                f"its RPC is of version {major}.{minor}.{patch}, and this llama.cpp's is "
                f"{'.'.join(map(str, VERSION))}; let both be of the same version"
            )
    raise WorkerError(f"worker {endpoint}: {problem}")


def _rpc(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the RPC backend, which may be a library of its own."""
    registry = ggml("ggml_backend_reg_by_name", _pointer, _text)(b"RPC")
    find = ggml("ggml_backend_reg_get_proc_address", _pointer, _pointer, _text)
    return ctypes.CFUNCTYPE(result, *arguments)(find(registry, f"ggml_backend_rpc_{name}".encode()))


def _devices(worker: Worker) -> tuple[Device, ...]:
    server = _rpc("add_server", _pointer, _text)(worker.name.encode())
    if not server:
        raise WorkerError(f"worker {worker.endpoint}: it offers no device")
    count = ggml("ggml_backend_reg_dev_count", _size, _pointer)(server)
    device = ggml("ggml_backend_reg_dev_get", _pointer, _pointer, _size)
    found = []
    for i in range(count):
        handle = device(server, i)
        of_worker = described(handle)
        name = worker.endpoint + (f" {of_worker.name}" if count > 1 else "")
        of_workers[name] = handle
        found.append(replace(of_worker, name=name))
    return tuple(found)


# Calls that end when their worker is lost -----------------------------------------------------


def with_workers(
    workers: Sequence[Worker],
    work: Callable[[], T],
    later: SignalsLater,
    heard: Callable[[], float] = lambda: 0.0,
) -> T:
    """What `work`, native calls that these workers take part in, gives.

    Args:
        later: holds back signals; their handlers run here if the call does not end in time.
        heard: when the call last gave a sign of life, as time.monotonic() counts.

    Raises:
        WorkerError: one of them is lost, now or earlier.
    """
    if not workers:
        return work()
    with ExitStack() as held:
        for worker in sorted(workers, key=lambda worker: worker.name):
            held.enter_context(worker.lock)
        for worker in workers:
            worker.require()
        _calls.append(workers)
        held.callback(_calls.remove, workers)
        return _waited(work, later, workers, heard)


def _waited(
    work: Callable[[], T],
    later: SignalsLater,
    workers: Sequence[Worker] = (),
    heard: Callable[[], float] = lambda: 0.0,
) -> T:
    _keep_from_ending()
    results: list[T] = []
    raised: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)
        done.set()

    began, ends = time.monotonic(), len(_ends)
    signalled = broken = 0.0
    threading.Thread(target=run, name="eftlocal-worker-call", daemon=True).start()
    while not done.wait(_LOOK_S):
        now = time.monotonic()
        if later.came:
            signalled = signalled or now
            if now - signalled > _STOP_S:
                try:
                    later.deliver()
                except BaseException:
                    _lose(workers, "it did not answer when it was interrupted")
                    raise
        if len(_ends) > ends:
            broken = broken or now
            gone = [w for w in workers if now - broken > _WHO_S or not _listens(w)]
            if not gone and [workers] in _ends[ends:]:  # no other call went on: one was restarted
                gone = list(workers)
            if gone:
                _lose(gone, "its process ended, or the network did")
                gone[0].require()
        if workers and now - max(began, heard()) > _SILENCE_S:
            _lose(workers, f"it has been silent for {_SILENCE_S / 60:.0f} minutes")
            workers[0].require()
    if raised:
        raise raised[0]
    return results[0]


def _lose(workers: Sequence[Worker], why: str) -> None:
    for worker in workers:
        worker.lost = f"{why}; start it again, and load the models again"


def _listens(worker: Worker) -> bool:
    try:
        socket.create_connection(worker.address, 1.0).close()
    except OSError:
        return False
    return True


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # type: ignore[untyped-decorator, unused-ignore]
def _on_end(message: bytes) -> None:
    """Called by llama.cpp before it ends the process, by the thread that found the reason."""
    if b"ggml-rpc" in message:
        _ends.append([*_calls])
        never = threading.Lock()
        never.acquire()
        never.acquire()
    os.write(2, message + b"\n")


def _keep_from_ending() -> None:
    ggml("ggml_set_abort_callback", _pointer, _pointer)(_on_end)


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # type: ignore[untyped-decorator, unused-ignore]
def _on_end_of_worker(message: bytes) -> None:
    os.write(2, b"eftlocal: llama.cpp ends the worker: " + message + b"\n")
    os._exit(EngineError.exit_code)


# A worker of our own --------------------------------------------------------------------------


def serve(
    address: tuple[str, int], devices: Sequence[Device], *, threads: int, cache: Path | None
) -> None:
    """Offers devices over RPC, to one connection after the other. Returns only if it cannot.

    Args:
        threads: of the CPU, where that is among the devices.
        cache: a folder in which large tensors are kept, so that they are sent only once.
    """
    ggml("ggml_set_abort_callback", _pointer, _pointer)(_on_end_of_worker)
    os.environ["GGML_NO_BACKTRACE"] = "1"  # or an exception in native code starts a debugger
    begin = _rpc("start_server", None, _text, _text, _size, _size, ctypes.POINTER(_pointer))
    handles = device_list([device.name for device in devices])
    name = f"{address[0]}:{address[1]}".encode()
    begin(name, None if cache is None else os.fsencode(cache), threads, len(devices), handles)
