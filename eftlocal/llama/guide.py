"""Which tokens may follow an answer so far, under a constraint run by llguidance.

Callers give the whole answer each time and keep no state: the matcher is rolled back to what the
answer shares with the last one and fed the rest. So a refused draft, a dial turned back and one
more token are the same case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from eftlocal.bases import Closing
from eftlocal.constraint import Constraint, compiled, constraint_grammar, refusal
from eftlocal.errors import AnswerError, EngineError, UsageError
from eftlocal.llama.model import Model

_LONGEST_NUMBER = 32  # digits in a row; floats and 64-bit integers have 20

# GBNF has a terminal for each character, so that a mask takes more steps than llguidance expects.
# A state of its lexer takes 1 to 2 kB; all answers to one constraint share them, so 60 MB at most.
_LIMITS = LLParserLimits(
    verbose_errors=False,
    max_items_in_row=10_000,
    step_max_items=5_000_000,
    max_lexer_states=30_000,
)

# Kinds of tokens: where all of a kind may follow, as in a string with room for them, a mask looks
# at the other tokens only. llguidance's own kinds are those of 10 and 30 characters.
_CHARACTER = r'[^"\\\x00-\x1F\x7F]'
_SLICES = [
    r"[\x20\x0A\x0D\x09]+",
    *(f"{_CHARACTER}{{1,{most}}}" for most in (2, 4, 6, 8, 10, 12, 30)),
    f"{_CHARACTER}+",
]
_KEPT = 20  # masks of one answer: those of the longest draft, and a few

Mask = NDArray[np.bool_]
Bits = NDArray[np.uint32]


class Guide(Closing):
    """A constraint over the tokens of one model. Used from one thread at a time.

    Args:
        model: whose tokens the answers are made of.
        constraint: what a whole answer must match. After 32 digits in a row of JSON another one
            follows only where nothing else may, because a JSON number has no longest form.
        ends: further ids that end an answer, beside the model's own end-of-generation tokens.

    Raises:
        UsageError: llguidance cannot compile the constraint, or the model has no end token.
    """

    def __init__(self, model: Model, constraint: Constraint, *, ends: Iterable[int] = ()) -> None:
        self._vocabulary = _vocabulary(model)
        self._ends = self._vocabulary.ends.union(ends)
        self._end_bits = self._vocabulary.bits(self._ends)
        self._constraint = constraint
        self._regular = constraint.kind == "grammar"
        self._has_numbers = constraint.kind == "json_schema" or "%json" in constraint.text
        self._matcher: LLMatcher | None = self._vocabulary.matcher(constraint).deep_copy()
        self._consumed = 0  # tokens of the path that the matcher stands behind
        self._path: list[int] = []  # the longest answer of text seen
        self._masks: dict[int, tuple[Bits, bool]] = {}  # by the length of the answer before
        self._last: tuple[list[int], Mask] | None = None

    def allowed(self, tokens: Sequence[int]) -> Mask:
        """Which tokens may follow these.

        After a complete match the end tokens are among them; after an end token only these.
        Other control tokens follow only where a grammar names them: they have no text.

        Args:
            tokens: of the answer so far, the prompt not counted.

        Returns:
            (vocab_size of the model,) bool, read-only.

        Raises:
            EngineError: the constraint does not accept these tokens, or nothing may follow.
        """
        path = list(tokens)
        if self._last is None or path != self._last[0]:
            bits = self._after(path)
            mask = np.unpackbits(
                bits.view(np.uint8), count=self._vocabulary.size, bitorder="little"
            ).view(np.bool_)
            mask.setflags(write=False)
            self._last = path, mask
        return self._last[1]

    def _after(self, path: list[int]) -> Bits:
        text = next((i for i, token in enumerate(path) if token in self._ends), len(path))
        bits, complete = self._mask(path[:text])
        if text == len(path):
            return bits
        if not (complete and self._ends.issuperset(path[text:])):
            raise self._refusal(path, text)
        return self._end_bits

    def _mask(self, path: list[int]) -> tuple[Bits, bool]:
        """What may follow a text, (words,) uint32, and whether it is a whole match.

        A draft is masked token by token, and so is what verifies it: the masks of the last
        lengths are kept, and the matcher is moved only for a new one.
        """
        if self._matcher is None:
            raise EngineError("the constraint is closed; make it again")
        if path != self._path[: len(path)]:
            common = next(
                (i for i, (a, b) in enumerate(zip(path, self._path, strict=False)) if a != b),
                min(len(path), len(self._path)),
            )
            self._masks = {n: mask for n, mask in self._masks.items() if n <= common}
            if self._consumed > common:
                self._go_to(common)
            self._path = path
        found = self._masks.get(len(path))
        if found is None:
            try:
                found = self._reached(path)
            except EngineError:
                if not (self._regular and self._matcher.is_error()):
                    raise
                self._regular = False  # it has too many states as a regular expression
                self._matcher = self._vocabulary.matcher(self._constraint, False).deep_copy()
                self._consumed = 0
                found = self._reached(path)
            self._masks[len(path)] = found
            if len(self._masks) > _KEPT:
                del self._masks[min(self._masks)]
        return found

    def _reached(self, path: list[int]) -> tuple[Bits, bool]:
        self._go_to(len(path))
        return self._compute(path)

    def _go_to(self, length: int) -> None:
        """Brings the matcher behind so many tokens of the path."""
        matcher = self._matcher
        assert matcher is not None
        at, self._consumed = self._consumed, -1  # an interrupt may come before the end of this
        if at < 0:
            matcher.reset()
            at = 0
        if at > length:
            matcher.rollback(at - length)
            at = length
        for token in self._path[at:length]:
            if not 0 <= token < self._vocabulary.size or not matcher.try_consume_tokens([token]):
                break
            at += 1
        self._consumed = at
        self._check()
        if at < length:
            path, self._path = self._path, self._path[:at]
            raise self._refusal(path, at)

    def _compute(self, path: list[int]) -> tuple[Bits, bool]:
        assert self._matcher is not None
        complete = self._matcher.is_accepting()
        bits = self._vocabulary.mask(self._matcher)
        self._check()
        bits &= ~self._end_bits
        if self._has_numbers and self._long_number(path):
            others = bits & ~self._vocabulary.digits
            bits = others if complete or others.any() else bits
        return (bits | self._end_bits if complete else bits), complete

    def _check(self) -> None:
        """Raises EngineError where llguidance has given up: it counts its steps and states."""
        if self._matcher and (fault := self._matcher.get_error()):
            raise AnswerError(refusal(self._constraint.kind, fault))

    def _refusal(self, path: Sequence[int], index: int) -> EngineError:
        return AnswerError(
            f"the constraint does not accept token {path[index]} at index {index} of the answer"
        )

    def _long_number(self, path: list[int]) -> bool:
        digits = 0
        for token in reversed(path):
            piece = self._vocabulary.tokens[token]
            rest = piece.rstrip(b"0123456789")
            digits += len(piece) - len(rest)
            if rest or digits >= _LONGEST_NUMBER:
                break
        return digits >= _LONGEST_NUMBER

    def close(self) -> None:
        """Frees the matcher. A second call does nothing."""
        self._matcher = self._last = None
        self._masks = {}


class _Vocabulary:
    """A model's tokens as llguidance takes them: made once a model, in 0.1 to 1 s."""

    bos_token_id = None

    def __init__(self, model: Model) -> None:
        self.size = model.vocab_size
        self.ends = model.end_tokens(range(self.size))
        if not self.ends:
            raise UsageError(f"{model.path.name} has no end token: an answer could not end")
        # Behind 0xff stands the name of a token without a text, as Lark writes it: <|name|>. An
        # empty token is never allowed: the ends, and NUL, which no text should have.
        self.tokens = [
            b""
            if t in self.ends or (piece := model.piece(t)) == b"\0"
            else piece or b"\xff" + model.piece(t, special=True)
            for t in range(self.size)
        ]
        self.eos_token_id = min(self.ends)
        self.digits = self.bits(t for t, piece in enumerate(self.tokens) if piece[:1].isdigit())
        self.tokenizer = LLTokenizer(TokenizerWrapper(self), n_vocab=self.size, slices=_SLICES)
        self._ids = {piece.lstrip(b"\xff"): t for t, piece in enumerate(self.tokens) if piece}
        self._ids |= {model.piece(t, special=True): t for t in self.ends}
        self.matcher = lru_cache(maxsize=8)(self._matcher)

    def _matcher(self, constraint: Constraint, regular: bool = True) -> LLMatcher:
        """Compiled; to be copied, not used."""
        grammar = constraint_grammar(constraint, self._token_id, regular=regular)

        def compile_() -> LLMatcher:
            matcher = LLMatcher(self.tokenizer, grammar, log_level=0, limits=_LIMITS)
            if not matcher.is_error():
                # What can go wrong at the first token is found here.
                some = matcher.is_accepting() or (self.mask(matcher) & ~self.bits(self.ends)).any()
                if not (some or matcher.is_error()):
                    raise UsageError(refusal(constraint.kind, "NoExtension"))
            return matcher

        matcher = compiled(grammar, compile_)
        if fault := matcher.get_error():
            if regular and constraint.kind == "grammar":
                return self._matcher(constraint, regular=False)
            raise UsageError(refusal(constraint.kind, fault))
        return matcher

    def mask(self, matcher: LLMatcher) -> Bits:
        """What may follow, (words,) uint32."""
        bits = np.zeros(-(-self.size // 32), dtype=np.uint32)
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        return bits

    def bits(self, tokens: Iterable[int]) -> Bits:
        """These tokens as a mask of llguidance's, (words,) uint32; those beyond the vocabulary
        are left out."""
        mask = np.zeros(-(-self.size // 32) * 32, dtype=np.bool_)
        mask[[t for t in tokens if t < self.size]] = True
        return np.packbits(mask, bitorder="little").view(np.uint32)

    def _token_id(self, text: str) -> int:
        name = text.removeprefix("!")
        number = re.fullmatch(r"<\[([0-9]+)\]>", name)
        token = int(number[1]) if number else self._ids.get(name.encode(), -1)
        if not 0 <= token < self.size:
            raise UsageError(f"grammar: {name} is not a token of the model")
        if token in self.ends and name == text:
            raise UsageError(
                f"grammar: {text} ends an answer; leave it out: an answer may end where all of "
                "'root' is matched"
            )
        return token

    def __call__(self, data: bytes) -> list[int]:
        """Asked for by llguidance where it forces tokens, which `no_forcing` forbids."""
        raise NotImplementedError


_known: WeakKeyDictionary[Model, _Vocabulary] = WeakKeyDictionary()


def _vocabulary(model: Model) -> _Vocabulary:
    if model not in _known:
        _known[model] = _Vocabulary(model)
    return _known[model]
