"""A role's own tokens of an answer that is made of another vocabulary's tokens.

Bytes are the truth. After each base token the role's tokens are those that its tokenizer gives the
same bytes, so a longer token may take the place of some at the end; the caches follow, as they
follow a refused draft. Text is settled at the beginning of a word, once another word follows, so
that only the last words are tokenized again. What a tokenizer cannot be given, bytes that are no
text, is spelled by the longest tokens that fit; that is also how a character stands whose last
bytes are still to come.

Where a role stands is a function of the base tokens so far, and of nothing else: what was drafted
and refused leaves no trace.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import groupby
from typing import NamedTuple

from eftlocal.errors import EngineError

PRINTABLE = "\n" + "".join(map(chr, range(0x20, 0x7F)))
_OPEN = 4  # tokens at the end in whose place a longer one is looked for
_SETTLED = 32  # bytes from which on text is settled
_LONG = 256  # bytes without a word's beginning from which on it is settled anywhere
_WORD = re.compile(rb"(?<=[^\s]) (?=[A-Za-z])")  # where few tokenizers' tokens reach across


class Settled(NamedTuple):
    """Tokens that no longer change, behind those before them."""

    before: Settled | None
    tokens: tuple[int, ...]
    length: int  # with all before


class Place(NamedTuple):
    """Where a role stands after some of the answer's tokens.

    Attributes:
        settled: its tokens up to the last settled word.
        text: the bytes after these.
        tail: the tokens of them.
        path: how many of the last tokens spell the open bytes.
        open: bytes at the end that a longer token, which is none of the base's, begins with; such
            a token might yet take the place of the path.
    """

    settled: Settled | None
    text: bytes
    tail: tuple[int, ...]
    path: int
    open: bytes

    @property
    def length(self) -> int:
        return (self.settled.length if self.settled else 0) + len(self.tail)

    def tokens(self, start: int = 0) -> list[int]:
        """The tokens from this one on."""
        parts = [self.tail]
        node = self.settled
        while node is not None and node.length > start:
            parts.append(node.tokens)
            node = node.before
        found = [token for part in reversed(parts) for token in part]
        return found[start - (node.length if node else 0) :]


START = Place(None, b"", (), 0, b"")


class Speller:
    """Spells one base vocabulary's tokens in another's.

    Args:
        tokenize: ids of a text that goes on where another one ended.
        pieces: bytes of the role's tokens that stand for text, by id.
        base: bytes of the base's tokens that stand for text, by id.
        base_ends: base tokens that end an answer.
        end: what the role is given for these; None is nothing.
        needed: characters without which no text could be spelled.

    Raises:
        EngineError: the role's vocabulary lacks one of the characters needed.
    """

    def __init__(
        self,
        tokenize: Callable[[str], list[int]],
        pieces: Mapping[int, bytes],
        base: Mapping[int, bytes],
        *,
        base_ends: Collection[int] = (),
        end: int | None = None,
        needed: str = PRINTABLE,
    ) -> None:
        self._tokenize, self._pieces = tokenize, pieces
        self._base, self.base_ends, self._end = base, frozenset(base_ends), end
        self._longer = sorted({*pieces.values()} - {*base.values()})
        self._by_text: dict[bytes, int] = {}
        for token, text in pieces.items():
            self._by_text.setdefault(text, token)
        self._longest = max(map(len, self._by_text), default=0)
        across = [len(piece) for piece in self._by_text if _WORD.search(piece)]
        self._across = max(across, default=0)  # bytes of a token of several words
        lacking = [c for c in needed if c.encode() not in self._by_text]
        if lacking:
            raise EngineError(f"no token for {lacking[0]!r}, so it cannot spell every text")
        self._spelled = lru_cache(maxsize=4096)(self._spell)

    def after(self, place: Place, token: int) -> Place:
        """Where the role stands after one more base token."""
        if token in self.base_ends and self._end is not None:
            ended = Settled(place.settled, (*place.tail, self._end), place.length + 1)
            return Place(ended, b"", (), 0, b"")
        piece = self._base.get(token, b"")
        if not piece:
            return place
        settled, text = place.settled, place.text + piece
        if cut := _cut(text, self._across):
            tokens = self._spelled(text[:cut])[0]
            length = (settled.length if settled else 0) + len(tokens)
            settled, text = Settled(settled, tokens, length), text[cut:]
        tail, path, open_ = self._spelled(text)
        return Place(settled, text, tail, path, open_)

    @cached_property
    def most(self) -> int:
        """The most tokens that one of the base's takes."""
        longest = sorted(self._base.values(), key=len)[-1000:]
        return max((len(self._fitting(piece)) for piece in longest), default=1)

    def _spell(self, text: bytes) -> tuple[tuple[int, ...], int, bytes]:
        """Tokens of a text, how many of the last ones spell its open end, and that."""
        tokens: list[int] = []
        for part in _parts(text):
            if isinstance(part, bytes):
                tokens += self._fitting(part)
            else:
                tokens += self._tokens(part)
        path, open_, end = 0, b"", b""
        most = max(_OPEN, self._across)
        for count, token in enumerate(reversed(tokens[-most:]), 1):
            end = self._pieces[token] + end
            at = bisect_left(self._longer, end)
            if any(longer.startswith(end) for longer in self._longer[at : at + 2] if longer != end):
                path, open_ = count, end
        return tuple(tokens), path, open_

    def _tokens(self, text: str) -> list[int]:
        """The tokenizer's tokens, if their bytes are the text's."""
        data = text.encode()
        tokens = self._tokenize(text)
        if b"".join(self._pieces.get(token, b"") for token in tokens) == data:
            return tokens
        return self._fitting(data)  # it normalizes, or has an unknown token

    def _fitting(self, data: bytes) -> list[int]:
        """The longest tokens that fit, one after the other; a byte that none has is left out."""
        tokens, at = [], 0
        while at < len(data):
            for length in range(min(self._longest, len(data) - at), 0, -1):
                token = self._by_text.get(data[at : at + length])
                if token is not None:
                    tokens.append(token)
                    at += length
                    break
            else:
                at += 1
        return tokens


