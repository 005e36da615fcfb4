"""The engine as a whole: started once, its log, its devices, its chat formats, what it can do."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import psutil

from eftlocal.errors import EngineError, PromptError
from eftlocal.submodule import submodule

llama_cpp = submodule("llama_cpp.llama_cpp")
_libggml = submodule("llama_cpp._ggml").libggml

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
    """A device that llama.cpp can compute on; memory in bytes, as the driver tells it now.

    backend: the part of llama.cpp that drives it (CUDA, Vulkan, RPC, ...). id: the address of the
    hardware, which two backends may both drive; "" where it is not known.
    """

    name: str
    description: str
    kind: Literal["cpu", "gpu", "igpu", "accel", "meta"]
    memory_free: int
    memory_total: int
    backend: str = ""
    id: str = ""

    @property
    def is_gpu(self) -> bool:
        """Discrete or integrated."""
        return self.kind in ("gpu", "igpu")


class _Properties(ctypes.Structure):
    """ggml_backend_dev_props of ggml-backend.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("capabilities", ctypes.c_bool * 16),  # five, and room for more
    )


@cache
def ggml(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml's backend interface, which llama_cpp does not wrap."""
    function = getattr(_libggml, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function


def devices() -> list[Device]:
    """Every device of this build, the CPU among them; none of a worker's."""
    start()
    count = ggml("ggml_backend_dev_count", ctypes.c_size_t)()
    get = ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return [described(get(i)) for i in range(count)]


def described(device: int) -> Device:
    """What a device says of itself now."""
    pointer, told = ctypes.c_void_p, _Properties()
    of_device = ggml("ggml_backend_dev_get_props", None, pointer, ctypes.POINTER(_Properties))
    of_device(device, ctypes.byref(told))
    return Device(
        name=told.name.decode(),
        description=told.description.decode("utf-8", "replace"),
        kind=("cpu", "gpu", "igpu", "accel", "meta")[told.type],
        memory_free=told.memory_free,
        memory_total=told.memory_total,
        backend=_name(ggml("ggml_backend_dev_backend_reg", pointer, pointer)(device)),
        id=(told.device_id or b"").decode(),
    )


def _name(backend: int) -> str:
    name = ggml("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)(backend)
    return str(name.decode())


def backends() -> list[str]:
    """The parts of llama.cpp that this build has and that started: CPU, CUDA, Vulkan, RPC, ..."""
    start()
    count = ggml("ggml_backend_reg_count", ctypes.c_size_t)()
    get = ggml("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    return [_name(get(i)) for i in range(count)]


of_workers: dict[str, int] = {}  # the devices of workers, which llama.cpp does not list


def device_list(names: Sequence[str]) -> Any:
    """The devices of these names, as llama.cpp takes a list of them: it ends with a null.

    Raises:
        EngineError: there is no such device, or no longer.
    """
    listed = (ctypes.c_void_p * (len(names) + 1))()
    by_name = ggml("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)
    for i, name in enumerate(names):
        listed[i] = of_workers.get(name) or by_name(name.encode())
        if not listed[i]:
            raise EngineError(f"llama.cpp has no device {name}; `eftlocal doctor` lists them")
    return listed


@cache
def _initialise() -> None:
    llama_cpp.llama_backend_init()


def start() -> None:
    """To be called before models are loaded: whoever imports all of llama_cpp sets its own log."""
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))
    _initialise()


start()


def system_info() -> str:
    """The CPU features and backends that this build of llama.cpp uses."""
    start()
    return (llama_cpp.llama_print_system_info() or b"").decode("utf-8", "replace").strip()


def build() -> str:
    """Versions of llama.cpp and its Python package, and how it was compiled: one line."""
    of_llama = llama_cpp.llama_version().decode("utf-8", "replace")
    return f"llama-cpp-python {version('llama-cpp-python')}, llama.cpp {of_llama}, {system_info()}"


def repacked_types() -> frozenset[str]:
    """Names of the tensor types that this build, on the CPU, copies into a layout of its own.

    As llama.cpp 0.5.0-dev chooses (`ggml_repack_get_optimal_repack_type` and AMX's buffers);
    seen on x86-64 with AVX-512 alone.
    """
    info, types = system_info(), set[str]()
    if "REPACK = 1" in info:
        types |= {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}
        types |= {"Q2_K"} if "AVX512 = 1" in info else set()
        types |= {"Q5_K", "Q6_K", "Q8_0"} if "DOTPROD = 1" in info else set()
    if "AMX_INT8 = 1" in info:
        types |= {"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"}
    return frozenset(types)


def blocked_types() -> frozenset[str]:
    """Those of the repacked types that take four rows in one pass over the weights: four cost
    less than two times one. On AVX2 those of the K-quants do not (measured: three times)."""
    info = system_info()
    one_by_one = "AVX2 = 1" in info and "AMX_INT8 = 1" not in info
    return repacked_types() - ({"Q2_K", "Q4_K"} if one_by_one else set())


def facts() -> dict[str, Any]:
    """What this llama.cpp says of itself: version, devices (memory in bytes), features."""
    found = devices()
    return {
        "llama_cpp": llama_cpp.llama_version().decode(),
        "backends": backends(),
        "devices": [asdict(device) for device in found],
        "supports_rpc": bool(llama_cpp.llama_supports_rpc()),
        # llama_supports_gpu_offload() is true of every build with RPC.
        "supports_gpu_offload": any(device.is_gpu for device in found),
        "system_info": system_info(),
    }


def decode_clock(n_threads: int) -> Callable[[], float]:
    """Seconds since some moment, for timing what the calling thread decodes.

    One thread on the CPU: the CPU time of that thread, which other programs do not lengthen.
    Several wait for each other, and for a GPU, so there it is the time that passes. Windows counts
    CPU time in steps of 16 ms.
    """
    alone = n_threads == 1 and all(device.kind == "cpu" for device in devices())
    return time.thread_time if alone and sys.platform != "win32" else time.perf_counter


def default_threads() -> int:
    """Physical cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(usable or 1, psutil.cpu_count(logical=False) or usable or 1))


# Chat formats --------------------------------------------------------------------------------


@cache
def chat_formats() -> tuple[str, ...]:
    """Their names: chatml, gemma, llama2, llama3 and others."""
    count = llama_cpp.llama_chat_builtin_templates(None, 0)
    names = (ctypes.c_char_p * count)()
    pointer = ctypes.cast(names, ctypes.POINTER(ctypes.c_char_p))
    llama_cpp.llama_chat_builtin_templates(pointer, count)
    return tuple(sorted(name.decode() for name in names if name))


def format_chat(name: str, messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation in one of these formats up to where the answer begins, BOS left out.

    Raises:
        PromptError: a message holds a NUL character, where C ends a text.
        EngineError: llama.cpp does not know the name.
    """
    for i, message in enumerate(messages):
        if "\0" in message["content"]:
            raise PromptError(
                f"message {i}: its text holds a NUL character, which the chat format {name} "
                "cannot carry; remove it"
            )
    told = (llama_cpp.llama_chat_message * len(messages))()
    for place, message in zip(told, messages, strict=True):
        place.role, place.content = message["role"].encode(), message["content"].encode()
    size = 0
    while True:
        buffer = ctypes.create_string_buffer(size + 1)
        needed = llama_cpp.llama_chat_apply_template(
            name.encode(), told, len(messages), True, buffer, size
        )
        if needed < 0:
            raise EngineError(f"llama.cpp cannot make the chat format {name}")
        if needed <= size:
            return buffer.raw[:needed].decode("utf-8")
        size = needed
