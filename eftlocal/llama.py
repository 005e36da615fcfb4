"""The one file that calls llama_cpp: models, contexts, logits rows, rewinding, devices.

Token ids in, rows of logits out: nothing here knows roles, recipes or text beyond tokenizing.
The low-level functions are used, never the `Llama` class: they give a zero-copy view of just
the rows asked for. A context must not be used from two threads at once; two contexts may
decode side by side, because ctypes releases the interpreter's lock during a call.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import llama_cpp
import numpy as np
import psutil
from llama_cpp._ggml import libggml
from numpy.typing import NDArray

from eftlocal.errors import EngineError, ModelFileError, UsageError

log = logging.getLogger("eftlocal.llama")

# llama.cpp's log goes to this logger, which shows nothing unless a program asks for it. The
# last lines are kept, because llama.cpp says why a load failed only there.
_LEVELS = {1: logging.DEBUG, 2: logging.WARNING, 3: logging.ERROR, 4: logging.DEBUG}
_recent: deque[str] = deque(maxlen=40)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _on_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").rstrip()
    if line and line != ".":
        if level == 3:
            _recent.append(line)
        log.log(_LEVELS.get(level, logging.DEBUG), line)


log.addHandler(logging.NullHandler())
log.propagate = False
llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))

CACHE_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "bf16": 30,  # GGML_TYPE_BF16, which llama_cpp 0.3.36 does not name
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q5_1": llama_cpp.GGML_TYPE_Q5_1,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
    "q4_1": llama_cpp.GGML_TYPE_Q4_1,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
    "iq4_nl": llama_cpp.GGML_TYPE_IQ4_NL,
}
_FLASH = {"auto": -1, "off": 0, "on": 1}


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
    _start()
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
def _start() -> None:
    llama_cpp.llama_backend_init()


def system_info() -> str:
    """The CPU features and backends that this build of llama.cpp uses."""
    _start()
    return (llama_cpp.llama_print_system_info() or b"").decode("utf-8", "replace").strip()


def supports_gpu_offload() -> bool:
    return bool(llama_cpp.llama_supports_gpu_offload())


def supports_rpc() -> bool:
    return bool(llama_cpp.llama_supports_rpc())


def default_threads() -> int:
    """Physical cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(usable or 1, psutil.cpu_count(logical=False) or usable or 1))


