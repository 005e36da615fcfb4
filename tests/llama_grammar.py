"""llama.cpp's own engine for GBNF: what `Guide` allows is compared with what this allows."""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.bases import Closing
from eftlocal.llama import Model
from eftlocal.llama.engine import llama_cpp

_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data


class LlamaGrammar(Closing):
    """A grammar, if llama.cpp takes it; of another it says on stderr what is wrong."""

    def __init__(self, model: Model, gbnf: str) -> None:
        self._model = model
        self._vocab = llama_cpp.llama_model_get_vocab(model.handle)
        self._sampler = llama_cpp.llama_sampler_init_grammar(self._vocab, gbnf.encode(), b"root")
        self.taken = bool(self._sampler)
        self._ends = sorted(model.end_tokens(range(model.vocab_size)))
        pieces = {t: model.piece(t) for t in range(model.vocab_size) if t not in self._ends}
        self._text = np.array([t for t, piece in pieces.items() if piece], dtype=np.int32)

    def allowed(self, tokens: Sequence[int]) -> NDArray[np.bool_]:
        """(vocab_size,) bool; the tokens before must be ones that the grammar accepts."""
        sampler = llama_cpp.llama_sampler_clone(self._sampler)
        try:
            for token in tokens:
                llama_cpp.llama_sampler_accept(sampler, token)
            mask = np.zeros(self._model.vocab_size, dtype=np.bool_)
            mask[self._text] = self._possible(sampler, self._text)
            data = b"".join(map(self._model.piece, tokens))
            # llama.cpp (build of 0.3.36) would end within a character.
            whole = codecs.utf_8_decode(data, "replace", False)[1] == len(data)
            mask[self._ends] = whole and self._possible(sampler, np.array(self._ends[:1]))[0]
            return mask
        finally:
            llama_cpp.llama_sampler_free(sampler)

    def _possible(self, sampler: Any, ids: NDArray[Any]) -> NDArray[np.bool_]:
        data = np.zeros(len(ids), dtype=_CANDIDATE)
        data["id"] = ids
        pointer = ctypes.cast(data.ctypes.data, llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data=pointer, size=len(ids), selected=-1)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        possible: NDArray[np.bool_] = data["logit"] == 0.0
        return possible

    def close(self) -> None:
        if self.taken:
            llama_cpp.llama_sampler_free(self._sampler)