class Spelling:
    """One role's places along one answer.

    `last` may be asked of any draft; `cut` forgets what was taken back.
    """

    def __init__(self, speller: Speller) -> None:
        self._speller = speller
        self._places = [START]
        self._drafted: tuple[int, tuple[int, ...], list[Place]] = (0, (), [])

    def __len__(self) -> int:
        return len(self._places) - 1

    def cut(self, length: int) -> None:
        """Forgets the tokens after the first `length`."""
        self._drafted = (0, (), [])
        del self._places[length + 1 :]

    def extend(self, tokens: Sequence[int]) -> None:
        """The answer has gone on by these base tokens."""
        for token in tokens:
            self._places.append(self._speller.after(self._places[-1], token))

    def last(self, count: int, draft: Sequence[int] = ()) -> list[Place]:
        """The places after the answer and a draft that follows it, the last `count` of them."""
        drafted = self._after_draft(draft)
        missing = count - len(drafted)
        return [*(self._places[-missing:] if missing > 0 else ()), *drafted[max(0, -missing) :]]

    def _after_draft(self, draft: Sequence[int]) -> list[Place]:
        at, known, places = self._drafted
        if at != len(self._places):
            known, places = (), []
        same = 0
        while same < min(len(known), len(draft)) and known[same] == draft[same]:
            same += 1
        places = places[:same]
        for token in draft[same:]:
            before = places[-1] if places else self._places[-1]
            places.append(self._speller.after(before, token))
        self._drafted = len(self._places), tuple(draft), places
        return places


def extends(place: Place, other: Place) -> bool:
    """Whether the tokens of `other` begin with all of `place`."""
    if other.length < place.length:
        return False
    node, same = place.settled, other.settled
    while same is not None and node is not same and same.length > (node.length if node else 0):
        same = same.before
    start = node.length if node is same and node else 0
    mine = place.tokens(start)
    return other.tokens(start)[: len(mine)] == mine


def _cut(text: bytes, across: int) -> int:
    """How many bytes of a text are settled by what follows them; 0 where none are.

    Args:
        across: bytes of the longest token that has several words.
    """
    if len(text) < _SETTLED + across:
        return 0
    starts = [found.start() for found in _WORD.finditer(text, 0, len(text) - across)]
    if starts:
        return starts[-1]
    if len(text) < _LONG + across:
        return 0
    at = len(text) - _SETTLED - across
    begins = (i for i in range(at, at - 4, -1) if text[i] & 0xC0 != 0x80)  # not within a character
    return next(begins, at)


def _parts(text: bytes) -> Iterator[str | bytes]:
    """A text as what is valid UTF-8 and what is not, in turn."""
    for valid, part in groupby(text.decode("utf-8", "surrogateescape"), _is_text):
        data = "".join(part)
        yield data if valid else data.encode("utf-8", "surrogateescape")


def _is_text(character: str) -> bool:
    return not "\udc80" <= character <= "\udcff"
