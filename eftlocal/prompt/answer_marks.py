"""The marks of thinking in one model's answers: which tokens write them, who writes the first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from eftlocal.llama.model import Model
from eftlocal.prompt.render import RolePrompt
from eftlocal.prompt.template import is_template
from eftlocal.thinking import Marks, kinds_in, opened_by

_TAIL = 32  # tokens of a prompt's end in which a mark has room


class AnswerMarks:
    """Of the model whose tokens become the answer's text, and its prompt."""

    def __init__(self, model: Model, prompt: RolePrompt) -> None:
        self._model = model
        self._prompt = prompt

    def piece(self, token: int) -> bytes:
        """A token's bytes in an answer: of control tokens those that mark thinking have a text."""
        return self._model.piece(token, special=token in self._written)

    def of(self, prompt: Sequence[int]) -> Marks | None:
        """The marks of an answer to a prompt of these tokens, where more is known of them than
        that they are of `KINDS`."""
        end = b"".join(self._model.piece(token, special=True) for token in prompt[-_TAIL:])
        return opened_by(end.decode("utf-8", "replace"), self._prompt.marks)

    @cached_property
    def _written(self) -> frozenset[int]:
        source = self._prompt.source
        kinds = kinds_in(source if is_template(source) else "", self._prompt.marks)
        ids = {
            token
            for kind in kinds
            for text in (kind.opens, kind.closes, *kind.wraps)
            for token in self._model.tokenize(text, parse_special=True, continues=True)
        }
        return frozenset(ids.intersection(self._model.special_tokens())) if ids else frozenset()
