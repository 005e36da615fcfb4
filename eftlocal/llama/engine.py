"""The engine as a whole: started once, its log, its devices, what this build can do."""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import llama_cpp
import psutil
from llama_cpp._ggml import libggml

log = logging.getLogger("eftlocal.llama")

# llama.cpp's log goes to this logger, which shows nothing unless a program asks for it. The
# last lines are kept, because llama.cpp says why a load failed only there.
# ggml's levels are those of ggml.h; the list in llama_cpp/_logger.py (0.3.36) is out of date.
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
recent: deque[str] = deque(maxlen=40)
_pending: list[BaseException] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _on_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    try:
        line = text.decode("utf-8", "replace").rstrip()
        if line and line != ".":
            if level == 4:
                recent.append(line)
            log.log(_LEVELS.get(level, logging.DEBUG), line)
    except BaseException as error:  # noqa: BLE001 - ctypes would drop it: see raise_pending
        _pending.append(error)


log.addHandler(logging.NullHandler())
log.propagate = False
llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))


def raise_pending() -> None:
    """Raises what came up while llama.cpp was logging: an interrupt, or a log handler's error."""
    if _pending:
        error = _pending[0]
        _pending.clear()
        raise error


def last_words() -> str:
    """llama.cpp's own last error lines, as one line."""
    return "; ".join(list(recent)[-2:]) or "it gave no reason"


@dataclass(frozen=True)
class Device:
    """A device that llama.cpp can compute on; memory in bytes, as the driver tells it now."""

    name: str
    description: str
    kind: Literal["cpu", "gpu", "igpu", "accel", "meta"]
    memory_free: int
    memory_total: int


@cache
def _ggml(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml's backend interface, which llama_cpp does not wrap."""
    function = getattr(libggml, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function


def _device_pointers() -> list[int]:
    start()
    pointer = ctypes.c_void_p
    count = _ggml("ggml_backend_dev_count", ctypes.c_size_t)()
    get = _ggml("ggml_backend_dev_get", pointer, ctypes.c_size_t)
    return [get(i) for i in range(count)]


def devices() -> list[Device]:
    """Every device of this build, the CPU among them."""
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    found = []
    for device in _device_pointers():
        free, total = size(0), size(0)
        memory = _ggml(
            "ggml_backend_dev_memory", None, pointer, ctypes.POINTER(size), ctypes.POINTER(size)
        )
        memory(device, ctypes.byref(free), ctypes.byref(total))
        kind = _ggml("ggml_backend_dev_type", ctypes.c_int, pointer)(device)
        found.append(
            Device(
                name=_ggml("ggml_backend_dev_name", text, pointer)(device).decode(),
                description=_ggml("ggml_backend_dev_description", text, pointer)(device).decode(),
                kind=("cpu", "gpu", "igpu", "accel", "meta")[kind],
                memory_free=free.value,
                memory_total=total.value,
            )
        )
    return found


@cache
def start() -> None:
    llama_cpp.llama_backend_init()


def system_info() -> str:
    """The CPU features and backends that this build of llama.cpp uses."""
    start()
    return (llama_cpp.llama_print_system_info() or b"").decode("utf-8", "replace").strip()


def build() -> str:
    """Versions of llama.cpp and its Python package, and how it was compiled: one line."""
    version = llama_cpp.llama_version().decode("utf-8", "replace")
    return f"llama-cpp-python {llama_cpp.__version__}, llama.cpp {version}, {system_info()}"


def repacked_types() -> frozenset[str]:
    """Names of the tensor types that this build, on the CPU, copies into a layout of its own.

    Measured with llama.cpp 0.5.0-dev on x86-64 with AVX-512; AMX's are those of its source.
    """
    info, types = system_info(), set[str]()
    if "REPACK = 1" in info:
        types |= {"Q4_0", "Q4_K"}
    if "AMX_INT8 = 1" in info:
        types |= {"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"}
    return frozenset(types)


def supports_gpu_offload() -> bool:
    return bool(llama_cpp.llama_supports_gpu_offload())


def supports_rpc() -> bool:
    return bool(llama_cpp.llama_supports_rpc())


def default_threads() -> int:
    """Physical cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(usable or 1, psutil.cpu_count(logical=False) or usable or 1))
