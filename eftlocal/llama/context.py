"""The cache of one role: sequences of tokens decoded so far, and rows of logits after them.

A context must not be used from two threads at once; two contexts may decode side by side,
because ctypes releases the interpreter's lock during a call.

An exception can come between any two lines (Ctrl-C), so between a call of llama.cpp and the record
of it too. Therefore the record of a sequence always says a beginning of what its cache holds, and a
sequence is marked *unsettled* before its cache is touched: what the cache may hold beyond the
record is dropped before the sequence is looked at again.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.bases import Closing
from eftlocal.errors import EngineError, UsageError
from eftlocal.gguf_file.parser import constants
from eftlocal.llama.engine import (
    decode_clock,
    default_threads,
    last_words,
    llama_cpp,
    raise_pending,
    recent,
)
from eftlocal.llama.model import Model
from eftlocal.native import SignalsLater
from eftlocal.settings import CACHE_TYPES

_CACHE_TYPES = {name: int(constants.GGMLQuantizationType[name.upper()]) for name in CACHE_TYPES}
_FLASH = {"auto": -1, "off": 0, "on": 1}
_ROPE_SCALING = {
    name: int(getattr(llama_cpp, f"LLAMA_ROPE_SCALING_TYPE_{name.upper()}"))
    for name in ("none", "linear", "yarn")
}
_MOST_CELLS = 2**31 - 1  # tokens of all sequences: positions are 32-bit numbers
_MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ
_LONG = 32  # tokens of a call that is worth watching: it is a prompt, and may take seconds

Check = Callable[[], object]
"""Called now and then while a prompt is decoded, by the decoding thread; may raise."""

_NO_CALLBACK = llama_cpp.ggml_abort_callback(0)


class Span(NamedTuple):
    """Tokens to append to a sequence in one call, and for how many of the last to give logits.

    padding: so many tokens more are decoded and dropped (see `eftlocal.decoding.passes`). After
    a span with a row for each token they get rows too, so that all kernels see as many.
    """

    sequence: int
    tokens: Sequence[int]
    rows: int = 1
    padding: int = 0


class Context(Closing):
    """The cache of one role: for each sequence, the tokens decoded so far.

    Args:
        model: stays open as long as the context.
        n_ctx: longest sequence, in tokens. llama.cpp rounds it up; the rest is never used.
        n_batch: most tokens in one `decode`.
        n_ubatch: of these, as many as llama.cpp computes at once; None is all.
        n_seq_max: sequences that may live side by side.
        n_rows: most rows of logits that one `decode` gives; None is n_batch. llama.cpp holds
            memory for so many from the start: 0.5 MiB each for a vocabulary of 128,256.
        n_threads: CPU threads; None is every physical core.
        cache_type_k, cache_type_v: element types of the cache, a name of settings.CACHE_TYPES.
        flash_attention: "auto", "on" or "off".
        swa_full: keep the whole cache of sliding-window layers, so that rewinding works.
        rope: how positions are encoded, by the names of settings.ROPE; the rest is the model's.
        adapters: LoRA files and their scales, applied in this context only.

    Attributes:
        clock: to time decodes by, in the thread that decodes.

    Raises:
        EngineError: llama.cpp cannot make it, most often for want of memory.
        UsageError: an unknown cache type or flash attention setting, a cache of more tokens than
            llama.cpp can count, or `rope` for a model without rotary positions.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_batch: int = 512,
        n_ubatch: int | None = None,
        n_seq_max: int = 1,
        n_rows: int | None = None,
        n_threads: int | None = None,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
        flash_attention: str = "auto",
        swa_full: bool = False,
        rope: Mapping[str, Any] = MappingProxyType({}),
        adapters: Sequence[tuple[str | os.PathLike[str], float]] = (),
    ) -> None:
        self.model = model
        self._handle: Any = None
        if not 1 <= n_seq_max <= _MAX_SEQUENCES:
            raise UsageError(f"n_seq_max is {n_seq_max}; it must be 1 to {_MAX_SEQUENCES}")
        params = llama_cpp.llama_context_default_params()
        if n_ctx * n_seq_max > _MOST_CELLS:
            raise UsageError(
                f"n_ctx is {n_ctx}, for each of {n_seq_max} sequences; together they may have "
                f"{_MOST_CELLS}"
            )
        params.n_ctx = n_ctx * n_seq_max
        params.n_batch = max(n_batch, n_seq_max)
        params.n_ubatch = max(n_ubatch or params.n_batch, n_seq_max)
        params.n_seq_max = n_seq_max
        params.n_outputs_max = max(n_rows or params.n_batch, n_seq_max)
        params.n_threads = params.n_threads_batch = n_threads or default_threads()
        self.clock = time.perf_counter if model.workers else decode_clock(params.n_threads)
        params.type_k = _choice("KV cache type", cache_type_k, _CACHE_TYPES)
        params.type_v = _choice("KV cache type", cache_type_v, _CACHE_TYPES)
        params.flash_attn_type = _choice("flash attention", flash_attention, _FLASH)
        params.swa_full = swa_full
        self.n_ctx_train = _encode_positions(params, model, rope)
        params.no_perf = True
        self.n_seq_max = n_seq_max
        self._window = 0 if swa_full else model.n_swa
        self.cannot_rewind = model.cannot_rewind  # why tokens cannot be dropped from the end
        if self._window and not self.cannot_rewind:
            self.cannot_rewind = "has a sliding window and keeps no older tokens (set swa_full)"
        self.decoded = 0  # tokens decoded in all, without padding: what prefix reuse saves
        self._tokens: list[list[int]] = [[] for _ in range(n_seq_max)]
        self._unsettled: set[int] = set()
        self._copied: set[int] = set()  # targets that the next decode fills, and says much of it
        self._watch: Any = None  # llama.cpp's callback during a long call
        recent.clear()
        try:
            with SignalsLater() as later:
                make = partial(llama_cpp.llama_init_from_model, model.handle, params)
                self._handle = model.call(make, later)
            raise_pending()
            if not self._handle:
                raise EngineError(
                    f"{model.path.name}: no context of {n_ctx} tokens x {n_seq_max}: "
                    f"{last_words()}; try a smaller n_ctx or a smaller KV cache type"
                )
            self.n_ctx = min(n_ctx, int(llama_cpp.llama_n_ctx_seq(self._handle)))
            self.n_batch: int = llama_cpp.llama_n_batch(self._handle)
            self.n_rows: int = min(self.n_batch, params.n_outputs_max)
            self._batch = _Batch(self.n_batch)
            if adapters:
                self._apply(adapters)
        except BaseException:
            self.close()
            raise

    def _apply(self, adapters: Sequence[tuple[str | os.PathLike[str], float]]) -> None:
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * len(adapters))()
        scales = (ctypes.c_float * len(adapters))()
        for i, (path, scale) in enumerate(adapters):
            handles[i], scales[i] = self.model.adapter(path), scale
        if llama_cpp.llama_set_adapters_lora(self.handle, handles, len(adapters), scales):
            raise EngineError(f"{self.model.path.name}: llama.cpp refused its adapters")

    @property
    def handle(self) -> Any:
        if self._handle is None:
            raise EngineError(f"the context of {self.model.path.name} is closed")
        return self._handle

    @property
    def _memory(self) -> Any:
        return llama_cpp.llama_get_memory(self.handle)

    def tokens(self, sequence: int) -> Sequence[int]:
        """What the cache holds of a sequence. Do not modify."""
        return self._settled(sequence)

    def _settled(self, sequence: int) -> list[int]:
        """The record of a sequence, once its cache holds nothing else."""
        if not 0 <= sequence < self.n_seq_max:
            raise EngineError(f"there is no sequence {sequence}; there are {self.n_seq_max}")
        tokens = self._tokens[sequence]
        if sequence in self._unsettled:
            memory, length = self._memory, len(tokens)
            if not (
                self._window_reaches(sequence, length)
                and llama_cpp.llama_memory_seq_rm(memory, sequence, length, -1)
            ):
                tokens.clear()
                llama_cpp.llama_memory_seq_rm(memory, sequence, -1, -1)  # this never fails
            self._unsettled.discard(sequence)
        return tokens

    def decode(self, spans: Sequence[Span], check: Check | None = None) -> NDArray[np.float32]:
        """Appends tokens to sequences, in one call of llama.cpp.

        Whatever goes wrong, an interrupt included, every sequence is left as it was (or empty,
        where the model cannot rewind). A call of many tokens is ended at once by Ctrl-C and by
        what `check` raises, on the CPU and Metal; other devices finish it.

        Returns:
            (sum of rows, vocab) float32: raw logits, in the order of the spans. A view of
            llama.cpp's memory, valid until the next decode on this context (a copy where rows of
            padding stand between them).

        Raises:
            EngineError: a sequence would outgrow n_ctx, or llama.cpp failed.
        """
        vocab_size = self.model.vocab_size
        records = [self._settled(span.sequence) for span in spans]
        for span, tokens in zip(spans, records, strict=True):
            if span.tokens and not 0 <= min(span.tokens) <= max(span.tokens) < vocab_size:
                raise EngineError(f"{self.model.path.name}: token ids are 0 to {vocab_size - 1}")
            length = len(tokens) + len(span.tokens) + span.padding
            if length > self.n_ctx:
                raise EngineError(
                    f"{self.model.path.name}: {length} tokens do not fit n_ctx = {self.n_ctx}"
                )
        rows, kept = self._batch.fill(spans, [len(tokens) for tokens in records])
        if rows > self.n_rows:  # llama.cpp ends the process
            raise EngineError(f"{self.model.path.name}: a decode gives {self.n_rows} rows at most")
        self._unsettled.update(span.sequence for span in spans)
        code, logits = self._call(check, rows)
        if code != 0:
            raise EngineError(
                f"{self.model.path.name}: llama_decode returned {code}: {last_words()}"
            )
        for span, tokens in zip(spans, records, strict=True):
            tokens.extend(span.tokens)
            if not span.padding:
                self._unsettled.discard(span.sequence)
        self.decoded += sum(len(span.tokens) for span in spans)
        if not rows:
            return np.empty((0, self.model.vocab_size), dtype=np.float32)
        # What ctypeslib.as_array does, without its 50 microseconds.
        floats: Any = ctypes.c_float * (rows * self.model.vocab_size)
        memory = floats.from_address(ctypes.addressof(logits.contents))
        view: NDArray[np.float32] = np.frombuffer(memory, dtype=np.float32)
        view = view.reshape(rows, self.model.vocab_size)
        if len(kept) == 1:
            return view[kept[0]]
        return np.concatenate([view[part] for part in kept])

    def _decode(self, rows: int) -> tuple[int, Any]:
        """llama_decode's return value, and llama.cpp's rows where there are any."""
        handle = self.handle
        code = int(llama_cpp.llama_decode(handle, self._batch.struct))
        # Waits for the device: the time of a decode is counted where it is spent.
        if rows and not code:
            return code, llama_cpp.llama_get_logits(handle)
        if self.model.workers:  # no call may leave them at work: see `rpc.with_workers`
            llama_cpp.llama_synchronize(handle)
        return code, None

    def _call(self, check: Check | None, rows: int) -> tuple[int, Any]:
        """As `_decode`; raises what ended a long call."""
        long = self._batch.struct.n_tokens >= _LONG or self._copied or self.model.workers
        if not long and self._watch is None:
            return self._decode(rows)
        self._copied.clear()
        raised: list[BaseException] = []

        @llama_cpp.ggml_abort_callback  # type: ignore[untyped-decorator, unused-ignore]
        def ended(_: ctypes.c_void_p) -> bool:
            try:
                later.deliver()
                if check is not None:
                    check()
            except BaseException as error:  # noqa: BLE001 - raised again below
                raised.append(error)
            return bool(raised)

        if check is not None:
            check()
        with SignalsLater() as later:
            self._watch = ended  # kept until it is taken back, whatever happens
            llama_cpp.llama_set_abort_callback(self.handle, ended, None)
            found = self.model.call(lambda: self._decode(rows), later)
            llama_cpp.llama_set_abort_callback(self.handle, _NO_CALLBACK, None)
            self._watch = None
        if raised:
            raise raised[0]
        return found

    def can_rewind(self, sequence: int, length: int) -> bool:
        """Whether the sequence can be cut back to its first `length` tokens."""
        held = len(self._settled(sequence))
        if length in (0, held):
            return True
        if not 0 < length < held or not self.model.rewinds:
            return False
        return self._window_reaches(sequence, length)

    def _window_reaches(self, sequence: int, length: int) -> bool:
        """Whether the first token after the cut would still find its whole window.

        Sliding-window layers drop what left the window, unless swa_full.
        """
        if not self._window:
            return True
        oldest = llama_cpp.llama_memory_seq_pos_min(self._memory, sequence)
        return bool(oldest <= max(0, length - self._window))

    def rewind(self, sequence: int, length: int) -> None:
        """Cuts a sequence back to its first `length` tokens.

        Raises:
            EngineError: the model cannot (see `can_rewind`); nothing was changed.
        """
        tokens = self._settled(sequence)
        if not self.can_rewind(sequence, length):
            why = self.cannot_rewind if 0 <= length <= len(tokens) else "holds fewer"
            raise EngineError(
                f"{self.model.path.name}: cannot rewind from {len(tokens)} to {length} tokens: "
                f"it {why}"
            )
        if length < len(tokens):
            self._unsettled.add(sequence)
            del tokens[length:]
            if len(self._settled(sequence)) < length:
                raise EngineError(f"{self.model.path.name}: llama.cpp refused to rewind")

    def copy(self, source: int, target: int) -> None:
        """Gives one sequence what the cache holds of another, instead of what it held.

        The next decode copies the whole of the sequence's memory, used or not.
        """
        if source != target:
            held = self._settled(source)
            self.clear(target)
            self._unsettled.add(target)
            self._copied.add(target)
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            self._tokens[target].extend(held)
            self._unsettled.discard(target)

    def clear(self, sequence: int) -> None:
        """Empties a sequence; this never fails."""
        tokens = self._settled(sequence)
        if tokens:
            self._unsettled.add(sequence)
            tokens.clear()
            self._settled(sequence)

    # What the cache holds, as bytes -------------------------------------------------------------

    def state_size(self, sequence: int) -> int:
        """Bytes of `state`; 0 of an empty sequence."""
        held = self._settled(sequence)
        return llama_cpp.llama_state_seq_get_size(self.handle, sequence) if held else 0

    def state(self, sequence: int) -> NDArray[np.uint8]:
        """(state_size,) uint8: what the cache holds of a sequence, as llama.cpp writes it.

        Raises:
            EngineError: llama.cpp cannot write it; nothing was changed.
        """
        last = self._settled(sequence)[-1:]
        if last and sequence in self._copied:  # llama.cpp would write what was there before
            self.rewind(sequence, len(self._settled(sequence)) - 1)
            self.decode([Span(sequence, last, 0)])
        found = np.empty(self.state_size(sequence), dtype=np.uint8)
        if len(found) and self._move(llama_cpp.llama_state_seq_get_data, found, sequence) < 1:
            raise EngineError(f"{self.model.path.name}: llama.cpp wrote no state: {last_words()}")
        return found

    def set_state(self, sequence: int, tokens: Sequence[int], state: NDArray[np.uint8]) -> None:
        """Gives a sequence what `state` gave of these tokens in a context made alike, instead of
        what it held. To be given what nobody else has written: llama.cpp trusts much of it.

        Raises:
            EngineError: llama.cpp refuses it; the sequence is empty then.
        """
        self.clear(sequence)
        if self._copied:  # or they would be made from, or over, what comes now
            self.decode([Span(sequence, [0], 0)])
            self.clear(sequence)
        if not tokens:
            return
        self._unsettled.add(sequence)
        taken = self._move(llama_cpp.llama_state_seq_set_data, state, sequence)
        last = llama_cpp.llama_memory_seq_pos_max(self._memory, sequence)
        if taken < 1 or last != len(tokens) - 1:
            self._settled(sequence)
            raise EngineError(f"{self.model.path.name}: llama.cpp refused a state: {last_words()}")
        self._tokens[sequence].extend(tokens)
        self._unsettled.discard(sequence)

    def _move(self, by: Callable[..., int], state: NDArray[np.uint8], sequence: int) -> int:
        """Bytes that llama.cpp moved out of the cache or into it; 0 unless these were all."""
        bytes_ = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        recent.clear()
        with SignalsLater() as later:
            moved = self.model.call(lambda: by(self.handle, bytes_, len(state), sequence), later)
        return moved if moved == len(state) else 0

    def close(self) -> None:
        """Frees the cache. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self.model.free(lambda: llama_cpp.llama_free(handle))


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

    def fill(self, spans: Sequence[Span], starts: Sequence[int]) -> tuple[int, list[slice]]:
        """Lays the spans out, each from its start position.

        Returns:
            how many rows llama.cpp will give, and which of them are the spans' own, neighbours
            together; none where there is no row.
        """
        total = sum(len(span.tokens) + span.padding for span in spans)
        if not 0 < total <= self.capacity:
            raise EngineError(f"a batch holds 1 to {self.capacity} tokens, not {total}")
        self._wanted[:total] = 0
        at = rows = 0
        kept: list[slice] = []
        for span, start in zip(spans, starts, strict=True):
            real = at + len(span.tokens)
            end = real + span.padding
            self._token[at:real] = span.tokens
            self._token[real:end] = 0  # any vocabulary has it
            self._position[at:end] = np.arange(start, start + end - at, dtype=np.int32)
            self._sequence[at:end] = span.sequence
            given = end if span.rows == len(span.tokens) else real
            self._wanted[real - span.rows : given] = 1
            if span.rows:
                first = kept.pop().start if kept and kept[-1].stop == rows else rows
                kept.append(slice(first, rows + span.rows))
            rows += given - real + span.rows
            at = end
        self.struct.n_tokens = total
        return (rows, kept) if kept else (0, kept)


def _encode_positions(params: Any, model: Model, rope: Mapping[str, Any]) -> int:
    """Sets what says how positions are encoded.

    Returns:
        tokens that the model was trained for, times what they are stretched; 0 where unknown.

    Raises:
        UsageError: the model has no rotary positions.
    """
    if rope and not model.is_rotary:
        raise UsageError(
            f"{model.path.name}: has no rotary positions to scale; leave out {next(iter(rope))}"
        )
    for name, value in rope.items():
        if name == "rope_scaling":
            params.rope_scaling_type = _choice("RoPE scaling", value, _ROPE_SCALING)
        else:
            setattr(params, name, value)
    if "rope_freq_base" in rope:
        return 0
    trained = rope.get("yarn_orig_ctx", model.n_ctx_train)
    return int(trained / rope.get("rope_freq_scale", 1.0))


def _choice(what: str, value: str, among: Mapping[str, int]) -> int:
    if value not in among:
        raise UsageError(f"{what} {value!r} is not known; use one of {', '.join(among)}")
    return among[value]
