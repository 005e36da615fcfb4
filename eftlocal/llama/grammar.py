"""Which tokens may follow an answer so far, under a GBNF grammar run by llama.cpp.

Callers give the whole answer each time and keep no state: the states of recent answers are kept
here, so that one more token costs one step of the grammar, and going back costs nothing.
"""

from __future__ import annotations

import codecs
import ctypes
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.bases import Closing
from eftlocal.errors import EngineError
from eftlocal.llama.engine import llama_cpp
from eftlocal.llama.gbnf import compile_gbnf, prefixes_decide
from eftlocal.llama.model import Model
from eftlocal.llama.token_prefixes import Ids, token_prefixes

_KEPT = 128  # states of answers kept: several rounds of the longest draft
_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data

Mask = NDArray[np.bool_]


@dataclass(eq=False)
class _State:
    """After some answer: llama.cpp's sampler, None once the answer has ended.

    It is freed with the last reference, so that a grammar may be closed while it is used.
    """

    sampler: Any
    part: bytes = b""  # of a character that the answer's last token leaves unfinished
    mask: Mask | None = None

    def __del__(self) -> None:
        if self.sampler is not None:
            llama_cpp.llama_sampler_free(self.sampler)


class Grammar(Closing):
    """A compiled grammar over the tokens of one model. Close it before the model.

    Used from one thread at a time. Answers that run side by side may share one, but each has
    the whole of the kept states with one of its own.

    Args:
        model: whose tokens the answers are made of.
        gbnf: the grammar, as llama.cpp's grammars/README.md describes it.
        root: name of the rule that a whole answer must match.
        ends: further ids that end an answer, beside the model's own end-of-generation tokens.

    Raises:
        UsageError: llama.cpp refuses the grammar; the line says where and why.
    """

    def __init__(
        self, model: Model, gbnf: str, *, root: str = "root", ends: Iterable[int] = ()
    ) -> None:
        self.model = model
        self._states: OrderedDict[tuple[int, ...], _State] = OrderedDict()
        self._vocabulary = token_prefixes(model)
        self._ends = self._vocabulary.ends | frozenset(ends)
        self._prefixes_decide = prefixes_decide(gbnf)
        self._start = _State(compile_gbnf(model, gbnf, root))

    def allowed(self, tokens: Sequence[int]) -> Mask:
        """Which tokens may follow these.

        After a complete match the end tokens are among them; after an end token only these.
        Control tokens that do not end an answer have no text, and are never allowed.

        Args:
            tokens: of the answer so far, the prompt not counted.

        Returns:
            (vocab_size of the model,) bool, read-only. All False where the vocabulary has no
            token that the grammar could go on with.

        Raises:
            EngineError: the grammar does not accept these tokens.
        """
        state = self._after(tokens)
        if state.mask is None:
            mask = np.zeros(self.model.vocab_size, dtype=np.bool_)
            if state.sampler is not None:
                self._look(state.sampler, mask)
            mask[[t for t in self._ends if t < len(mask)]] = self._complete(state)
            mask.setflags(write=False)
            state.mask = mask
        return state.mask

    def accepts(self, tokens: Sequence[int], token: int) -> bool:
        """`allowed(tokens)[token]`, at the cost of looking at that one token.

        Raises:
            EngineError: the grammar does not accept `tokens`.
        """
        return self._accepts(self._after(tokens), token)

    def close(self) -> None:
        """Lets go of every state. A second call does nothing."""
        self._start = _State(None)
        self._states.clear()

    def _look(self, sampler: Any, mask: Mask) -> None:
        """Marks the tokens of text: only those are looked at whose own beginnings may stand."""
        levels = self._vocabulary.levels
        if not self._prefixes_decide:
            whole = np.concatenate([ids for ids, _ in levels])
            mask[whole] = _possible(sampler, whole)
            return
        for ids, prefixes in levels:
            alive = ids if prefixes is None else ids[mask[prefixes]]
            mask[alive] = _possible(sampler, alive)

    def _accepts(self, state: _State, token: int) -> bool:
        if state.mask is not None:
            return 0 <= token < len(state.mask) and bool(state.mask[token])
        if token in self._ends:
            return self._complete(state)
        if state.sampler is None or token not in self._vocabulary.text:
            return False
        return bool(_possible(state.sampler, np.array([token], dtype=np.int32))[0])

    def _complete(self, state: _State) -> bool:
        # llama.cpp (build of 0.3.36) would end after a token with a whole match and a part of
        # a character.
        return state.sampler is None or (
            not state.part and bool(_possible(state.sampler, self._vocabulary.an_end)[0])
        )

    def _after(self, tokens: Sequence[int]) -> _State:
        if self._start.sampler is None or not self.model.handle:
            raise EngineError("the grammar is closed; make it again")
        path = tuple(tokens)
        known = len(path)
        while known and path[:known] not in self._states:
            known -= 1
        state = self._start
        if known:
            state = self._states[path[:known]]
            self._states.move_to_end(path[:known])
        for length in range(known, len(path)):
            state = self._step(state, path[: length + 1])
        return state

    def _step(self, state: _State, path: tuple[int, ...]) -> _State:
        """The state one token further. llama.cpp aborts on a wrong token: it is checked first."""
        token = path[-1]
        if not self._accepts(state, token):
            raise EngineError(
                f"the grammar does not accept token {token} at index {len(path) - 1} of the answer"
            )
        if token in self._ends:
            following = _State(None)
        else:
            data = state.part + self.model.piece(token)
            part = data[codecs.utf_8_decode(data, "replace", False)[1] :]
            following = _State(llama_cpp.llama_sampler_clone(state.sampler), part)
            llama_cpp.llama_sampler_accept(following.sampler, token)
        self._states[path] = following
        if len(self._states) > _KEPT:
            self._states.popitem(last=False)
        return following


def ask_every_token(model: Model) -> None:
    """Lets a grammar look at the text of every token of a model, and does nothing with it."""
    sampler = compile_gbnf(model, "root ::= [^\\x00]*", "root")
    try:
        _possible(sampler, np.arange(model.vocab_size, dtype=np.int32))
    finally:
        llama_cpp.llama_sampler_free(sampler)


def _possible(sampler: Any, ids: Ids) -> Mask:
    """Which of the ids the sampler lets through."""
    data = np.zeros(len(ids), dtype=_CANDIDATE)
    data["id"] = ids
    array = llama_cpp.llama_token_data_array(
        data=ctypes.cast(data.ctypes.data, llama_cpp.llama_token_data_p), size=len(ids), selected=-1
    )
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    possible: Mask = data["logit"] == 0.0
    return possible