class Model:
    """The weights of one GGUF file, shared by any number of contexts.

    Args:
        path: the file, or the first of its shards.
        gpu_layers: layers kept on the GPU, counted from the last; -1 is all of them.
        tensor_split: share of those layers that each GPU takes; empty leaves it to llama.cpp.
        progress: called with the share loaded, 0.0 to 1.0; raising in it stops nothing.

    Raises:
        ModelFileError: llama.cpp cannot load the file; the line says why.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        gpu_layers: int = 0,
        tensor_split: Sequence[float] = (),
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self._handle: Any = None
        self._adapters: dict[Path, Any] = {}
        if not self.path.is_file():
            raise ModelFileError(f"{path}: no such file; check the path, or pull the preset")
        _start()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if any(tensor_split):
            shares = (ctypes.c_float * max(llama_cpp.llama_max_devices(), len(tensor_split)))()
            shares[: len(tensor_split)] = list(tensor_split)
            params.tensor_split = shares
        if progress is not None:
            report = progress

            @llama_cpp.llama_progress_callback  # type: ignore[untyped-decorator, unused-ignore]
            def on_progress(share: float, _user_data: ctypes.c_void_p) -> bool:
                report(share)
                return True

            params.progress_callback = on_progress
        _recent.clear()
        self._handle = llama_cpp.llama_model_load_from_file(os.fsencode(self.path), params)
        if not self._handle:
            raise ModelFileError(f"{path}: llama.cpp cannot load it: {_last_words()}")
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(self._handle)
        self.n_layers: int = llama_cpp.llama_model_n_layer(self._handle)
        self.n_swa: int = llama_cpp.llama_model_n_swa(self._handle)
        self.weight_bytes: int = llama_cpp.llama_model_size(self._handle)
        self._pieces: dict[tuple[int, bool], bytes] = {}

    @property
    def handle(self) -> Any:
        if self._handle is None:
            raise EngineError(f"{self.path.name} is closed; load it again")
        return self._handle

    @property
    def _vocab(self) -> Any:
        return llama_cpp.llama_model_get_vocab(self.handle)

    @property
    def rewinds(self) -> bool:
        """False for recurrent and hybrid models: their state cannot drop its last tokens."""
        return not (
            llama_cpp.llama_model_is_recurrent(self.handle)
            or llama_cpp.llama_model_is_hybrid(self.handle)
        )

    @property
    def description(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        """The chat template that the file carries, as jinja2 source."""
        source = llama_cpp.llama_model_chat_template(self.handle, None)
        return source.decode("utf-8", "replace") if source else None

    # Tokens ----------------------------------------------------------------------------------

    @property
    def bos(self) -> int | None:
        return _token_or_none(llama_cpp.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> int | None:
        return _token_or_none(llama_cpp.llama_vocab_eos(self._vocab))

    @property
    def adds_bos(self) -> bool:
        return bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))

    def end_tokens(self, among: Iterable[int]) -> frozenset[int]:
        """Those of the ids that llama.cpp takes as the end of generation in this model."""
        vocab = self._vocab
        return frozenset(t for t in among if llama_cpp.llama_vocab_is_eog(vocab, t))

    def special_tokens(self, *, user_defined: bool = True) -> list[int]:
        """Ids of control tokens, and of user-defined ones unless left out, ascending."""
        special = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        if user_defined:
            special |= llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        attribute, vocab = llama_cpp.llama_vocab_get_attr, self._vocab
        return [t for t in range(self.vocab_size) if attribute(vocab, t) & special]

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text.

        Args:
            add_special: put BOS (and EOS) where the model wants them.
            parse_special: read the texts of special tokens as these tokens.
        """
        data = text.encode("utf-8")
        capacity = len(data) + 8
        while True:
            buffer = (llama_cpp.llama_token * capacity)()
            count = llama_cpp.llama_tokenize(
                self._vocab, data, len(data), buffer, capacity, add_special, parse_special
            )
            if count >= 0:
                return list(buffer[:count])
            capacity = -count

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token: a part of a UTF-8 text, possibly a part of a character.

        Control tokens are empty, or with `special` their own text, as in `<|im_end|>`.
        """
        known = self._pieces.get((token, special))
        if known is None:
            size = 64
            while True:
                buffer = ctypes.create_string_buffer(size)
                count = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
                if count >= 0:
                    break
                size = -count
            known = self._pieces[token, special] = buffer.raw[:count]
        return known

    # Adapters --------------------------------------------------------------------------------

    def adapter(self, path: str | os.PathLike[str]) -> Any:
        """A LoRA adapter for this model's contexts; the same file is loaded once."""
        file = Path(path)
        if file not in self._adapters:
            if not file.is_file():
                raise ModelFileError(f"{path}: no such file; check the adapter's path")
            _recent.clear()
            handle = llama_cpp.llama_adapter_lora_init(self.handle, os.fsencode(file))
            if not handle:
                raise ModelFileError(
                    f"{path}: not an adapter for {self.path.name}: {_last_words()}"
                )
            self._adapters[file] = handle
        return self._adapters[file]

    def close(self) -> None:
        """Frees the weights. Close the contexts first. A second call does nothing."""
        if self._handle is not None:
            llama_cpp.llama_model_free(self._handle)  # frees its adapters too
            self._handle, self._adapters = None, {}

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


class Span(NamedTuple):
    """Tokens to append to a sequence in one call, and for how many of the last to give logits."""

    sequence: int
    tokens: Sequence[int]
    rows: int = 1


