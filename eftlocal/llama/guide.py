"""Which tokens may follow an answer so far, under a constraint run by llguidance.

Callers give the whole answer each time and keep no state. The matcher's own list of tokens is the
only record of where it stands: it is rolled back to what the answer shares with it and fed the
rest, so a refused draft, a dial turned back and one more token are the same case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from eftlocal.bases import Closing
from eftlocal.constraint import Constraint, compiled, constraint_grammar, refusal
from eftlocal.errors import EngineError, UsageError
from eftlocal.llama.model import Model

_LONGEST_NUMBER = 32  # digits in a row; floats and 64-bit integers have 20

# GBNF has a terminal for each character, so that a mask takes more steps than llguidance expects.
# A state of its lexer takes 1 to 2 kB, and all answers to one constraint share them.
_LIMITS = LLParserLimits(
    verbose_errors=False,
    max_items_in_row=10_000,
    step_max_items=5_000_000,
    max_lexer_states=50_000,
)

Mask = NDArray[np.bool_]


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
        size = model.vocab_size
        self._ends = self._vocabulary.ends.union(ends)
        self._end_ids = np.array(sorted(t for t in self._ends if t < size), dtype=np.intp)
        self._kind = constraint.kind
        self._bits = np.zeros((size + 31) // 32, dtype=np.uint32)
        self._held: list[int] = []
        self._mask: Mask | None = None
        self._matcher: LLMatcher | None = self._vocabulary.matcher(constraint).deep_copy()

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
        if self._mask is None or path != self._held:
            self._mask = self._after(path)
            self._mask.setflags(write=False)
        return self._mask

    def _after(self, path: list[int]) -> Mask:
        if self._matcher is None:
            raise EngineError("the constraint is closed; make it again")
        text = next((i for i, token in enumerate(path) if token in self._ends), len(path))
        self._go_to(path[:text])
        complete = self._matcher.is_accepting()
        ended = text < len(path)
        if ended and not (complete and self._ends.issuperset(path[text:])):
            raise self._refusal(path, text)
        size = self._vocabulary.size
        mask = np.zeros(size, dtype=np.bool_)
        if not ended:
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            self._check()
            mask = np.unpackbits(self._bits.view(np.uint8), count=size, bitorder="little").view(
                np.bool_
            )
            if self._kind == "json_schema" and self._long_number():
                others = mask & ~self._vocabulary.digits
                mask = others if complete or others.any() else mask
        mask[self._end_ids] = complete
        return mask

    def _go_to(self, path: list[int]) -> None:
        """Brings the matcher to where these tokens of text lead."""
        matcher = self._matcher
        assert matcher is not None
        common = len(self._held)
        if path[:common] != self._held:
            common = next(i for i, held in enumerate(self._held) if path[i : i + 1] != [held])
        if len(self._held) > common and not matcher.rollback(len(self._held) - common):
            self._check()
        self._held, self._mask = path[:common], None
        for token in path[common:]:
            if not 0 <= token < self._vocabulary.size or not matcher.try_consume_tokens([token]):
                self._check()
                raise self._refusal(path, len(self._held))
            self._held.append(token)

    def _check(self) -> None:
        """Raises EngineError where llguidance has given up: it counts its steps and states."""
        if self._matcher and (fault := self._matcher.get_error()):
            raise EngineError(refusal(self._kind, fault))

    def _refusal(self, path: Sequence[int], index: int) -> EngineError:
        return EngineError(
            f"the constraint does not accept token {path[index]} at index {index} of the answer"
        )

    def _long_number(self) -> bool:
        digits = 0
        for token in reversed(self._held):
            piece = self._vocabulary.tokens[token]
            rest = piece.rstrip(b"0123456789")
            digits += len(piece) - len(rest)
            if rest or digits >= _LONGEST_NUMBER:
                break
        return digits >= _LONGEST_NUMBER

    def close(self) -> None:
        """Frees the matcher. A second call does nothing."""
        self._matcher = self._mask = None


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
        self.digits = np.array([piece[:1].isdigit() for piece in self.tokens], dtype=np.bool_)
        self.tokenizer = LLTokenizer(TokenizerWrapper(self), n_vocab=self.size)
        self._ids = {piece.lstrip(b"\xff"): t for t, piece in enumerate(self.tokens) if piece}
        self.matcher = lru_cache(maxsize=16)(self._matcher)

    def _matcher(self, constraint: Constraint) -> LLMatcher:
        """Compiled; to be copied, not used."""
        grammar = constraint_grammar(constraint, self._token_id)

        def compile_() -> LLMatcher:
            matcher = LLMatcher(self.tokenizer, grammar, log_level=0, limits=_LIMITS)
            if not matcher.is_error():
                matcher.compute_bitmask()  # what can go wrong at the first token is found here
            return matcher

        matcher = compiled(grammar, compile_)
        if fault := matcher.get_error():
            raise UsageError(refusal(constraint.kind, fault))
        return matcher

    def _token_id(self, text: str) -> int:
        if (found := self._ids.get(text.encode())) is None:
            raise UsageError(f"grammar: {text} is not a token of the model")
        return found

    def __call__(self, data: bytes) -> list[int]:
        """Asked for by llguidance where it forces tokens, which `no_forcing` forbids."""
        raise NotImplementedError


_known: WeakKeyDictionary[Model, _Vocabulary] = WeakKeyDictionary()


def _vocabulary(model: Model) -> _Vocabulary:
    if model not in _known:
        _known[model] = _Vocabulary(model)
    return _known[model]
