"""The marks in one model's answers: which tokens write them; of thinking, who writes the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from eftlocal.llama.model import Model
from eftlocal.prompt.render import RolePrompt
from eftlocal.prompt.template import is_template
from eftlocal.thinking import Marks, kinds_in, opened_by
from eftlocal.tool_calls import call_marks_in

_TAIL = 32  # tokens of a prompt's end in which a mark has room


class AnswerMarks:
    """Of the model whose tokens become the answer's text, and the prompt that opens thinking.

    Args:
        model: whose tokens are the answer's.
        role, prompt: whose prompt may open thinking; the tuned role as a rule.
        reader: the model of that role, where it has another vocabulary.
    """

    def __init__(
        self, model: Model, role: str, prompt: RolePrompt, reader: Model | None = None
    ) -> None:
        self._model = model
        self._role = role
        self._prompt = prompt
        self._reader = reader or model

    def piece(self, token: int) -> bytes:
        """A token's bytes in an answer: of control tokens those that mark thinking and calls of
        tools have a text."""
        return self._model.piece(token, special=token in self._written)

    def of(self, prompts: Mapping[str, Sequence[int]]) -> Marks | None:
        """The marks of an answer to the roles' prompts of these tokens, where more is known of them
        than that they are of `KINDS`."""
        tail = prompts[self._role][-_TAIL:]
        end = b"".join(self._reader.piece(token, special=True) for token in tail)
        return opened_by(end.decode("utf-8", "replace"), self._prompt.marks)

    @cached_property
    def _written(self) -> frozenset[int]:
        source = self._prompt.source if is_template(self._prompt.source) else ""
        kinds = kinds_in(source, self._prompt.marks)
        of_thinking = (text for kind in kinds for text in (kind.opens, kind.closes, *kind.wraps))
        ids = {
            token
            for text in (*of_thinking, *call_marks_in(source))
            for token in self._model.tokenize(text, parse_special=True, continues=True)
        }
        return frozenset(ids.intersection(self._model.special_tokens())) if ids else frozenset()
