"""The weights of one GGUF file, and its tokenizer."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

from eftlocal.bases import Closing
from eftlocal.errors import EngineError, ModelFileError, PromptError, UsageError, WorkerError
from eftlocal.llama.engine import device_list, last_words, llama_cpp, raise_pending, recent, start
from eftlocal.llama.rpc import Worker, with_workers
from eftlocal.native import SignalsLater, on_deep_stack

T = TypeVar("T")

# A character that no vocabulary has, so that no token reaches across it: what stands after it is
# tokenized as it is in the middle of a text.
_BREAK = "\U0010ffff".encode()
_PIECE = re.compile(rb"\s+|\S+")  # no pre-tokenizer's match is longer than two of these
_SHORT = 256  # bytes of such a piece that any stack has room for
_FRAME = 1 << 10  # bytes of stack for a byte of text; 360 were measured (GCC 12, x86-64)


def stack_for(text: bytes) -> int:
    """Bytes of stack that it takes to tokenize a text; 0 where the caller's own will do.

    llama.cpp splits a text by std::regex where it has no splitter of its own for a tokenizer
    (tekken, bailingmoe, viking and others): some 20,000 letters without a break ended the process.
    """
    if len(text) <= _SHORT:
        return 0
    longest = max(map(len, _PIECE.findall(text)))
    return 0 if longest <= _SHORT else 2 * longest * _FRAME


class Model(Closing):
    """The weights of one GGUF file, shared by any number of contexts.

    Args:
        path: the file, or the first of its shards.
        gpu_layers: layers kept on the GPU, counted from the last; -1 is all of them.
        devices: names of the devices it may use, with none the CPU alone, not even others for
            large batches; None leaves it to llama.cpp.
        tensor_split: share of those layers that each of the devices takes; empty leaves it to
            llama.cpp.
        workers: that have some of these devices.
        mapped: map the file into memory; False reads it, which keeps a model whose weights are
            repacked from standing in memory twice.
        repacked: let the CPU copy weights into a layout that it computes faster with.
        vocab_only: load the tokenizer without the weights; n_ctx_train and n_layers are then 0.
        progress: called with the share loaded, 0.0 to 1.0; what it raises ends the load.

    Raises:
        ModelFileError: llama.cpp cannot load the file; the line says why.
        EngineError: there is no device of such a name.
        WorkerError: a worker was lost meanwhile.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        gpu_layers: int = 0,
        devices: Sequence[str] | None = None,
        tensor_split: Sequence[float] = (),
        workers: Sequence[Worker] = (),
        mapped: bool = True,
        repacked: bool = True,
        vocab_only: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.workers = tuple(dict.fromkeys(workers))
        self._handle: Any = None
        self._adapters: dict[Path, Any] = {}
        self._heard = 0.0
        if not self.path.is_file():
            raise ModelFileError(f"{path}: no such file; check the path, or pull the preset")
        start()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.vocab_only = vocab_only
        params.use_extra_bufts = repacked
        if devices is not None:
            listed = device_list(devices)
            params.devices = ctypes.addressof(listed)
        if not mapped:
            params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        if any(tensor_split):
            shares = (ctypes.c_float * max(llama_cpp.llama_max_devices(), len(tensor_split)))()
            shares[: len(tensor_split)] = list(tensor_split)
            params.tensor_split = shares
        raised: list[BaseException] = []  # ctypes drops what is raised in a callback

        @llama_cpp.llama_progress_callback  # type: ignore[untyped-decorator, unused-ignore]
        def on_progress(share: float, _user_data: ctypes.c_void_p) -> bool:
            try:
                self._heard = time.monotonic()
                later.deliver()
                raise_pending()
                if progress is not None:
                    progress(share)
            except BaseException as error:  # noqa: BLE001 - raised again below
                raised.append(error)
            return not raised

        params.progress_callback = on_progress
        recent.clear()
        try:
            with SignalsLater() as later:
                load = partial(llama_cpp.llama_model_load_from_file, os.fsencode(path), params)
                self._handle = self.call(load, later)
            if raised:
                raise raised[0]
            raise_pending()
        except BaseException:
            self.close()
            raise
        if not self._handle:
            raise ModelFileError(f"{path}: llama.cpp cannot load it: {last_words()}")
        for worker in self.workers:
            worker.models += 1
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(self._handle)
        self.n_layers: int = llama_cpp.llama_model_n_layer(self._handle)
        self.is_rotary = llama_cpp.llama_model_rope_type(self._handle) != -1
        self.n_swa: int = llama_cpp.llama_model_n_swa(self._handle)
        self.weight_bytes: int = llama_cpp.llama_model_size(self._handle)
        # False for recurrent and hybrid models: their state cannot drop its last tokens.
        self.rewinds = not (
            llama_cpp.llama_model_is_recurrent(self._handle)
            or llama_cpp.llama_model_is_hybrid(self._handle)
        )
        self.bos = _token_or_none(llama_cpp.llama_vocab_bos(self._vocab))
        self.eos = _token_or_none(llama_cpp.llama_vocab_eos(self._vocab))
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        self._pieces: dict[tuple[int, bool], bytes] = {}

    @property
    def handle(self) -> Any:
        if self._handle is None:
            raise EngineError(f"{self.path.name} is closed; load it again")
        return self._handle

    def call(self, work: Callable[[], T], later: SignalsLater) -> T:
        """A native call in which the model's devices may take part; see `rpc.with_workers`."""
        return with_workers(self.workers, work, later, lambda: self._heard)

    def free(self, work: Callable[[], object]) -> None:
        """A native call that gives back what lies on its devices; with a lost worker it stays."""
        with SignalsLater() as later, suppress(WorkerError):
            self.call(work, later)

    @property
    def cannot_rewind(self) -> str:
        """Why no context of it can drop its last tokens; empty where some can."""
        return "" if self.rewinds else "is recurrent or hybrid: it cannot drop its last tokens"

    @property
    def _vocab(self) -> Any:
        return llama_cpp.llama_model_get_vocab(self.handle)

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

    def end_tokens(self, among: Iterable[int]) -> frozenset[int]:
        """Those of the ids that llama.cpp takes as the end of generation in this model."""
        vocab = self._vocab
        known = (t for t in among if 0 <= t < self.vocab_size)
        return frozenset(t for t in known if llama_cpp.llama_vocab_is_eog(vocab, t))

    def special_tokens(self, *, user_defined: bool = True) -> list[int]:
        """Ids of control tokens, and of user-defined ones unless left out, ascending."""
        wanted = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        wanted |= llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED if user_defined else 0
        return [t for t, kind in self._special.items() if kind & wanted]

    @cached_property
    def control_texts(self) -> frozenset[str]:
        """The texts that `parse_special` reads as tokens, as a file and as a prompt write them;
        user-defined tokens, which are always read, are no part of them."""
        unknown = llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        ids = [*self._control, *(t for t, kind in self._special.items() if kind & unknown)]
        pieces = (self.piece(token, special=True) for token in ids)
        texts = [piece.decode("utf-8", "replace") for piece in pieces]
        return frozenset([*texts, *(text.replace("▁", " ") for text in texts)])

    @cached_property
    def _control(self) -> frozenset[int]:
        return frozenset(self.special_tokens(user_defined=False))

    @cached_property
    def _special(self) -> dict[int, int]:
        """Attributes of the special tokens, looked for once: 18 ms for 49,152 tokens."""
        special = (
            llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
            | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
            | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        )
        attribute, vocab = llama_cpp.llama_vocab_get_attr, self._vocab
        kinds = ((t, attribute(vocab, t)) for t in range(self.vocab_size))
        return {t: kind for t, kind in kinds if kind & special}

    def text_pieces(self, size: int) -> dict[int, bytes]:
        """The bytes of the tokens below `size` that stand for text, by id."""
        unknown = llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        unknown_ids = {t for t, kind in self._special.items() if kind & unknown}
        apart = self._control | unknown_ids
        pieces = ((t, self.piece(t)) for t in range(size) if t not in apart)
        return {token: piece for token, piece in pieces if piece}

    def tokenize(
        self,
        text: str,
        *,
        add_bos: bool = False,
        parse_special: bool = False,
        continues: bool = False,
    ) -> list[int]:
        """Token ids of a text.

        Args:
            add_bos: begin with BOS where the model wants one. EOS is never added.
            parse_special: read the texts of special tokens as these tokens.
            continues: the text goes on where another one ended, so its bytes are the tokens'.
                Otherwise SentencePiece puts a space before it, if the file asks for that.

        Raises:
            PromptError: UTF-8 cannot hold the text.
        """
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text is not valid: an unpaired surrogate at character {error.start}"
            ) from None
        first = [self.bos] if add_bos and self.adds_bos and self.bos is not None else []
        ids = self._tokenize(data, parse_special, continues)
        if not parse_special and not self._control.isdisjoint(ids):
            # SentencePiece merges letters into any token, a control token too.
            begin, *rest = parted(text, self.control_texts)
            ids = self._tokenize(begin.encode(), False, continues)
            for piece in rest:
                ids += self._tokenize(piece.encode(), False, True)
        return first + ids

    def at_least(self, size: int) -> int:
        """Tokens that a text of so many bytes has at least; 0 where the tokenizer drops some."""
        return -(-size // self._longest_piece) if self._longest_piece else 0

    @cached_property
    def _longest_piece(self) -> int:
        """Bytes of the longest token; 0 for tokenizers that drop characters of a text."""
        kind = llama_cpp.llama_vocab_type(self._vocab)
        if kind in (llama_cpp.LLAMA_VOCAB_TYPE_UGM, llama_cpp.LLAMA_VOCAB_TYPE_WPM):
            return 0
        return max(len(self.piece(token, special=True)) for token in range(self.vocab_size))

    def _tokenize(self, data: bytes, parse_special: bool, continues: bool) -> list[int]:
        skipped = self._tokens_of_break if continues and data else 0
        return self._llama_tokenize(_BREAK + data if skipped else data, parse_special)[skipped:]

    def _llama_tokenize(self, data: bytes, parse_special: bool) -> list[int]:
        capacity = len(data) + 8
        while True:
            buffer = (llama_cpp.llama_token * capacity)()
            # BOS and EOS are not left to llama.cpp: some tokenizers add them unasked, some never.
            tokenize = partial(
                llama_cpp.llama_tokenize,
                *(self._vocab, data, len(data), buffer, capacity, False, parse_special),
            )
            size = stack_for(data)
            try:
                count = on_deep_stack(size, tokenize) if size else tokenize()
            except MemoryError:
                raise PromptError(
                    "the text has a word, or a run of spaces, too long to tokenize; break it up"
                ) from None
            if count >= 0:
                return list(buffer[:count])
            capacity = -count

    @cached_property
    def _tokens_of_break(self) -> int:
        """Tokens of `_BREAK` with the space put before it; 0 where none ever is."""
        kind = llama_cpp.llama_vocab_type(self._vocab)
        if kind not in (llama_cpp.LLAMA_VOCAB_TYPE_SPM, llama_cpp.LLAMA_VOCAB_TYPE_UGM):
            return 0
        return len(self._llama_tokenize(_BREAK, False))

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token: a part of a UTF-8 text, possibly a part of a character.

        Control tokens are empty, or with `special` their own text, as in `<|im_end|>`.

        Raises:
            UsageError: there is no such token.
        """
        known = self._pieces.get((token, special))
        if known is None:
            if not isinstance(token, Integral) or isinstance(token, bool):
                raise UsageError(f"token {token!r:.40} is not a token id; give a whole number")
            if not 0 <= token < self.vocab_size:
                raise UsageError(
                    f"token {token} is outside the vocabulary of {self.vocab_size} tokens"
                )
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
            recent.clear()
            load = partial(llama_cpp.llama_adapter_lora_init, self.handle, os.fsencode(file))
            with SignalsLater() as later:
                handle = self.call(load, later)
            if not handle:
                raise ModelFileError(f"{path}: not an adapter for {self.path.name}: {last_words()}")
            self._adapters[file] = handle
        return self._adapters[file]

    def close(self) -> None:
        """Frees the weights. Close the contexts first. A second call does nothing."""
        handle, self._handle, self._adapters = self._handle, None, {}
        if handle:
            self.free(lambda: llama_cpp.llama_model_free(handle))  # frees its adapters too
            for worker in self.workers:
                worker.models -= 1


def _token_or_none(token: int) -> int | None:
    return None if token == llama_cpp.LLAMA_TOKEN_NULL else token


def parted(text: str, special_texts: Collection[str]) -> list[str]:
    """`text` in pieces, none of which holds a special text; as few cuts as that takes.

    A special text of a single character cannot be parted and is left alone.
    """
    found: list[tuple[int, int]] = []  # (end, start) of every occurrence, overlapping ones too
    for special in special_texts:
        start = text.find(special) if len(special) > 1 else -1
        while start >= 0:
            found.append((start + len(special), start))
            start = text.find(special, start + 1)
    cuts = [0]
    for end, start in sorted(found):
        if cuts[-1] <= start:  # the last cut does not part this one
            cuts.append(end - 1)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def special_text_in(text: str, special_texts: Collection[str]) -> str:
    """The first of the special tokens' texts that stands in a text; empty if none does."""
    there = [special for special in special_texts if len(special) > 1 and special in text]
    return min(there, key=text.index, default="")
