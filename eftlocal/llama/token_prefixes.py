"""Which text tokens of a model begin with which others.

A token can follow only where those that it begins with can, so a look at a few short tokens
spares a look at most of a vocabulary.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import UsageError
from eftlocal.llama.model import Model

Ids = NDArray[np.int32]

_LEVELS = 4  # runs of spaces would make one for each length


class TokenPrefixes:
    """The tokens of a model that stand for text.

    Attributes:
        ends: the model's end-of-generation tokens.
        levels: ids of text tokens (n,), and for each the id of an earlier level's token that it
            begins with; None in the first level, whose tokens begin with no other.
    """

    def __init__(self, model: Model) -> None:
        self.ends = model.end_tokens(range(model.vocab_size))
        if not self.ends:
            raise UsageError(f"{model.path.name} has no end token: a grammar could not end")
        self.an_end: Ids = np.array([min(self.ends)], dtype=np.int32)
        pieces = {t: model.piece(t) for t in range(model.vocab_size) if t not in self.ends}
        self.text = frozenset(t for t, piece in pieces.items() if piece)
        by_piece = {pieces[t]: t for t in self.text}
        level_of: dict[int, int] = {}
        prefix_of: dict[int, int] = {}
        for token in sorted(self.text, key=lambda t: len(pieces[t])):
            piece = pieces[token]
            prefix = next(
                (
                    by_piece[piece[:n]]
                    for n in range(len(piece) - 1, 0, -1)
                    if piece[:n] in by_piece
                ),
                None,
            )
            while prefix is not None and level_of[prefix] == _LEVELS - 1:
                prefix = prefix_of[prefix]
            level_of[token] = 0 if prefix is None else level_of[prefix] + 1
            if prefix is not None:
                prefix_of[token] = prefix
        self.levels: list[tuple[Ids, Ids | None]] = []
        for level in range(_LEVELS):
            ids = sorted(t for t in self.text if level_of[t] == level)
            prefixes = np.array([prefix_of[t] for t in ids], dtype=np.int32) if level else None
            self.levels.append((np.array(ids, dtype=np.int32), prefixes))


_known: WeakKeyDictionary[Model, TokenPrefixes] = WeakKeyDictionary()


def token_prefixes(model: Model) -> TokenPrefixes:
    """Made once for each model: it looks at every token."""
    if model not in _known:
        _known[model] = TokenPrefixes(model)
    return _known[model]
