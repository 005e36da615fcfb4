"""Models without weights: a row of logits is hashed from the tokens before it, and nothing else.

So a row has the same bits however many rows, sequences or calls it is decoded with, and what the
loop promises exactly can be asked exactly, on every machine. The fake stands below the real
`Context`, in place of llama.cpp's own functions, and keeps cells of its own: a cache whose record
is wrong gives other rows. As llama.cpp does, it reuses the memory of its rows at the next decode;
here what was there is overwritten with NaN, so that a row used too long is noticed.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from eftlocal import Defaults, Emulator
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.llama import Context, Model
from eftlocal.llama import context as context_module
from eftlocal.llama.engine import llama_cpp  # the one that other tests patch
from eftlocal.loading.loader import Loaded
from eftlocal.prompt.render import RolePrompt
from eftlocal.speculation.widths import Widths
from eftlocal.translation.lattice import Lattice
from eftlocal.translation.rows import Rows
from eftlocal.translation.spelling import Speller
from eftlocal.translation.translation import Translation

BOS, EOS = 0, 1
_LETTERS = "\n !,.:?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_PAIRS = [a + b for a in "aeiourstln" for b in "aeiourstlnmdbcgkfhpvw ."]
PIECES = ["", "", *_LETTERS, *_PAIRS]
_LONGER = [a + b + c for a in "aeiou " for b in "rstln" for c in "aeio "]
OTHER_PIECES = ["", "", *_LETTERS, *_PAIRS[::3], *_LONGER]  # of roles with another vocabulary
VOCAB = 320
TRIO = ("base", "tuned", "reference")


Kernel = Callable[[int, int], int]
_OF_KERNEL = 1 << 20  # what a cell holds is a token and the kernel that made it


class FakeModel:
    """What stands for `eftlocal.llama.Model`.

    Args:
        name: of the role: its rows are its own, and half of each is what all roles have.
        rewinds: whether tokens can be dropped from the end of its cache.
        sharp: how far the most probable tokens stand out, in nats.
        kernel: which kernel decodes calls of so many tokens, of sequences that hold at most so many
            before it. What another one left in a cache gives other rows, and it gives others too.
    """

    def __init__(
        self,
        name: str,
        *,
        vocab_size: int = VOCAB,
        rewinds: bool = True,
        sharp: float = 1.5,
        kernel: Kernel = lambda tokens, past: 0,
        pieces: Sequence[str] = PIECES,
    ) -> None:
        self.pieces = pieces
        self.kernel = kernel
        self.handle = self
        self.path = Path(f"{name}.gguf")
        self.vocab_size, self.rewinds, self.n_swa, self.workers = vocab_size, rewinds, 0, ()
        self.cannot_rewind = "" if rewinds else "is recurrent or hybrid"
        self.chat_template, self.n_ctx_train, self.bos = None, 0, BOS
        self._seed, self._sharp = zlib.crc32(name.encode()), sharp
        self.row = lru_cache(maxsize=100_000)(self._row)

    def call(self, work: Callable[[], Any], _later: object) -> Any:
        return work()

    def free(self, work: Callable[[], object]) -> None:
        work()

    def _row(self, tokens: tuple[int, ...]) -> NDArray[np.float32]:
        shared = _gumbel(f"all {tokens[-3:]}", self.vocab_size)
        own = _gumbel(f"{self._seed} {tokens}", self.vocab_size)
        row = (self._sharp * (shared + 0.4 * own)).astype(np.float32)
        if self.vocab_size in (VOCAB, len(OTHER_PIECES)):
            ends = zlib.crc32(f"end {tokens[-3:]}".encode()) % 24 == 0
            row[EOS] = row.max() + (2.0 if ends else -4.0)  # after some dozens of tokens
        return row

    def piece(self, token: int, *, special: bool = False) -> bytes:
        if token in (BOS, EOS):
            return b"<s>" if special else b""
        return (self.pieces[token] if token < len(self.pieces) else f"<{token}>").encode()

    def tokenize(self, text: str, **_: bool) -> list[int]:
        return [PIECES.index(letter) if letter in _LETTERS else 2 for letter in text]

    def longest(self, text: str) -> list[int]:
        """The longest tokens that fit, one after the other; a letter that none has is left out."""
        found: list[int] = []
        while text:
            size = next((n for n in (3, 2, 1) if text[:n] in self.pieces), 0)
            found += [self.pieces.index(text[:size])] if size else []
            text = text[size or 1 :]
        return found

    def at_least(self, size: int) -> int:
        return size // 2


def _gumbel(of: str, size: int) -> NDArray[np.float64]:
    chance = np.random.Generator(np.random.SFC64(zlib.crc32(of.encode())))
    return chance.gumbel(size=size)


class Cells:
    """What stands for a `llama_context`: the tokens of each sequence, and the rows it gave."""

    def __init__(self, model: FakeModel, params: Any) -> None:
        self.model = model
        self.n_seq_max, self.n_batch = params.n_seq_max, params.n_batch
        self.n_outputs_max = params.n_outputs_max
        self.n_ctx_seq = params.n_ctx // params.n_seq_max
        self.cells: list[list[int]] = [[] for _ in range(params.n_seq_max)]
        self.rows = np.empty((params.n_batch, model.vocab_size), dtype=np.float32)
        self.abort: Callable[[Any], bool] = lambda _: False

    def decode(self, batch: Any) -> int:
        count = batch.n_tokens
        tokens, positions, wanted = batch.token[:count], batch.pos[:count], batch.logits[:count]
        self.rows[:] = np.nan
        kernel = self.model.kernel(count, max(positions)) * _OF_KERNEL
        at = 0
        for i in range(count):
            if i % 16 == 0 and self.abort(None):
                return 2
            cells = self.cells[batch.seq_id[i][0]]
            assert len(cells) == positions[i] < self.n_ctx_seq, "a gap, or an overflow"
            cells.append(tokens[i] + kernel)
            if wanted[i]:
                assert at < self.n_outputs_max, "where llama.cpp ends the process"
                self.rows[at] = self.model.row(tuple(cells))
                at += 1
        return 0


class Native:
    """The module llama_cpp, but for what is called with a fake model or its cells.

    Attributes:
        disturb: called before and after each fake decode; may raise.
    """

    def __init__(self) -> None:
        self.disturb: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> Any:
        real, fake = getattr(llama_cpp, name), _FAKES.get(name)
        if fake is None:
            return real
        return lambda first, *rest: (
            fake(first, *rest) if isinstance(first, (FakeModel, Cells)) else real(first, *rest)
        )


def _decode(cells: Cells, batch: Any) -> int:
    native.disturb()
    code = cells.decode(batch)
    native.disturb()
    return code


def _logits(cells: Cells) -> Any:
    return cells.rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def _remove(cells: Cells, sequence: int, start: int, end: int) -> bool:
    assert end == -1
    if start > 0 and not cells.model.rewinds and start < len(cells.cells[sequence]):
        return False
    del cells.cells[sequence][max(0, start) :]
    return True


def _copy(cells: Cells, source: int, target: int, start: int, end: int) -> None:
    assert start == end == -1
    cells.cells[target] = list(cells.cells[source])


def _state(cells: Cells, sequence: int) -> NDArray[np.uint8]:
    return np.array(cells.cells[sequence], dtype=np.int64).view(np.uint8)


def _get_state(cells: Cells, data: Any, size: int, sequence: int) -> int:
    state = _state(cells, sequence)
    assert size == len(state)
    ctypes.memmove(data, state.ctypes.data, size)
    return size


def _set_state(cells: Cells, data: Any, size: int, sequence: int) -> int:
    state = np.empty(size, dtype=np.uint8)
    ctypes.memmove(state.ctypes.data, data, size)
    cells.cells[sequence] = state.view(np.int64).tolist()
    return size


def _set_abort(cells: Cells, callback: Any, _: object) -> None:
    cells.abort = callback if callback else lambda _: False


_FAKES: dict[str, Callable[..., Any]] = {
    "llama_init_from_model": Cells,
    "llama_n_ctx_seq": lambda cells: cells.n_ctx_seq,
    "llama_n_batch": lambda cells: cells.n_batch,
    "llama_get_memory": lambda cells: cells,
    "llama_get_logits": _logits,
    "llama_decode": _decode,
    "llama_memory_seq_rm": _remove,
    "llama_memory_seq_cp": _copy,
    "llama_memory_seq_pos_min": lambda cells, sequence: 0 if cells.cells[sequence] else -1,
    "llama_memory_seq_pos_max": lambda cells, sequence: len(cells.cells[sequence]) - 1,
    "llama_state_seq_get_size": lambda cells, sequence: len(_state(cells, sequence)),
    "llama_state_seq_get_data": _get_state,
    "llama_state_seq_set_data": _set_state,
    "llama_set_abort_callback": _set_abort,
    "llama_free": lambda cells: None,
}
native = Native()
context_module.llama_cpp = native  # type: ignore[assignment]


def fake_context(model: FakeModel, **settings: Any) -> Context:
    return Context(cast(Model, model), n_threads=1, **settings)


def fake_ensemble(
    models: Mapping[str, FakeModel],
    *,
    stop_tokens: Iterable[int] = (EOS,),
    ids: Mapping[str, Sequence[int]] | None = None,
    widths: Mapping[str, Widths] | None = None,
    translations: Mapping[str, Translation] | None = None,
    **settings: Any,
) -> Ensemble:
    """An ensemble of models by role.

    Args:
        translations: of roles with another vocabulary.
        ids, widths: unusable and foreign ids, and widths, as `Ensemble` takes them.
        settings: of `Context`.
    """
    settings = {"n_ctx": 256, "n_batch": 64} | settings
    contexts = {role: fake_context(model, **settings) for role, model in models.items()}
    others = translations or {}
    size = min(model.vocab_size for role, model in models.items() if role not in others)
    return Ensemble(
        contexts,
        vocab_size=size,
        stop_tokens=frozenset(stop_tokens),
        widths=widths,
        translations=others,
        **(ids or {}),
    )


def translation(small: FakeModel, base: FakeModel, needed: str = _LETTERS) -> Translation:
    """Of a model whose pieces are its own, `needed` among them."""
    texts = {
        model: {t: p.encode() for t, p in enumerate(model.pieces) if p} for model in (small, base)
    }
    speller = Speller(
        small.longest, texts[small], texts[base], base_ends=[EOS], end=EOS, needed=needed
    )
    back = Speller(base.longest, texts[base], texts[small], base_ends=[EOS], end=EOS, needed="")
    lattice = Lattice.of(texts[base], base.vocab_size, texts[small])
    rows = Rows(lattice, ends=[EOS], base_ends=[EOS])
    return Translation(speller, back, rows, small.vocab_size, 3, candidates=True)


def fake_emulator(
    roles: Sequence[str] = TRIO,
    *,
    others: Collection[str] = (),
    rewinds: bool = True,
    kernel: Kernel = lambda tokens, past: 0,
    widths: Widths | None = None,
    **settings: Any,
) -> Emulator:
    """An emulator of fake models, whose prompts have other lengths for each role.

    Args:
        others: roles that have another vocabulary than the base.
    """
    own: dict[str, Any] = {"pieces": OTHER_PIECES, "vocab_size": len(OTHER_PIECES)}
    models = {
        role: FakeModel(role, rewinds=rewinds, kernel=kernel, **(own if role in others else {}))
        for role in roles
    }
    translations = {role: translation(models[role], models["base"]) for role in others}
    prompts = {
        role: RolePrompt(format="plain", bos_token="<s>", add_bos=role != "base") for role in roles
    }
    n_ctx = settings.get("n_ctx", 256)
    loaded = Loaded(
        fake_ensemble(
            models,
            widths=widths and dict.fromkeys(roles, widths),
            translations=translations,
            **settings,
        ),
        cast(Mapping[str, Model], models),
        prompts,
        "fake",
        ExitStack(),
        identity=lambda: {role: {"n_ctx": n_ctx} for role in roles},
    )
    return Emulator(loaded, Defaults())