class Context:
    """The cache of one role: for each sequence, the tokens decoded so far.

    Args:
        model: stays open as long as the context.
        n_ctx: longest sequence, in tokens (llama.cpp rounds it up).
        n_batch: most tokens in one `decode`.
        n_seq_max: sequences that may live side by side.
        n_threads: CPU threads; None is every physical core.
        cache_type_k, cache_type_v: element types of the cache, a name of CACHE_TYPES.
        flash_attention: "auto", "on" or "off".
        swa_full: keep the whole cache of sliding-window layers, so that rewinding works.
        adapters: LoRA files and their scales, applied in this context only.

    Raises:
        EngineError: llama.cpp cannot make it, most often for want of memory.
        UsageError: an unknown cache type or flash attention setting.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_batch: int = 512,
        n_seq_max: int = 1,
        n_threads: int | None = None,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
        flash_attention: str = "auto",
        swa_full: bool = False,
        adapters: Sequence[tuple[str | os.PathLike[str], float]] = (),
    ) -> None:
        self.model = model
        self._handle: Any = None
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx * n_seq_max
        params.n_batch = max(n_batch, n_seq_max)
        params.n_ubatch = params.n_batch
        params.n_seq_max = n_seq_max
        params.n_threads = params.n_threads_batch = n_threads or default_threads()
        params.type_k = _choice("KV cache type", cache_type_k, CACHE_TYPES)
        params.type_v = _choice("KV cache type", cache_type_v, CACHE_TYPES)
        params.flash_attn_type = _choice("flash attention", flash_attention, _FLASH)
        params.swa_full = swa_full
        params.no_perf = True
        _recent.clear()
        self._handle = llama_cpp.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise EngineError(
                f"{model.path.name}: no context of {n_ctx} tokens x {n_seq_max}: {_last_words()}; "
                "try a smaller n_ctx or a smaller KV cache type"
            )
        self._memory: Any = llama_cpp.llama_get_memory(self._handle)
        self.n_ctx: int = llama_cpp.llama_n_ctx_seq(self._handle)
        self.n_batch: int = llama_cpp.llama_n_batch(self._handle)
        self.n_seq_max = n_seq_max
        self.swa_full = swa_full
        self.decoded = 0  # tokens decoded in all: what prefix reuse saves is seen here
        self._tokens: list[list[int]] = [[] for _ in range(n_seq_max)]
        self._batch = _Batch(self.n_batch)
        if adapters:
            self._apply(adapters)

    def _apply(self, adapters: Sequence[tuple[str | os.PathLike[str], float]]) -> None:
        handles = (ctypes.c_void_p * len(adapters))()
        scales = (ctypes.c_float * len(adapters))()
        for i, (path, scale) in enumerate(adapters):
            handles[i], scales[i] = self.model.adapter(path), scale
        if llama_cpp.llama_set_adapters_lora(
            self.handle,
            ctypes.cast(handles, ctypes.POINTER(ctypes.c_void_p)),
            len(adapters),
            scales,
        ):
            raise EngineError(f"{self.model.path.name}: llama.cpp refused its adapters")

    @property
    def handle(self) -> Any:
        if self._handle is None:
            raise EngineError(f"the context of {self.model.path.name} is closed")
        return self._handle

    def tokens(self, sequence: int) -> Sequence[int]:
        """What the cache holds of a sequence. Do not modify."""
        return self._tokens[sequence]

    def decode(self, spans: Sequence[Span]) -> NDArray[np.float32]:
        """Appends tokens to sequences, in one call of llama.cpp.

        Whatever goes wrong, an interrupt included, every sequence is left as it was (or empty,
        where the model cannot rewind).

        Returns:
            (sum of rows, vocab) float32: raw logits, in the order of the spans. A view of
            llama.cpp's memory, valid until the next decode on this context.

        Raises:
            EngineError: a sequence would outgrow n_ctx, or llama.cpp failed.
        """
        handle = self.handle
        rows = self._batch.fill(spans, [len(self._tokens[s.sequence]) for s in spans])
        for span in spans:
            length = len(self._tokens[span.sequence]) + len(span.tokens)
            if length > self.n_ctx:
                raise EngineError(
                    f"{self.model.path.name}: {length} tokens do not fit n_ctx = {self.n_ctx}"
                )
        before = [(span.sequence, len(self._tokens[span.sequence])) for span in spans]
        try:
            code = llama_cpp.llama_decode(handle, self._batch.struct)
            if code != 0:
                raise EngineError(
                    f"{self.model.path.name}: llama_decode gave {code}: {_last_words()}"
                )
            # Waits for the device: the time of a decode is counted where it is spent.
            logits = llama_cpp.llama_get_logits(handle) if rows else None
            for span in spans:
                self._tokens[span.sequence].extend(span.tokens)
        except BaseException:
            for sequence, length in before:
                del self._tokens[sequence][length:]
                if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1):
                    self.clear(sequence)
            raise
        self.decoded += self._batch.struct.n_tokens
        if logits is None:
            return np.empty((0, self.model.vocab_size), dtype=np.float32)
        return np.ctypeslib.as_array(logits, shape=(rows, self.model.vocab_size))

    def can_rewind(self, sequence: int, length: int) -> bool:
        """Whether the sequence can be cut back to its first `length` tokens."""
        held = len(self._tokens[sequence])
        if length in (0, held):
            return True
        if length > held or not self.model.rewinds:
            return False
        if self.model.n_swa and not self.swa_full:
            # Sliding-window layers have dropped what left the window: the first token after
            # the cut must still find its whole window in the cache.
            oldest = llama_cpp.llama_memory_seq_pos_min(self._memory, sequence)
            return bool(oldest <= max(0, length - self.model.n_swa))
        return True

    def rewind(self, sequence: int, length: int) -> None:
        """Cuts a sequence back to its first `length` tokens.

        Raises:
            EngineError: the model cannot (see `can_rewind`); nothing was changed.
        """
        if not self.can_rewind(sequence, length):
            if length > len(self._tokens[sequence]):
                why = "it holds fewer"
            elif self.model.rewinds:
                why = "its sliding-window cache dropped older tokens (set swa_full)"
            else:
                why = "recurrent and hybrid models cannot drop their last tokens"
            raise EngineError(
                f"{self.model.path.name}: cannot rewind from {len(self._tokens[sequence])} "
                f"to {length} tokens: {why}"
            )
        if length < len(self._tokens[sequence]):
            if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1):
                raise EngineError(f"{self.model.path.name}: llama.cpp refused to rewind")
            del self._tokens[sequence][length:]

    def clear(self, sequence: int) -> None:
        """Empties a sequence; this never fails."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._tokens[sequence].clear()

    def close(self) -> None:
        """Frees the cache. A second call does nothing."""
        if self._handle is not None:
            llama_cpp.llama_free(self._handle)
            self._handle = None

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


