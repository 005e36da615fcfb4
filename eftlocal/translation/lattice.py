"""Where the bytes of one vocabulary's tokens stand among another's."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
        twin: (n,) bool, whether the base has a token of exactly these bytes.
        owner: (n,) where in the sorted base the longest token stands that begins one of them, or is
            its twin: what a base would say first of this text. NONE where there is none.
        begin: (B,) where in the order the first of a base token's twins stands.
        equal: (B,) how many small tokens are its twins: they have exactly its bytes.
        parent: (B,) where in the order the longest small token stands that is a proper prefix of
            the base token (the last, where several are equal); NONE where there is none.
        sorted_base: ids of the base's tokens that have bytes, sorted by these.
        base_texts: their bytes, in this order.
        first: (B,) where in the sorted base a token, or the first with equal bytes, stands; NONE
            for tokens without bytes.
    """

    texts: Sequence[bytes]
    order: Ids
    twin: NDArray[np.bool_]
    owner: Ids
    begin: Ids
    equal: Ids
    parent: Ids
    sorted_base: Ids
    base_texts: Sequence[bytes]
    first: Ids

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
        base_texts = [base[token] for token in sorted_base]
        owner = np.full(len(order), NONE, np.intp)
        begin, equal = np.zeros(size, np.intp), np.zeros(size, np.intp)
        parent, first = np.full(size, NONE, np.intp), np.full(size, NONE, np.intp)
        open_: list[tuple[bytes, bool, int]] = []  # tokens that begin what comes
        smalls: list[int] = []  # those of them that are small
        bases: list[int] = []  # and those that are the base's
        small_ones = ((text, True, at) for at, text in enumerate(texts))
        base_ones = ((text, False, at) for at, text in enumerate(base_texts))
        for text, is_small, at in sorted(chain(small_ones, base_ones)):  # the base's come first
            while open_ and not text.startswith(open_[-1][0]):
                (smalls if open_.pop()[1] else bases).pop()
            open_.append((text, is_small, at))
            if is_small:
                owner[at] = bases[-1] if bases else NONE
                smalls.append(at)
            else:
                token = sorted_base[at]
                again = bases and base_texts[bases[-1]] == text
                first[token] = first[sorted_base[bases[-1]]] if again else at
                parent[token] = smalls[-1] if smalls else NONE
                bases.append(int(first[token]))
        known = {*base_texts}
        twin = np.array([text in known for text in texts], np.bool_)
        twins = np.flatnonzero(twin)
        counts = np.bincount(owner[twins], minlength=len(base_texts) + 1)
        starts = np.zeros(len(counts), np.intp)
        starts[owner[twins[::-1]]] = twins[::-1]
        equal[sorted_base] = counts[first[sorted_base]] if sorted_base else 0
        begin[sorted_base] = starts[first[sorted_base]] if sorted_base else 0
        ids = np.array(sorted_base, np.intp)
        return cls(
            texts,
            np.array(order, np.intp),
            twin,
            owner,
            begin,
            equal,
            parent,
            ids,
            base_texts,
            first,
        )

    def longest(self, text: bytes) -> int:
        """Where in the sorted base the longest token stands that begins a text; NONE if none."""
        for length in range(min(len(text), self._longest), 0, -1):
            at = self._at.get(text[:length])
            if at is not None:
                return at
        return NONE

    @cached_property
    def _at(self) -> dict[bytes, int]:
        return {text: at for at, text in reversed(list(enumerate(self.base_texts)))}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.base_texts), default=0)

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
