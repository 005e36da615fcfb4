"""Where the bytes of one vocabulary's tokens stand among another's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.intp]
NONE = -1


@dataclass(frozen=True, eq=False)
class Lattice:
    """The tokens of a base's vocabulary B, found in a small vocabulary S by their bytes.

    The small tokens are sorted by their bytes, so those that begin with given bytes stand side by
    side: a *run* of that order.

    Attributes:
        texts: the small tokens' bytes, sorted.
        order: (n,) the id of each of them.
        begin, end: (B,) the run of small tokens that begin with the base token's bytes; empty
            where begin == end.
        equal: (B,) how many of the run, its first ones, have exactly these bytes.
        parent: (B,) where in the order the longest small token stands that is a proper prefix of
            the base token (the last, where several are equal); NONE where there is none.
        sorted_base: ids of the base's tokens that have bytes, sorted by these.
        base_texts: their bytes, in this order.
    """

    texts: Sequence[bytes]
    order: Ids
    begin: Ids
    end: Ids
    equal: Ids
    parent: Ids
    sorted_base: Ids
    base_texts: Sequence[bytes]

    @classmethod
    def of(cls, base: Mapping[int, bytes], size: int, small: Mapping[int, bytes]) -> Lattice:
        """One pass over both vocabularies, sorted together.

        Args:
            base, small: the bytes of the tokens that stand for text, none of them empty.
            size: tokens of the base's vocabulary.
        """
        order = sorted(small, key=lambda token: (small[token], token))
        texts = [small[token] for token in order]
        sorted_base = sorted(base, key=lambda token: (base[token], token))
        begin, end = np.zeros(size, np.intp), np.zeros(size, np.intp)
        equal, parent = np.zeros(size, np.intp), np.full(size, NONE, np.intp)
        open_: list[tuple[bytes, int]] = []  # tokens that begin what comes: bytes, and which
        seen = 0  # small tokens so far
        small_ones = ((text, 0, at) for at, text in enumerate(texts))
        base_ones = ((base[token], 1, token) for token in sorted_base)
        last_small: list[int] = []  # of those that are open, by depth
        for text, of_base, which in sorted(chain(small_ones, base_ones)):
            while open_ and not text.startswith(open_[-1][0]):
                _, token = open_.pop()
                if token < 0:
                    last_small.pop()
                else:
                    end[token] = seen
            if of_base:
                # Equal small tokens come first, and stand open already.
                first = bisect_left(texts, text, 0, seen)
                begin[which], equal[which] = first, seen - first
                above = len(last_small) - (seen - first)
                parent[which] = last_small[above - 1] if above else NONE
                open_.append((text, which))
            else:
                seen += 1
                last_small.append(which)
                open_.append((text, -1))
        for _, token in open_:
            if token >= 0:
                end[token] = seen
        return cls(
            texts,
            np.array(order, np.intp),
            begin,
            end,
            equal,
            parent,
            np.array(sorted_base, np.intp),
            [base[token] for token in sorted_base],
        )

    def run(self, start: bytes) -> range:
        """Where the small tokens stand that begin with these bytes."""
        return _run(self.texts, start)

    def base_run(self, start: bytes) -> range:
        """Where in `sorted_base` the base's tokens stand that begin with these bytes."""
        return _run(self.base_texts, start)


def _run(texts: Sequence[bytes], start: bytes) -> range:
    first = bisect_left(texts, start)
    after = start.rstrip(b"\xff")
    if not after:
        return range(first, len(texts))
    return range(first, bisect_left(texts, after[:-1] + bytes([after[-1] + 1]), first))