class _Batch:
    """A llama_batch over numpy arrays of our own, filled without a Python loop over tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._token = np.zeros(capacity, dtype=np.int32)
        self._position = np.zeros(capacity, dtype=np.int32)
        self._sequence = np.zeros(capacity, dtype=np.int32)
        self._wanted = np.zeros(capacity, dtype=np.int8)
        one_each = np.ones(capacity, dtype=np.int32)
        address = self._sequence.ctypes.data
        each = np.arange(address, address + 4 * capacity, 4, dtype=np.uintp)
        self._keep = (one_each, each)
        self.struct = llama_cpp.llama_batch()
        fields = {name: kind for name, kind, *_ in llama_cpp.llama_batch._fields_}
        for name, array in (
            ("token", self._token),
            ("pos", self._position),
            ("n_seq_id", one_each),
            ("seq_id", each),
            ("logits", self._wanted),
        ):
            setattr(self.struct, name, ctypes.cast(array.ctypes.data, fields[name]))

    def fill(self, spans: Sequence[Span], starts: Sequence[int]) -> int:
        """Lays the spans out, each from its start position; returns the rows wanted."""
        total = sum(len(span.tokens) for span in spans)
        if not 0 < total <= self.capacity:
            raise EngineError(f"a batch holds 1 to {self.capacity} tokens, not {total}")
        self._wanted[:total] = 0
        at = rows = 0
        for span, start in zip(spans, starts, strict=True):
            count = len(span.tokens)
            end = at + count
            self._token[at:end] = span.tokens
            self._position[at:end] = np.arange(start, start + count, dtype=np.int32)
            self._sequence[at:end] = span.sequence
            if span.rows:
                self._wanted[end - span.rows : end] = 1
            rows += span.rows
            at = end
        self.struct.n_tokens = total
        return rows


def _choice(what: str, value: str, among: dict[str, int]) -> int:
    if value not in among:
        raise UsageError(f"{what} {value!r} is not known; use one of {', '.join(among)}")
    return among[value]


def _token_or_none(token: int) -> int | None:
    return None if token == llama_cpp.LLAMA_TOKEN_NULL else token


def _last_words() -> str:
    """llama.cpp's own last error lines, as one line."""
    return "; ".join(list(_recent)[-2:]) or "it gave no reason"
